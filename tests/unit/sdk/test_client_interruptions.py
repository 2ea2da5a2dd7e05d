"""A client that is interrupted by its own thread: by finalizers, and by signal handlers that make calls or raise."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from keepwarm import isolated
from keepwarm.call_future import CallFuture
from keepwarm.client import Client
from keepwarm.connection import Failed
from keepwarm.delivering import Deliverer
from keepwarm.errors import InternalError
from keepwarm.interruptions import waits
from keepwarm.pickling import dumps_arguments
from keepwarm.session_deliveries import Completion
from keepwarm_wire.messages import Outcome, Output, Status

NUMBER = signal.SIGUSR1


class DeadlineError(Exception):
    """What the program's handler raises."""


@isolated
def echo(*args: object) -> object:
    return args


@pytest.fixture
def client() -> Iterator[Client]:
    made = Client("ipc:///nowhere/at/all")
    yield made
    made.close()


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    before = signal.signal(NUMBER, raise_deadline)
    yield
    signal.signal(NUMBER, before)


def raise_deadline(number: int, frame: FrameType | None) -> None:
    raise DeadlineError


def submitted(client: Client) -> CallFuture:
    future = client.submit(echo, dumps_arguments((1,), {}), wait_follows=True)  # wakes no other thread
    assert isinstance(future, CallFuture)
    return future


def work(_timeout_s: float | None = None) -> None:
    os.kill(os.getpid(), NUMBER)


@waits
def wait(_timeout_s: float | None = None) -> None:
    os.kill(os.getpid(), NUMBER)


def stay(_timeout_s: float | None = None) -> None:
    """A turn in which nothing happens."""


def test_a_cancellation_in_the_middle_of_a_change_is_made_by_the_next_turn(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by the finalizer of an abandoned ``map()``, run by a garbage collection under the lock."""
    monkeypatch.setattr(client._connection, "turn", stay)
    future = submitted(client)
    with client._lock:
        assert future.cancel() is True
        assert not future.done()
    client._take_turn(0)
    assert future.cancelled()
    assert future.cancel() is True


def test_a_garbage_collection_under_the_lock_may_end_a_map(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keepwarm.client._client", client)
    monkeypatch.setattr(client._connection, "turn", stay)
    monkeypatch.setattr(client, "_start_io", lambda: None)

    def first(future: CallFuture, timeout: float | None) -> None:
        future._finish(lambda: None)

    monkeypatch.setattr(client, "wait", first)
    results = echo.map(range(9), in_flight=3)
    next(results)
    with client._lock:
        del results
    assert len(client._late_cancels) == 2
    client._take_turn(0)
    assert len(client._connection.session.unanswered()) == 1


@pytest.mark.parametrize(
    "use",
    [
        submitted,
        lambda client: client.change(lambda session: None),
        lambda client: client.wait(CallFuture(client)),
        lambda client: client.close(),
    ],
)
def test_all_else_is_refused_there_in_words(client: Client, use: Callable[[Client], Any]) -> None:
    with client._lock, pytest.raises(RuntimeError, match="reentrant call"):
        use(client)
    assert client._connection.session.waiting == 0
    submitted(client)
    assert client._connection.session.waiting == 1


def test_another_thread_waits_for_the_lock_as_ever(client: Client) -> None:
    ended: list[bool] = []
    future = submitted(client)
    thread = threading.Thread(target=lambda: ended.append(future.cancel()))
    with client._lock:
        thread.start()
    thread.join(20)
    assert ended == [True]
    assert not client._late_cancels


def test_an_exception_that_falls_into_the_wait_is_raised_and_fails_nothing(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client._connection, "turn", wait)
    monkeypatch.setattr(client, "_start_io", lambda: None)
    future = submitted(client)
    with pytest.raises(DeadlineError):
        future.result()
    assert not future.done()
    assert client._owner is None
    assert client._connection.session.unanswered() == [future.call]


def test_one_that_falls_into_work_fails_what_is_unanswered_and_is_raised(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client._connection, "turn", work)
    monkeypatch.setattr(client, "_start_io", lambda: None)
    future, other = submitted(client), submitted(client)
    with pytest.raises(DeadlineError):
        future.result()
    for each in (future, other):
        assert isinstance(each.exception(), InternalError)
    assert client._owner is None


def test_a_second_ctrl_c_that_falls_into_work_does_so_too(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not held back: what is half done then is not gone on with."""

    def work_twice(_timeout_s: float | None = None) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(client._connection, "turn", work_twice)
    monkeypatch.setattr(client, "_start_io", lambda: None)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        future = submitted(client)
        with pytest.raises(KeyboardInterrupt):
            future.result()
    finally:
        signal.signal(signal.SIGINT, before)
    assert isinstance(future.exception(), InternalError)
    assert client._owner is None


def test_a_defect_fails_what_is_unanswered_and_is_not_raised(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_timeout_s: float | None) -> None:
        raise ValueError("ours")

    monkeypatch.setattr(client._connection, "turn", fail)
    future = submitted(client)
    with pytest.raises(InternalError, match="ours"):
        future.result()


def test_the_turn_is_given_back_wherever_an_exception_falls(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also just before it would have been given back."""
    monkeypatch.setattr(client, "_start_io", lambda: None)
    monkeypatch.setattr(client, "_drive", lambda future, end_s, interrupt: future._finish(lambda: 1))
    monkeypatch.setattr(client, "_disown", work)
    with pytest.raises(DeadlineError):
        client.wait(submitted(client))
    assert (client._owner, client._depth) == (None, 0)


def test_an_outcome_is_delivered_by_the_next_turn_if_this_one_is_interrupted(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    future = submitted(client)
    success = Outcome(1, Status.SUCCEEDED, b"", None, None)
    client._connection.deliveries.append(Completion(future.call, success, dumps_arguments((), {})))
    with monkeypatch.context() as patch:
        patch.setattr(Deliverer, "_end", lambda *_: work())
        with pytest.raises(DeadlineError):
            client._deliver()
    client._deliver()
    assert future.result() == ((), {})
    client._deliverer.complete(Completion(future.call, success, b""))  # an interrupted end may come twice
    assert future.result() == ((), {})


def test_a_defect_in_a_delivery_is_not_tried_for_ever(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    client._connection.deliveries.append(Failed(submitted(client).call, InternalError("x")))
    monkeypatch.setattr(Deliverer, "_end", lambda *_: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        client._deliver()
    assert not client._connection.deliveries


def test_a_blocking_call_that_is_interrupted_is_cancelled(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has its future any more."""
    monkeypatch.setattr("keepwarm.client._client", client)
    monkeypatch.setattr(client, "_start_io", lambda: None)
    monkeypatch.setattr(client._connection, "turn", wait)
    with pytest.raises(DeadlineError):
        echo(1)
    assert client._connection.session.unanswered() == []


def test_output_that_nobody_can_show_ends_no_call(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def write(self, text: str) -> None:
            raise RuntimeError("a stream of the program's own")

    monkeypatch.setattr("sys.stdout", Broken())
    future = submitted(client)
    client._deliverer._printer.output("f", Output(1, "n1", 1, b"text\n", 0))
    assert not future.done()
