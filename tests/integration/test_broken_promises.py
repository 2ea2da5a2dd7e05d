"""Processes that functions share: what one owner hears when another's call takes theirs along, and who goes first."""

from pathlib import Path

from support.programs import logs_of, run_command, run_program, start_program, status, wait_for_program
from support.waiting import until

OWNER = """
@isolated(keep_alive=300)
def keep(): return os.getpid()
first = keep()
open({ready!r}, "w").close()
deadline = time.monotonic() + 60
while not os.path.exists({go!r}) and time.monotonic() < deadline:
    time.sleep(0.02)
future = keep.submit()
second = future.result()
told = future.explain()
print(json.dumps([first != second, told.cold_code, told.early_end]))
"""

CULPRIT = """
@isolated(timeout=0.3, keep_alive=300)
def stubborn():
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass
try:
    stubborn()
except CallTimeout:
    print(json.dumps("timed out"))
"""


def test_the_owner_of_a_lease_hears_that_another_program_broke_it(home: Path) -> None:
    """A call that cannot be stopped is killed with its process: a warning where the other function was called."""
    ready, go = home / "ready", home / "go"
    owner = start_program(home, OWNER.format(ready=str(ready), go=str(go)), name="owner")
    try:
        until(ready.exists)
        ended = wait_for_program(start_program(home, CULPRIT, name="culprit"))
        assert (ended.code, ended.value, ended.err) == (0, "timed out", ""), (ended, logs_of(home))
        until(lambda: not status(home)["instances"])
    finally:
        go.touch()
        told = wait_for_program(owner)
    is_another, cold_code, early_end = told.value
    assert (is_another, cold_code) == (True, "died")
    assert early_end.startswith("the warm process of __main__:keep on ")
    assert early_end.endswith(" s before its keep_alive was over (killed: timeout of __main__:stubborn)")
    assert told.err == f"{early_end}\n"
    assert status(home)["leases_ended_early"] == {"killed (timeout)": 1}
    assert "Leases ended early: 1 killed (timeout)" in run_command(home, "status").out


PRIORITIES = """
@isolated(keep_alive=60)
def note(name):
    with open({order!r}, "a") as file:
        file.write(name + " ")
@isolated(keep_alive=60)
def block():
    open({running!r}, "w").close()
    deadline = time.monotonic() + 60
    while not os.path.exists({go!r}) and time.monotonic() < deadline:
        time.sleep(0.01)
futures = [block.submit()]
deadline = time.monotonic() + 60
while not os.path.exists({running!r}) and time.monotonic() < deadline:
    time.sleep(0.01)
for name, priority in ("low", -5), ("first", 0), ("second", 0), ("urgent", 5):
    futures.append(note.on(priority=priority).submit(name))
    while futures[-1].explain().state == "held":
        time.sleep(0.01)
print(*(future.explain().state for future in futures))
open({go!r}, "w").close()
for future in futures:
    future.result()
print(json.dumps(open({order!r}).read().split()))
"""


def test_calls_that_wait_go_by_their_priority(home: Path) -> None:
    """One core, four calls that wait for it."""
    files = {name: str(home / name) for name in ("order", "running", "go")}
    ended = run_program(home, PRIORITIES.format(**files), {"KEEPWARM_CPU": "1"})
    assert ended.value == ["urgent", "first", "second", "low"], (ended, logs_of(home))
    assert ended.out.splitlines()[0] == "running queued queued queued queued"
