"""Who looks after loans while the program does something else: the I/O thread, without being in anybody's way."""

import threading
import time
from collections.abc import Iterator

import pytest

from keepwarm import isolated
from keepwarm.client import Client
from keepwarm.loan_timing import GLANCE_NS
from keepwarm.loans import Loans
from keepwarm.pickling import dumps_arguments
from keepwarm.session import Session
from keepwarm_wire.messages import Welcome
from support.waiting import until

SECOND_NS = 1_000_000_000


@isolated
def echo(*args: object) -> object:
    return args


@pytest.fixture
def turns() -> list[float | None]:
    """How long each turn may wait; none does anything, but for the clock of the loans."""
    return []


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch, turns: list[float | None]) -> Iterator[Client]:
    """One whose session is open, and whose turns do nothing but tell the loans what time it is."""
    made = Client("ipc:///nowhere/at/all")
    pause = threading.Event()

    def turn(timeout_s: float | None) -> None:
        turns.append(timeout_s)
        made._connection.session.loans.tick(time.monotonic_ns())
        if timeout_s is None:
            pause.wait(0.001)

    monkeypatch.setattr(made._connection, "turn", turn)
    session = made._connection.session
    session.connection_made(time.monotonic_ns())
    session.take_outgoing(time.monotonic_ns())
    session.handle(time.monotonic_ns(), Welcome(1, b"c" * 16, 1, True, 100, 1 << 20, 60_000_000, True))
    yield made
    made.close()


def submit_and_end(client: Client) -> None:
    """A call begins, and is over: after it the I/O thread is there."""
    future = client.submit(echo, dumps_arguments((1,), {}), wait_follows=False)
    future.cancel()
    until(lambda: client._io_thread is not None)
    until(lambda: client._connection.session.waiting == 0)


def wake(client: Client) -> None:
    """Have the I/O thread see what is due."""
    with client._lock:
        client._call_io(0)


@pytest.fixture
def calm(monkeypatch: pytest.MonkeyPatch) -> None:
    """The session itself has nothing to do for a second."""
    monkeypatch.setattr(Session, "next_deadline", lambda _: time.monotonic_ns() + SECOND_NS)


@pytest.mark.usefixtures("calm")
def test_the_io_thread_looks_after_loans_now_and_then_and_waits_for_nothing(
    client: Client, turns: list[float | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    submit_and_end(client)
    monkeypatch.setattr(Loans, "look_ns", property(lambda loans: loans._ticked_ns + GLANCE_NS))
    wake(client)
    begun_ns = time.monotonic_ns()
    turns.clear()
    until(lambda: len(turns) > 20)
    assert set(turns) == {0}
    assert len(turns) <= (time.monotonic_ns() - begun_ns) / GLANCE_NS + 2


@pytest.mark.usefixtures("calm")
def test_without_loans_the_io_thread_does_not_look(client: Client, turns: list[float | None]) -> None:
    submit_and_end(client)
    until(lambda: client._owner is None)
    turns.clear()
    wake(client)
    until(lambda: client._io_parked_until_ns > 0)
    assert turns == []


def test_while_a_call_is_unanswered_the_io_thread_waits_for_it(
    client: Client, turns: list[float | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Loans, "look_ns", property(lambda loans: loans._ticked_ns + GLANCE_NS))
    future = client.submit(echo, dumps_arguments((1,), {}), wait_follows=False)
    until(lambda: len(turns) > 5)
    assert set(turns) == {None}
    future.cancel()


def test_the_io_thread_is_not_woken_to_be_a_little_earlier(client: Client) -> None:
    """Or each of many calls in a row would wake it."""
    submit_and_end(client)
    with client._lock:
        parked_ns = client._io_parked_until_ns = time.monotonic_ns() + 10 * SECOND_NS
        client._call_io(parked_ns - GLANCE_NS)
        assert client._io_parked_until_ns == parked_ns
        client._call_io(parked_ns - GLANCE_NS - 1)
        assert client._io_parked_until_ns == 0
