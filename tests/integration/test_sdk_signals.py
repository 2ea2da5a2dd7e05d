"""Programs whose signal handlers raise, or make calls, while the client waits: deadlines as job queues have them."""

import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

from keepwarm import isolated
from keepwarm.client import Client
from keepwarm.pickling import dumps_arguments
from keepwarm_wire.messages import Cancel, Submit
from support.tiny_scheduler import TinyScheduler
from support.waiting import until

pytestmark = pytest.mark.integration

PROLOGUE = """
import gc, os, signal, threading
from keepwarm import isolated
from keepwarm.client import get_client
from keepwarm.errors import KeepwarmError

class DeadlineError(Exception):
    pass

def raise_deadline(number, frame):
    raise DeadlineError

@isolated
def echo(*args):
    return args
"""


class DeadlineError(Exception):
    """What a handler raises."""


@isolated
def echo(*args: object) -> object:
    return args


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[TinyScheduler]:
    with TinyScheduler(tmp_path) as running:
        yield running
    assert running.model.violations == []


@pytest.fixture
def deadline() -> Iterator[None]:
    """SIGALRM raises."""

    def handler(number: int, frame: FrameType | None) -> None:
        raise DeadlineError

    before = signal.signal(signal.SIGALRM, handler)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def client(scheduler: TinyScheduler) -> Iterator[Client]:
    made = Client(scheduler.address)
    yield made
    made.close()


def hold(scheduler: TinyScheduler) -> None:
    scheduler.model.answer = lambda submit, arguments: None


def run_program(scheduler: TinyScheduler, text: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "KEEPWARM_ADDRESS": scheduler.address}
    return subprocess.run(
        [sys.executable, "-c", PROLOGUE + textwrap.dedent(text)],
        env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.usefixtures("deadline")
def test_a_deadline_that_falls_into_a_wait_is_raised_and_other_calls_go_on(
    scheduler: TinyScheduler, client: Client
) -> None:
    hold(scheduler)
    futures = [client.submit(echo, dumps_arguments((number,), {})) for number in range(3)]
    until(lambda: len(scheduler.model.submits) == 3)
    for _ in range(5):
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(DeadlineError):
            futures[0].result(20)
    scheduler.answer_held(lambda number, arguments: arguments)
    assert [future.result(20) for future in futures] == [((number,), {}) for number in range(3)]


@pytest.mark.usefixtures("deadline")
def test_a_deadline_of_a_caller_that_waits_behind_another_leaves_the_turn_to_the_others(
    scheduler: TinyScheduler, client: Client
) -> None:
    hold(scheduler)
    first, second = (client.submit(echo, dumps_arguments((number,), {})) for number in range(2))
    driver = threading.Thread(target=client.wait, args=(first, 30))
    driver.start()
    until(lambda: client._owner == driver.ident)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    with pytest.raises(DeadlineError):
        client.wait(second, 20)
    assert not client._sleepers
    scheduler.answer_held(lambda number, arguments: arguments)
    driver.join(20)
    ended = threading.Event()
    second.add_done_callback(lambda _: ended.set())
    assert ended.wait(20), "nobody had the turn"


def test_a_stream_of_deadlines_never_hangs_or_breaks_a_program(scheduler: TinyScheduler) -> None:
    """Wherever they fall, each call ends by its result, by the deadline or by an error that says so."""
    ended = run_program(
        scheduler,
        """
        signal.signal(signal.SIGALRM, raise_deadline)
        assert echo(0) == ((0,), {})
        counts = {"results": 0, "deadlines": 0, "errors": 0}
        for number in range(400):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.00002 + number % 50 * 0.00002)
                assert echo(number) == ((number,), {})
                signal.setitimer(signal.ITIMER_REAL, 0)
                counts["results"] += 1
            except DeadlineError:
                counts["deadlines"] += 1
            except KeepwarmError as error:
                counts["errors"] += 1
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert counts["deadlines"] > 0, counts
        assert echo("after") == (("after",), {})
        future = echo.submit("late")
        done = threading.Event()
        future.add_done_callback(lambda _: done.set())
        assert done.wait(20)
        print("well")
        """,
    )
    assert (ended.returncode, ended.stdout) == (0, "well\n"), ended.stderr[-3000:]


def test_an_abandoned_map_that_is_collected_in_the_middle_of_a_change_ends_nothing_but_itself(
    scheduler: TinyScheduler,
) -> None:
    def answer(submit: Submit, arguments: bytes) -> bytes | None:
        [number], _ = pickle.loads(arguments)
        return None if 0 < number < 100 else arguments

    scheduler.model.answer = answer
    ended = run_program(
        scheduler,
        """
        class Cycle:
            pass

        def abandon():
            cycle = Cycle()
            cycle.itself = cycle
            cycle.results = echo.map(range(100), in_flight=10)
            assert next(cycle.results) == ((0,), {})

        gc.set_threshold(1, 1, 1)
        for _ in range(30):
            abandon()
            futures = [echo.submit(number) for number in range(100, 120)]
            assert [future.result(20) for future in futures] == [((number,), {}) for number in range(100, 120)]
        gc.disable()
        abandon()
        with get_client()._lock:
            gc.collect()
        assert echo(1000) == ((1000,), {})
        print("well")
        """,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "well\n", "")
    cancelled = {message.call_number for message in scheduler.received if isinstance(message, Cancel)}
    assert len(cancelled) >= 31 * 9


def test_a_call_from_a_handler_in_the_middle_of_a_change_is_refused_in_words(scheduler: TinyScheduler) -> None:
    ended = run_program(
        scheduler,
        """
        told = []

        def call(number, frame):
            try:
                told.append(echo("handler"))
            except RuntimeError as error:
                told.append(str(error))

        signal.signal(signal.SIGUSR1, call)
        assert echo(1) == ((1,), {})
        with get_client()._lock:
            os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert "reentrant call" in told[0], told
        assert told[1:] == [(("handler",), {})], told
        print("well")
        """,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "well\n", "")


def test_a_fork_while_threads_make_calls_leaves_the_child_a_working_client(scheduler: TinyScheduler) -> None:
    ended = run_program(
        scheduler,
        """
        echo(0)  # what is imported late is: the interpreter's locks of imports do not survive a fork
        stops = threading.Event()

        def work():
            while not stops.is_set():
                echo.submit(1).result(20)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        children = []
        for _ in range(10):
            child = os.fork()
            if child == 0:
                signal.alarm(30)
                fresh = isolated(lambda number: number)
                os._exit(0 if echo("child") == (("child",), {}) and fresh.prepared else 3)
            children.append(child)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        stops.set()
        for thread in threads:
            thread.join()
        print(codes)
        """,
    )
    assert (ended.returncode, ended.stdout) == (0, f"{[0] * 10}\n"), ended.stderr[-3000:]
