"""Turning payloads into objects and objects into payloads.

Rules:
- cloudpickle comes from the copy beside this file, under the name `_keepwarm_cloudpickle`. The user's environment may
  hold another version, which user code goes on importing as `cloudpickle`; the two never meet.
- A by-value pickle of another implementation or minor version is refused *before* it is read: unpickling one can crash
  the interpreter.
- Results are pickled plainly where that works. cloudpickle is the fallback, for what only this process can name.
- What cannot name cloudpickle, and results of the simplest types, take a shorter way to the same objects and bytes.
- What is over `INLINE_LIMIT_BYTES` goes to a file as it is pickled; it is never held in memory as a whole.
"""

from __future__ import annotations

import io
import os
import sys

from . import frames

try:
    import _pickle as fast_pickle  # `pickle` itself also imports `re`, which costs more than the rest of this module
except ImportError:  # pragma: no cover - PyPy
    import pickle as fast_pickle  # type: ignore[no-redef]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any, BinaryIO, List, Optional

    from .frames import Payload

__all__ = [
    "OWN_TAG",
    "OWN_PYTHON",
    "PROTOCOL",
    "PythonMismatchError",
    "SpoolError",
    "Sink",
    "dump",
    "dump_atom",
    "load",
    "fast_pickle",
    "private_cloudpickle",
    "require_own_python",
]

PRIVATE_NAME = "_keepwarm_cloudpickle"
PROTOCOL = 5
_PART = ".part"
_BY_VALUE_NAME = frames.CLOUDPICKLE_CODEC.encode()
"""In every pickle that needs cloudpickle, the user's or ours: both names hold it."""
_NONE = fast_pickle.dumps(None, PROTOCOL)

OWN_TAG = frames.codec_tag(sys.implementation.name, sys.version_info[0], sys.version_info[1])
OWN_PYTHON = "%d.%d" % sys.version_info[:2]


class PythonMismatchError(Exception):
    """A by-value pickle was made by another Python than this one."""


def require_own_python(codec: str) -> None:
    """Refuse a codec that this interpreter cannot read.

    Raises:
        PythonMismatchError: it is a by-value pickle of another implementation or minor version.
        ValueError: it is no codec the runner knows.
    """
    if codec in (frames.PICKLE_CODEC, OWN_TAG):
        return
    if not codec.startswith(frames.CLOUDPICKLE_CODEC + ":"):
        raise ValueError("unknown codec %r; this runner reads %r and %r" % (codec, frames.PICKLE_CODEC, OWN_TAG))
    raise PythonMismatchError(
        "the function was pickled by %s but its environment runs %s (Python %s). A function travels by value only "
        "between equal Python versions: ask for an environment of the caller's version, or run the caller with "
        "Python %s." % (codec, OWN_TAG, OWN_PYTHON, OWN_PYTHON)
    )


def private_cloudpickle() -> ModuleType:
    """The copy of cloudpickle beside this file, imported at its first use (about 40 ms)."""
    module = sys.modules.get(PRIVATE_NAME)
    if module is None:
        from importlib.machinery import PathFinder
        from importlib.util import module_from_spec

        spec = PathFinder.find_spec(PRIVATE_NAME, [os.path.dirname(os.path.abspath(__file__))])
        if spec is None or spec.loader is None:
            raise ImportError("the runner's copy of cloudpickle is missing: the agent must install its files again")
        module = sys.modules[PRIVATE_NAME] = module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[PRIVATE_NAME]
            raise
        _extend(module.CloudPickler.dispatch_table)
    return module


def _extend(dispatch_table: Any) -> None:
    """Add what cloudpickle lacks and the classes of a script hold: see the SDK's pickler, which sends them here."""
    import functools
    import typing

    dispatch_table[functools.cached_property] = _reduce_cached_property
    for name in ("NewType", "ParamSpec", "TypeVarTuple"):
        kind = getattr(typing, name, None)
        if isinstance(kind, type):  # NewType makes plain functions before Python 3.10
            dispatch_table[kind] = _reduce_named_kind


def _reduce_cached_property(value: Any) -> Any:
    """Without the lock that it holds before Python 3.12."""
    state = {name: item for name, item in vars(value).items() if name != "lock"}
    return type(value), (value.func,), state


def _reduce_named_kind(value: Any) -> Any:
    """What typing pickles as a name, which means nothing where no module has it: made anew instead."""
    supertype = getattr(value, "__supertype__", None)
    return type(value), (value.__name__,) if supertype is None else (value.__name__, supertype)


class _Unpickler(fast_pickle.Unpickler):
    """Reads any pickle; names of cloudpickle, the user's or ours, mean the private copy."""

    by_value = True

    def find_class(self, module: str, name: str) -> Any:
        package, dot, rest = module.partition(".")
        if package in (frames.CLOUDPICKLE_CODEC, PRIVATE_NAME):
            if not self.by_value:
                raise PythonMismatchError(
                    "arguments hold functions or classes by value, but the function came by reference: "
                    "they cannot be trusted to come from Python %s, which this environment runs." % OWN_PYTHON
                )
            private_cloudpickle()
            module = PRIVATE_NAME + dot + rest
        return super().find_class(module, name)


def load(payload: Payload, by_value: bool = True) -> Any:
    """The object in a payload. `by_value=False` refuses code: what is in the payload may be another Python's."""
    if isinstance(payload, frames.Stored):
        with open(payload.path, "rb") as file:
            return _load_from(file, by_value)
    if _BY_VALUE_NAME not in payload:
        return fast_pickle.loads(payload)  # `find_class` would change nothing
    return _load_from(io.BytesIO(payload), by_value)


def _load_from(file: BinaryIO, by_value: bool) -> Any:
    unpickler = _Unpickler(file)
    unpickler.by_value = by_value
    return unpickler.load()


class SpoolError(Exception):
    """A payload could not be written to the spool directory: the node's fault, not the function's."""


class Sink:
    """Collects a pickle in memory, and past the inline limit in a new file of the spool directory.

    End it with `finish` or `discard`, where no interruption can come.
    """

    __slots__ = ("_chunks", "_file", "_hash", "_name", "_path", "_size", "_spilled", "_spool")

    def __init__(self, spool: str, name: str) -> None:
        self._spool = spool
        self._name = name
        self._path = ""
        self._chunks: List[bytes] = []
        self._file: Optional[BinaryIO] = None
        self._spilled = False
        self._hash: Any = None
        self._size = 0

    def write(self, data: Any) -> int:
        """Called by a pickler; with an object's own memory if the object is large.

        Raises:
            SpoolError: the file cannot be written.
        """
        size = len(data) if type(data) is bytes else memoryview(data).nbytes
        self._size += size
        if self._size <= frames.INLINE_LIMIT_BYTES:
            self._chunks.append(bytes(data))
            return size
        try:
            file = self._file or self._spill()
            file.write(data)
        except OSError as error:
            raise SpoolError("a result of over %d bytes cannot be stored: %s" % (self._size, error)) from error
        self._hash.update(data)
        return size

    def _spill(self) -> BinaryIO:
        from hashlib import sha256

        self._spilled = True
        self._path = os.path.join(self._spool, self._name)
        descriptor = os.open(self._path + _PART, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        self._file, self._hash = open(descriptor, "wb"), sha256()  # noqa: SIM115 - closed by `finish` or `discard`
        for chunk in self._chunks:
            self._file.write(chunk)
            self._hash.update(chunk)
        self._chunks = []
        return self._file

    def reset(self) -> None:
        """Forget what was written; the next pickler starts anew."""
        self.discard()
        self._chunks, self._size = [], 0

    def finish(self) -> Payload:
        """The payload that was written.

        Raises:
            SpoolError: the file cannot be completed.
        """
        if self._file is None:
            return b"".join(self._chunks)
        try:
            self._file.close()
            os.rename(self._path + _PART, self._path)
        except OSError as error:
            raise SpoolError("a result of %d bytes cannot be stored: %s" % (self._size, error)) from error
        return frames.Stored(self._name, self._size, self._hash.digest())

    def discard(self) -> None:
        """Leave no file."""
        file, self._file = self._file, None
        if not self._spilled:
            return
        self._spilled = False
        try:
            os.unlink(self._path + _PART)
            if file is not None:
                file.close()
        except OSError:
            pass  # a full disk, or never created: there is nothing left to remove


def dump_atom(value: object) -> Optional[bytes]:
    """The plain pickle of a small value of the simplest types; None for any other, which takes a sink."""
    if value is None:
        return _NONE
    kind = type(value)
    if kind is str or kind is bytes:
        if len(value) > frames.INLINE_LIMIT_BYTES:  # type: ignore[arg-type]  # it has a length
            return None
    elif not (kind is int or kind is bool or kind is float):
        return None
    data = fast_pickle.dumps(value, PROTOCOL)
    return data if len(data) <= frames.INLINE_LIMIT_BYTES else None


def dump(value: object, sink: Sink) -> str:
    """Pickle a value into a sink: plainly if that works, else by value. Returns the codec.

    Raises:
        SpoolError: it could not be stored.
        Exception: whatever the attempt by value raised.
    """
    try:
        fast_pickle.Pickler(sink, PROTOCOL).dump(value)
        return frames.PICKLE_CODEC
    except SpoolError:
        raise
    except Exception:
        sink.reset()
    private_cloudpickle().CloudPickler(sink, protocol=PROTOCOL).dump(value)
    return OWN_TAG
