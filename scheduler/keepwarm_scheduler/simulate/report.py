"""What a replay says: one row for each keep_alive, as a table and as JSON; the chart is in ``chart``.

A *cold start* is a process that was started. A call *waited* if it was not sent to a process the instant it came. Idle
memory is what idle processes hold, counted from a call's end to the next call or the process's end. Percentiles are
nearest ranks.
"""

import json
import math
from collections.abc import Sequence
from typing import NamedTuple

from keepwarm_scheduler.simulate.cluster_model import Ledger
from keepwarm_scheduler.simulate.traces import Trace

__all__ = ["Row", "as_json", "as_table", "percentile", "row_of", "shares_of", "term_text"]

_SECOND_NS = 1e9
_MS_NS = 1e6


class Row(NamedTuple):
    """What one keep_alive costs and gives. Shares are from 0 to 1; ``keep_alive_s`` may be infinite."""

    keep_alive_s: float
    invocations: int
    cold_starts: int
    cold_share: float
    waited: int
    wait_p50_ms: float
    wait_p95_ms: float
    wait_p99_ms: float
    idle_gib_s: float
    idle_gib_mean: float
    evictions: int
    failed: int
    function_cold_median: float
    function_cold_p75: float


def percentile(ordered: Sequence[float], share: float) -> float:
    """The nearest rank in an ordered sequence; 0 of none.

    >>> percentile([1, 2, 3, 4], 0.5), percentile([1, 2, 3, 4], 0.99)
    (2, 4)
    """
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


def shares_of(trace: Trace, ledger: Ledger) -> list[float]:
    """Each invoked function's cold starts per invocation, at most 1, in ascending order."""
    invoked = [0] * len(trace.functions)
    for function in trace.functions_of:
        invoked[function] += 1
    return sorted(min(1.0, starts / calls) for starts, calls in zip(ledger.starts_of, invoked, strict=True) if calls)


def row_of(trace: Trace, ledger: Ledger, keep_alive_s: float, delay_ns: int = 0) -> Row:
    """The row of one replay. A call waited if it took longer to its first instruction than two messages take."""
    waits_ns = sorted(wait_ns for wait_ns in ledger.waits_ns if wait_ns >= 0)
    shares = shares_of(trace, ledger)
    invocations = len(trace)
    return Row(
        keep_alive_s,
        invocations,
        ledger.starts,
        ledger.starts / invocations,
        sum(wait_ns > 2 * delay_ns for wait_ns in waits_ns),
        percentile(waits_ns, 0.50) / _MS_NS,
        percentile(waits_ns, 0.95) / _MS_NS,
        percentile(waits_ns, 0.99) / _MS_NS,
        ledger.idle_gib_s,
        ledger.idle_gib_s * _SECOND_NS / max(trace.end_ns, 1),
        ledger.evictions,
        ledger.failed,
        percentile(shares, 0.50),
        percentile(shares, 0.75),
    )


# ---------------------------------------------------------------- for people


class _Column(NamedTuple):
    title: str
    format: str
    field: str
    factor: float = 1


_COLUMNS = (
    _Column("cold starts", ",.0f", "cold_starts"),
    _Column("% cold", ".2f", "cold_share", 100),
    _Column("waited", ",.0f", "waited"),
    _Column("p50 ms", ",.0f", "wait_p50_ms"),
    _Column("p95 ms", ",.0f", "wait_p95_ms"),
    _Column("p99 ms", ",.0f", "wait_p99_ms"),
    _Column("idle GiB", ",.2f", "idle_gib_mean"),
    _Column("idle GiB s", ",.0f", "idle_gib_s"),
    _Column("evicted", ",.0f", "evictions"),
    _Column("median function % cold", ".1f", "function_cold_median", 100),
    _Column("p75", ".1f", "function_cold_p75", 100),
)


def term_text(keep_alive_s: float) -> str:
    """A keep_alive as people write it.

    >>> term_text(60.0), term_text(math.inf)
    ('60 s', 'inf')
    """
    return "inf" if math.isinf(keep_alive_s) else f"{keep_alive_s:g} s"


def as_table(rows: Sequence[Row]) -> str:
    """Plain text, one line for each row; calls that failed are named below it."""
    lines = [["keep_alive", *(column.title for column in _COLUMNS)]]
    for row in rows:
        values = [format(getattr(row, column.field) * column.factor, column.format) for column in _COLUMNS]
        lines.append([term_text(row.keep_alive_s), *values])
    widths = [max(len(line[at]) for line in lines) for at in range(len(lines[0]))]
    text = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    text += [
        f"keep_alive {term_text(row.keep_alive_s)}: {row.failed:,} calls failed: no node could ever run them."
        for row in rows
        if row.failed
    ]
    return "\n".join(text) + "\n"


def as_json(rows: Sequence[Row]) -> str:
    """One document: a list of rows under ``rows``; an infinite keep_alive is null."""
    documents = [row._asdict() for row in rows]
    for document in documents:
        if math.isinf(document["keep_alive_s"]):
            document["keep_alive_s"] = None
    return json.dumps({"rows": documents}, indent=2, allow_nan=False) + "\n"
