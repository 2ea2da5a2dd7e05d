"""Interrupting exactly the attempt that is meant, on the real signal, and never outside the guarded region."""

import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import pytest

from keepwarm_worker.runner import control, frames
from keepwarm_worker.runner.control import CallCancelled, CallTimeout, Interrupts


@pytest.fixture
def interrupts() -> Iterator[Interrupts]:
    """Interrupts of this very process, with a short switch interval: more places for a signal to arrive."""
    previous = signal.getsignal(control._INTERRUPT_SIGNAL)
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield Interrupts()
    sys.setswitchinterval(interval_s)
    signal.signal(control._INTERRUPT_SIGNAL, previous)


def test_a_value_and_an_exception_come_back(interrupts: Interrupts) -> None:
    """Nothing that user code raises passes."""
    assert interrupts.guard(1, lambda: 42) == (42, None)
    for code in (SystemExit(3), KeyboardInterrupt(), ValueError("x")):

        def fail(error: BaseException = code) -> None:
            raise error

        assert interrupts.guard(1, fail) == (None, code)


@pytest.mark.parametrize("error", [CallCancelled, CallTimeout])
def test_a_request_ends_a_busy_loop(interrupts: Interrupts, error: type[BaseException]) -> None:
    """With its own exception, once."""
    assert interrupts.begin(7)

    def spin() -> None:
        threading.Thread(target=interrupts.request, args=(7, error)).start()
        while True:
            pass

    _, raised = interrupts.guard(7, spin)
    assert type(raised) is error
    assert interrupts.delivered is error
    assert interrupts.guard(7, lambda: "again") == ("again", None)


def test_a_request_that_came_first_ends_its_attempt_before_it_begins(interrupts: Interrupts) -> None:
    """And no other attempt."""
    interrupts.request(2, CallCancelled)
    assert interrupts.guard(1, lambda: "ran") == ("ran", None)
    value, raised = interrupts.guard(2, lambda: "ran")
    assert value is None
    assert type(raised) is CallCancelled


def test_a_request_for_an_ended_attempt_is_forgotten(interrupts: Interrupts) -> None:
    """Also one that came while nothing ran."""
    interrupts.request(1, CallCancelled)
    interrupts.end(1)
    assert interrupts.guard(1, lambda: "ran") == ("ran", None)


def test_code_that_cleans_up_is_not_interrupted_again(interrupts: Interrupts) -> None:
    """A timeout after a cancel, while user code handles the cancel: the agent goes on to signals if that takes long."""
    interrupts.request(1, CallCancelled)

    def cleans_up() -> str:
        try:
            interrupts.request(2, CallCancelled)
            while True:
                pass
        except CallCancelled:
            interrupts.request(2, CallTimeout)
            signal.raise_signal(control._INTERRUPT_SIGNAL)
            return "cleaned up"

    assert interrupts.guard(2, cleans_up) == ("cleaned up", None)


def test_a_full_signal_queue_is_no_error(interrupts: Interrupts) -> None:
    """Real-time signals queue up to a limit of the system; the helper thread must not die of it."""
    _, hard = resource.getrlimit(resource.RLIMIT_SIGPENDING)
    interrupts._interruptible = 1
    soft = resource.getrlimit(resource.RLIMIT_SIGPENDING)[0]
    resource.setrlimit(resource.RLIMIT_SIGPENDING, (0, hard))
    try:
        interrupts.request(1, CallCancelled)
    finally:
        resource.setrlimit(resource.RLIMIT_SIGPENDING, (soft, hard))
        interrupts._interruptible = None


def test_remembered_requests_are_bounded(interrupts: Interrupts) -> None:
    """The oldest are forgotten first."""
    for attempt in range(control._REMEMBERED_REQUESTS + 1):
        interrupts.request(attempt, CallCancelled)
    assert interrupts.guard(0, lambda: "ran") == ("ran", None)
    assert interrupts.guard(1, lambda: "ran")[1] is not None


def _fail() -> str:
    raise ValueError


@pytest.mark.parametrize(("action", "own"), [(lambda: "ran", type(None)), (_fail, ValueError)])
def test_a_signal_never_escapes_the_guard(
    interrupts: Interrupts, action: Callable[[], str], own: type[BaseException]
) -> None:
    """At every single instruction of the guard and of user code: it is raised inside, or not at all."""
    outcomes = []
    for instruction in range(200):
        countdown = instruction

        def trace(frame: FrameType, event: str, argument: object) -> object:
            nonlocal countdown
            frame.f_trace_opcodes = frame.f_code in (Interrupts.guard.__code__, action.__code__)
            if event == "opcode":
                countdown -= 1
                if countdown == -1:
                    interrupts._requests[1] = CallCancelled
                    interrupts._on_signal(signal.SIGUSR2, None)
            return trace

        assert interrupts.begin(1)
        previous = sys.gettrace()
        sys.settrace(trace)  # type: ignore[arg-type]
        _, raised = interrupts.guard(1, action)
        sys.settrace(previous)
        interrupts.end(1)
        assert interrupts._interruptible is None
        outcomes.append(type(raised))
        if countdown >= 0:  # the guard has fewer instructions
            break
    assert set(outcomes) == {own, CallCancelled}
    assert countdown >= 0


def test_a_forked_child_is_not_interrupted(interrupts: Interrupts) -> None:
    """It is no attempt of ours."""
    interrupts.request(1, CallCancelled)
    interrupts.abandon()
    assert interrupts.guard(1, lambda: "ran") == ("ran", None)


def test_frames_on_the_control_socket_become_requests_and_its_end_is_death(
    interrupts: Interrupts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order of arrival. The death itself, which would be ours, is only noted here."""
    noted: list[object] = []
    monkeypatch.setattr(control, "die_with_agent", lambda: noted.append("died"))
    monkeypatch.setattr(interrupts, "request", lambda attempt, error: noted.append((attempt, error)))
    read_fd, write_fd = os.pipe()
    os.write(
        write_fd, frames.encode(frames.Cancel(1)) + frames.encode(frames.Exit()) + frames.encode(frames.Timeout(2))
    )
    os.close(write_fd)
    control._watch(read_fd, interrupts)
    os.close(read_fd)
    assert noted == [(1, CallCancelled), (2, CallTimeout), "died"]


def test_the_exceptions_have_the_names_that_users_know() -> None:
    """And are no `Exception`."""
    for error in (CallCancelled, CallTimeout):
        assert error.__module__ == "keepwarm"
        assert not issubclass(error, Exception)


def test_an_attempt_that_is_asked_back_in_time_does_not_begin(interrupts: Interrupts) -> None:
    """And is given back once, however often it is asked for."""
    assert interrupts.begin(1)
    assert interrupts.recall(3)
    assert not interrupts.recall(3)
    assert interrupts.begin(2)
    assert not interrupts.begin(3)
    assert not interrupts.recall(3)
    assert interrupts.begin(4)


def test_an_attempt_that_has_begun_is_not_given_back(interrupts: Interrupts) -> None:
    assert interrupts.begin(2)
    assert not interrupts.recall(2)
    assert not interrupts.recall(1)
    assert interrupts.begin(3)


def test_of_a_recall_and_a_begin_at_the_same_time_exactly_one_wins(interrupts: Interrupts) -> None:
    given_back: list[int] = []
    attempts = range(1, 2_000)

    def ask_back() -> None:
        given_back.extend(attempt for attempt in attempts if interrupts.recall(attempt))

    thread = threading.Thread(target=ask_back)
    thread.start()
    begun = [attempt for attempt in attempts if interrupts.begin(attempt)]
    thread.join()
    assert sorted(begun + given_back) == list(attempts)


def test_a_recall_on_the_control_socket_is_answered_there_once(
    interrupts: Interrupts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "die_with_agent", lambda: None)
    ours, theirs = socket.socketpair()
    assert interrupts.begin(1)
    ours.sendall(b"".join(frames.encode(frames.Recall(attempt)) for attempt in (1, 2, 2, 3)))
    ours.shutdown(socket.SHUT_WR)
    control._watch(theirs.fileno(), interrupts)
    answers = frames.FrameDecoder().feed(ours.recv(1000))
    ours.close()
    theirs.close()
    assert answers == [frames.Recalled(2), frames.Recalled(3)]


def test_a_lent_call_is_given_back_before_the_first_of_its_loan_has_begun(interrupts: Interrupts) -> None:
    """The loan's own attempt has a far higher number than the calls under it, which count from one."""
    loan = 1 << 40
    assert interrupts.begin(loan)
    interrupts.begin_loan(loan)
    assert interrupts.recall(2)
    assert interrupts.begin(1)
    assert not interrupts.begin(2)
    interrupts.end_loan()
    assert not interrupts.recall(loan)
    assert interrupts.begin(loan + 1)
