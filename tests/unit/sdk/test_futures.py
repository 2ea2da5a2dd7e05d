"""The slim future: everything the stock one does, for a fraction of its memory, with late decoding."""

from __future__ import annotations

import asyncio
import concurrent.futures
import pickle
import threading
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from keepwarm import futures
from keepwarm.errors import CallCancelled
from keepwarm.futures import Future
from support.forking import works_in_a_child

LIMIT_S = 30.0


class Script:
    """A driver that ends futures when somebody waits, as a client does that gets its answer while it polls."""

    def __init__(self, answer: Callable[[Future[Any]], object]) -> None:
        self.answer = answer
        self.waits: list[float | None] = []
        self.cancelled: list[Future[Any]] = []

    def wait(self, future: Future[Any], timeout: float | None) -> None:
        """Answer, as if the answer had come in."""
        self.waits.append(timeout)
        self.answer(future)

    def cancel(self, future: Future[Any]) -> bool:
        """Note the request and end the call, as a cluster does some time later."""
        self.cancelled.append(future)
        return future._fail(CallCancelled("cancelled by this program"))


def test_result_lets_the_client_drive() -> None:
    """Waiting goes through the driver, with the caller's timeout; a done future asks nobody."""
    script = Script(lambda future: future._finish(lambda: 42))
    future: Future[int] = Future(script, "m:f")
    assert not future.done()
    assert future.result(5) == 42
    assert future.result() == 42
    assert script.waits == [5]


def test_timeout_of_the_wait_leaves_the_call_alone() -> None:
    """A plain TimeoutError, also when nobody drives; the future is still pending."""
    for driver in (Script(lambda future: None), None):
        future: Future[int] = Future(driver, "m:f")
        with pytest.raises(TimeoutError, match="m:f"):
            future.result(0)
        with pytest.raises(TimeoutError):
            future.exception(0)
        assert not future.done()


def test_decoded_late_and_once() -> None:
    """Nobody looks, nothing is decoded; however often one looks, it is decoded once."""
    decoded: list[int] = []

    def decode() -> str:
        decoded.append(1)
        return "text"

    future: Future[str] = Future()
    future._finish(decode)
    assert future.done()
    assert not decoded
    assert future.exception() is None
    assert future.result() == future.result() == "text"
    assert decoded == [1]


def test_a_result_that_cannot_be_decoded_is_the_error() -> None:
    """The decoder's exception becomes the future's, for good."""

    def decode() -> int:
        raise KeyError("no such class")

    future: Future[int] = Future()
    future._finish(decode)
    assert isinstance(future.exception(), KeyError)
    with pytest.raises(KeyError):
        future.result()


def test_ctrl_c_while_decoding_can_be_tried_again() -> None:
    """An interrupt is no result: the next look decodes anew."""
    tries = []

    def decode() -> int:
        tries.append(1)
        if len(tries) == 1:
            raise KeyboardInterrupt
        return 7

    future: Future[int] = Future()
    future._finish(decode)
    with pytest.raises(KeyboardInterrupt):
        future.result()
    assert future.result() == 7


def test_threads_that_look_together_decode_once() -> None:
    """All of them get the value that the first decodes; the others wait for it."""
    entered, release, decoded = threading.Event(), threading.Event(), []

    def decode() -> int:
        decoded.append(1)
        entered.set()
        release.wait(LIMIT_S)
        return 7

    future: Future[int] = Future()
    future._finish(decode)
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        first = threads.submit(future.result)
        assert entered.wait(LIMIT_S)
        others = [threads.submit(future.result) for _ in range(3)]
        release.set()
        assert [call.result(LIMIT_S) for call in (first, *others)] == [7] * 4
    assert decoded == [1]


def test_the_first_end_counts() -> None:
    """A late answer, or a second error, changes nothing."""
    future: Future[int] = Future()
    assert future._finish(lambda: 1)
    assert not future._finish(lambda: 2)
    assert not future._fail(KeyError())
    assert future.result() == 1
    assert not future.cancel()


def test_failure() -> None:
    """result() raises it, exception() returns it."""
    future: Future[int] = Future(None, "m:f")
    future._fail(ZeroDivisionError("x"))
    with pytest.raises(ZeroDivisionError):
        future.result()
    assert isinstance(future.exception(), ZeroDivisionError)
    assert repr(future) == "<Future of m:f: done ZeroDivisionError>"


def test_cancel_asks_the_client() -> None:
    """A cancelled call is cancelled in the stock sense, and its error is keepwarm's."""
    script = Script(lambda future: None)
    future: Future[int] = Future(script)
    assert future.cancel()
    assert script.cancelled == [future]
    assert future.cancelled()
    assert future.done()
    assert future.cancel(), "still cancelled"
    assert script.cancelled == [future]
    with pytest.raises(concurrent.futures.CancelledError):
        future.result()
    with pytest.raises(CallCancelled):
        future.exception()


def test_cancel_before_it_was_sent() -> None:
    """A future without a client cancels itself."""
    future: Future[int] = Future()
    assert future.cancel()
    assert future.cancelled()


@pytest.mark.parametrize("with_condition", [False, True])
def test_callbacks(with_condition: bool) -> None:
    """They run once, in order, with the future; a raising one is logged and stops nobody; a late one runs at once."""
    future: Future[int] = Future()
    if with_condition:
        assert future._condition is future._condition
    seen: list[object] = []
    future.add_done_callback(seen.append)
    future.add_done_callback(lambda done: 1 / 0)
    future.add_done_callback(lambda done: seen.append(done.result()))
    assert seen == []
    future._finish(lambda: 5)
    assert seen == [future, 5]
    future.add_done_callback(lambda done: seen.append("late"))
    assert seen == [future, 5, "late"]


def test_wait_and_as_completed() -> None:
    """The stock functions see futures end, those ended before and those ended meanwhile, in every way."""
    ended: list[Future[int]] = [Future() for _ in range(3)]
    open_ones: list[Future[int]] = [Future() for _ in range(3)]
    ended[0]._finish(lambda: 1)
    ended[1]._fail(KeyError())
    ended[2].cancel()
    done, not_done = concurrent.futures.wait([*ended, *open_ones], timeout=0)
    assert (done, not_done) == (set(ended), set(open_ones))

    def end() -> None:
        open_ones[0]._fail(KeyError())
        open_ones[1]._fail(CallCancelled())
        open_ones[2]._finish(lambda: 2)

    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        arrivals = concurrent.futures.as_completed([*ended, *open_ones], timeout=LIMIT_S)
        assert {next(arrivals) for _ in ended} == set(ended)
        threads.submit(end)
        assert set(arrivals) == set(open_ones)


def test_first_exception() -> None:
    """return_when works, because errors are told apart from results."""
    futures: list[Future[int]] = [Future() for _ in range(2)]
    timer = threading.Timer(0, lambda: futures[1]._fail(KeyError()))
    timer.start()
    done, _ = concurrent.futures.wait(futures, LIMIT_S, concurrent.futures.FIRST_EXCEPTION)
    timer.join()
    assert done == {futures[1]}


def test_no_wake_up_is_lost() -> None:
    """Threads that end, watch and wait for the same future at the same moment all get through, many times over."""
    for _ in range(300):
        future: Future[int] = Future()
        start = threading.Barrier(4)

        def race(act: Callable[[], object], start: threading.Barrier = start) -> object:
            start.wait(LIMIT_S)
            return act()

        called = threading.Event()
        acts = (
            lambda future=future: future._finish(lambda: 3),
            lambda future=future: future.result(LIMIT_S),
            lambda future=future: concurrent.futures.wait([future], LIMIT_S).done,
            lambda future=future, called=called: future.add_done_callback(lambda done: called.set()),
        )
        with concurrent.futures.ThreadPoolExecutor(4) as threads:
            results = [call.result(LIMIT_S) for call in [threads.submit(race, act) for act in acts]]
        assert results == [True, 3, {future}, None]
        assert called.is_set()


def test_awaitable() -> None:
    """`await` gives the result, raises the error, and turns cancellation into asyncio's, both ways."""

    async def main() -> None:
        ready: Future[int] = Future()
        ready._finish(lambda: 1)
        assert await ready == 1
        later: Future[int] = Future()
        timer = threading.Timer(0, lambda: later._finish(lambda: 2))
        timer.start()
        assert await asyncio.wait_for(asyncio.wrap_future(later), LIMIT_S) == 2
        timer.join()
        failed: Future[int] = Future()
        failed._fail(KeyError("k"))
        with pytest.raises(KeyError):
            await failed
        cancelled: Future[int] = Future()
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        script = Script(lambda future: None)
        running: Future[int] = Future(script)
        task = asyncio.ensure_future(asyncio.wait_for(asyncio.wrap_future(running), LIMIT_S))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert script.cancelled == [running]

    asyncio.run(main())


def test_stock_setters_work() -> None:
    """Code that treats it as a stock future, set_result and all, finds one."""
    future: Future[int] = Future()
    assert isinstance(future, concurrent.futures.Future)
    seen: list[object] = []
    future.add_done_callback(seen.append)
    assert future.set_running_or_notify_cancel()
    assert future.running()
    future.set_result(3)
    assert future.result() == 3
    assert seen == [future]


def test_report() -> None:
    """The report comes with the end."""
    future: Future[int] = Future()
    assert future.report is None
    report: Any = ("n1", "3fa9")
    future._finish(lambda: 1, report)
    assert future.report == ("n1", "3fa9")


def test_cannot_be_sent() -> None:
    """A future belongs to its process; the error says what to pass instead."""
    with pytest.raises(TypeError, match=r"result\(\)"):
        pickle.dumps(Future())


def bytes_each(make: Callable[[], object], count: int = 2_000) -> float:
    """Return the memory that one object takes, everything it made included."""
    make()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        kept = [make() for _ in range(count)]
        return (tracemalloc.get_traced_memory()[0] - before) / len(kept)
    finally:
        tracemalloc.stop()


def test_memory() -> None:
    """A pending future takes a fifth of a stock one or less."""
    stock, slim = bytes_each(concurrent.futures.Future), bytes_each(Future)
    assert slim * 5 <= stock, f"{slim:.0f} bytes against {stock:.0f}"


def test_a_fork_while_another_thread_is_at_a_future() -> None:
    """The child's futures have a lock of their own: nobody is there to release the other thread's."""

    def finishes_one() -> bool:
        future: Future[int] = Future()
        future.add_done_callback(lambda _: None)
        return future._finish(lambda: 1) and future.result() == 1

    assert works_in_a_child(futures._LOCK, finishes_one)
