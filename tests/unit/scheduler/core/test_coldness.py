"""Why a call was cold: each reason, brought about."""

from keepwarm_scheduler.core.decisions import Coldness, Decision
from keepwarm_wire import messages as wire
from support.model_agent import GIB
from support.scheduler_driver import Client, Driver, warm


def cold(driver: Driver, client: Client, number: int) -> Decision:
    """The start that was decided for a call."""
    for decision in driver.cluster.sessions[client.session_id].calls[number].decisions:
        if decision.coldness is not None:
            assert isinstance(decision, Decision)
            return decision
    raise AssertionError("nothing was started for it")


def test_a_first_call_ever() -> None:
    driver = Driver()
    driver.agent()
    client = driver.client()
    call = client.submit(client.declare())
    assert cold(driver, client, call).coldness is Coldness.NEVER_BUILT


def test_a_lease_that_ran_out_and_how_long_ago() -> None:
    driver = Driver()
    client, _ = warm(driver, keep_alive=1)
    driver.advance(5)
    assert not driver.instances
    decision = cold(driver, client, client.submit())
    assert (decision.coldness, decision.ended_on) == (Coldness.EXPIRED, "a")
    assert 3_500_000 < decision.ended_us < 4_500_000


def test_a_lease_that_ran_out_after_the_client_had_gone() -> None:
    """A program that is run again: its pool was forgotten in between, how it ended was not."""
    driver = Driver()
    client, _ = warm(driver, keep_alive=1)
    client.say(wire.Goodbye("done"))
    driver.advance(5)
    assert not driver.cluster.pools
    again = driver.client("again")
    call = again.submit(again.declare(keep_alive=1))
    assert cold(driver, again, call).coldness is Coldness.EXPIRED


def test_an_eviction() -> None:
    driver = Driver()
    client, agent = warm(driver, memory_bytes=6 * GIB, keep_alive=600)
    client.submit(client.declare("module:other", memory_bytes=4 * GIB, keep_alive=0))
    driver.advance(1.1)
    agent.complete()
    decision = cold(driver, client, client.submit(1))
    assert decision.coldness is Coldness.EVICTED


def test_a_node_that_was_lost() -> None:
    driver = Driver()
    client, agent = warm(driver, keep_alive=600)
    agent.disconnect()
    driver.advance(2)
    driver.agent("b")
    decision = cold(driver, client, client.submit())
    assert (decision.coldness, decision.ended_on, decision.node) == (Coldness.NODE_LOST, "a", "b")


def test_a_process_that_died() -> None:
    driver = Driver()
    client, agent = warm(driver, keep_alive=600)
    agent.die(driver.instances[0].instance_id)
    driver.settle()
    assert cold(driver, client, client.submit()).coldness is Coldness.DIED


def test_everybody_busy() -> None:
    driver = Driver()
    client, _ = warm(driver)
    client.submit()
    assert cold(driver, client, client.submit()).coldness is Coldness.ALL_BUSY


def test_a_process_of_its_own() -> None:
    driver = Driver()
    driver.agent()
    client = driver.client()
    call = client.submit(client.declare(keep_alive=0))
    assert cold(driver, client, call).coldness is Coldness.PRIVATE


def test_the_same_requirements_for_another_python() -> None:
    driver = Driver()
    driver.agent(pythons=("3.11", "3.12"))
    client = driver.client()
    client.submit(client.declare(requirements=("requests",)))
    call = client.submit(client.declare("module:g", requirements=("requests",), python="3.12"))
    assert cold(driver, client, call).coldness is Coldness.OTHER_PYTHON


def test_the_same_environment_for_other_process_options() -> None:
    driver = Driver()
    client, _ = warm(driver)
    call = client.submit(client.declare("module:g", env_vars=(wire.Pair("A", "b"),)))
    assert cold(driver, client, call).coldness is Coldness.OTHER_OPTIONS


def test_an_environment_on_disk_that_nothing_has_run_in_yet() -> None:
    driver = Driver()
    agent, client = driver.agent(starts=False), driver.client()
    client.declare()
    client.submit()
    (environment_id,) = driver.cluster.pools_of
    agent.environments[environment_id] = None
    agent.instances.clear()
    agent.beats()
    decision = cold(driver, client, client.submit())
    assert (decision.coldness, decision.ended_on) == (Coldness.NEVER_STARTED, "a")


def test_a_warm_process_on_a_node_without_cpu() -> None:
    driver = Driver()
    one = driver.agent("a", cpu=1000)
    client = driver.client()
    wide = client.declare("module:wide", keep_alive=600)
    hog = client.declare("module:hog", env_vars=(wire.Pair("A", "b"),), keep_alive=600)
    client.submit(wide)
    one.complete()
    client.submit(hog)
    assert len(one.attempts) == 1
    driver.agent("b", cpu=1000)
    decision = cold(driver, client, client.submit(wide))
    assert (decision.coldness, decision.ended_on, decision.node) == (Coldness.NO_CPU, "a", "b")
