"""What the decorator offers beyond a plain call, in whole programs on a real cluster."""

import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from support.programs import (
    lives,
    logs_of,
    only_idle_instances,
    run_program,
    start_program,
    until_gone,
    wait_for_program,
)
from support.waiting import until


def value_of(home: Path, text: str) -> Any:
    """Run a program; the JSON of its last line. It says nothing on stderr, and leaves nothing running.

    Of a start that takes long it would: that is not what is looked at here.
    """
    ended = run_program(home, text, {"KEEPWARM_PROGRESS": "0"})
    assert (ended.code, ended.err) == (0, ""), (ended, logs_of(home))
    return ended.value


def test_submit_map_as_completed_and_await(shared_home: Path) -> None:
    """Four ways to wait; map reads an endless iterator only as far as it must."""
    text = """
    import asyncio, concurrent.futures, itertools
    @isolated(keep_alive=300)
    def square(number): return number * number
    taken = []
    def numbers():
        for number in itertools.count():
            taken.append(number)
            yield number
    first = list(itertools.islice(square.map(numbers(), in_flight=4), 5))
    futures = {square.submit(number): number for number in range(20)}
    completed = {futures[future]: future.result() for future in concurrent.futures.as_completed(futures, timeout=60)}
    async def gather():
        return await asyncio.gather(*(square.submit(number) for number in range(5)))
    awaited = asyncio.run(gather())
    pairs = list(isolated(keep_alive=300)(lambda a, b: a + b).map([1, 2, 3], [10, 20, 30]))
    print(json.dumps([first, len(taken), sorted(completed.items()), awaited, pairs]))
    """
    first, taken, completed, awaited, pairs = value_of(shared_home, text)
    assert first == awaited == [0, 1, 4, 9, 16]
    assert taken <= 9
    assert completed == [[number, number * number] for number in range(20)]
    assert pairs == [11, 22, 33]
    until(lambda: only_idle_instances(shared_home))


def test_a_setup_runs_once_in_a_process(shared_home: Path) -> None:
    """Its value is the first argument of every call; its own failure is raised, and the next call tries again."""
    text = """
    runs = sys.argv[0] + ".setups"
    def load():
        with open(runs, "a") as file:
            file.write("x")
        return {"calls": 0}
    @isolated(keep_alive=300, setup=load)
    def count(state, by):
        state["calls"] += by
        return state["calls"], os.getpid()
    def fail_once():
        if os.path.exists(runs + ".failed"):
            return 7
        open(runs + ".failed", "w").close()
        raise LookupError("no model yet")
    @isolated(keep_alive=300, setup=fail_once)
    def seven(value): return value
    results = [count(1) for _ in range(3)]
    try:
        seven()
        failure = ""
    except LookupError as error:
        failure = str(error) + " / " + error.__notes__[0]
    print(json.dumps([results, len(open(runs).read()), failure, seven()]))
    """
    results, setups, failure, seven = value_of(shared_home, text)
    assert [calls for calls, _ in results] == [1, 2, 3]
    assert len({process_id for _, process_id in results}) == setups == 1
    assert failure.startswith("no model yet / raised by its setup in function __main__:seven")
    assert seven == 7


def test_environment_variables_arrive_and_separate(shared_home: Path) -> None:
    """Functions with other variables never share a process; the program's own variables stay at home."""
    text = """
    os.environ["KW_SECRET_OF_THE_PROGRAM"] = "x"
    def look(): return os.environ.get("MODE"), os.environ.get("KW_SECRET_OF_THE_PROGRAM"), os.getpid()
    plain = isolated(keep_alive=300)(look)
    print(json.dumps([plain.on(env_vars={"MODE": "a ü"})(), plain.on(env_vars={"MODE": "b"})(), plain(),
                      plain.on(env_vars={"MODE": "b"})()]))
    """
    first, second, none, again = value_of(shared_home, text)
    assert [first[0], second[0], none[0]] == ["a ü", "b", None]
    assert [each[1] for each in (first, second, none)] == [None] * 3
    assert len({first[2], second[2], none[2]}) == 3
    assert again == second


PRINTING = """
@isolated(keep_alive=300)
def speak(go):
    import subprocess
    print("first line")
    print("to stderr", file=sys.stderr)
    subprocess.run(["echo", "from a child"])
    os.write(1, b"half ")
    deadline = time.monotonic() + 60
    while not os.path.exists(go) and time.monotonic() < deadline:
        time.sleep(0.01)
    print("a line")
    print("no newline at the end", end="")
print("result:", speak({go!r}))
"""


def test_output_is_shown_while_the_call_runs(shared_home: Path) -> None:
    """Marked with the function and the node, in order, stdout and stderr apart; and before the result."""
    go = shared_home / "go"
    program = start_program(shared_home, PRINTING.format(go=str(go)), {"PYTHONUNBUFFERED": "1"})
    assert program.stdout is not None
    try:
        first = program.stdout.readline()
        second = program.stdout.readline()
    finally:
        go.touch()
    ended = wait_for_program(program)
    node = os.uname().nodename
    assert (first, second) == (f"(speak on {node}) first line\n", f"(speak on {node}) from a child\n")
    assert ended.out == f"(speak on {node}) half a line\n(speak on {node}) no newline at the end\nresult: None\n"
    assert ended.err == f"(speak on {node}) to stderr\n"


def test_too_much_output_is_dropped_with_a_count(shared_home: Path) -> None:
    """A mebibyte of a call arrives; of the rest, how much it was. The next call prints again."""
    text = """
    @isolated(keep_alive=300)
    def shout(lines):
        for number in range(lines):
            print(f"{number:>99}")
    shout(20_000)
    shout(1)
    """
    ended = run_program(shared_home, text)
    assert ended.code == 0, ended
    prefix = f"(shout on {os.uname().nodename}) "
    lines = [line.removeprefix(prefix).strip() for line in ended.out.splitlines()]
    [dropped] = [line for line in lines if "dropped" in line]
    words = dropped.split()
    assert words[0] == words[-1] == "..."
    shown_bytes = sum(100 for line in lines[:-1] if line.isdigit())
    assert shown_bytes <= 1024 * 1024
    assert 2_000_000 - 1024 * 1024 <= int(words[1]) <= 2_000_000 - shown_bytes
    assert lines[:3] == ["0", "1", "2"]
    assert lines[-1] == "0"


STUCK = """
@isolated(keep_alive=300)
def stuck(file):
    with open(file, "a") as beats:
        try:
            while True:
                print(os.getpid(), file=beats, flush=True)
                time.sleep(0.05)
        finally:
            print("left", file=beats, flush=True)
{rest}
"""


def interrupted(home: Path, file: Path, rest: str) -> tuple[int, str, str]:
    """Start a program whose call writes to the file, and send it SIGINT as Ctrl-C does."""
    program = start_program(home, STUCK.format(rest=rest.format(file=str(file))))
    until(lambda: file.exists() and file.read_text().count("\n") >= 3)
    program.send_signal(signal.SIGINT)
    return wait_for_program(program, 30)


def test_ctrl_c_ends_the_program_and_the_call(shared_home: Path) -> None:
    """The program ends with KeyboardInterrupt; the function leaves through its finally; the process serves on."""
    file = shared_home / "beats"
    code, _, err = interrupted(shared_home, file, "stuck({file!r})")
    assert code == -signal.SIGINT
    assert "\nKeyboardInterrupt\n" in err
    until(lambda: file.read_text().endswith("left\n"), 10)
    until(lambda: only_idle_instances(shared_home))
    size = file.stat().st_size
    time.sleep(0.3)
    assert file.stat().st_size == size
    assert lives(int(file.read_text().split()[0]))


def test_a_program_that_ends_leaves_no_call_behind(shared_home: Path) -> None:
    """What it did not wait for is cancelled, and it says so."""
    file = shared_home / "left_behind"
    rest = "future = stuck.submit({file!r})\nwhile not os.path.exists({file!r}): time.sleep(0.01)\ntime.sleep(0.2)"
    ended = run_program(shared_home, STUCK.format(rest=rest.format(file=str(file))))
    assert ended.code == 0
    assert ended.err == "keepwarm: 1 call was unfinished when the program ended, and cancelled\n"
    until(lambda: file.read_text().endswith("left\n"), 10)


def test_cancel_of_a_running_call(shared_home: Path) -> None:
    """It is ended in its process, which serves the next call; one that waits never starts."""
    text = """
    import concurrent.futures
    @isolated(keep_alive=300)
    def wait(file):
        open(file, "w").close()
        try:
            time.sleep(600)
        finally:
            open(file + ".left", "w").close()
    @isolated(keep_alive=300)
    def where(): return os.getpid()
    before = where()
    mark = sys.argv[0] + ".mark"
    future = wait.submit(mark)
    while not os.path.exists(mark): time.sleep(0.01)
    asked = future.cancel()
    try:
        future.result(30)
        kind = ""
    except concurrent.futures.CancelledError as error:
        kind = type(error).__name__
    left = os.path.exists(mark + ".left")
    print(json.dumps([asked, kind, left, future.cancelled(), future.cancel(), where() == before]))
    """
    assert value_of(shared_home, text) == [True, "CallCancelled", True, True, True, True]
    until(lambda: only_idle_instances(shared_home))


def test_arguments_and_results_of_a_hundred_mebibytes(shared_home: Path) -> None:
    """They arrive whole, also two at a time; what is over the cluster's limit is refused in words."""
    text = """
    import hashlib
    @isolated(keep_alive=300)
    def digest(data): return hashlib.sha256(data).hexdigest()
    @isolated(keep_alive=300)
    def make(size, seed): return bytes([seed]) * size
    data = os.urandom(1 << 20) * 100
    same = digest(data) == hashlib.sha256(data).hexdigest()
    futures = [make.submit(100 << 20, seed) for seed in (1, 2)]
    right = [future.result(80) == bytes([seed]) * (100 << 20) for seed, future in zip((1, 2), futures)]
    refused = []
    for call in (lambda: digest(bytes(300 << 20)), lambda: make(300 << 20, 3)):
        try:
            call()
        except KeepwarmError as error:
            refused.append([type(error).__name__, str(error)])
    print(json.dumps([same, right, refused, make(3, 4) == bytes([4]) * 3]))
    """
    same, right, refused, after = value_of(shared_home, text)
    assert (same, right, after) == (True, [True, True], True)
    assert [kind for kind, _ in refused] == ["PayloadRefused", "PayloadRefused"]
    assert all("--payload-max" in words for _, words in refused)
    until(lambda: only_idle_instances(shared_home))


def test_sixteen_threads_call_at_once(shared_home: Path) -> None:
    """Each gets its own answers."""
    text = """
    import threading
    @isolated(keep_alive=300, resources=Resources(cpu=0.1))
    def echo(*values): return values
    wrong = []
    def work(number):
        for turn in range(20):
            if echo(number, turn) != (number, turn):
                wrong.append((number, turn))
    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads: thread.start()
    for thread in threads: thread.join(80)
    print(json.dumps([wrong, sum(thread.is_alive() for thread in threads)]))
    """
    assert value_of(shared_home, text) == [[], 0]
    until(lambda: only_idle_instances(shared_home))


def test_a_program_may_fork_in_the_middle(shared_home: Path) -> None:
    """The child calls on a connection of its own, and the parent's goes on."""
    text = """
    @isolated(keep_alive=300)
    def echo(value): return value
    held = echo.submit("held")
    assert echo("before") == "before"
    child = os.fork()
    if child == 0:
        os._exit(0 if echo("child") == "child" else 3)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps([status, echo("after"), held.result(30)]))
    """
    assert value_of(shared_home, text) == [0, "after", "held"]


def test_keep_alive_zero_gives_every_call_a_process_of_its_own(shared_home: Path) -> None:
    """Which is gone after it, and was never another function's."""
    text = """
    @isolated(keep_alive=300)
    def shared(): return os.getpid()
    @isolated(keep_alive=0)
    def alone(): return os.getpid()
    print(json.dumps([shared(), [alone() for _ in range(3)], shared()]))
    """
    shared, alone, again = value_of(shared_home, text)
    assert len({shared, *alone}) == 4
    assert again == shared
    until_gone(*alone)


def test_functions_of_one_environment_share_a_process_and_its_longest_lease(home: Path) -> None:
    """The one with keep_alive=4 keeps it for the one with 0.3."""
    text = """
    @isolated(keep_alive=4)
    def patient(): return os.getpid()
    @isolated(keep_alive=0.3)
    def hasty(): return os.getpid()
    first = patient()
    found = [first, hasty()]
    time.sleep(1.5)
    print(json.dumps([*found, hasty()]))
    """
    first, *others = value_of(home, text)
    assert others == [first, first]
    over_s = time.monotonic()
    until_gone(first, limit_s=10)
    assert time.monotonic() - over_s < 4


def test_what_a_function_knows_travels(shared_home: Path) -> None:
    """Nested data, classes of the script, closures, globals, defaults, helpers, lambdas, other isolated functions."""
    text = """
    import collections, dataclasses, datetime, decimal, enum
    class Colour(enum.Enum):
        RED = 1
    @dataclasses.dataclass
    class Point:
        x: int
        y: "list[Point]" = dataclasses.field(default_factory=list)
    Pair = collections.namedtuple("Pair", "a b")
    FACTOR = 3
    def helper(n): return n * FACTOR
    def make(add):
        @isolated(keep_alive=300)
        def inner(value, *, by=lambda n: n + 1):
            return by(helper(value)) + add
        return inner
    @isolated(keep_alive=300)
    def same(value): return value
    @isolated(keep_alive=300)
    def calls_another(n): return same(n) + 1
    values = [
        {"a": [1, (2, {3})], None: b"bytes"}, Colour.RED, Point(1, [Point(2)]), Pair(1, [2]), decimal.Decimal("1.5"),
        datetime.datetime(2024, 1, 2, tzinfo=datetime.timezone.utc), 2**200, float("inf"), "ü\\U0001f600", range(3),
    ]
    back = [same(value) for value in values]
    wrong = [repr(value) for value, got in zip(values, back) if value != got or type(value) is not type(got)]
    print(json.dumps([wrong, make(100)(5), make(100)(5, by=lambda n: -n), calls_another(6)]))
    """
    assert value_of(shared_home, text) == [[], 116, 85, 7]


def test_exceptions_are_retried_as_often_as_was_asked(shared_home: Path) -> None:
    """With a pause in between; the last one is raised."""
    text = """
    @isolated(keep_alive=300, retries=2)
    def flaky(file, good_at):
        with open(file, "a") as runs: runs.write("x")
        with open(file) as runs: count = len(runs.read())
        if count < good_at: raise OSError(f"run {count}")
        return count
    file = sys.argv[0] + ".runs"
    results = [flaky(file, 3)]
    try:
        flaky(file + "2", 9)
    except OSError as error:
        results.append(str(error))
    future = flaky.submit(file + "3", 2)
    print(json.dumps([*results, future.result(30), future.report.attempt]))
    """
    third, raised, second, attempts = value_of(shared_home, text)
    assert (third, raised, second) == (3, "run 3", 2)
    assert attempts >= 2


def test_a_wait_that_is_too_long_is_not_the_calls_end(shared_home: Path) -> None:
    """future.result(timeout) raises TimeoutError and the call goes on; timeout=0.4 of the function ends it."""
    text = """
    @isolated(keep_alive=300)
    def slow(seconds):
        time.sleep(seconds)
        return "done"
    future = slow.submit(1.0)
    try:
        future.result(0.2)
        waited = ""
    except TimeoutError as error:
        waited = type(error).__name__
    try:
        slow.on(timeout=0.4)(60)
        ran = ""
    except CallTimeout as error:
        ran = error.which
    print(json.dumps([waited, future.result(30), ran]))
    """
    assert value_of(shared_home, text) == ["TimeoutError", "done", "run"]


def test_many_calls_in_a_loop(shared_home: Path) -> None:
    """Twenty thousand submitted before the first result is looked at."""
    text = """
    @isolated(keep_alive=300)
    def same(value): return value
    same(0)
    started = time.monotonic()
    futures = [same.submit(number) for number in range(20_000)]
    right = all(future.result(80) == number for number, future in enumerate(futures))
    print(json.dumps([right, time.monotonic() - started]))
    """
    right, took_s = value_of(shared_home, text)
    assert right
    assert took_s < 60
    until(lambda: only_idle_instances(shared_home))


def test_two_programs_share_a_process(shared_home: Path) -> None:
    """Side by side, with functions of the same name that do different things: neither gets the other's."""
    texts = [
        f"@isolated(keep_alive=300)\ndef work(n): return n * {factor}\nprint(json.dumps([work(n) for n in range(200)]))"
        for factor in (2, 3)
    ]
    programs = [start_program(shared_home, text, name=f"p{number}") for number, text in enumerate(texts)]
    ended: list[Any] = [None, None]

    def wait(number: int, program: "subprocess.Popen[str]") -> None:
        ended[number] = wait_for_program(program)

    threads = [threading.Thread(target=wait, args=pair) for pair in enumerate(programs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [each.value for each in ended] == [[n * factor for n in range(200)] for factor in (2, 3)]
