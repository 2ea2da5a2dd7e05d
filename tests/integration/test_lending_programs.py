"""What becomes of loans when programs are interrupted, fork, share and end, and when parts of the cluster do."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from support.homes import processes_of
from support.lending_programs import run, said, start, value_of
from support.programs import (
    lives,
    logs_of,
    only_idle_instances,
    roles,
    run_command,
    status,
    until_gone,
    wait_for_program,
)
from support.waiting import until

# ---------------------------------------------------------------- the program


def test_ctrl_c_interrupts_a_program_that_waits_and_its_calls_go_on(shared_home: Path) -> None:
    text = """
    @isolated(keep_alive=300)
    def naps(seconds): time.sleep(seconds); return seconds
    warm(naps, 0)
    future = naps.submit(1.0)
    print("waits", flush=True)
    try:
        future.result()
    except KeyboardInterrupt:
        print("interrupted", future.done())
    print(future.result(), is_lent(future), naps(0))
    """
    program = start(shared_home, text, "interrupted")
    assert said(program) == "waits"
    until(lambda: Path(f"/proc/{program.pid}/wchan").exists())
    time.sleep(0.1)
    program.send_signal(signal.SIGINT)
    ended = wait_for_program(program)
    assert (ended.code, ended.out) == (0, "interrupted False\n1.0 True 0\n"), ended


def test_handlers_that_raise_or_make_calls_lose_nobody_a_call(shared_home: Path) -> None:
    text = """
    class DeadlineError(Exception): pass
    counts = collections.Counter()
    def calls_itself(number, frame):
        try:
            assert echo("nested") == "nested"
            counts["nested"] += 1
        except RuntimeError: counts["reentrant"] += 1
    def raises(number, frame): raise DeadlineError
    warm(echo, 0)
    signal.signal(signal.SIGALRM, calls_itself)
    signal.setitimer(signal.ITIMER_REAL, 0.0031, 0.0031)
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        future = echo.submit(1)
        assert future.result(20) == 1
        counts["lent"] += is_lent(future)
    signal.signal(signal.SIGALRM, raises)
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number in range(600):
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.00002 + number % 50 * 0.00002)
            future = echo.submit(number)
            assert future.result(20) == number
            signal.setitimer(signal.ITIMER_REAL, 0)
            counts["lent"] += is_lent(future)
        except DeadlineError: counts["deadlines"] += 1
        except KeepwarmError: counts["errors"] += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    warm(echo, 0)
    print(json.dumps(counts))
    """
    ended = run(shared_home, text)
    assert ended.code == 0, ended
    counts = ended.value
    assert counts["nested"] > 0
    assert counts["lent"] > 20
    assert counts["deadlines"] > 0


def test_eight_threads_call_at_once(shared_home: Path) -> None:
    text = """
    warm(echo, 0)
    wrong, lent = [], []
    def calls(thread):
        for number in range(150):
            future = echo.submit((thread, number))
            if future.result(60) != (thread, number): wrong.append(number)
            lent.append(is_lent(future))
        futures = [echo.submit((thread, number)) for number in range(300)]
        wrong.extend(f for number, f in enumerate(futures) if f.result(60) != (thread, number))
    threads = [threading.Thread(target=calls, args=(thread,)) for thread in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    print(json.dumps([len(wrong), len(lent), sum(lent) > 0]))
    """
    assert value_of(shared_home, text) == [0, 1200, True]


def test_a_fork_of_a_program_with_lent_processes_leaves_both_their_own(shared_home: Path) -> None:
    """By hand and by multiprocessing; the child makes calls of its own, and outlives the parent's loan."""
    text = """
    import multiprocessing
    def by_name(value): return echo(value)
    warm(echo, 0)
    futures = [echo.submit(number) for number in range(500)]
    child = os.fork()
    if child == 0:
        code = 1
        try:
            assert [echo(number) for number in range(100)] == list(range(100))
            assert [f.result(60) for f in [echo.submit(n) for n in range(300)]] == list(range(300))
            code = 0
        finally:
            os._exit(code)
    assert [future.result(60) for future in futures] == list(range(500))
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    warm(echo, 0)
    futures = [echo.submit(number) for number in range(200)]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        pooled = pool.map(by_name, range(40))
    assert [future.result(60) for future in futures] == list(range(200))
    warm(echo, 0)
    print(json.dumps([ended, pooled == list(range(40))]))
    """
    ended = run(shared_home, text)
    assert ended.code == 0, ended
    assert ended.value == [0, True]


def test_loans_leave_no_descriptors_in_the_program_and_none_in_the_process(shared_home: Path) -> None:
    text = """
    def here(): return len(os.listdir("/proc/self/fd"))
    @isolated(keep_alive=300)
    def there(value=None): return len(os.listdir("/proc/self/fd")), os.getpid()
    warm(there)
    def loan():
        warm(there)
        loans.add(future_id())
        return there()
    def future_id():
        future = there.submit()
        future.result()
        return future.call_id.partition(".")[0]
    loans, ours, theirs = set(), [], collections.defaultdict(set)
    for turn in range(50):
        count, process = loan()
        ours.append(here())
        theirs[process].add(count)
        time.sleep(0.06 if turn % 5 == 0 else 0.0)
        [f.result() for f in [echo.submit(0) for _ in range(50)]]
        time.sleep(0.055)
    print(json.dumps([len(loans), max(ours) - min(ours), [max(counts) - min(counts) for counts in theirs.values()]]))
    """
    loans, ours, theirs = value_of(shared_home, text)
    assert loans > 15
    assert ours <= 8
    assert all(growth <= 3 for growth in theirs)


STREAM = """
warm(where)
futures = collections.deque()
print(where(), flush=True)
for number in itertools.count():
    futures.append(where.submit(number))
    if len(futures) > 2000:
        futures.popleft().result()
"""

BRIEFLY = """
import statistics
times, processes = [], set()
began = time.monotonic()
first = where()
first_s = time.monotonic() - began
for _ in range(30):
    began = time.monotonic()
    processes.add(where())
    times.append(time.monotonic() - began)
print(json.dumps({"first_s": first_s, "median_s": statistics.median(times), "processes": sorted(processes)}))
"""


def test_a_program_beside_an_endless_stream_waits_for_moments_only(shared_home: Path) -> None:
    run(shared_home, "where()\nprint(0)")
    stream = start(shared_home, STREAM, "stream")
    try:
        assert int(said(stream))
        assert value_of(shared_home, BRIEFLY)["median_s"] < 0.1
        text = """
        @isolated(keep_alive=300, resources=Resources(cpu=os.cpu_count()))
        def whole(): return "had its turn"
        print(json.dumps(whole()))
        """
        assert value_of(shared_home, text) == "had its turn"
        assert stream.poll() is None
    finally:
        stream.kill()
        stream.communicate()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_what_a_program_had_lent_serves_others_soon_after_it_is_gone(shared_home: Path, number: signal.Signals) -> None:
    """Killed in the midst of a stream, or stopped, which nobody is told of."""
    run(shared_home, "where()\nprint(0)")
    before = set(roles(shared_home)["instance"])
    stream = start(shared_home, STREAM, "stream")
    try:
        assert int(said(stream))
        stream.send_signal(number)
        found = value_of(shared_home, BRIEFLY)
        assert found["median_s"] < 0.1
        assert found["first_s"] < 5
        assert set(found["processes"]) & (before | set(roles(shared_home)["instance"]))
    finally:
        stream.kill()
        stream.communicate()
    until(lambda: only_idle_instances(shared_home))


def test_a_program_that_is_stopped_with_results_unread_holds_no_process_and_loses_nothing(
    shared_home: Path, tmp_path: Path
) -> None:
    """More than a socket holds. Those that it could not be told are there when it goes on: nothing is run twice."""
    runs = tmp_path / "runs"
    text = f"""
    @isolated(keep_alive=300)
    def wide(number):
        with open({str(runs)!r}, "ab", 0) as file: file.write(b"%d\\n" % number)
        time.sleep(0.001)
        return b"x" * 60_000
    warm(wide, -1)
    open({str(runs)!r}, "w").close()
    futures = [wide.submit(number) for number in range(2000)]
    print("begins", flush=True)
    results = [future.result(60) for future in futures]
    print(json.dumps([len(results), set(results) == {{b"x" * 60_000}}, lent_of(futures)]))
    """
    stopped = start(shared_home, text, "stopped")
    try:
        assert said(stopped) == "begins"
        until(lambda: len(runs.read_text().split()) > 600)  # all processes are lent by then
        stopped.send_signal(signal.SIGSTOP)
        found = value_of(shared_home, BRIEFLY)
        assert found["median_s"] < 0.1
        assert found["first_s"] < 2
        assert len(runs.read_text().split()) < 2000
        stopped.send_signal(signal.SIGCONT)
        ended = wait_for_program(stopped)
        assert ended.code == 0, ended
        count, is_right, lent = ended.value
        assert (count, is_right) == (2000, True)
        assert lent > 0
        assert sorted(map(int, runs.read_text().split())) == list(range(2000))
    finally:
        stopped.kill()
        stopped.communicate()


# ---------------------------------------------------------------- the cluster


COUNTED = """
warm(echo, 0)
print("begins", flush=True)
end = time.monotonic() + {seconds}
total = lent = 0
while time.monotonic() < end:
    futures = [echo.submit(number) for number in range(500)]
    assert [future.result(60) for future in futures] == list(range(500))
    total += 500
    lent += lent_of(futures)
print(json.dumps([total, lent]))
"""


def test_a_scheduler_that_is_killed_amid_a_stream_costs_it_no_call(home: Path) -> None:
    program = start(home, COUNTED.format(seconds=4), "stream")
    assert said(program) == "begins"
    scheduler = roles(home)["scheduler"][0]
    os.kill(scheduler, signal.SIGKILL)
    ended = wait_for_program(program)
    assert ended.code == 0, (ended, logs_of(home))
    total, lent = ended.value
    assert lent > total / 4


def test_an_agent_that_is_killed_takes_its_processes_along_and_is_started_again(home: Path) -> None:
    """What they ran is lost or tried again, as its function wants; everything else is answered."""
    text = """
    warm(echo, 0)
    print("begins", flush=True)
    end, ends = time.monotonic() + 4, collections.Counter()
    while time.monotonic() < end:
        futures = [echo.submit(number) for number in range(300)]
        ends.update("right" if outcome(future) == number else outcome(future) for number, future in enumerate(futures))
    warm(echo, 0)
    print(json.dumps(ends))
    """
    program = start(home, text, "stream")
    assert said(program) == "begins"
    found = roles(home)
    agent, instances = found["agent"][0], found["instance"]  # besides the agent those that it is about to start
    os.kill(agent, signal.SIGKILL)
    until_gone(agent, *instances)
    ended = wait_for_program(program)
    assert ended.code == 0, (ended, logs_of(home))
    ends = ended.value
    assert set(ends) <= {"right", "NodeLost"}
    assert ends.get("NodeLost", 0) < 10


def test_a_stopped_cluster_ends_what_is_lent(home: Path) -> None:
    program = start(home, STREAM, "stream")
    process = int(said(program))
    assert run_command(home, "stop", "--force").code == 0
    ended = wait_for_program(program, 20)
    assert ended.code == 1
    assert "ClusterUnreachable" in ended.err
    assert not lives(process)
    until(lambda: not processes_of(home))


def test_a_drained_node_ends_what_is_lent_and_the_calls_wait(home: Path) -> None:
    program = start(home, COUNTED.format(seconds=4), "stream")
    assert said(program) == "begins"
    [node] = [one["name"] for one in status(home)["nodes"]]
    for order in (("drain", node, "--max-wait", "0"), ("uncordon", node)):
        ordered = run_command(home, *order)
        assert ordered.code == 0, (ordered, logs_of(home))
    ended = wait_for_program(program)
    assert ended.code == 0, (ended, logs_of(home))


def test_a_lease_counts_from_the_last_lent_call_and_ends(home: Path) -> None:
    """The loan itself is over soon after that call."""
    text = """
    @isolated(keep_alive=1.5)
    def brief(number=0): return os.getpid()
    warm(brief)
    end = time.monotonic() + 2.5
    processes = set()
    while time.monotonic() < end:
        processes.add(brief())
    last = time.monotonic()
    print(json.dumps([sorted(processes), last]), flush=True)
    time.sleep(8)
    """
    program = start(home, text, "brief")
    try:
        processes, last_s = json.loads(said(program))
        assert len(processes) == 1
        until_gone(*processes)
        held_s = time.monotonic() - last_s
        assert 1.4 < held_s < 1.5 + 0.1 + 1.5, held_s
    finally:
        program.kill()
        program.communicate()
