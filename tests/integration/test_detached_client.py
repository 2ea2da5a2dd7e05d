"""Detached calls of a client whose scheduler is a script: what happens to waits that are interrupted."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from keepwarm import isolated
from keepwarm.client import Client
from keepwarm.connection import Patience
from keepwarm.detached import DetachedCall
from keepwarm.errors import ClusterUnreachable, KeyConflict, PayloadRefused, ResultNotLoadable, SchedulerRefused
from keepwarm_wire.messages import AttachDetached, ClientHello, SubmitDetached
from support.model_detached import Keeping
from support.tiny_scheduler import TinyScheduler
from support.waiting import until

LARGE = 300_000


@isolated
def echo(*args: object) -> object:
    return args


@pytest.fixture
def model() -> Keeping:
    return Keeping()


@pytest.fixture
def scheduler(tmp_path: Path, model: Keeping) -> Iterator[TinyScheduler]:
    with TinyScheduler(tmp_path, model) as running:
        yield running
    assert model.violations == []


@pytest.fixture
def client(scheduler: TinyScheduler, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    made = Client(scheduler.address, Patience(connect_s=2, give_up_s=2))
    monkeypatch.setattr("keepwarm.client._client", made)
    yield made
    made.close()


def end(scheduler: TinyScheduler, model: Keeping, call: DetachedCall[object], result: bytes | None = None) -> None:
    """The call ends, by default with its own arguments as the result; whoever is attached is told."""
    call_id = bytes.fromhex(call.id)
    with scheduler.lock:
        model.ended[call_id] = model.arguments[call_id] if result is None else result
        told = [model.outcome(session, call_id) for session in model.sessions.values()]
    for message in told if call_id in model.watched else ():
        scheduler.say(message)


def press_ctrl_c_after(seconds: float) -> None:
    threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT)).start()


def test_a_call_is_accepted_and_its_outcome_comes_when_it_is_there(
    client: Client, scheduler: TinyScheduler, model: Keeping
) -> None:
    call = echo.spawn(1, 2)
    assert list(model.accepted.values()) == [1]
    with pytest.raises(TimeoutError, match=r"is not done after 0\.05 seconds; the call goes on"):
        call.result(0.05)
    threading.Timer(0.2, end, (scheduler, model, call)).start()
    assert call.result(10) == ((1, 2), {})
    large = echo.spawn("x" * LARGE)
    end(scheduler, model, large)
    assert large.result(10) == (("x" * LARGE,), {})


def test_submits_and_outcomes_that_get_lost_are_repaired(
    client: Client, scheduler: TinyScheduler, model: Keeping
) -> None:
    lost = {SubmitDetached: 2, AttachDetached: 2}

    def loses(message: object) -> bool:
        if lost.get(type(message), 0):
            lost[type(message)] -= 1
            return True
        return False

    scheduler.loses_incoming = scheduler.loses_outgoing = loses
    call = echo.spawn("again")
    end(scheduler, model, call)
    assert call.result(10) == (("again",), {})
    assert list(model.accepted.values()) == [1]
    assert set(lost.values()) == {0}


def test_ctrl_c_while_a_spawn_waits_stops_the_call(client: Client, scheduler: TinyScheduler, model: Keeping) -> None:
    scheduler.loses_outgoing = lambda message: type(message).__name__ == "DetachedAccepted"
    press_ctrl_c_after(0.3)
    with pytest.raises(KeyboardInterrupt):
        echo.spawn("never mind")
    [call_id] = model.accepted
    until(lambda: model.stopped == [call_id])
    scheduler.loses_outgoing = lambda message: False
    assert echo.spawn("next").id != call_id.hex()


def test_ctrl_c_while_a_result_is_awaited_leaves_the_call_alone(
    client: Client, scheduler: TinyScheduler, model: Keeping
) -> None:
    call = echo.spawn(1)
    press_ctrl_c_after(0.3)
    with pytest.raises(KeyboardInterrupt):
        call.result()
    end(scheduler, model, call)
    assert call.result(10) == ((1,), {})
    assert model.stopped == []


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("key_conflict", KeyConflict),
        ("results_full", SchedulerRefused),
        ("too_many", SchedulerRefused),
        ("payload_lost", PayloadRefused),
        ("of_a_later_release", SchedulerRefused),
    ],
)
def test_a_refusal_is_raised_by_spawn(client: Client, model: Keeping, code: str, error: type[Exception]) -> None:
    model.refuses = code
    with pytest.raises(error, match="the scheduler does not accept the call: says the model"):
        echo.spawn(1)
    with pytest.raises(error, match="says the model"):
        echo.spawn_map(range(20))


def test_a_scheduler_that_restarts_is_asked_again(client: Client, scheduler: TinyScheduler, model: Keeping) -> None:
    call = echo.spawn(1)
    waiting = call.future()
    until(lambda: bool(model.watched))
    scheduler.stop()
    with scheduler.lock:
        model.watched.clear()
    model.restart()
    scheduler.start()
    until(lambda: bool(model.watched))
    end(scheduler, model, call)
    assert waiting.result(10) == ((1,), {})


def test_a_cluster_that_is_gone_fails_the_wait_and_can_be_asked_again(
    client: Client, scheduler: TinyScheduler, model: Keeping
) -> None:
    call = echo.spawn(1)
    scheduler.stop()
    with pytest.raises(ClusterUnreachable, match="has not answered within 2 s"):
        call.result(30)
    with pytest.raises(ClusterUnreachable):
        echo.spawn(2)
    scheduler.start()
    end(scheduler, model, call)
    assert call.result(10) == ((1,), {})


def test_a_remote_cluster_that_says_goodbye_is_waited_for(
    client: Client, scheduler: TinyScheduler, model: Keeping
) -> None:
    call = echo.spawn(1)
    waiting = call.future()
    until(lambda: bool(model.watched))
    hellos = sum(isinstance(message, ClientHello) for message in scheduler.received)
    scheduler.say_goodbye()
    until(lambda: sum(isinstance(message, ClientHello) for message in scheduler.received) > hellos)
    end(scheduler, model, call)
    assert waiting.result(10) == ((1,), {})


def test_a_closed_client_fails_those_who_wait(client: Client) -> None:
    waiting = echo.spawn(1).future()
    threading.Timer(0.2, client.close).start()
    started_s = time.monotonic()
    with pytest.raises(ClusterUnreachable, match="detached calls that it made go on"):
        waiting.result(20)
    assert time.monotonic() - started_s < 10


def test_a_result_that_cannot_be_loaded_says_so(client: Client, scheduler: TinyScheduler, model: Keeping) -> None:
    call = echo.spawn(1)
    end(scheduler, model, call, b"no pickle")
    with pytest.raises(ResultNotLoadable):
        call.result(10)


def test_who_stops_waiting_takes_no_place(client: Client, model: Keeping) -> None:
    call = echo.spawn(1)
    waiting = call.future()
    until(lambda: bool(model.watched))
    assert waiting.cancel()
    assert waiting.cancelled()
    assert client._connection.session.waiting == 0
    assert model.stopped == []
    assert call.future() is not waiting
