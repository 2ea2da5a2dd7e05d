"""Traces: both forms are read as documented, and a row that cannot be read is named by file and line."""

import gzip
from pathlib import Path

import pytest

from keepwarm_scheduler.simulate.traces import GAPS, TraceError, TraceFunction, read_csv, read_minutes, read_trace

MINUTE_NS = 60_000_000_000
INV = "HashFunction,HashOwner,HashApp,1_minute,2_minute,3_minute\nf,o,a,2,0,1\ng,o,b,0,3,0\n"
RUN = "HashOwner,HashApp,HashFunction,Average,Count\no,a,f,1500,3\no,b,g,20,3\n"
MEM = "HashOwner,HashApp,SampleCount,AverageAllocatedMb\no,f,9,100\no,g,9,1.5\n"


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def minutes(folder: Path, inv: str = INV, run: str = RUN, mem: str = MEM) -> Path:
    for name, text in (("inv.csv", inv), ("run.csv", run), ("mem.csv", mem)):
        written(folder, name, text)
    return folder


def test_a_csv_without_a_header_is_read_in_the_documented_order(tmp_path: Path) -> None:
    """And sorted by time; the largest memory of a function counts."""
    trace = read_csv(written(tmp_path, "t.csv", "7.5,b,0.25\n\n1,a,2,100MiB\n3,a,0,200MiB\n"))
    assert trace.functions == (TraceFunction("b", 0), TraceFunction("a", 200 << 20))
    assert list(trace.times_ns) == [1_000_000_000, 3_000_000_000, 7_500_000_000]
    assert list(trace.functions_of) == [1, 1, 0]
    assert list(trace.durations_us) == [2_000_000, 0, 250_000]
    assert trace.end_ns == 7_750_000_000


def test_a_header_names_the_columns(tmp_path: Path) -> None:
    """In any order, with columns that mean nothing here."""
    trace = read_csv(written(tmp_path, "t.csv", "duration,user, Time ,function\n2,x,1,f\n"))
    assert (list(trace.times_ns), list(trace.durations_us)) == ([1_000_000_000], [2_000_000])
    assert trace.functions == (TraceFunction("f", 0),)


def test_a_function_may_be_called_time(tmp_path: Path) -> None:
    """The first row is a header only if it names all three columns."""
    trace = read_csv(written(tmp_path, "t.csv", "3,time,1\n"))
    assert (trace.functions, len(trace)) == ((TraceFunction("time", 0),), 1)


def test_a_compressed_csv_is_read_too(tmp_path: Path) -> None:
    """By its suffix."""
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(b"0,f,1\n"))
    assert len(read_trace(path)) == 1


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("soon,f,1", "a row is `time,function,duration`"),
        ("1,f", "a row is `time,function,duration`"),
        ("1,f,-1", "from 0 up"),
        ("nan,f,1", "from 0 up"),
        ("inf,f,1", "from 0 up"),
        ("1,,1", "has no name"),
        ("1,f,1,big", "is not a size"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path: Path, row: str, says: str) -> None:
    """With what it should have been."""
    path = written(tmp_path, "t.csv", f"0,f,1\n\n{row}\n")
    with pytest.raises(TraceError, match=says) as caught:
        read_csv(path)
    assert str(caught.value).startswith(f"{path}:3: ")


@pytest.mark.parametrize("text", ["", "time,function,duration\n", "\n\n"])
def test_a_csv_without_invocations_is_refused(tmp_path: Path, text: str) -> None:
    """It would answer nothing."""
    with pytest.raises(TraceError, match="no invocation in it"):
        read_csv(written(tmp_path, "t.csv", text))


def test_what_is_not_there_or_no_text_is_said_in_words(tmp_path: Path) -> None:
    """A missing file, a directory without the files, bytes that are no text, a cut archive."""
    with pytest.raises(TraceError, match="no such file"):
        read_trace(tmp_path / "none.csv")
    with pytest.raises(TraceError, match=r"neither run\.csv nor run\.csv\.gz"):
        read_trace(tmp_path)
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TraceError, match="not a CSV file in UTF-8"):
        read_trace(tmp_path / "b.csv")
    (tmp_path / "c.csv.gz").write_bytes(gzip.compress(b"0,f,1\n" * 1000)[:-12])
    with pytest.raises(TraceError, match="cannot be read"):
        read_trace(tmp_path / "c.csv.gz")


def test_minute_counts_with_all_calls_at_the_minutes_beginning(tmp_path: Path) -> None:
    """Run times are in ms and memory in MiB; the trace lasts as long as its minutes."""
    trace = read_minutes(minutes(tmp_path), "minute")
    assert trace.functions == (TraceFunction("f", 100 << 20), TraceFunction("g", 3 << 19))
    assert [time_ns // MINUTE_NS for time_ns in trace.times_ns] == [0, 0, 1, 1, 1, 2]
    assert not any(time_ns % MINUTE_NS for time_ns in trace.times_ns)
    assert list(trace.functions_of) == [0, 0, 1, 1, 1, 0]
    assert list(trace.durations_us) == [1_500_000, 1_500_000, 20_000, 20_000, 20_000, 1_500_000]
    assert trace.end_ns == 3 * MINUTE_NS


def test_without_run_times_all_calls_take_no_time(tmp_path: Path) -> None:
    """And the file of run times is not needed."""
    minutes(tmp_path)
    (tmp_path / "run.csv").unlink()
    assert set(read_minutes(tmp_path, "minute", run_times=False).durations_us) == {0}


def test_jitter_keeps_a_functions_minute_together_and_spread_does_not(tmp_path: Path) -> None:
    """Both stay within the minute, and both repeat by their seed."""
    minutes(tmp_path)
    for gaps, instants_of_g in (("jitter", 1), ("spread", 3)):
        traces = [read_minutes(tmp_path, gaps, seed) for seed in (1, 1, 2)]  # type: ignore[arg-type]
        times = [
            [time_ns for time_ns, index in zip(trace.times_ns, trace.functions_of, strict=True) if index == 1]
            for trace in traces
        ]
        assert all(MINUTE_NS <= time_ns < 2 * MINUTE_NS for each in times for time_ns in each)
        assert [len(set(each)) for each in times] == [instants_of_g] * 3
        assert times[0] == times[1] != times[2]
    assert set(GAPS) == {"minute", "jitter", "spread"}


@pytest.mark.parametrize(
    ("name", "text", "line", "says"),
    [
        ("inv.csv", "Name,1\nf,1\n", 1, "the header is"),
        ("inv.csv", INV + "h,o,a,1,x,1\n", 4, "whole numbers"),
        ("inv.csv", INV + "h,o,a,1\n", 4, "each of 3 minutes"),
        ("inv.csv", INV + "h,o,a,1,-1,0\n", 4, "each of 3 minutes"),
        ("inv.csv", INV + "f,o,a,1,1,1\n", 4, "has a row already"),
        ("run.csv", "HashFunction,Mean\nf,1\n", 1, "the header names"),
        ("run.csv", RUN + "o,a,h,slow,1\n", 4, "Average is a number"),
        ("run.csv", RUN + "o,a,h,-2,1\n", 4, "from 0 up"),
        ("mem.csv", MEM + "o,h\n", 4, "AverageAllocatedMb is a number"),
    ],
)
def test_a_bad_row_of_minute_counts_is_named_too(tmp_path: Path, name: str, text: str, line: int, says: str) -> None:
    """Whichever of the three files it is in."""
    minutes(tmp_path)
    path = written(tmp_path, name, text)
    with pytest.raises(TraceError, match=says) as caught:
        read_minutes(tmp_path)
    assert str(caught.value).startswith(f"{path}:{line}: ")


def test_minutes_without_any_invocation_are_refused(tmp_path: Path) -> None:
    """They would answer nothing."""
    with pytest.raises(TraceError, match="no invocation"):
        read_minutes(minutes(tmp_path, inv="HashFunction,HashOwner,HashApp,1\nf,o,a,0\n"))
