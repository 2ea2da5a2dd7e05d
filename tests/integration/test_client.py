"""The client against a real peer over a real socket: threads, forks, Ctrl-C, large payloads, restarts, exits."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import pytest

from keepwarm import isolated, local
from keepwarm.client import Client
from keepwarm.connection import STALE_NS, Patience
from keepwarm.errors import (
    CallCancelled,
    ClusterStartError,
    ClusterUnreachable,
    OptionError,
    OutOfMemory,
    ProtocolMismatch,
    TooManyCalls,
)
from keepwarm.pickling import dumps_arguments
from keepwarm_wire.messages import (
    CallReport,
    Cancel,
    Failure,
    Message,
    Outcome,
    Output,
    Received,
    Refused,
    Status,
    Submit,
    Welcome,
)
from support.tiny_scheduler import TinyScheduler
from support.waiting import until

pytestmark = pytest.mark.integration


@isolated
def echo(*args: Any) -> Any:
    return args


def pickled(*args: Any) -> bytes:
    return dumps_arguments(args, {})


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[TinyScheduler]:
    with TinyScheduler(tmp_path) as running:
        yield running
    assert running.model.violations == []


@pytest.fixture
def client(scheduler: TinyScheduler) -> Iterator[Client]:
    made = Client(scheduler.address)
    yield made
    made.close()


def call(client: Client, *args: Any, timeout: float | None = 30) -> Any:
    return client.submit(echo, pickled(*args)).result(timeout)


def hold(scheduler: TinyScheduler) -> None:
    scheduler.model.answer = lambda submit, arguments: None


def test_a_call_returns_its_result(client: Client) -> None:
    assert call(client, 1, "two") == ((1, "two"), {})


def test_the_function_is_declared_once_for_many_calls(scheduler: TinyScheduler, client: Client) -> None:
    for number in range(5):
        call(client, number)
        client.submit(echo.on(keep_alive=60), pickled(number)).result(10)
    assert [declared.options.keep_alive_us for declared in scheduler.model.declared] == [10_000_000, 60_000_000]


def test_the_session_is_empty_at_the_scheduler_soon_after(scheduler: TinyScheduler, client: Client) -> None:
    call(client, 1)
    until(lambda: scheduler.model.is_empty, 5)


def test_a_failure_becomes_its_exception_with_where_it_happened(scheduler: TinyScheduler, client: Client) -> None:
    report = CallReport("node-1", "e" * 8, 1, 2, "warm", 3)
    failed = Outcome(0, Status.FAILED, b"", Failure("out_of_memory", "too much", "signal=9"), report)
    scheduler.model.answer = lambda submit, arguments: failed
    future = client.submit(echo, pickled())
    with pytest.raises(OutOfMemory, match="too much") as caught:
        future.result(10)
    assert (caught.value.node, caught.value.signal) == ("node-1", 9)
    assert future.report == report


def test_twenty_thousand_submits_are_cheap_and_all_answered(scheduler: TinyScheduler, client: Client) -> None:
    began_s = time.perf_counter()
    futures = [client.submit(echo, pickled(number)) for number in range(20_000)]
    submitted_s = time.perf_counter() - began_s
    assert [future.result(60)[0][0] for future in futures] == list(range(20_000))
    assert submitted_s < 5
    assert len(scheduler.model.submits) == 20_000


def test_many_threads_call_at_once_and_each_gets_its_own_result(client: Client) -> None:
    def work(thread: int) -> bool:
        return all(call(client, thread, number) == ((thread, number), {}) for number in range(100))

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(work, range(16)))


def test_futures_nobody_waits_for_are_finished_by_the_io_thread(client: Client) -> None:
    finished: list[str] = []
    for number in range(10):
        client.submit(echo, pickled(number)).add_done_callback(
            lambda future: finished.append(threading.current_thread().name)
        )
    until(lambda: len(finished) == 10)


def test_as_completed_works_without_anybody_driving(client: Client) -> None:
    futures = [client.submit(echo, pickled(number)) for number in range(50)]
    assert sorted(future.result()[0][0] for future in as_completed(futures, 20)) == list(range(50))


def test_a_waiting_caller_takes_the_turn_from_the_io_thread_and_gives_it_back(
    scheduler: TinyScheduler, client: Client
) -> None:
    scheduler.model.answer = lambda submit, arguments: None if submit.call_number == 1 else arguments
    pending = client.submit(echo, pickled("later"))
    until(lambda: len(scheduler.model.submits) == 1)
    drove: list[int] = []
    second = client.submit(echo, pickled("now"), wait_follows=True)
    second.add_done_callback(lambda future: drove.append(threading.get_ident()))
    client.wait(second, 10)
    assert second.done()
    done = threading.Event()
    pending.add_done_callback(lambda future: done.set())
    scheduler.answer_held(lambda number, arguments: arguments)
    assert done.wait(10)


def test_a_caller_that_finishes_first_hands_the_turn_to_one_that_waits(
    scheduler: TinyScheduler, client: Client
) -> None:
    hold(scheduler)
    futures = [client.submit(echo, pickled(number)) for number in range(8)]
    waiting = [threading.Thread(target=client.wait, args=(future, 30)) for future in futures]
    for thread in waiting:
        thread.start()
    until(lambda: len(scheduler.model.submits) == 8)
    scheduler.answer_held(lambda number, arguments: arguments)
    for thread in waiting:
        thread.join(20)
    assert all(future.done() for future in futures)


def test_wait_returns_when_the_time_is_over_and_the_call_goes_on(scheduler: TinyScheduler, client: Client) -> None:
    hold(scheduler)
    future = client.submit(echo, pickled(1))
    began_s = time.monotonic()
    with pytest.raises(TimeoutError):
        future.result(0.2)
    assert 0.15 < time.monotonic() - began_s < 5
    scheduler.answer_held(lambda number, arguments: arguments)
    assert future.result(10) == ((1,), {})


def test_a_call_inside_a_callback_works(client: Client) -> None:
    inner: list[Any] = []
    outer = client.submit(echo, pickled("outer"), wait_follows=True)
    outer.add_done_callback(lambda future: inner.append(call(client, "inner")))
    assert outer.result(10) == (("outer",), {})
    until(lambda: inner == [(("inner",), {})])


def test_cancel_reaches_the_scheduler_and_ends_the_call(scheduler: TinyScheduler, client: Client) -> None:
    hold(scheduler)
    future = client.submit(echo, pickled(1))
    until(lambda: len(scheduler.model.submits) == 1)
    assert client.cancel(future)
    with pytest.raises(CallCancelled):
        future.result(10)
    assert future.cancelled()
    assert not client.cancel(future)


def test_a_call_cancelled_before_it_was_sent_ends_at_once(scheduler: TinyScheduler) -> None:
    scheduler.stop()
    client = Client(scheduler.address)
    future = client.submit(echo, pickled(1))
    assert client.cancel(future)
    assert future.cancelled()
    client.close()
    scheduler.start()


def test_one_hundred_mebibytes_travel_both_ways_while_small_calls_go_on(client: Client) -> None:
    data = os.urandom(1 << 20) * 100
    large = client.submit(echo, pickled(data))
    small = 0
    while not large.done():
        call(client, small)
        small += 1
    assert large.result()[0][0] == data
    assert small > 3


def test_calls_survive_a_restart_of_the_scheduler(scheduler: TinyScheduler, client: Client) -> None:
    hold(scheduler)
    futures = [client.submit(echo, pickled(number)) for number in range(50)]
    until(lambda: len(scheduler.model.submits) == 50)
    scheduler.stop()
    scheduler.model.restart()
    scheduler.model.answer = lambda submit, arguments: arguments
    scheduler.start()
    assert [future.result(20)[0][0] for future in futures] == list(range(50))
    again = scheduler.model.submits[50:]
    assert [submit.call_number for submit in again] == list(range(1, 51))
    assert all(submit.resent for submit in again)


def test_a_restart_while_the_client_is_idle_is_not_noticed(scheduler: TinyScheduler, client: Client) -> None:
    call(client, 1)
    scheduler.restart()
    assert call(client, 2) == ((2,), {})


def test_lost_submits_and_outcomes_are_repaired(scheduler: TinyScheduler, client: Client) -> None:
    scheduler.model.beat_interval_us = 50_000
    chosen: set[int] = set()

    def lose_once(message: Message) -> bool:
        kind = type(message)
        if kind not in (Submit, Outcome, Received) or id(kind) * 1000 in chosen:
            return False
        chosen.add(id(kind) * 1000)
        return True

    scheduler.loses_incoming = lose_once
    scheduler.loses_outgoing = lose_once
    futures = [client.submit(echo, pickled(number)) for number in range(20)]
    assert [future.result(20)[0][0] for future in futures] == list(range(20))
    assert len(chosen) >= 2
    until(lambda: scheduler.model.is_empty)


def test_an_address_where_nobody_listens_fails_with_what_to_do(tmp_path: Path) -> None:
    client = Client(f"ipc://{tmp_path}/nobody.sock", Patience(connect_s=0.3))
    with pytest.raises(ClusterUnreachable, match=r"nobody\.sock.*within 0\.3 s.*KEEPWARM_ADDRESS"):
        call(client, 1)
    client.close()


def test_a_client_that_failed_to_connect_works_once_the_scheduler_is_there(tmp_path: Path) -> None:
    scheduler = TinyScheduler(tmp_path)
    client = Client(scheduler.address, Patience(connect_s=0.2))
    with pytest.raises(ClusterUnreachable):
        call(client, 1)
    with scheduler:
        assert call(client, 2) == ((2,), {})
        client.close()


def test_tcp_without_a_key_is_refused_with_what_to_do(home: Path) -> None:
    client = Client("tcp://127.0.0.1:7777")
    with pytest.raises(ClusterUnreachable, match=r"no key for that cluster.*keepwarm login TOKEN --at 127"):
        call(client, 1)
    client.close()


def test_a_scheduler_that_stays_away_is_warned_of_and_then_given_up(
    scheduler: TinyScheduler, capsys: pytest.CaptureFixture[str]
) -> None:
    client = Client(scheduler.address, Patience(warn_s=0.3, give_up_s=1.0))
    call(client, 1)
    scheduler.stop()
    with pytest.raises(ClusterUnreachable, match="has not answered within 1 s"):
        call(client, 2)
    assert capsys.readouterr().err.count("does not answer; 1 calls wait for it") == 1
    client.close()
    scheduler.start()


def test_a_goodbye_of_the_scheduler_fails_what_is_unanswered(scheduler: TinyScheduler, client: Client) -> None:
    hold(scheduler)
    future = client.submit(echo, pickled(1))
    until(lambda: len(scheduler.model.submits) == 1)
    scheduler.say_goodbye()
    with pytest.raises(ClusterUnreachable, match="was stopped: stopped by the operator"):
        future.result(10)


def test_a_goodbye_while_the_client_is_idle_costs_no_later_call(scheduler: TinyScheduler, client: Client) -> None:
    call(client, 1)
    scheduler.say_goodbye()
    scheduler.restart()
    assert call(client, 2) == ((2,), {})


@pytest.fixture
def local_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TinyScheduler]:
    """A scheduler that is started by whoever looks for the local cluster, as the real one is."""
    scheduler = TinyScheduler(tmp_path)
    starts: list[str] = []

    def find_or_start() -> str:
        if not scheduler.is_running:
            scheduler.start()
            starts.append(scheduler.address)
        return scheduler.address

    monkeypatch.setattr(local, "find_or_start", find_or_start)
    monkeypatch.setattr(local, "has_agent", lambda: True)
    yield scheduler
    scheduler.stop()
    assert scheduler.model.violations == []


def test_the_first_call_starts_the_local_cluster_and_a_dead_one_is_started_again(local_cluster: TinyScheduler) -> None:
    client = Client()
    assert call(client, 1) == ((1,), {})
    local_cluster.model.answer = lambda submit, arguments: None
    futures = [client.submit(echo, pickled(number)) for number in range(5)]
    until(lambda: len(local_cluster.model.submits) == 6)
    local_cluster.model.answer = lambda submit, arguments: arguments
    local_cluster.stop()
    local_cluster.model.restart()
    assert [future.result(20)[0][0] for future in futures] == list(range(5))
    client.close()


def test_a_local_cluster_that_stopped_itself_is_started_by_the_next_call(local_cluster: TinyScheduler) -> None:
    client = Client()
    call(client, 1)
    local_cluster.say_goodbye()
    until(lambda: local_cluster.is_quiet)
    local_cluster.stop()
    local_cluster.model.restart()
    left_ns = time.monotonic_ns()
    until(lambda: time.monotonic_ns() - left_ns > STALE_NS)  # else the call may be on its way to the one that left
    assert call(client, 2) == ((2,), {})
    client.close()


def test_a_local_cluster_that_cannot_start_fails_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> str:
        raise ClusterStartError("no room")

    monkeypatch.setattr(local, "find_or_start", fail)
    client = Client()
    with pytest.raises(ClusterStartError, match="no room"):
        call(client, 1)
    client.close()


def test_a_refused_protocol_is_an_error_in_words(scheduler: TinyScheduler, client: Client) -> None:
    scheduler.loses_outgoing = lambda message: isinstance(message, Welcome)
    future = client.submit(echo, pickled(1))
    until(lambda: bool(scheduler.model.greeted))
    scheduler.say(Refused("version", "it is too old; upgrade it"))
    with pytest.raises(ProtocolMismatch, match="too old; upgrade it"):
        future.result(10)


def test_the_local_bound_is_an_error_at_submit(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keepwarm.session.HELD_BYTES_MAX", 100)
    with pytest.raises(TooManyCalls):
        client.submit(echo, b"x" * 101)


def test_output_is_printed_with_its_function_and_node_before_the_call_returns(
    scheduler: TinyScheduler, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    hold(scheduler)
    future = client.submit(echo, pickled(1))
    until(lambda: len(scheduler.model.submits) == 1)
    scheduler.say(Output(1, "node-1", 1, b"one\ntw", 0))
    scheduler.say(Output(1, "node-1", 2, b"oops\n", 0))
    scheduler.say(Output(1, "node-1", 1, b"o\nrest", 0))
    scheduler.answer_held(lambda number, arguments: arguments)
    future.result(10)
    printed = capsys.readouterr()
    assert printed.out == "(echo on node-1) one\n(echo on node-1) two\n(echo on node-1) rest\n"
    assert printed.err == "(echo on node-1) oops\n"


def test_ctrl_c_interrupts_a_wait_and_leaves_the_client_usable(scheduler: TinyScheduler, client: Client) -> None:
    hold(scheduler)
    for number in range(5):
        future = client.submit(echo, pickled(number))
        timer = threading.Timer(0.1, os_kill, (signal.SIGINT,))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            client.wait(future, 20)
        timer.join()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    scheduler.model.answer = lambda submit, arguments: arguments
    assert call(client, "after") == (("after",), {})
    scheduler.answer_held(lambda number, arguments: arguments)


def os_kill(number: int) -> None:
    os.kill(os.getpid(), number)


def test_ctrl_c_reaches_a_caller_that_waits_behind_another(scheduler: TinyScheduler, client: Client) -> None:
    hold(scheduler)
    first, second = client.submit(echo, pickled(1)), client.submit(echo, pickled(2))
    driver = threading.Thread(target=client.wait, args=(first, 30))
    driver.start()
    until(lambda: client._owner == driver.ident)
    timer = threading.Timer(0.1, os_kill, (signal.SIGINT,))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        client.wait(second, 20)
    timer.join()
    scheduler.answer_held(lambda number, arguments: arguments)
    driver.join(20)
    assert first.result(10) == ((1,), {})
    assert second.result(10) == ((2,), {})


def test_a_blocking_call_interrupted_by_ctrl_c_is_cancelled(
    scheduler: TinyScheduler, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keepwarm.client._client", client)
    hold(scheduler)
    timer = threading.Timer(0.2, os_kill, (signal.SIGINT,))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        echo(1)
    timer.join()
    until(lambda: any(isinstance(message, Cancel) for message in scheduler.received))


def test_close_says_goodbye_and_ends_what_is_left(scheduler: TinyScheduler, client: Client) -> None:
    hold(scheduler)
    future = client.submit(echo, pickled(1))
    until(lambda: len(scheduler.model.submits) == 1)
    assert client.close() == 1
    assert future.cancelled()
    until(lambda: scheduler.model.goodbyes == ["exit"])
    with pytest.raises(ClusterUnreachable):
        call(client, 2)


def test_a_bad_connect_timeout_is_an_option_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEEPWARM_CONNECT_TIMEOUT", "soon")
    with pytest.raises(OptionError, match="KEEPWARM_CONNECT_TIMEOUT='soon'"):
        Client("ipc:///nowhere")
