"""Early ends of leases, as a program is told of them: words, levels, and not too often."""

import logging
import subprocess
import sys

import pytest

from keepwarm.early_ends import AGAIN_AFTER_NS, CAUSES_REMEMBERED, EarlyEnds, sentence
from keepwarm_wire.fields import FOREVER_US
from keepwarm_wire.messages import LeaseBroken

KILLED = "killed: timeout of app:slow"
BROKEN = LeaseBroken(7, "n0", "0123456789ab", ("app:f",), 0, KILLED, 9_000_000, 0)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="keepwarm")
    return caplog


def lines(log: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.levelname, record.getMessage()) for record in log.records]


def test_a_sentence_says_whose_process_ended_where_how_early_and_why() -> None:
    assert sentence(BROKEN) == (
        f"the warm process of app:f on n0 ended 9.0 s before its keep_alive was over ({KILLED})"
    )
    endless = BROKEN._replace(functions=("a:a", "b:b", "c:c", "d:d"), more_functions=2, left_us=FOREVER_US)
    assert sentence(endless._replace(cause="evicted: memory", more_notices=3)) == (
        "the warm process of a:a, b:b, c:c and 3 more functions on n0 ended though its keep_alive has no end "
        "(evicted: memory); 3 more ended with it"
    )


def test_names_write_no_lines_of_their_own() -> None:
    told = sentence(BROKEN._replace(functions=("app:\x1b[2J",), cause="killed: timeout of a\nWARNING: b"))
    assert told.isprintable()


@pytest.mark.parametrize(
    ("cause", "level"), [(KILLED, "WARNING"), ("died: SIGSEGV", "WARNING"), ("evicted: memory", "INFO")]
)
def test_what_others_broke_is_a_warning_and_an_eviction_is_not(
    cause: str, level: str, log: pytest.LogCaptureFixture
) -> None:
    EarlyEnds().tell(0, BROKEN._replace(cause=cause))
    assert [each[0] for each in lines(log)] == [level]


def test_what_is_on_the_screen_makes_way_for_lines_that_are_shown_only(log: pytest.LogCaptureFixture) -> None:
    """Progress of a build must not vanish for an eviction that nobody is shown."""
    log.set_level(logging.WARNING, logger="keepwarm")
    ways: list[int] = []
    ends = EarlyEnds(lambda: ways.append(len(log.records)))
    ends.tell(0, BROKEN._replace(cause="evicted: memory"))
    ends.tell(0, BROKEN)
    ends.tell(0, BROKEN)
    assert (ways, len(log.records)) == ([0], 1)


def test_of_each_cause_the_first_is_told_and_the_others_summed_up(log: pytest.LogCaptureFixture) -> None:
    ends = EarlyEnds()
    ends.tell(0, BROKEN)
    ends.tell(1, BROKEN)
    ends.tell(AGAIN_AFTER_NS - 1, BROKEN._replace(more_notices=4))
    ends.tell(2, BROKEN._replace(cause="died: SIGKILL"))
    assert len(lines(log)) == 2
    ends.tell(AGAIN_AFTER_NS, BROKEN)
    assert lines(log)[2:] == [
        ("WARNING", f"6 more warm processes ended before keep_alive was over ({KILLED})"),
        ("WARNING", sentence(BROKEN)),
    ]
    ends.tell(AGAIN_AFTER_NS + 1, BROKEN)
    ends.close()
    assert lines(log)[4:] == [("WARNING", f"1 more warm process ended before keep_alive was over ({KILLED})")]


def test_only_so_many_causes_are_remembered_and_none_is_lost_for_it(log: pytest.LogCaptureFixture) -> None:
    ends = EarlyEnds()
    for _ in range(2):
        for number in range(CAUSES_REMEMBERED // 2):
            ends.tell(0, BROKEN._replace(cause=f"killed: timeout of app:{number}"))
    for number in range(10 * CAUSES_REMEMBERED):
        ends.tell(0, BROKEN._replace(cause=f"died: exit code {number}"))
    assert len(ends._told) == CAUSES_REMEMBERED
    summed = [text for _, text in lines(log) if text.startswith("1 more")]
    assert len(summed) == CAUSES_REMEMBERED // 2


def test_a_program_that_configures_no_logging_sees_warnings_and_no_evictions() -> None:
    """On standard error, a line each: Python's own last resort."""
    program = (
        "from keepwarm.early_ends import EarlyEnds\n"
        "from keepwarm_wire.messages import LeaseBroken\n"
        "for cause in ('killed: timeout of a:b', 'evicted: memory'):\n"
        "    EarlyEnds().tell(0, LeaseBroken(7, 'n0', '01', ('a:f',), 0, cause, 9_000_000, 0))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    expected = "the warm process of a:f on n0 ended 9.0 s before its keep_alive was over (killed: timeout of a:b)\n"
    assert (done.stdout, done.stderr) == ("", expected)
