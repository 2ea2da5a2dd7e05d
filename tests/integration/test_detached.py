"""Detached calls on real processes: they outlive their program and the scheduler, and anybody can come back to them."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from support.programs import Ended, roles, run_command, run_program, start_program, until_gone, wait_for_program
from support.waiting import until

FUNCTIONS = """
@isolated(keep_alive=30)
def double(number):
    return 2 * number

@isolated(keep_alive=30)
def fail():
    raise LookupError("nothing here")

@isolated(keep_alive=30)
def wait_for(path, note):
    import os, time
    with open(note, "a") as file:
        file.write("ran\\n")
    while not os.path.exists(path):
        time.sleep(0.02)
    return "done"

"""


def text_of(text: str, named: dict[str, Any]) -> str:
    """A program with the functions above and these values by name."""
    return FUNCTIONS + "".join(f"{name} = {value!r}\n" for name, value in named.items()) + text


def program(home: Path, text: str, **named: Any) -> Any:
    """Run a program to its end; the JSON that it prints last."""
    return run_program(home, text_of(text, named)).value


def calls(home: Path, *arguments: str) -> Ended:
    """Run ``keepwarm calls``."""
    return run_command(home, "calls", *arguments)


def shown(home: Path, call: str) -> Any:
    """What ``keepwarm calls show`` tells of a call."""
    ended = calls(home, "show", call, "--json")
    assert ended.code == 0, ended
    return json.loads(ended.out)


def kill(home: Path, *killed: str) -> None:
    """kill -9 whatever has these roles, and wait until it is gone."""
    processes = [process_id for role in killed for process_id in roles(home).get(role, [])]
    assert processes
    for process_id in processes:
        os.kill(process_id, signal.SIGKILL)
    until_gone(*processes)


def lines(file: Path) -> int:
    """How many lines a file has that may not be there yet."""
    return len(file.read_text().splitlines()) if file.exists() else 0


RESULT = "print(json.dumps(attach(call).result(60)))"


@pytest.fixture
def files(home: Path) -> dict[str, Any]:
    """Where a waiting call looks for permission to end, and where it notes that it runs."""
    return {"path": str(home / "go"), "note": str(home / "note")}


def spawned_waiting(home: Path, files: dict[str, Any]) -> str:
    """A call that runs, and waits, after its program has ended."""
    call = program(home, "print(json.dumps(wait_for.spawn(path, note).id))", **files)
    until(lambda: lines(Path(files["note"])) > 0)
    assert isinstance(call, str)
    return call


# ---------------------------------------------------------------- coming back


def test_a_program_spawns_and_ends_and_another_has_the_result(home: Path) -> None:
    call = program(home, "call = double.spawn(21); print(json.dumps(call.id))")
    assert program(home, RESULT, call=call) == 42
    assert program(home, "call = attach(call); print(json.dumps([call.wait(5), call.done()]))", call=call) == [True] * 2


def test_what_the_function_raised_comes_with_its_traceback_to_any_program(home: Path) -> None:
    call = program(home, "print(json.dumps(fail.spawn().id))")
    told = program(
        home,
        """
try:
    attach(call).result(60)
except LookupError as error:
    print(json.dumps([str(error), str(error.__cause__), error.__notes__[0]]))
""",
        call=call,
    )
    assert told[0] == "nothing here"
    assert "in fail" in told[1]
    assert call in told[2]


def test_large_arguments_and_results_are_kept(home: Path) -> None:
    call = program(home, "print(json.dumps(double.spawn('x' * 3_000_000).id))")
    assert program(home, "print(json.dumps(len(attach(call).result(60))))", call=call) == 6_000_000
    kill(home, "scheduler", "agent", "instance")
    assert program(home, "print(json.dumps(len(attach(call).result(60))))", call=call) == 6_000_000


def test_handles_are_futures_too_and_can_be_pickled(home: Path) -> None:
    told = program(
        home,
        """
import asyncio, pickle
from concurrent.futures import as_completed
calls = double.spawn_map(range(100))
assert pickle.loads(pickle.dumps(calls)) == calls and len(set(calls)) == 100
done = sorted(future.result() for future in as_completed([call.future() for call in calls], timeout=60))
assert done == [2 * n for n in range(100)]

async def main():
    waiting = wait_for.spawn("/nowhere at all", "/dev/null")
    try:
        await asyncio.wait_for(waiting.future(), 0.3)
    except TimeoutError:
        pass
    assert not waiting.done()  # who stops waiting does not stop the call
    assert waiting.cancel()
    try:
        await waiting
    except asyncio.CancelledError:
        return await calls[7]

print(json.dumps(asyncio.run(main())))
""",
    )
    assert told == 14


# ---------------------------------------------------------------- what may die meanwhile


def test_the_scheduler_may_be_killed_while_a_call_runs(home: Path, files: dict[str, Any]) -> None:
    call = spawned_waiting(home, files)
    kill(home, "scheduler")
    waiting = start_program(home, text_of(RESULT, {"call": call}))
    until(lambda: bool(roles(home).get("scheduler")))
    Path(files["path"]).touch()
    assert wait_for_program(waiting).value == "done"
    assert lines(Path(files["note"])) == 1, "it went on, and was not run again"


def test_everything_may_be_killed_and_the_call_is_run_again(home: Path, files: dict[str, Any]) -> None:
    call = spawned_waiting(home, files)
    kill(home, "scheduler", "agent", "instance")
    Path(files["path"]).touch()
    assert program(home, RESULT, call=call) == "done"
    assert lines(Path(files["note"])) == 2


def test_a_program_that_waits_survives_a_killed_scheduler(home: Path, files: dict[str, Any]) -> None:
    call = spawned_waiting(home, files)
    waiting = start_program(home, text_of(RESULT, {"call": call}))
    until(lambda: len(calls(home, "list", "--json").out) > 2)
    kill(home, "scheduler")
    until(lambda: bool(roles(home).get("scheduler")))
    Path(files["path"]).touch()
    assert wait_for_program(waiting).value == "done"


def test_calls_spawned_across_a_killed_scheduler_are_each_accepted_once(home: Path) -> None:
    killed = home / "killed"
    spawning = start_program(
        home,
        text_of(
            """
handles, after = [double.spawn(0)], 0
while after < 200:
    after += os.path.exists(killed)
    handles += double.spawn_map(range(len(handles), len(handles) + 3))
print(json.dumps([call.id for call in handles]))
""",
            {"killed": str(killed)},
        ),
    )
    until(lambda: '"id"' in calls(home, "list", "--limit", "1", "--json").out)
    kill(home, "scheduler")
    killed.touch()
    ids = wait_for_program(spawning).value
    assert len(set(ids)) == len(ids) > 600
    listed = json.loads(calls(home, "list", "--limit", "100000", "--json").out)
    assert sorted(entry["id"] for entry in listed) == sorted(ids)
    results = program(home, "print(json.dumps([attach(call).result(60) for call in calls]))", calls=ids[-20:])
    assert results == [2 * number for number in range(len(ids) - 20, len(ids))]


def test_a_call_that_may_run_once_is_lost_rather_than_run_again(home: Path, files: dict[str, Any]) -> None:
    call = program(home, "print(json.dumps(wait_for.on(at_most_once=True).spawn(path, note).id))", **files)
    until(lambda: lines(Path(files["note"])) > 0)
    kill(home, "agent", "instance")
    told = program(
        home,
        """
try:
    attach(call).result(80)
except CallLost as error:
    print(json.dumps(str(error)))
""",
        call=call,
    )
    assert "at_most_once" in told
    assert lines(Path(files["note"])) == 1


# ---------------------------------------------------------------- keys, cancelling, expiry


def test_a_key_stands_for_one_call_whichever_program_uses_it(home: Path) -> None:
    spawn = "call = double.detached(key='invoice 17').spawn(number); print(json.dumps([call.id, call.was_known]))"
    first, was_known = program(home, spawn, number=1)
    assert not was_known
    assert program(home, spawn, number=1) == [first, True]
    refused = run_program(home, text_of(spawn, {"number": 2}))
    assert refused.code == 1
    assert "keepwarm.errors.KeyConflict: the scheduler does not accept the call: The key 'invoice 17'" in refused.err
    batch = "print(json.dumps([call.id for call in double.detached(key='batch').spawn_map(range(50))]))"
    assert program(home, batch) == program(home, batch)
    assert shown(home, program(home, batch)[7])["key"] == "batch/7"


def test_a_cancelled_call_ends_so_for_everybody(home: Path, files: dict[str, Any]) -> None:
    call = spawned_waiting(home, files)
    told = program(
        home,
        """
first = attach(call)
assert not first.done() and not first.wait(0.1) and not first.forget()
assert first.cancel() and first.wait(30) and first.cancel()
try:
    first.result()
except CallCancelled:
    print(json.dumps([first.status().state, attach(call).exception is not None]))
""",
        call=call,
    )
    assert told == ["cancelled", True]
    ended = run_program(home, text_of(RESULT, {"call": call}))
    assert "CallCancelled" in ended.err


def test_results_expire_and_can_be_forgotten(home: Path) -> None:
    told = program(
        home,
        """
short = double.detached(result_ttl=1).spawn(1)
kept = double.spawn(2)
assert (short.result(60), kept.result(60)) == (2, 4)
end = time.monotonic() + 20
while attach(short.id).done() and time.monotonic() < end:
    try:
        attach(short.id).result(1)
    except ResultExpired as error:
        expired = str(error)
        break
assert short.result() == 2, "what this program has, it keeps"
assert kept.forget() and kept.forget()
try:
    attach(kept.id).result(5)
except ResultExpired:
    print(json.dumps(expired))
""",
    )
    assert "its result has expired" in told
    unknown = run_program(home, text_of(RESULT, {"call": "ab" * 16}))
    assert "UnknownCall: detached call abab" in unknown.err


def test_ctrl_c_ends_the_wait_and_not_the_call(home: Path, files: dict[str, Any]) -> None:
    waiting = start_program(
        home,
        text_of(
            """
call = wait_for.spawn(path, note)
try:
    call.result()
except KeyboardInterrupt:
    print(json.dumps(call.id))
""",
            files,
        ),
    )
    until(lambda: lines(Path(files["note"])) > 0)
    waiting.send_signal(signal.SIGINT)
    call = wait_for_program(waiting).value
    Path(files["path"]).touch()
    assert program(home, RESULT, call=call) == "done"


# ---------------------------------------------------------------- the command line


def test_the_command_line_lists_shows_and_fetches(home: Path) -> None:
    nothing = calls(home, "list")
    assert nothing.code == 1
    assert "no cluster has run here" in nothing.err
    good, bad = program(
        home, "good, bad = double.spawn(4), fail.spawn(); bad.wait(); good.wait(); print(json.dumps([good.id, bad.id]))"
    )
    listed = calls(home, "list").out
    assert good in listed
    assert "failed: user_exception" in listed
    only = json.loads(calls(home, "list", "--state", "succeeded", "--json").out)
    assert [(entry["id"], entry["function"]) for entry in only] == [(good, "__main__:double")]
    assert "succeeded" in calls(home, "show", good).out
    assert calls(home, "result", good) == (0, "8\n", "")
    assert calls(home, "result", good, "--json").out == "8\n"
    failed = calls(home, "result", bad)
    assert failed.code == 1
    assert "in fail" in failed.err
    assert "LookupError: nothing here" in failed.err
    assert calls(home, "forget", good).out == "Forgotten.\n"
    gone = calls(home, "result", good)
    assert (gone.code, gone.out) == (1, "")
    assert "has expired" in gone.err
    assert calls(home, "show", "12").code == 1
    assert calls(home, "list", "--state", "happy").code == 2


def test_the_command_line_cancels_and_finds_calls_of_a_cluster_that_was_killed(
    home: Path, files: dict[str, Any]
) -> None:
    call = spawned_waiting(home, files)
    early = calls(home, "result", call, "--timeout", "0.2")
    assert (early.code, early.err) == (1, "keepwarm: it has not ended after 0.2 s; it goes on.\n")
    unfinished = calls(home, "forget", call)
    assert (unfinished.code, "unfinished" in unfinished.err) == (1, True)
    kill(home, "scheduler", "agent", "instance")
    assert calls(home, "cancel", call).code == 0
    until(lambda: shown(home, call)["state"] == "cancelled")
    again = calls(home, "cancel", call)
    assert (again.code, again.out) == (0, "Cancelled.\n")
