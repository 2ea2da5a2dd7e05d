"""Describing an exception so that it can travel: texts that always do, and the pickled exception where that works.

Rules:
- Type name, message and traceback always travel, within limits, whatever the exception's own methods do.
- A pickled exception is sent only if it unpickles again here. It carries its chain (`__cause__`, `__context__`) but no
  traceback, and plain `pickle.loads` restores it: nothing of ours is needed at the other end.
- The traceback shows user code only, not the runner's frames.
"""

from __future__ import annotations

import os

from . import frames, serialization

TYPE_CHECKING = False
if TYPE_CHECKING:
    from traceback import TracebackException
    from typing import Any, List, NamedTuple, Tuple
else:
    NamedTuple = frames.NamedTuple

__all__ = ["KINDS", "KINDS_WITH_EXCEPTION", "NOTHING", "Description", "describe", "describe_barely", "dump_exception"]

USER_EXCEPTION = "user_exception"
SETUP_FAILED = "setup_failed"
PYTHON_MISMATCH = "python_mismatch"
FUNCTION_NOT_LOADED = "function_not_loaded"
FUNCTION_UNLOADABLE = "function_unloadable"
ARGUMENTS_UNLOADABLE = "arguments_unloadable"
RESULT_UNPICKLABLE = "result_unpicklable"
RESULT_NOT_STORED = "result_not_stored"
NOT_LENT = "not_lent"
CANCELLED = "cancelled"
TIMED_OUT = "timed_out"

KINDS = (
    USER_EXCEPTION,
    SETUP_FAILED,
    PYTHON_MISMATCH,
    FUNCTION_NOT_LOADED,
    FUNCTION_UNLOADABLE,
    ARGUMENTS_UNLOADABLE,
    RESULT_UNPICKLABLE,
    RESULT_NOT_STORED,
    NOT_LENT,
    CANCELLED,
    TIMED_OUT,
)

# Those whose exception may mean something to the caller; the others are raised by the runner itself.
KINDS_WITH_EXCEPTION = frozenset(
    (USER_EXCEPTION, SETUP_FAILED, FUNCTION_UNLOADABLE, ARGUMENTS_UNLOADABLE, RESULT_UNPICKLABLE)
)

_LOADING = (FUNCTION_UNLOADABLE, ARGUMENTS_UNLOADABLE)
_MODULE_HINT = (
    ". The environment of this function has no module %r: name the package that provides it in requirements=[...]"
)
_EXPLANATIONS = {
    FUNCTION_UNLOADABLE: "the function cannot be unpickled in its environment: %(type)s: %(message)s",
    ARGUMENTS_UNLOADABLE: "the arguments cannot be unpickled in the function's environment: %(type)s: %(message)s",
    RESULT_UNPICKLABLE: "the call ended but its result, a %(result_type)s, cannot be pickled: %(type)s: %(message)s",
}
_NAME_LIMIT_BYTES = 1024
_MESSAGE_LIMIT_BYTES = 16 * 1024
_TRACEBACK_LIMIT_BYTES = 64 * 1024
_OWN_DIRECTORY = os.path.dirname(os.path.abspath(__file__))


class Description(NamedTuple):
    """The texts of a failure, each within its limit."""

    type_name: str
    message: str
    traceback: str


NOTHING = Description("", "", "")


def _bounded(text: str, limit: int) -> str:
    """Cut out the middle of what is too long: a traceback's ends say the most. Lone surrogates become escapes."""
    raw = text.encode("utf-8", "backslashreplace")
    if len(raw) <= limit:
        return raw.decode("utf-8")
    notice = b"\n... %d bytes left out ...\n" % (len(raw) - limit)
    half = (limit - len(notice)) // 2
    return (raw[:half] + notice + raw[-half:]).decode("utf-8", "ignore")


def _type_name(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else "%s.%s" % (kind.__module__, kind.__qualname__)


def describe_barely(error: BaseException) -> Description:
    """A description that runs none of the exception's own code."""
    name = _bounded(_type_name(error), _NAME_LIMIT_BYTES)
    return Description(name, "", name + "\n")


def describe(error: BaseException, kind: str = USER_EXCEPTION, result_type: str = "") -> Description:
    """Type name, message, and the traceback as Python prints it, less the runner's own frames."""
    import traceback

    name = _bounded(_type_name(error), _NAME_LIMIT_BYTES)
    try:
        message = str(error)
    except Exception:
        message = "<the exception's __str__ failed>"
    try:
        summary = traceback.TracebackException(type(error), error, error.__traceback__)
        _hide_own_frames(summary)
        text = "".join(summary.format())
    except Exception:
        text = "%s: %s\n" % (name, message)
    message = _EXPLANATIONS.get(kind, "%(message)s") % {"message": message, "type": name, "result_type": result_type}
    if kind in _LOADING and isinstance(error, ModuleNotFoundError):
        message += _MODULE_HINT % (error.name or "?")
    return Description(name, _bounded(message, _MESSAGE_LIMIT_BYTES), _bounded(text, _TRACEBACK_LIMIT_BYTES))


def _hide_own_frames(summary: TracebackException) -> None:
    queue: List[Any] = [summary]
    seen = set()
    while queue:
        one = queue.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        one.stack[:] = [frame for frame in one.stack if not frame.filename.startswith(_OWN_DIRECTORY)]
        queue += [one.__cause__, one.__context__]
        queue += getattr(one, "exceptions", None) or []


def _reduce(error: object, chained: bool, by_new: bool) -> Any:
    """How an exception is pickled: as it says itself, with its chain added to its state.

    `by_new` makes it without calling `__init__`, which often does not accept the `args` that the exception kept.
    """
    if not isinstance(error, BaseException):
        return NotImplemented
    reduced = error.__reduce_ex__(serialization.PROTOCOL)
    if not _is_plain(error, reduced):
        return NotImplemented
    assert isinstance(reduced, tuple)
    state = dict(reduced[2] or {}) if len(reduced) == 3 else {}
    if chained:
        chain = {"__cause__": error.__cause__, "__context__": error.__context__}
        state.update((name, value) for name, value in chain.items() if value is not None)
        state["__suppress_context__"] = error.__suppress_context__  # last: setting a cause sets this too
    if by_new:
        import copyreg

        state["args"] = error.args
        return copyreg.__newobj__, (type(error), *error.args), state  # type: ignore[attr-defined]
    return (type(error), reduced[1], state) if state else (type(error), reduced[1])


def _is_plain(error: BaseException, reduced: object) -> bool:
    """Whether it is (class, args[, dict]) and its state is set attribute by attribute."""
    return (
        isinstance(reduced, tuple)
        and len(reduced) in (2, 3)
        and reduced[0] is type(error)
        and (len(reduced) == 2 or reduced[2] is None or isinstance(reduced[2], dict))
        and getattr(type(error), "__setstate__", None) is BaseException.__setstate__
    )


def _pickle_plainly(error: BaseException, file: Any, chained: bool, by_new: bool) -> str:
    class Pickler(serialization.fast_pickle.Pickler):
        def reducer_override(self, obj: object) -> Any:
            return _reduce(obj, chained, by_new)

    Pickler(file, serialization.PROTOCOL).dump(error)
    return frames.PICKLE_CODEC


def _pickle_by_value(error: BaseException, file: Any, chained: bool, by_new: bool) -> str:
    parent = serialization.private_cloudpickle().CloudPickler

    class Pickler(parent):  # type: ignore[misc,valid-type]
        def reducer_override(self, obj: object) -> Any:
            reduced = _reduce(obj, chained, by_new)
            return super().reducer_override(obj) if reduced is NotImplemented else reduced

    Pickler(file, protocol=serialization.PROTOCOL).dump(error)
    return serialization.OWN_TAG


_PICKLERS = (_pickle_plainly, _pickle_by_value)
_FORMS = ((True, False), (True, True), (False, False), (False, True))  # (chained, by_new), the most faithful first


def dump_exception(error: BaseException) -> Tuple[str, bytes]:
    """(codec, pickle) of an exception, or ("pickle", b"") if no form of it unpickles again."""
    import io

    for chained, by_new in _FORMS:
        for pickler in _PICKLERS:
            file = io.BytesIO()
            try:
                codec = pickler(error, file, chained, by_new)
                again = serialization.load(file.getvalue())
            except Exception:  # noqa: S112 - any failure means the next form; after the last, none travels
                continue
            if type(again) is type(error):
                return codec, file.getvalue()
    return frames.PICKLE_CODEC, b""
