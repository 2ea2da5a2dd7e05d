"""Payloads: refused codecs, sinks that spill into files, files that are never left behind."""

import hashlib
import pickle
import threading
from pathlib import Path

import pytest

from keepwarm_worker.runner import frames, serialization
from keepwarm_worker.runner.serialization import OWN_TAG, PythonMismatchError, Sink, SpoolError


@pytest.mark.parametrize("codec", ["pickle", OWN_TAG])
def test_own_codecs_are_accepted(codec: str) -> None:
    """Plain pickles of any version, by-value ones of this."""
    serialization.require_own_python(codec)


@pytest.mark.parametrize("codec", ["cloudpickle:cp27", "cloudpickle:pp311", "cloudpickle:"])
def test_another_python_is_refused(codec: str) -> None:
    """Both sides are named."""
    with pytest.raises(PythonMismatchError, match=OWN_TAG) as caught:
        serialization.require_own_python(codec)
    assert codec in str(caught.value)


def test_an_unknown_codec_is_refused() -> None:
    """It is no question of versions."""
    with pytest.raises(ValueError, match="unknown codec"):
        serialization.require_own_python("json")


def test_a_small_value_stays_in_memory(tmp_path: Path) -> None:
    """No file is made."""
    sink = Sink(str(tmp_path), "result")
    assert serialization.dump([1, 2], sink) == "pickle"
    payload = sink.finish()
    assert isinstance(payload, bytes)
    assert serialization.load(payload) == [1, 2]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "value", [b"x" * 10**6, bytearray(10**6), list(range(50_000)), ["y" * 1000] * 100 + [b"z" * 70000]]
)
def test_a_large_value_goes_to_a_file(tmp_path: Path, value: object) -> None:
    """Private, complete, with its size and hash."""
    sink = Sink(str(tmp_path), "result")
    serialization.dump(value, sink)
    assert [path.name for path in tmp_path.iterdir()] == ["result.part"]
    payload = sink.finish()
    assert isinstance(payload, frames.Stored)
    path = tmp_path / payload.path
    data = path.read_bytes()
    assert (path.stat().st_mode & 0o777, len(data), hashlib.sha256(data).digest()) == (
        0o600,
        payload.size,
        payload.sha256,
    )
    assert serialization.load(frames.Stored(str(path), payload.size, payload.sha256)) == value
    assert [path.name for path in tmp_path.iterdir()] == ["result"]


def test_the_limit_is_exact(tmp_path: Path) -> None:
    """At the limit inline, a byte more in a file."""
    for size, kind in ((frames.INLINE_LIMIT_BYTES, bytes), (frames.INLINE_LIMIT_BYTES + 1, frames.Stored)):
        sink = Sink(str(tmp_path), "result")
        sink.write(bytes(size))
        assert isinstance(sink.finish(), kind)


def test_a_failed_pickle_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of it was in a file already; the second try begins anew."""
    monkeypatch.setattr(serialization, "private_cloudpickle", lambda: pickle)
    monkeypatch.setattr(pickle, "CloudPickler", pickle.Pickler, raising=False)
    sink = Sink(str(tmp_path), "result")
    with pytest.raises(TypeError, match="lock"):
        serialization.dump([b"x" * 10**6, threading.Lock()], sink)
    sink.discard()
    assert list(tmp_path.iterdir()) == []
    sink.reset()
    serialization.dump(1, sink)
    assert serialization.load(sink.finish()) == 1


def test_a_spool_that_cannot_be_written_is_its_own_error(tmp_path: Path) -> None:
    """Not mistaken for an unpicklable result, so not tried twice."""
    sink = Sink(str(tmp_path / "missing"), "result")
    with pytest.raises(SpoolError, match="cannot be stored"):
        serialization.dump(b"x" * 10**6, sink)
    sink.discard()


def test_a_link_in_the_spool_is_not_followed(tmp_path: Path) -> None:
    """User code may have put it there."""
    precious = tmp_path / "precious"
    precious.write_bytes(b"keep me")
    (tmp_path / "result.part").symlink_to(precious)
    with pytest.raises(SpoolError):
        Sink(str(tmp_path), "result").write(bytes(10**6))
    assert precious.read_bytes() == b"keep me"


def test_names_of_cloudpickle_are_refused_where_code_may_not_come() -> None:
    """Under both names, before anything is imported."""
    for module in ("cloudpickle", "cloudpickle.cloudpickle", "_keepwarm_cloudpickle.cloudpickle"):
        data = f"c{module}\nsubimport\n.".encode()
        with pytest.raises(PythonMismatchError):
            serialization.load(data, by_value=False)


def test_packages_with_a_similar_name_are_left_alone() -> None:
    """Only cloudpickle itself is mapped."""
    with pytest.raises(ModuleNotFoundError, match="cloudpickle_extras"):
        serialization.load(b"ccloudpickle_extras\nthing\n.")


@pytest.mark.parametrize("value", [None, True, False, 0, -7, 2**70, 1.5, "text", "\ud800", b"bytes", "x" * 1000])
def test_an_atom_is_pickled_as_any_value_is(value: object, tmp_path: Path) -> None:
    """The short way gives what the long way gives."""
    sink = Sink(str(tmp_path), "result")
    assert serialization.dump(value, sink) == "pickle"
    assert serialization.dump_atom(value) == sink.finish()


@pytest.mark.parametrize(
    "value", ["x" * 65_536, "\u20ac" * 30_000, b"x" * 65_536, [], (), {}, 1j, type("Text", (str,), {})("x")]
)
def test_what_is_large_or_no_atom_takes_a_sink(value: object) -> None:
    """A pickle of more than the inline limit, or of what may hold anything."""
    assert serialization.dump_atom(value) is None


def test_a_huge_integer_takes_a_sink() -> None:
    """Its pickle is as long as a text's."""
    assert serialization.dump_atom(1 << 600_000) is None
