"""``python -m keepwarm_scheduler.simulate``: read a trace, replay it for each keep_alive, show what each would cost."""

import argparse
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from keepwarm_scheduler.config import parse_size
from keepwarm_scheduler.core.config import SECOND_NS
from keepwarm_scheduler.simulate import chart, report
from keepwarm_scheduler.simulate.cluster_model import ClusterSettings
from keepwarm_scheduler.simulate.engine import KeepAlive, replay
from keepwarm_scheduler.simulate.traces import GAPS, TraceError, read_trace

__all__ = ["main"]

_KEEP_ALIVE_DEFAULT_S = (10.0, 60.0, 300.0)
_NODES_MAX = 10_000
_INTERRUPTED = 130


def parser() -> argparse.ArgumentParser:
    """The command line. ``keepwarm simulate`` is the same."""
    result = argparse.ArgumentParser(
        prog="keepwarm simulate",
        description="Replay a trace of invocations on the real scheduler, in virtual time: what would each keep_alive "
        "cost in memory, and save in cold starts? Nothing is started, no cluster is needed.",
    )
    add = result.add_argument
    add("trace", type=Path, help="a CSV file of `time,function,duration[,memory]`, or a directory of minute counts")
    add(
        "--keep-alive",
        type=_term,
        action="append",
        metavar="SECONDS",
        help="a row of the report for each; `inf` for no end (default: 10, 60 and 300)",
    )
    add(
        "--keep-alive-of",
        type=_term_of,
        action="append",
        default=[],
        metavar="FUNCTION=SECONDS",
        help="one function's own keep_alive, in every row; may be repeated",
    )
    add("--nodes", type=_nodes, default=1, metavar="N", help="nodes of the cluster (default: 1)")
    add("--cpu", type=_positive, default=16.0, metavar="N", help="cpus of a node; a call takes one (default: 16)")
    add("--memory", type=_size, default=64 << 30, metavar="SIZE", help="memory of a node (default: 64GiB)")
    add("--cold", type=_seconds, default=0.5, metavar="SECONDS", help="time to start a process (default: 0.5)")
    add("--build", type=_seconds, default=5.0, metavar="SECONDS", help="time to build an environment (default: 5)")
    add("--network-delay", type=_seconds, default=0.0, metavar="SECONDS", help="of every message (default: 0)")
    add("--gaps", choices=GAPS, default="spread", help="where in its minute a counted call is put (default: spread)")
    add("--seed", type=int, default=1, help="of what is random in that (default: 1)")
    add("--json", action="store_true", help="print one JSON document")
    add(
        "--chart",
        type=_chart,
        metavar="FILE",
        help="draw memory against cold starts, as .svg or .png (needs keepwarm[plots])",
    )
    return result


# ---------------------------------------------------------------- values


def _number(text: str, lowest: float, *, finite: bool = True) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if math.isnan(value) or value < lowest or (finite and math.isinf(value)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a {'finite ' if finite else ''}number from {lowest:g} up")
    return value


def _term(text: str) -> float:
    return _number(text, 0, finite=False)


def _seconds(text: str) -> float:
    return _number(text, 0)


def _positive(text: str) -> float:
    return _number(text, 0.001)


def _nodes(text: str) -> int:
    value = _number(text, 1)
    if value != int(value) or value > _NODES_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to {_NODES_MAX}")
    return int(value)


def _term_of(text: str) -> tuple[str, float]:
    function, equals, seconds = text.rpartition("=")
    if not equals or not function:
        raise argparse.ArgumentTypeError(f"{text!r} is not FUNCTION=SECONDS")
    return function, _term(seconds)


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _chart(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() not in chart.SUFFIXES:
        raise argparse.ArgumentTypeError(f"{text!r} ends neither in .svg nor in .png")
    return path


# ---------------------------------------------------------------- the work


def main(arguments: list[str] | None = None) -> int:
    """Replay and report. Returns the exit status: 2 for a wrong argument or trace, 130 when interrupted."""
    options = parser().parse_args(arguments)
    rows: list[report.Row] = []
    try:
        _replay_all(options, rows)
    except (TraceError, chart.NoMatplotlib) as error:
        return _refuse(str(error))
    except KeyboardInterrupt:
        sys.stderr.write("keepwarm simulate: interrupted; what follows is what was done.\n" if rows else "")
        _show(rows, as_json=options.json)
        return _INTERRUPTED
    try:
        if options.chart is not None:
            chart.draw(rows, options.chart)
    except OSError as error:
        return _refuse(f"{options.chart} cannot be written: {error.strerror}.")
    finally:
        _show(rows, as_json=options.json)
    return 0


def _refuse(why: str) -> int:
    sys.stderr.write(f"keepwarm simulate: {why}\n")
    return 2


def _replay_all(options: argparse.Namespace, rows: list[report.Row]) -> None:
    """Fill in the rows one by one, so that those that are done outlive an interruption."""
    if options.chart is not None:
        chart.require()
    trace = read_trace(options.trace, options.gaps, options.seed)
    of = dict(options.keep_alive_of)
    unknown = sorted(of.keys() - {function.name for function in trace.functions})
    if unknown:
        raise TraceError(f"--keep-alive-of {unknown[0]}: the trace has no function of that name.")
    cluster = ClusterSettings(
        options.nodes,
        options.cpu,
        options.memory,
        round(options.cold * SECOND_NS),
        round(options.build * SECOND_NS),
        round(options.network_delay * SECOND_NS),
    )
    for keep_alive_s in options.keep_alive or _KEEP_ALIVE_DEFAULT_S:
        with _progress(f"keep_alive {report.term_text(keep_alive_s)}", len(trace)) as progress:
            ledger = replay(trace, cluster, KeepAlive(keep_alive_s, of), progress=progress)
        rows.append(report.row_of(trace, ledger, keep_alive_s, cluster.delay_ns))


@contextmanager
def _progress(title: str, total: int) -> Iterator[Callable[[int], None] | None]:
    """A bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda done: bar.update(task, completed=done)


def _show(rows: list[report.Row], *, as_json: bool) -> None:
    if rows:
        sys.stdout.write(report.as_json(rows) if as_json else report.as_table(rows))
        sys.stdout.flush()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokenPipeError:
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
