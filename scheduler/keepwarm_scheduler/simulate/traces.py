"""Traces: which function was invoked when, for how long, and how much memory its process holds.

Two forms are read. A directory in the form of the Azure Functions 2019 trace (``inv.csv``, ``run.csv``, ``mem.csv``,
each also as ``.gz``): how often a function was invoked in each minute, its mean run time and its mean memory. And one
CSV file with ``time,function,duration`` in seconds and, if wanted, ``memory``; a header row may name the columns.

Rules: a row that cannot be read ends the reading with its file and line, it is never skipped. What is random is
random by a seed. A trace is ordered by time, and at equal times by its order in the file.
"""

import csv
import gzip
import math
import random
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TextIO

from keepwarm_scheduler.config import parse_size
from keepwarm_scheduler.core.config import MILLISECOND_NS, SECOND_NS

__all__ = ["GAPS", "Gaps", "Trace", "TraceError", "TraceFunction", "read_csv", "read_minutes", "read_trace", "trace_of"]

Gaps = Literal["minute", "jitter", "spread"]
GAPS: tuple[Gaps, ...] = ("minute", "jitter", "spread")
"""Where in its minute an invocation is put: all at its beginning; all of a function at one random instant of it; or
each at a random instant of its own."""

_MINUTE_NS = 60 * SECOND_NS
_MIB = 1 << 20
_ID_COLUMNS = ("HashFunction", "HashOwner", "HashApp")
_CSV_COLUMNS = ("time", "function", "duration", "memory")
_SECONDS_MAX = 10_000 * 86_400
_MEMORY_MAX_BYTES = 1 << 50


class TraceError(ValueError):
    """A trace that cannot be read: which file, which line, what is wrong, what to do."""


class TraceFunction(NamedTuple):
    """A function of a trace. ``memory_bytes`` is 0 where the trace does not say."""

    name: str
    memory_bytes: int


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Invocations in order of time: three arrays of one length. ``end_ns`` is how long was watched.

    ``functions_of`` holds indexes into ``functions``.
    """

    functions: tuple[TraceFunction, ...]
    times_ns: "array[int]"
    functions_of: "array[int]"
    durations_us: "array[int]"
    end_ns: int

    def __len__(self) -> int:
        return len(self.times_ns)


def read_trace(path: Path, gaps: Gaps = "spread", seed: int = 1) -> Trace:
    """Read a directory of minute counts, or a CSV file of single invocations.

    Args:
        path: the directory or file.
        gaps: where in its minute an invocation is put; a file of single invocations has no use for it.
        seed: of what is random in that.

    Raises:
        TraceError: there is nothing there, or a row cannot be read.
    """
    if path.is_dir():
        return read_minutes(path, gaps, seed)
    return read_csv(path)


# ---------------------------------------------------------------- single invocations


def read_csv(path: Path) -> Trace:
    """Read ``time,function,duration[,memory]``: seconds from the trace's beginning, a name, seconds, and a size.

    The memory of a function is the largest that any of its rows names.

    Raises:
        TraceError: as ``read_trace``.
    """
    names: dict[str, int] = {}
    memory: list[int] = []
    rows: list[tuple[int, int, int]] = []
    order: dict[str, int] | None = None
    for line, row in _rows(path):
        if order is None:
            titles = [title.strip().lower() for title in row]
            is_header = set(_CSV_COLUMNS[:3]) <= set(titles)
            columns = titles if is_header else list(_CSV_COLUMNS)
            order = {column: columns.index(column) for column in _CSV_COLUMNS if column in columns}
            if is_header:
                continue
        time_ns, name, duration_us, bytes_ = _csv_row(path, line, row, order)
        index = names.setdefault(name, len(names))
        if index == len(memory):
            memory.append(0)
        memory[index] = max(memory[index], bytes_)
        rows.append((time_ns, index, duration_us))
    if not rows:
        raise TraceError(f"{path}: no invocation in it. Each line is `time,function,duration`, in seconds.")
    functions = tuple(TraceFunction(name, memory[index]) for name, index in names.items())
    end_ns = max(time_ns + duration_us * 1_000 for time_ns, _, duration_us in rows)
    return trace_of(functions, rows, end_ns)


def _csv_row(path: Path, line: int, row: list[str], order: dict[str, int]) -> tuple[int, str, int, int]:
    try:
        time_s, duration_s = float(row[order["time"]]), float(row[order["duration"]])
        name = row[order["function"]].strip()
        size = row[order["memory"]].strip() if order.get("memory", len(row)) < len(row) else ""
        memory_bytes = parse_size(size) if size else 0
    except (ValueError, IndexError, KeyError) as error:
        raise TraceError(f"{path}:{line}: {_advice(error)} The row is {','.join(row)!r}.") from None
    if not (0 <= time_s <= _SECONDS_MAX and 0 <= duration_s <= _SECONDS_MAX and memory_bytes <= _MEMORY_MAX_BYTES):
        raise TraceError(f"{path}:{line}: time, duration and memory are from 0 up and finite, not {','.join(row)!r}.")
    if not name:
        raise TraceError(f"{path}:{line}: the function has no name. The row is {','.join(row)!r}.")
    return round(time_s * SECOND_NS), name, round(duration_s * 1_000_000), memory_bytes


def _advice(error: Exception) -> str:
    if "is not a size" in str(error):
        return str(error)
    return "a row is `time,function,duration` in seconds, and a memory size if wanted."


# ---------------------------------------------------------------- counts by minute


def read_minutes(directory: Path, gaps: Gaps = "spread", seed: int = 1, *, run_times: bool = True) -> Trace:
    """Read minute counts, mean run times and mean memory of functions. ``run_times=False``: all take no time.

    Raises:
        TraceError: as ``read_trace``.
    """
    durations_us = _by_function(directory, "run", "Average", MILLISECOND_NS // 1_000) if run_times else {}
    memory = _by_function(directory, "mem", "AverageAllocatedMb", _MIB)
    chooser = random.Random(seed)  # noqa: S311  # repeatable, not secret
    functions: list[TraceFunction] = []
    rows: list[tuple[int, int, int]] = []
    minutes = 0
    for name, counts in _minute_rows(_named(directory, "inv")):
        index, duration_us = len(functions), durations_us.get(name, 0)
        functions.append(TraceFunction(name, memory.get(name, 0)))
        minutes = max(minutes, len(counts))
        rows += [(time_ns, index, duration_us) for time_ns in _instants(counts, gaps, chooser)]
    if not rows:
        raise TraceError(f"{directory}: no invocation in its minute counts.")
    return trace_of(tuple(functions), rows, minutes * _MINUTE_NS)


def _instants(counts: list[int], gaps: Gaps, chooser: random.Random) -> Iterator[int]:
    for minute, count in enumerate(counts):
        begin_ns = minute * _MINUTE_NS
        if not count:
            continue
        if gaps == "spread":
            yield from (begin_ns + chooser.randrange(_MINUTE_NS) for _ in range(count))
        else:
            instant_ns = begin_ns + (chooser.randrange(_MINUTE_NS) if gaps == "jitter" else 0)
            yield from (instant_ns for _ in range(count))


def _minute_rows(path: Path) -> Iterator[tuple[str, list[int]]]:
    header: list[str] = []
    seen: set[str] = set()
    for line, row in _rows(path):
        if not header:
            header = row
            if tuple(row[:3]) != _ID_COLUMNS or len(row) < 4:
                raise TraceError(f"{path}:{line}: the header is {', '.join(_ID_COLUMNS)} and then the minutes.")
            continue
        try:
            counts = [int(count) for count in row[3:]]
        except ValueError:
            raise TraceError(f"{path}:{line}: the counts of a minute are whole numbers.") from None
        if len(row) != len(header) or min(counts) < 0:
            raise TraceError(f"{path}:{line}: a row has a count from 0 up for each of {len(header) - 3} minutes.")
        if row[0] in seen:
            raise TraceError(f"{path}:{line}: function {row[0]} has a row already.")
        seen.add(row[0])
        yield row[0], counts


def _by_function(directory: Path, stem: str, column: str, unit: int) -> dict[str, int]:
    """One column of a file, by function. Memory is told by app: here an app is a function."""
    path = _named(directory, stem)
    values: dict[str, int] = {}
    key_at = value_at = -1
    for line, row in _rows(path):
        if key_at < 0:
            keys = [name for name in ("HashFunction", "HashApp") if name in row]
            if not keys or column not in row:
                raise TraceError(f"{path}:{line}: the header names HashFunction or HashApp, and {column}.")
            key_at, value_at = row.index(keys[0]), row.index(column)
            continue
        try:
            value = float(row[value_at]) * unit
            name = row[key_at]
        except (ValueError, IndexError):
            raise TraceError(f"{path}:{line}: {column} is a number. The row is {','.join(row)[:200]!r}.") from None
        if not (0 <= value < math.inf):
            raise TraceError(f"{path}:{line}: {column} is from 0 up and finite.")
        values[name] = round(value)
    return values


# ---------------------------------------------------------------- files


def _named(directory: Path, stem: str) -> Path:
    for path in (directory / f"{stem}.csv", directory / f"{stem}.csv.gz"):
        if path.exists():
            return path
    raise TraceError(f"{directory}: neither {stem}.csv nor {stem}.csv.gz is there. Give a directory that has them.")


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV file with their line numbers, without empty lines."""
    try:
        with _open(path) as file:
            reader = csv.reader(file)
            for row in reader:
                if row and not (len(row) == 1 and not row[0].strip()):
                    yield reader.line_num, row
    except FileNotFoundError:
        raise TraceError(f"{path}: there is no such file or directory.") from None
    except (OSError, EOFError) as error:
        raise TraceError(f"{path}: cannot be read: {error}.") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise TraceError(f"{path}: is not a CSV file in UTF-8: {error}.") from None


def _open(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")


def trace_of(functions: tuple[TraceFunction, ...], rows: list[tuple[int, int, int]], end_ns: int) -> Trace:
    """A trace from rows of (time in ns, index of the function, run time in µs), in any order."""
    rows.sort(key=lambda row: row[0])
    return Trace(
        functions,
        array("q", [row[0] for row in rows]),
        array("l", [row[1] for row in rows]),
        array("q", [row[2] for row in rows]),
        end_ns,
    )
