"""What passes through: output, functions, locks."""

from keepwarm_scheduler.core.effects import SaveLock
from keepwarm_scheduler.core.events import Restored, SavedLock
from keepwarm_wire import messages as wire
from keepwarm_wire.spec import canonical_spec, spec_key
from support.model_agent import PLATFORM
from support.scheduler_driver import Driver, warm


def test_output_reaches_the_client_before_the_outcome() -> None:
    driver = Driver()
    client, agent = warm(driver)
    call = client.submit()
    (token,) = agent.attempts
    driver.transmit(agent.peer, wire.AttemptOutput(token, 1, b"hello", 3))
    agent.complete()
    kinds = [type(message) for message in client.heard if type(message) in (wire.Output, wire.Outcome)][-2:]
    assert kinds == [wire.Output, wire.Outcome]
    assert client.of(wire.Output) == [wire.Output(call, "a", 1, b"hello", 3)]


def test_output_of_an_attempt_that_is_over_goes_nowhere() -> None:
    driver = Driver()
    client, agent = warm(driver)
    client.submit()
    (token,) = agent.attempts
    agent.complete()
    driver.transmit(agent.peer, wire.AttemptOutput(token, 1, b"late", 0))
    assert not client.of(wire.Output)


def test_a_node_that_needs_a_function_nobody_runs_there_gets_nothing() -> None:
    driver = Driver()
    _, agent = warm(driver)
    driver.transmit(agent.peer, wire.NeedFunction(b"x" * 32))
    assert len(driver.of(wire.FunctionBody)) == 1


def test_the_progress_of_a_lock_is_told_to_each_function_once() -> None:
    driver = Driver()
    agent, client = driver.agent(starts=False), driver.client()
    client.declare(requirements=("requests",))
    client.submit()
    client.submit()
    (key,) = agent.locks
    driver.transmit(agent.peer, wire.LockProgress(key, "resolve", "requests"))
    assert [(p.phase, p.detail) for p in client.of(wire.Progress)] == [("resolve", "requests")]


def test_a_lock_is_kept_on_disk() -> None:
    driver = Driver()
    _agent, client = driver.agent(), driver.client()
    client.declare(requirements=("requests",))
    client.submit()
    (saved,) = driver.done(SaveLock)
    assert (saved.namespace, saved.spec_key) == ("default", spec_key(client.declared[1].spec))
    assert saved.lock.startswith(b"lock")
    assert saved.platform == PLATFORM


def test_a_lock_from_disk_needs_no_making() -> None:
    key = spec_key(canonical_spec(("requests",), "3.11"))
    saved = SavedLock("default", key, PLATFORM, "3.11", b"a lock of last year")
    driver = Driver(restored=Restored((saved,), ()))
    agent, client = driver.agent(), driver.client()
    client.declare(requirements=("requests",))
    call = client.submit()
    agent.complete()
    assert client.status(call) == "succeeded"
    assert not driver.of(wire.MakeLock)
    assert driver.of(wire.StartInstance)[0].lock == b"a lock of last year"


def test_a_lock_that_nobody_asked_this_node_for_is_ignored() -> None:
    driver = Driver()
    _, agent = warm(driver)
    driver.transmit(agent.peer, wire.LockMade(b"k" * 32, PLATFORM, b"x", 0))
    driver.transmit(agent.peer, wire.LockFailed(b"k" * 32, wire.Failure("resolve_failed", ""), False))
    assert not driver.done(SaveLock)
