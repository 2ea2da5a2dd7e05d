"""What travels, and how: functions by value, arguments plainly where that is enough, results back.

Rules:
- What is the user's travels by value (`by_value` says how), what is installed by name, and nothing of keepwarm at all.
- Remote processes write cloudpickle's names as `_keepwarm_cloudpickle`; here they mean cloudpickle again.
- cloudpickle costs 13 ms to import: the first function does that, plain arguments and results do not.
- Bytes from a peer are unpickled by `loads_result` only.
"""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import IO, Any, Final

from keepwarm.errors import ArgumentNotSerializable, FunctionNotSerializable, ResultNotLoadable
from keepwarm.fingerprint import function_version
from keepwarm.interruptions import is_the_programs

__all__ = ["CODEC", "dumps_arguments", "dumps_function", "function_version", "loads_result"]

PROTOCOL: Final = 5
REMOTE_CLOUDPICKLE: Final = "_keepwarm_cloudpickle"
_IMPLEMENTATIONS: Final = {"cpython": "cp", "pypy": "pp"}

CODEC: Final = "cloudpickle:{}{}{}".format(
    _IMPLEMENTATIONS.get(sys.implementation.name, sys.implementation.name), *sys.version_info[:2]
)
"""The codec tag of functions pickled here: only the same implementation and minor version can load them."""

_NO_ARGUMENTS: Final = pickle.dumps(((), {}), PROTOCOL)
_ATOMS: Final = frozenset({int, float, str, bytes, bool, type(None)})
"""What holds nothing else: arguments of these types alone need no look inside."""

_PLAIN_RESULT_BYTES_MAX: Final = 64 * 1024
"""Results up to this size are searched for a name of cloudpickle's, which is cheaper than to be asked for each."""

_REMOTE_NAME: Final = REMOTE_CLOUDPICKLE.encode()
_PLAIN_INSTANCES: Final = frozenset({complex, range, slice, type(...), type(NotImplemented)})


def dumps_function(function: Callable[..., Any], setup: Callable[..., Any] | None, name: str = "") -> bytes:
    """Return the pickle of `(function, setup)`, by value; `name` is only for the message.

    Raises FunctionNotSerializable with the path to what cannot travel.
    """
    try:
        return _dumps_by_value((function, setup), roots=(function, setup))
    except Exception as error:
        if is_the_programs(error):
            raise
        label = name or getattr(function, "__qualname__", repr(function))
        from keepwarm.culprit import find_culprit

        at_fault: tuple[object, str] = (function, "function")
        if setup is not None and _can_dump_root(function):
            at_fault = (setup, "setup")
        culprit = find_culprit(*at_fault, _can_dump)
        raise FunctionNotSerializable(f"{label} cannot be sent: {culprit}: {_reason(error)}") from error


def dumps_arguments(
    args: Sequence[Any], kwargs: Mapping[str, Any], name: str = "", parameters: Sequence[str] = ()
) -> bytes:
    """Return the pickle of `(args, kwargs)`: a plain one for builtin data, else by value where needed.

    `name` is the function's and `parameters` the names of its positional parameters, both only for the message.
    Raises ArgumentNotSerializable, which names the argument and the path to the culprit inside it.
    """
    if not args and not kwargs:
        return _NO_ARGUMENTS
    arguments = (tuple(args), dict(kwargs))
    if _ATOMS.issuperset(map(type, args)) and _ATOMS.issuperset(map(type, kwargs.values())):
        return pickle.dumps(arguments, PROTOCOL)
    with io.BytesIO() as file:
        try:
            _PlainPickler(file, PROTOCOL).dump(arguments)
            return file.getvalue()
        except _NotPlainError:
            pass
        except RecursionError as error:
            raise ArgumentNotSerializable(f"the arguments of {name} are nested too deeply to be sent") from error
    try:
        return _dumps_by_value(arguments)
    except Exception as error:
        if is_the_programs(error):
            raise
        from keepwarm.culprit import find_culprit

        named = [(parameters[i] if i < len(parameters) else i + 1, value) for i, value in enumerate(args)]
        for label, value in [*named, *kwargs.items()]:
            if not _can_dump(value):
                culprit = find_culprit(value, f"argument {label!r}", _can_dump)
                raise ArgumentNotSerializable(f"{culprit} of {name} cannot be sent: {_reason(error)}") from error
        raise ArgumentNotSerializable(f"the arguments of {name} cannot be sent: {_reason(error)}") from error


def loads_result(data: bytes) -> Any:
    """Return the object that a remote process pickled.

    Raises ResultNotLoadable when this program lacks a module for it, or its own unpickling fails.
    """
    try:
        if len(data) <= _PLAIN_RESULT_BYTES_MAX and _REMOTE_NAME not in data:
            return pickle.loads(data)  # noqa: S301  # as below: it names nothing that would mean something else here
        return _ResultUnpickler(io.BytesIO(data)).load()
    except ModuleNotFoundError as error:
        raise ResultNotLoadable(f"the result needs the module {error.name!r}, which is not installed here") from error
    except Exception as error:
        if is_the_programs(error):
            raise
        raise ResultNotLoadable(f"the result cannot be loaded here: {_reason(error)}") from error


class _NotPlainError(Exception):
    """There is more in it than builtin data."""


class _PlainPickler(pickle.Pickler):
    """Pickles builtin data at full speed: this hook is called only for what is not."""

    def reducer_override(self, value: Any) -> Any:
        if type(value) in _PLAIN_INSTANCES or value in _PLAIN_CLASSES:
            return NotImplemented
        raise _NotPlainError


class _PlainClasses:
    """The classes that recipes of plain instances name. Compared by identity: `==` of a stranger may do anything."""

    def __contains__(self, value: object) -> bool:
        return any(value is kind for kind in _PLAIN_INSTANCES)


_PLAIN_CLASSES: Final = _PlainClasses()


class _ResultUnpickler(pickle.Unpickler):
    """Reads pickles whose cloudpickle is the runner's private copy.

    A class comes with its definition. Where that is a class of this program, the program's own is meant, and stays as
    it is: cloudpickle would replace its methods and attributes by what they were at the other end.
    """

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self._new_classes: list[type] = []

    def find_class(self, module_name: str, global_name: str) -> Any:
        if module_name.partition(".")[0] != REMOTE_CLOUDPICKLE:
            return super().find_class(module_name, global_name)
        found = super().find_class("cloudpickle.cloudpickle", global_name)
        if global_name in ("_make_skeleton_class", "_make_skeleton_enum"):
            return partial(self._make_class, found)
        if global_name == "_class_setstate":
            return partial(self._complete_class, found)
        return found

    def _make_class(self, make: Callable[..., type], *arguments: Any) -> type:
        from cloudpickle import cloudpickle

        *_, identity, _extra = arguments
        kind: type | None = cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.get(identity)
        if kind is None:
            kind = make(*arguments)
            self._new_classes.append(kind)
        return kind

    def _complete_class(self, complete: Callable[[type, Any], type], kind: type, state: Any) -> type:
        return complete(kind, state) if any(kind is new for new in self._new_classes) else kind


def _dumps_by_value(value: object, roots: tuple[object, ...] = ()) -> bytes:
    from keepwarm.by_value import ByValuePickler

    with io.BytesIO() as file:
        ByValuePickler(file, PROTOCOL, roots).dump(value)
        return file.getvalue()


def _can_dump(value: object) -> bool:
    try:
        _dumps_by_value(value)
    except Exception:
        return False
    return True


def _can_dump_root(value: object) -> bool:
    try:
        _dumps_by_value(value, roots=(value,))
    except Exception:
        return False
    return True


def _reason(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
