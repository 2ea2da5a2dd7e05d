"""What a replay says: the figures of a row by hand, and each way to show them."""

import json
import math
from array import array

from keepwarm_scheduler.simulate import report
from keepwarm_scheduler.simulate.cluster_model import Ledger
from keepwarm_scheduler.simulate.traces import TraceFunction, trace_of

SECOND_NS = 1_000_000_000
FUNCTIONS = (TraceFunction("often", 1 << 30), TraceFunction("once", 0), TraceFunction("never", 0))
TRACE = trace_of(FUNCTIONS, [(0, 0, 0), (SECOND_NS, 0, 0), (2 * SECOND_NS, 0, 0), (3 * SECOND_NS, 1, 0)], 4 * SECOND_NS)


def ledger() -> Ledger:
    result = Ledger(len(TRACE), len(FUNCTIONS))
    result.waits_ns = array("q", [5_000_000, 0, 0, 9_000_000])
    result.starts_of = array("l", [1, 2, 0])
    result.starts, result.evictions, result.idle_gib_s = 3, 1, 8.0
    return result


ROW = report.row_of(TRACE, ledger(), 60)


def test_a_row_by_hand() -> None:
    """Four calls: a function's share is at most one, and one that was never invoked has none."""
    assert report.shares_of(TRACE, ledger()) == [1 / 3, 1.0]
    assert report.Row(60, 4, 3, 0.75, 2, 0.0, 9.0, 9.0, 8.0, 2.0, 1, 0, 1 / 3, 1.0) == ROW


def test_messages_alone_are_no_wait() -> None:
    """A call that took two delays to its first instruction went straight to a process."""
    assert report.row_of(TRACE, ledger(), 60, delay_ns=2_500_000).waited == 1


def test_a_call_that_never_ran_has_no_wait() -> None:
    """Its outcome is a failure, and the table says so."""
    failed = ledger()
    failed.waits_ns[3], failed.failed = -1, 1
    row = report.row_of(TRACE, failed, math.inf)
    assert (row.waited, row.wait_p99_ms) == (1, 5.0)
    assert "keep_alive inf: 1 calls failed" in report.as_table([row])


def test_the_table_has_a_line_for_each_row_and_its_columns_are_aligned() -> None:
    """Numbers end where their titles end."""
    title, *lines = report.as_table([ROW, ROW._replace(keep_alive_s=math.inf, cold_starts=123_456)]).splitlines()
    assert [line.split()[0] for line in lines] == ["60", "inf"]
    assert "123,456" in lines[1]
    assert len({len(line) for line in (title, *lines)}) == 1


def test_json_is_strict_and_has_every_field() -> None:
    """An infinite term is null: there is no infinity in JSON."""
    document = json.loads(report.as_json([ROW, ROW._replace(keep_alive_s=math.inf)]))
    assert document["rows"][0] == ROW._asdict()
    assert document["rows"][1]["keep_alive_s"] is None


def test_percentiles_are_nearest_ranks() -> None:
    """Of nothing it is 0."""
    assert [report.percentile([10, 20, 30], share) for share in (0.0, 0.5, 0.67, 1.0)] == [10, 20, 30, 30]
    assert report.percentile([], 0.5) == 0
