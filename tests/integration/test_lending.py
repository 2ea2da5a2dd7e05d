"""Calls that a program gives to a process of its own machine directly: whole programs, on a real local cluster.

Nobody has to know of it. So most of these tests say what holds for every call, and see to it that these were lent: the
id of such a call has a point, and it was ready where it ran.
"""

import os
import signal
from pathlib import Path

import pytest

from support.lending_programs import run, start, value_of
from support.programs import (
    logs_of,
    wait_for_program,
)
from support.waiting import until

# ---------------------------------------------------------------- what calls come to


def test_calls_in_a_row_and_many_at_once_are_lent_and_each_gets_its_own(shared_home: Path) -> None:
    text = """
    warm(echo, 0)
    row = [echo.submit(number) for number in range(1)]
    for number in range(300):
        future = echo.submit(number)
        assert future.result() == number
        row.append(future)
    futures = [echo.submit(number) for number in range(5000)]
    assert [future.result() for future in futures] == list(range(5000))
    assert list(echo.map(range(3000), in_flight=100)) == list(range(3000))
    explained = str(row[-1].explain())
    print(json.dumps([lent_of(row) > 200, lent_of(futures) > 4000, row[-1].call_id in explained, explained]))
    """
    row, many, named, explained = value_of(shared_home, text)
    assert (row, many, named) == (True, True, True)
    assert "itself, without the scheduler" in explained


def test_exceptions_arrive_as_their_own_type_with_their_remote_traceback(shared_home: Path) -> None:
    text = """
    class OwnError(Exception):
        def __init__(self, number):
            super().__init__(number)
            self.number = number
    @isolated(keep_alive=300)
    def fails(how):
        if how == "own": raise OwnError(7)
        if how == "chained":
            try: {}["missing"]
            except KeyError as error: raise ValueError("outer") from error
        if how == "exit": sys.exit(5)
        if how == "memory": raise MemoryError("no more")
        if how == "lock": return threading.Lock()
        if how == "interrupt": raise KeyboardInterrupt
        return how
    warm(fails, "")
    found = {}
    for how in ("own", "chained", "exit", "memory", "lock", "interrupt"):
        futures = [fails.submit("a"), fails.submit(how), fails.submit("b")]
        error = futures[1].exception()
        is_traced = "in fails" in str(error.__cause__)
        found[how] = [type(error).__name__, str(error)[:60], is_traced, is_lent(futures[1])]
        assert [futures[0].result(), futures[2].result()] == ["a", "b"]
        if how == "own": assert error.number == 7
        if how == "chained": assert "KeyError: 'missing'" in str(error.__cause__)
    print(json.dumps(found))
    """
    found = value_of(shared_home, text)
    assert found["own"] == ["OwnError", "7", True, True]
    assert found["chained"][:2] == ["ValueError", "outer"]
    assert found["exit"][0] == "RemoteError"
    assert found["memory"][:2] == ["MemoryError", "no more"]
    assert found["lock"][0] == "ResultNotSerializable"
    assert found["interrupt"][0] == "RemoteError"


def test_arguments_and_results_of_every_size_arrive_whole(shared_home: Path) -> None:
    text = """
    @isolated(keep_alive=300)
    def grow(data, size): return data[:1] * size
    sizes = [edge + by for edge in (64 * 1024, 1024 * 1024) for by in (-200, -60, -1, 0, 1, 200)]
    warm(grow, b"x", 1)
    small = [grow.submit(b"x", 1) for _ in range(200)]
    results = [grow.submit(b"r", size) for size in sizes]
    small += [grow.submit(b"x", 1) for _ in range(200)]
    arguments = [grow.submit(b"a" * size, 3) for size in sizes]
    both = [grow.submit(b"b" * size, size) for size in sizes]
    assert [future.result() for future in results] == [b"r" * size for size in sizes]
    assert [future.result() for future in arguments] == [b"aaa"] * len(sizes)
    assert [future.result() for future in both] == [b"b" * size for size in sizes]
    assert {future.result() for future in small} == {b"x"}
    for size in sizes:
        warm(grow, b"x", 1)
        future = grow.submit(b"q", size)
        assert future.result() == b"q" * size
    print(json.dumps(lent_of(small) > 100))
    """
    assert value_of(shared_home, text) is True


def test_async_functions_and_setups_work(shared_home: Path) -> None:
    text = """
    import asyncio
    @isolated(keep_alive=300)
    async def twice(number):
        await asyncio.sleep(0)
        return number * 2
    def load():
        return {"calls": 0, "process": os.getpid()}
    @isolated(keep_alive=300, setup=load)
    def count(state, by):
        state["calls"] += by
        return state["calls"], state["process"] == os.getpid()
    for function in (twice, count):
        warm(function, 1)
    doubled = [twice.submit(number) for number in range(50)]
    counted = [count.submit(1) for _ in range(50)]
    assert [future.result() for future in doubled] == list(range(0, 100, 2))
    assert all(right for _, right in [future.result() for future in counted])
    print(json.dumps([lent_of(doubled) > 0, lent_of(counted) > 0]))
    """
    assert value_of(shared_home, text) == [True, True]


@pytest.mark.parametrize(
    "options",
    ["timeout=60", "timeout=Timeouts(queue=60)", "retries=Retry(crash=1)", "at_most_once=True", "keep_alive=0"],
)
def test_what_needs_scheduler_or_agent_is_never_lent(shared_home: Path, options: str) -> None:
    keep = "" if "keep_alive" in options else "keep_alive=300, "
    count = 6 if "keep_alive" in options else 60
    text = f"""
    @isolated({keep}{options})
    def plain(value): return value
    futures = []
    for number in range({count}):
        futures.append(plain.submit(number))
        futures[-1].result()
    futures += [plain.submit(number) for number in range({count})]
    assert [future.result() for future in futures] == list(range({count})) * 2
    print(json.dumps(lent_of(futures)))
    """
    assert value_of(shared_home, text) == 0


# ---------------------------------------------------------------- output


@pytest.mark.parametrize("how", ["python", "descriptor", "c", "child", "unfinished", "much"])
def test_output_arrives_before_its_result_in_order_and_whole(shared_home: Path, how: str) -> None:
    """Also of calls among many silent ones, and of the last one of a program."""
    text = f"""
    import sys
    how = {how!r}
    @isolated(keep_alive=300, env_vars={{"HOW": how}})
    def says(number, aloud=False):
        import ctypes, os, subprocess
        text = f"said {{number}}"
        if not aloud: pass
        elif how == "python": print(text)
        elif how == "descriptor": os.write(1, text.encode() + b"\\n")
        elif how == "c": ctypes.CDLL(None).dprintf(1, text.encode() + b"\\n")
        elif how == "child": subprocess.run(["echo", text], check=True)
        elif how == "unfinished": print(text, end="")
        elif how == "much": print("x" * 300_000); print(text)
        return number
    warm(says, 0)
    silent = [says.submit(number) for number in range(300)]
    first = says.submit(1, True)
    silent += [says.submit(number) for number in range(300)]
    first.result()
    print("returned 1")
    assert [future.result() for future in silent] == list(range(300)) * 2
    for number in range(2, 6):
        assert says(number, True) == number
        print("returned", number)
    print("lent", lent_of(silent) > 100 and is_lent(first))
    says(6, True)
    """
    ended = run(shared_home, text)
    assert (ended.code, ended.err) == (0, ""), (ended.err, logs_of(shared_home))
    lines = [line for line in ended.out.splitlines() if "x" * 99 not in line]
    expected = []
    for number in range(1, 6):
        expected += [f"(says on {_node(lines)}) said {number}", f"returned {number}"]
    assert lines == [*expected, "lent True", f"(says on {_node(lines)}) said 6"]
    if how == "much":
        assert ended.out.count("x") >= 6 * 300_000


def _node(lines: list[str]) -> str:
    return lines[0].partition(" on ")[2].partition(")")[0]


# ---------------------------------------------------------------- deaths and cancels


@pytest.mark.parametrize("how", ["os._exit(3)", "os.kill(os.getpid(), 9)", "__import__('ctypes').string_at(0)"])
def test_a_process_that_dies_costs_the_call_that_ran_and_no_other(shared_home: Path, how: str) -> None:
    text = f"""
    @isolated(keep_alive=300)
    def fatal(number):
        import os
        if number < 0:
            {how}
        return number
    warm(fatal, 0)
    futures = [fatal.submit(number) for number in range(2000)]
    deadly = fatal.submit(-1)
    futures += [fatal.submit(number) for number in range(2000)]
    assert [future.result(60) for future in futures] == list(range(2000)) * 2
    print(json.dumps([outcome(deadly), is_lent(deadly), lent_of(futures) > 1000, fatal(5)]))
    """
    assert value_of(shared_home, text) == ["ProcessDied", True, True, 5]


def test_killing_a_process_from_outside_amid_a_lent_call_costs_that_call_only(shared_home: Path) -> None:
    text = """
    @isolated(keep_alive=300)
    def naps(file):
        if file:
            with open(file, "w") as written: written.write(str(os.getpid()))
            time.sleep(60)
        return file
    warm(naps, "")
    futures = [naps.submit("") for _ in range(500)]
    long = naps.submit(sys.argv[0] + ".pid")
    futures += [naps.submit("") for _ in range(500)]
    print(outcome(long), is_lent(long), {future.result(60) for future in futures})
    """
    program = start(shared_home, text, "naps")
    file = shared_home / "naps.py.pid"
    until(lambda: file.exists() and file.read_text() != "")
    os.kill(int(file.read_text()), signal.SIGKILL)
    ended = wait_for_program(program)
    assert ended.out == "ProcessDied True {''}\n", ended


def test_a_running_and_a_waiting_call_are_cancelled_and_no_other(shared_home: Path) -> None:
    text = """
    gate = sys.argv[0] + ".begun"
    @isolated(keep_alive=300)
    def maybe(number, file=None):
        if file:
            open(file, "w").close()
            time.sleep(60)
        return number
    warm(maybe, 0)
    before = [maybe.submit(number) for number in range(100)]
    running = maybe.submit(1, gate)
    behind = [maybe.submit(number) for number in range(100)]
    while not os.path.exists(gate): time.sleep(0.001)
    assert behind[7].cancel()
    ends = [outcome(behind[7])]
    assert not running.done()
    assert running.cancel()
    ends.append(outcome(running))
    del behind[7]
    assert [future.result(60) for future in before] == list(range(100))
    assert [future.result(60) for future in behind] == [number for number in range(100) if number != 7]
    for turn in range(300):
        one, other = maybe.submit(turn), maybe.submit(turn)
        one.cancel()
        assert outcome(one) in (turn, "CallCancelled")
        assert other.result(60) == turn
    print(json.dumps([*ends, is_lent(running)]))
    """
    assert value_of(shared_home, text) == ["CallCancelled", "CallCancelled", True]


def test_a_call_that_swallows_its_cancel_ends_with_its_process(shared_home: Path) -> None:
    text = """
    gate = sys.argv[0] + ".stubborn"
    @isolated(keep_alive=300)
    def stubborn(file=None):
        while file:
            try:
                open(file, "w").close()
                time.sleep(60)
            except BaseException: pass
        return os.getpid()
    warm(stubborn)
    process = stubborn()
    futures = [stubborn.submit() for _ in range(20)]
    running = stubborn.submit(gate)
    futures += [stubborn.submit() for _ in range(20)]
    while not os.path.exists(gate): time.sleep(0.001)
    assert running.cancel()
    print(json.dumps([outcome(running), all(isinstance(outcome(future), int) for future in futures)]))
    """
    assert value_of(shared_home, text) == ["CallCancelled", True]
