"""What the runner's tests run inside instances: a user's script, executed as `__main__` by each interpreter under test.

Python 3.8 syntax, written as users write, without types. `FUNCTIONS` maps a name to the tuple that travels:
(function, setup or None).
"""
# mypy: ignore-errors

import asyncio
import atexit
import ctypes
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

COUNTS = {"setups": 0}


class Point:
    """A class of the script: it travels by value."""

    def __init__(self, x, y):
        self.x, self.y = x, y


class ScriptError(Exception):
    """An exception of the script."""


class PickyError(Exception):
    """Cannot be made from its own `args`, as many exceptions in the wild."""

    def __init__(self, code, text):
        super().__init__(f"{code}: {text}")
        self.code = code


class UnpicklableError(Exception):
    """Holds what no pickle can."""

    def __init__(self, text):
        super().__init__(text)
        self.lock = threading.Lock()


class DeletionNotice:
    """Says when it is dropped."""

    def __del__(self):
        print("dropped", flush=True)


def add(a, b=0):
    return a + b


def fail(text):
    raise ValueError(text)


def fail_chained():
    try:
        {}["missing"]
    except KeyError as error:
        raise ScriptError("outer") from error


def fail_picky():
    raise PickyError(404, "gone")


def fail_unpicklable():
    raise UnpicklableError("holds a lock")


def fail_unprintable():
    class UnprintableError(Exception):
        def __str__(self):
            raise RuntimeError("no text")

    raise UnprintableError


def fail_long():
    raise ValueError("x\udc80" * 200_000)


def return_lock():
    return threading.Lock()


def return_lambda():
    return lambda: 42


def return_point():
    return Point(1, 2)


def double_point(point):
    return Point(point.x * 2, point.y * 2), isinstance(point, Point)


def leave(code):
    sys.exit(code)


def spin():
    while True:
        pass


def spin_for(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return "done"


def nap(seconds):
    time.sleep(seconds)
    return "rested"


def stubborn():
    failures = 0
    while True:
        try:
            time.sleep(60)
        except Exception:
            failures += 1


def immortal():
    failures = 0
    while True:
        try:
            time.sleep(60)
        except BaseException:
            failures += 1


def exit_hard(code):
    os._exit(code)


def crash():
    ctypes.string_at(0)


def interrupt_self():
    os.kill(os.getpid(), signal.SIGINT)
    child = subprocess.Popen(["sleep", "60"])
    child.send_signal(signal.SIGINT)
    return child.wait()


def length(data):
    return len(data)


def blob(size):
    return os.urandom(1) * size


def chatter():
    print("to stdout")
    print("to stderr", file=sys.stderr)
    sys.stdout.write("no newline")
    subprocess.run(["sh", "-c", "echo from a child; echo child error >&2"], check=True)
    return "said"


def import_names(names):
    return {name: getattr(__import__(name), "WHO", "stdlib") for name in names}


def surroundings():
    main = sys.modules["__main__"]
    return {
        "path": sys.path,
        "cwd": str(Path.cwd()),
        "stdin": sys.stdin.read(),
        "main": sorted(name for name in vars(main) if not name.startswith("__")),
        "main_file": getattr(main, "__file__", None),
        "descriptors": sorted(int(path.name) for path in Path("/proc/self/fd").iterdir()),
        "child_descriptors": subprocess.check_output(["ls", "/proc/self/fd"]).split(),
        "session": os.getsid(0) == os.getpid(),
        "variables": dict(os.environ),
        "argv": sys.argv,
    }


def square(number):
    return number * number


def in_a_pool():
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return pool.map(square, range(5))


def _send_square(queue, number):
    queue.put(number * number)


def in_a_process(method):
    context = multiprocessing.get_context(method)
    if method == "spawn":
        process = context.Process(target=time.sleep, args=(0,))
        process.start()
        process.join()
        return process.exitcode
    queue = context.SimpleQueue()
    process = context.Process(target=_send_square, args=(queue, 7))
    process.start()
    value = queue.get()
    process.join()
    return value


def fork_and_return():
    pid = os.fork()
    if pid == 0:
        return "the child must not answer"
    return os.WEXITSTATUS(os.waitpid(pid, 0)[1])


def fork_and_raise():
    pid = os.fork()
    if pid == 0:
        raise ValueError("in the child")
    return os.WEXITSTATUS(os.waitpid(pid, 0)[1])


async def gather():
    return await asyncio.gather(asyncio.sleep(0, "a"), asyncio.sleep(0, "b"))


def at_exit():
    atexit.register(print, "goodbye")


def grandchild():
    """A descendant that left the session: only its environment tells whose it is."""
    return subprocess.Popen(["setsid", "sleep", "1000"]).pid


def write_frame(data):
    """Forge: write to every socket of this process."""
    for path in Path("/proc/self/fd").iterdir():
        try:
            socket.socket(fileno=os.dup(int(path.name))).send(data)
        except OSError:
            continue


def count_setups():
    COUNTS["setups"] += 1
    return COUNTS["setups"]


def fail_first_setup():
    COUNTS["setups"] += 1
    if COUNTS["setups"] == 1:
        raise OSError("the model is not there yet")
    return "model"


def with_setup(value, argument):
    return value, argument


def ignore_setup(_value):
    return "ran"


FUNCTIONS = {
    name: (function, None)
    for name, function in list(globals().items())
    if callable(function) and getattr(function, "__module__", None) == "__main__" and not isinstance(function, type)
}
FUNCTIONS.update(
    with_setup=(with_setup, count_setups),
    with_failing_setup=(with_setup, fail_first_setup),
    with_sleeping_setup=(ignore_setup, lambda: time.sleep(60)),
    with_noticed_setup=(ignore_setup, DeletionNotice),
)
