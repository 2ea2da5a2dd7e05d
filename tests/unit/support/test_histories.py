"""The checkers of real runs accept a good history and object to each kind of bad one; the files survive a kill."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from keepwarm.errors import NodeLost
from support.histories.checkers import CHECKERS, LINGER_NS, objections
from support.histories.executing import execute, origin
from support.histories.reading import executions_per_call, read_history, tally_of_ends
from support.histories.recorder import SUFFIX, ClientRecorder, Recorder
from support.simulation.clock import SECOND
from support.simulation.history import History

HANG = "lambda: time.sleep(600)"
TESTS = Path(__file__).parents[2]

GOOD: tuple[tuple[Any, ...], ...] = (
    (0, "host", "one", 101),
    (0, "host", "two", 102),
    (1, "submit", "c", "c.1", False),
    (1, "submit", "c", "c.2", False),
    (1, "submit", "c", "c.3", True),
    (1, "submit", "gone", "gone.1", False),
    (1, "submit", "gone", "gone.2", False),
    (2, "accepted", "gone", "gone.2"),
    (3, "client gone", "gone"),
    (4, "run", 101, "c.1", 11),
    (5, "ran", "c.1", 11, "returned"),
    (6, "end", "c", "c.1", "returned", "c.1|11"),
    (7, "run", 101, "c.2", 21),
    (8, "fault", "crash agent", "one"),
    (9, "healed", "crash agent", "one"),
    (10, "run", 102, "c.2", 22),
    (11, "ran", "c.2", 22, "raised"),
    (12, "end", "c", "c.2", "raised", "c.2|22"),
    (13, "run", 102, "c.3", 31),
    (14, "fault", "partition agent", "two"),
    (15, "end", "c", "c.3", "CallLost", "Nobody knows"),
    (16, "run", 101, "gone.2", 41),
    (17, "ran", "gone.2", 41, "returned"),
    (18, "end", "reader", "gone.2", "returned", "gone.2|41"),
    (19, "submit", "c", "c.4", False),
    (20, "cancel", "c", "c.4"),
    (21, "cancel confirmed", "c", "c.4"),
    (22, "end", "c", "c.4", "CallCancelled", ""),
    (23, "waited",),
    (24, "left", "one", "processes", 0),
)  # fmt: skip


def history_of(*entries: tuple[Any, ...]) -> History:
    """A history made by hand."""
    history = History()
    for entry in sorted(entries, key=lambda entry: entry[0]):
        history.add(*entry)
    return history


def replaced(was: tuple[Any, ...], *by: tuple[Any, ...]) -> tuple[tuple[Any, ...], ...]:
    """The good history with one entry changed, or several in its place, or none."""
    assert was in GOOD
    return tuple(entry for entry in GOOD if entry != was) + by


def with_more(*more: tuple[Any, ...]) -> tuple[tuple[Any, ...], ...]:
    """The good history with something added."""
    return GOOD + more


END_OF_1 = (6, "end", "c", "c.1", "returned", "c.1|11")
FAULT = (8, "fault", "crash agent", "one")
HEALED = (9, "healed", "crash agent", "one")
RERUN = (10, "run", 102, "c.2", 22)

BAD = {
    "no outcome": ("outcomes", replaced(END_OF_1), "call c.1 has 0 outcomes"),
    "accepted, then its client died": (
        "outcomes",
        replaced((18, "end", "reader", "gone.2", "returned", "gone.2|41")),
        "call gone.2 has 0 outcomes",
    ),
    "two outcomes": ("outcomes", with_more(END_OF_1), "call c.1 has 2 outcomes at c"),
    "an unknown call": (
        "outcomes",
        with_more((6, "end", "c", "c.9", "NodeLost", "")),
        "call c.9 has an outcome, and nobody submitted it",
    ),
    "too late": ("outcomes", replaced(END_OF_1, (30, *END_OF_1[1:])), "call c.1 was answered too late"),
    "the outcome of another": (
        "origins",
        replaced(END_OF_1, (*END_OF_1[:5], "c.2|22")),
        "call c.1 got the outcome of c.2",
    ),
    "of an execution that never was": (
        "origins",
        replaced(END_OF_1, (*END_OF_1[:5], "c.1|99")),
        "call c.1 got an outcome of execution 0x63, which never returned",
    ),
    "of an execution that did not end": (
        "origins",
        replaced((5, "ran", "c.1", 11, "returned")),
        "call c.1 got an outcome of execution 0xb, which never returned",
    ),
    "of an execution that raised": (
        "origins",
        replaced((5, "ran", "c.1", 11, "returned"), (5, "ran", "c.1", 11, "raised")),
        "call c.1 got an outcome of execution 0xb, which never returned",
    ),
    "a value from nowhere": (
        "origins",
        replaced(END_OF_1, (*END_OF_1[:5], "None")),
        "call c.1 returned 'None', which no execution made",
    ),
    "cancelled by nobody": (
        "origins",
        replaced((20, "cancel", "c", "c.4")),
        "call c.4 is cancelled, and nobody asked for that",
    ),
    "said to have died": (
        "origins",
        replaced(END_OF_1, (6, "end", "c", "c.1", "ProcessDied", "")),
        "call c.1 is said to have died, and none of its executions has",
    ),
    "lost for no reason": (
        "origins",
        replaced(END_OF_1, (6, "end", "c", "c.1", "CallLost", "")),
        "call c.1 is lost, and may run more than once",
    ),
    "a bug": (
        "origins",
        replaced(END_OF_1, (6, "end", "c", "c.1", "InternalError", "oh")),
        "call c.1 ended with InternalError: oh",
    ),
    "told differently": (
        "recording",
        with_more((20, "end", "other", "c.1", "raised", "c.1|11")),
        "call c.1 was told two outcomes: returned c.1|11 and raised c.1|11",
    ),
    "run twice under one number": (
        "executions",
        replaced(RERUN, (10, "run", 102, "c.2", 21)),
        "execution 0x15 of call c.2 ran twice",
    ),
    "run without a submit": (
        "executions",
        with_more((9, "run", 101, "c.9", 91)),
        "call c.9 ran, and nobody submitted it",
    ),
    "run nowhere": (
        "executions",
        replaced((4, "run", 101, "c.1", 11), (4, "run", 103, "c.1", 11)),
        "call c.1 ran at 103, where no host is",
    ),
    "run although cancelled": (
        "executions",
        with_more((22, "run", 101, "c.4", 51)),
        "call c.4 was started after its cancel was confirmed",
    ),
    "run more than once": (
        "executions",
        with_more((16, "run", 101, "c.3", 32)),
        "call c.3 may run at most once and ran 2 times",
    ),
    "ended twice": ("executions", with_more((5, "ran", "c.1", 11, "returned")), "execution 0xb ended 2 times"),
    "ended without a beginning": (
        "executions",
        with_more((5, "ran", "c.1", 12, "returned")),
        "execution 0xc ended 1 times and never began",
    ),
    "run again without a fault": (
        "reruns",
        replaced(FAULT),
        "call c.2 ran as 0x16 after 0x15, and no fault had hit one",
    ),
    "run again for a fault of another host": (
        "reruns",
        tuple((*entry[:3], "two") if entry in (FAULT, HEALED) else entry for entry in GOOD),
        "call c.2 ran as 0x16 after 0x15, and no fault had hit one",
    ),
    "run again for a restart of the scheduler": (
        "reruns",
        tuple((*entry[:2], "crash scheduler", "one") if entry in (FAULT, HEALED) else entry for entry in GOOD),
        "call c.2 ran as 0x16 after 0x15, and no fault had hit one",
    ),
    "run again for a fault that came later": (
        "reruns",
        replaced(FAULT, (11, *FAULT[1:])),
        "call c.2 ran as 0x16 after 0x15, and no fault had hit one",
    ),
    "run again for a fault long over": (
        "reruns",
        history_of(
            *(
                (entry[0] + (0 if entry in (FAULT, HEALED) else LINGER_NS + SECOND), *entry[1:])
                for entry in GOOD
            )
        ).entries,
        "call c.2 ran as 0x16 after 0x15, and no fault had hit one",
    ),
    "run again after its answer": (
        "reruns",
        with_more((13, "run", 102, "c.2", 23)),
        "call c.2 ran again as 0x17, having been answered",
    ),
    "left over": (
        "leaks",
        with_more((25, "left", "two", "processes", 3)),
        "two: 3 processes left over",
    ),
}  # fmt: skip
"""Why a history is bad; the checker that must object; the history; in which words."""


def test_nobody_objects_to_a_good_history() -> None:
    """In which a client is gone, a call is run again for a reason, one is lost, one cancelled."""
    assert objections(history_of(*GOOD)) == []


@pytest.mark.parametrize(("checker", "entries", "words"), BAD.values(), ids=BAD)
def test_a_bad_history_is_objected_to(checker: str, entries: tuple[tuple[Any, ...], ...], words: str) -> None:
    """By the checker that is there for it, in its words."""
    assert words in list(CHECKERS[checker](history_of(*entries)))


def test_every_checker_has_objected() -> None:
    """One that never does proves nothing."""
    assert {checker for checker, _, _ in BAD.values()} == set(CHECKERS)


def test_figures_of_a_history() -> None:
    """Executions per call that ran, and calls by how they ended."""
    history = history_of(*GOOD)
    assert executions_per_call(history) == 5 / 4
    assert executions_per_call(History()) == 0.0
    assert tally_of_ends(history) == {"CallCancelled": 1, "CallLost": 1, "raised": 1, "returned": 2}


def test_what_programs_note_is_read_in_order_of_time(tmp_path: Path) -> None:
    """Across files; what clients, functions and the test note together is a good history."""
    test, client = Recorder(tmp_path, "test"), ClientRecorder(tmp_path, "c")
    executions = tmp_path / f"executions{SUFFIX}"
    test.host("here", Path("/proc/self/ns/net").stat().st_ino)
    for number, raises in enumerate((False, True)):
        client.submit(f"c.{number}")
        client.accepted(f"c.{number}")
        try:
            client.returned(f"c.{number}", execute(str(executions), f"c.{number}", raises=raises))
        except ValueError as error:
            client.failed(f"c.{number}", error)
    client.submit("c.2", at_most_once=True)
    client.cancel("c.2")
    client.cancelled("c.2")
    test.fault("crash agent", "here")
    client.failed("c.2", NodeLost("the node is lost"))
    test.healed("crash agent", "here")
    test.waited()
    test.left("here", "processes", 0)
    test.client_gone("c")
    test.close()
    client.close()
    history = read_history(tmp_path)
    assert objections(history) == []
    assert [entry[0] for entry in history.entries] == sorted(entry[0] for entry in history.entries)
    assert tally_of_ends(history) == {"NodeLost": 1, "raised": 1, "returned": 1}


def test_a_writer_that_is_killed_leaves_whole_lines(tmp_path: Path) -> None:
    """An execution without an end; a last line that is cut off does not count, any other that is wrong is an error."""
    file = tmp_path / f"executions{SUFFIX}"
    program = f"import time; from support.histories.executing import *; execute({str(file)!r}, 'c.1', {HANG})"
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    with subprocess.Popen([sys.executable, "-c", program], env=environment) as process:
        while not file.exists() or not file.read_text():
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    (entry,) = read_history(tmp_path).entries
    assert entry[1] == "run"
    assert entry[3] == "c.1"
    with file.open("a") as end:
        end.write('[1, "ran", "c.')
    assert read_history(tmp_path).entries == [entry]
    with file.open("a") as end:
        end.write(f"\n{json.dumps(entry)}\n")
    with pytest.raises(ValueError, match=f"executions{SUFFIX}:2 is no entry"):
        read_history(tmp_path)


def test_the_origin_of_a_value_is_in_it() -> None:
    """Names of calls may contain anything."""
    assert origin("a|b.1|7") == ("a|b.1", 7)
    with pytest.raises(ValueError, match="was made by no execution"):
        origin("7")
