"""What goes wrong on the main path, as the person who wrote the function sees it; and that the cluster serves on.

Every error says what happened, where, and what to do. After each of them the same program makes a plain call, and
nothing is left running.
"""

import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from support.programs import only_idle_instances, run_program
from support.waiting import until

PRELUDE = """
import signal, threading

class Mine(Exception):
    def __init__(self, number, text):
        super().__init__(number, text)
        self.number = number

@isolated(keep_alive=300)
def do(what, *rest):
    return globals_of[what](*rest)

@isolated(keep_alive=300)
def plain(value):
    return value

def caught(future_or_call, *arguments):
    future = future_or_call if isinstance(future_or_call, Future) else None
    try:
        future.result(60) if future else future_or_call(*arguments)
    except BaseException as error:
        kinds = [kind.__name__ for kind in type(error).__mro__]
        known = {name: getattr(error, name, None) for name in ("function", "node", "environment", "exit_code", "signal",
                                                              "which", "number", "type_name")}
        return {"kind": kinds[0], "kinds": kinds, "text": str(error), "notes": getattr(error, "__notes__", []),
                "cause": str(error.__cause__ or ""), **known}
    return {"kind": ""}

def finish(**found):
    assert plain("still here") == "still here"
    print(json.dumps(found))
"""


def run(home: Path, text: str, variables: dict[str, str] | None = None) -> Any:
    """Run a program that ends with ``finish(...)``; what it found. Nothing of it is left running."""
    ended = run_program(home, PRELUDE + text, variables)
    assert ended.code == 0, ended
    until(lambda: only_idle_instances(home))
    return ended.value


def failing(home: Path, body: str, arguments: str = "") -> Any:
    """The error of one call of a function with this body."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    return run(home, f"@isolated(keep_alive=300)\ndef fails(*given):\n{lines}\nfinish(**caught(fails, {arguments}))\n")


def names_where(error: dict[str, Any], function: str = "fails") -> bool:
    """Whether a note says in which function, in which environment and on which node it happened."""
    where = re.compile(rf"in function __main__:{function}, environment [0-9a-f]{{64}}, on node \S+, call \S+")
    return any(where.search(note) for note in error["notes"])


def test_what_the_function_raises_ends_the_program_as_it_would_at_home(shared_home: Path) -> None:
    """Its own type, the remote traceback with the user's own line, and a note that says where."""
    text = "@isolated(keep_alive=300)\ndef fails():\n    raise ValueError('bad value 7')  # this very line\nfails()\n"
    ended = run_program(shared_home, text)
    assert ended.code == 1
    assert "raise ValueError('bad value 7')  # this very line" in ended.err
    assert f'File "{shared_home}/program.py", line' in ended.err
    assert "\nValueError: bad value 7\nraised remotely in function __main__:fails, environment " in ended.err
    until(lambda: only_idle_instances(shared_home))


def test_an_exception_class_of_the_script_is_raised_as_itself(shared_home: Path) -> None:
    """With its attributes, though it exists in the script alone."""
    error = failing(shared_home, "raise Mine(7, 'seven')")
    assert error["kind"] == "Mine"
    assert error["number"] == 7
    assert names_where(error)
    assert "raise Mine(7, 'seven')" in error["cause"]


def test_an_exception_this_program_cannot_import_is_told_of_in_full(shared_home: Path) -> None:
    """Its name, its words, the remote traceback, and why it is not raised as itself."""
    text = """
@isolated(keep_alive=300, requirements=["idna"])
def fails():
    import idna
    return idna.encode("\\u2665")
finish(**caught(fails))
"""
    error = run(shared_home, text)
    assert error["kind"] == "RemoteError"
    assert error["type_name"] == "idna.core.InvalidCodepoint"
    assert error["text"].startswith("idna.core.InvalidCodepoint: Codepoint U+2665")
    assert "needs the module 'idna', which is not installed here" in error["text"]
    assert "raise InvalidCodepoint(" in error["cause"]
    assert names_where(error)


def test_a_missing_module_comes_with_advice(shared_home: Path) -> None:
    """The most common mistake of all: a package that was not named."""
    error = failing(shared_home, "import six")
    assert error["kind"] == "ModuleNotFoundError"
    assert "if 'six' comes with a package, add that to the function's requirements" in error["notes"]


@pytest.mark.parametrize(
    ("body", "words", "exit_code"),
    [
        ("os._exit(3)", "ended with exit code 3", 3),
        ("os.kill(os.getpid(), signal.SIGSEGV)\ntime.sleep(60)", "killed by SIGSEGV", None),
        ("os.kill(os.getpid(), signal.SIGKILL)\ntime.sleep(60)", "killed by SIGKILL", None),
    ],
    ids=["exit", "SIGSEGV", "SIGKILL"],
)
def test_a_call_that_ends_its_process_fails_alone(
    shared_home: Path, body: str, words: str, exit_code: int | None
) -> None:
    """It is not run again, the error says how the process ended, and the next call gets a new one."""
    error = failing(shared_home, body)
    assert error["kind"] == "ProcessDied"
    assert words in error["text"]
    assert "Retry(crash=N)" in error["text"]
    assert error["exit_code"] == exit_code
    assert error["signal"] == (None if exit_code else getattr(signal, words.rpartition(" ")[2]))
    assert names_where(error)


@pytest.mark.parametrize("body", ["sys.exit('enough')", "raise SystemExit('enough')", "raise KeyboardInterrupt"])
def test_what_would_end_the_program_does_not(shared_home: Path, body: str) -> None:
    """sys.exit in a function is an error of the function: neither its process nor the caller's program ends."""
    error = failing(shared_home, body)
    assert error["kind"] == "RemoteError"
    assert error["type_name"] in ("SystemExit", "KeyboardInterrupt")
    assert "is not raised in the caller's program" in error["text"]
    assert ":  " not in error["text"]
    assert names_where(error)


def test_a_call_that_runs_too_long_is_ended(shared_home: Path) -> None:
    """By its timeout; the error tells which of the four it was, and where the function was."""
    text = """
@isolated(keep_alive=300, timeout=0.5)
def fails():
    time.sleep(600)  # here
started = time.monotonic()
error = caught(fails)
finish(**error, took=time.monotonic() - started)
"""
    error = run(shared_home, text)
    assert error["kind"] == "CallTimeout"
    assert "TimeoutError" in error["kinds"]
    assert error["which"] == "run"
    assert "longer than its timeout of 0.5 s" in error["text"]
    assert any("time.sleep(600)  # here" in note for note in error["notes"])
    assert names_where(error)
    assert error["took"] < 10


def test_a_call_that_resists_its_timeout_is_killed(shared_home: Path) -> None:
    """Code that swallows the exception has two seconds; then its process is killed."""
    file = shared_home / "resisted"
    text = """
@isolated(keep_alive=300, timeout=0.3)
def fails(file):
    while True:
        try:
            time.sleep(600)
        except BaseException:
            open(file, 'a').write('x')
"""
    error = run(shared_home, f"{text}finish(**caught(fails, {str(file)!r}))")
    assert error["kind"] == "CallTimeout"
    assert file.read_text().startswith("x")


def test_requirements_that_cannot_be_met_name_the_requirement_and_the_reason(shared_home: Path) -> None:
    """An impossible version, a package that does not exist, two that contradict one another: in uv's own words."""
    text = """
@isolated(requirements=["six==99.0"])
def impossible(): pass
@isolated(requirements=["keepwarm-has-no-such-package"])
def unknown(): pass
@isolated(requirements=["idna<3", "idna>3"])
def contradictory(): pass
finish(errors=[caught(function) for function in (impossible, unknown, contradictory)])
"""
    errors = run(shared_home, text)["errors"]
    assert [error["kind"] for error in errors] == ["RequirementsError"] * 3
    assert all(error["text"].startswith("No versions satisfy the requirements: ") for error in errors)
    assert all("Loosen or correct the requirements." in error["text"] for error in errors)
    assert "six==99" in errors[0]["text"]
    assert "keepwarm-has-no-such-package was not found" in errors[1]["text"]
    assert "idna" in errors[2]["text"]
    assert all(map(names_where, errors, ("impossible", "unknown", "contradictory")))
    assert all(any(note.startswith("error: No solution found") for note in error["notes"]) for error in errors)


def test_a_malformed_requirement_is_refused_where_it_is_written(shared_home: Path) -> None:
    """At decoration, with the requirement and an example; no cluster is asked."""
    ended = run_program(shared_home, "@isolated(requirements=['six=='])\ndef f():\n    pass\n")
    assert ended.code == 1
    assert "OptionError: requirements: requirement 'six==' cannot be used; write it as in" in ended.err


def test_an_index_that_does_not_answer_is_named(home: Path) -> None:
    """In a home without a cache. Functions without requirements work all the same."""
    text = "@isolated(requirements=['six'])\ndef fails():\n    pass\nfinish(**caught(fails))"
    error = run(home, text, {"KEEPWARM_INDEX_URL": "http://127.0.0.1:9/simple"})
    assert error["kind"] == "IndexUnreachable"
    assert "could not be reached" in error["text"]
    assert "http://127.0.0.1:9/simple/six/" in error["text"]
    assert names_where(error)


def test_what_cannot_travel_is_named_with_the_way_to_it(shared_home: Path) -> None:
    """An argument and a captured value before anything is sent; a result after the function ran."""
    text = """
lock = threading.Lock()
@isolated
def captures(): return lock
@isolated(keep_alive=300)
def fails(what=None): return {"here": [threading.Lock()]}
argument = caught(fails, {"deep": [1, threading.Lock()]})
finish(errors=[argument, caught(captures), caught(fails)])
"""
    argument, captured, result = run(shared_home, text)["errors"]
    assert argument["kind"] == "ArgumentNotSerializable"
    assert "argument 'what'" in argument["text"]
    assert "['deep'][1]" in argument["text"]
    assert "_thread.lock" in argument["text"]
    assert captured["kind"] == "FunctionNotSerializable"
    assert "global 'lock' (type _thread.lock)" in captured["text"]
    assert "in its setup" in captured["text"]
    assert result["kind"] == "ResultNotSerializable"
    assert result["text"].startswith(
        "the call ended but its result, a dict, cannot be pickled: TypeError: cannot pickle '_"
    )
    assert "Return plain data." in result["text"]
    assert names_where(result)


def test_a_result_that_needs_a_package_this_program_lacks_says_which(shared_home: Path) -> None:
    """The call succeeded; it is here that something is missing."""
    text = """
@isolated(keep_alive=300, requirements=["requests"])
def fails():
    import requests
    return requests.Request("GET", "http://x/")
finish(**caught(fails))
"""
    error = run(shared_home, text)
    assert error["kind"] == "ResultNotLoadable"
    assert "needs the module 'requests', which is not installed here" in error["text"]
    assert "Install what it needs here, or return plain data." in error["text"]


def test_what_no_node_can_run_fails_with_what_there_is(shared_home: Path) -> None:
    """Memory, cores, GPUs, labels, custom amounts and Pythons that no node has; after five seconds, all at once.

    A program of another Python is one that says so: the newest of this test stands in for it.
    """
    text = """
@isolated
def fails(): pass
wants = [dict(memory="900GiB"), dict(cpu=500), dict(gpu=1), dict(labels={"zone": "b"}), dict(custom={"tokens": 3})]
functions = [fails.on(resources=want) for want in wants]
import keepwarm.options
keepwarm.options.RUNNING_PYTHON = "3.7"
@isolated
def older(): pass
@isolated(requirements=["six"])
def older_with_packages(): pass
functions += [older, older_with_packages]
keepwarm.options.RUNNING_PYTHON = "{}.{}".format(*sys.version_info)
futures = [function.submit() for function in functions]
finish(errors=[caught(future) for future in futures])
"""
    started_s = time.monotonic()
    errors = run(shared_home, text)["errors"]
    assert time.monotonic() - started_s < 20
    assert [error["kind"] for error in errors] == ["NoFeasibleNode"] * 5 + ["PythonMissing"] * 2
    memory, cpu, gpu, label, custom, python, packages = (error["text"] for error in errors)
    assert "asks for cpu=1, memory=921600 MiB; nodes have " in memory
    assert re.search(r"asks for cpu=500, .*; nodes have \S+: cpu=[0-9.]+, memory=[0-9]+ MiB\.", cpu)
    assert "gpu=1; nodes have" in gpu
    assert "gpu=0." in gpu
    assert "label zone=b; nodes have" in label
    assert "label zone=(none)" in label
    assert "tokens=3; nodes have" in custom
    assert "tokens=0." in custom
    assert all("Ask for less in resources, or add a node that has it." in text for text in (memory, cpu, gpu, label))
    for missing in (python, packages):
        assert re.match(r"No node has Python 3\.7 \(nodes have \S+: [0-9. ]*3\.1[0-9. ]*\)\. Install it", missing)
        assert "--python" in missing
    assert all(error["function"] for error in errors)


def test_errors_survive_pickle_and_are_caught_as_what_they_are(shared_home: Path) -> None:
    """A program that hands an error on to another process keeps what it says."""
    text = """
import pickle
@isolated(keep_alive=300)
def fails(): os._exit(4)
try:
    fails()
except KeepwarmError as error:
    copy = pickle.loads(pickle.dumps(error))
finish(kind=type(copy).__name__, text=str(copy), exit_code=copy.exit_code, node=copy.node, function=copy.function)
"""
    error = run(shared_home, text)
    assert error["kind"] == "ProcessDied"
    assert error["exit_code"] == 4
    assert error["function"] == "__main__:fails"
    assert error["node"]
