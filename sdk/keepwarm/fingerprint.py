"""The version of a function: 32 bytes that change when what it does changes, and not when the program merely restarts.

Hashed: bytecode, constants, names, defaults, captured variables, and every global the code refers to, following the
user's own functions, classes and modules. Not hashed: line numbers, file names, annotations; so moving a function or
editing a comment changes nothing. What is installed is hashed by name: its version belongs to the environment.

Rules:
- The hash depends on no address, hash seed or order of a set. Order of dicts and lists does count: code sees it.
- What has no canonical form here is hashed by its pickle's recipe (`__reduce_ex__`); where that fails too, the version
  is the hash of the whole payload: always safe, though a restart may then look like a change.
- Every field is written with its length, so that different structures never write the same bytes.
"""

from __future__ import annotations

import copyreg
import dis
import functools
import hashlib
import struct
import sys
from collections.abc import Callable, Iterable
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MappingProxyType,
    MemberDescriptorType,
    ModuleType,
)
from typing import Any, Final, cast

from keepwarm.provenance import is_own_module, is_user_module

__all__ = ["class_version", "function_version", "global_names", "is_own_thing"]

# The rules above, numbered: part of every hash, so that a change of rules is a change of version.
RULES: Final = b"keepwarm function version 1"

# Of a class: made by the interpreter or by copyreg, or saying where it was written.
_CLASS_NOISE: Final = frozenset(
    {
        "__dict__",
        "__weakref__",
        "__module__",
        "__annotations__",
        "__annotate_func__",
        "__annotations_cache__",
        "__abstractmethods__",
        "_abc_impl",
        "__firstlineno__",
        "__static_attributes__",
        "__slotnames__",
    }
)
_GLOBAL_OPERATIONS: Final = frozenset({"LOAD_GLOBAL", "STORE_GLOBAL", "DELETE_GLOBAL", "LOAD_NAME"})


class _NotCanonicalError(Exception):
    """Something on the way has no canonical form."""


def function_version(function: Callable[..., Any], setup: Callable[..., Any] | None, payload: bytes) -> bytes:
    """Return the 32-byte version of a function with its setup; `payload` is its pickle, the fallback."""
    writer = _Writer()
    try:
        writer.write(function)
        writer.write(setup)
    except (_NotCanonicalError, RecursionError):
        return hashlib.sha256(RULES + b"payload" + payload).digest()
    return writer.digest()


def class_version(kind: type) -> bytes | None:
    """Return 32 bytes that are the same in every run while a class of the user's is; None where that cannot be told."""
    writer = _Writer()
    try:
        writer.write((kind.__module__, kind))
    except (_NotCanonicalError, RecursionError):
        return None
    return writer.digest()


def global_names(code: CodeType) -> dict[str, None]:
    """Return the global names that code refers to, nested functions included, in order of appearance."""
    names: dict[str, None] = {}
    for instruction in dis.get_instructions(code):
        if instruction.opname in _GLOBAL_OPERATIONS:
            names[instruction.argval] = None
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names.update(global_names(constant))
    return names


class _Writer:
    """Feeds one hash with the canonical form of values; each object once, then by its number."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256(RULES)
        self._numbers: dict[int, int] = {}
        self._kept: list[object] = []  # ids stay unique only while their objects live

    def digest(self) -> bytes:
        return self._hash.digest()

    def write(self, value: object) -> None:
        atom = _ATOMS.get(type(value))
        if atom is not None:
            self._put(type(value).__name__, atom(value))
            return
        writer = _WRITERS.get(type(value))
        if writer is not None and type(value) in _BY_VALUE:
            writer(self, value)
            return
        number = self._numbers.get(id(value))
        if number is not None:
            self._put("again", str(number).encode())
            return
        self._numbers[id(value)] = len(self._numbers)
        self._kept.append(value)
        if writer is not None:
            writer(self, value)
        elif isinstance(value, type):
            self._write_class(value)
        else:
            self._write_recipe(value)

    def _put(self, tag: str, data: bytes = b"") -> None:
        self._hash.update(struct.pack(">B", len(tag)) + tag.encode() + struct.pack(">Q", len(data)))
        self._hash.update(data)

    def _sequence(self, tag: str, values: Iterable[object]) -> None:
        items = list(values)
        self._put(tag, str(len(items)).encode())
        for item in items:
            self.write(item)

    def _write_list(self, value: Any) -> None:
        self._sequence(type(value).__name__, value)

    def _write_set(self, value: Any) -> None:
        digests = []
        for item in value:
            writer = _Writer()
            writer.write(item)
            digests.append(writer.digest())
        self._put("set", b"".join(sorted(digests)))

    def _write_dict(self, value: Any) -> None:
        self._put("dict", str(len(value)).encode())
        for key, item in value.items():
            self.write(key)
            self.write(item)

    def _write_code(self, code: Any) -> None:
        numbers = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
        names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
        table = getattr(code, "co_exceptiontable", b"")
        self._sequence("code", (code.co_name, numbers, code.co_code, table, names, code.co_consts))

    def _write_function(self, function: Any) -> None:
        if not is_user_module(str(function.__module__)) and _is_importable(function):
            self._put("installed", f"{function.__module__}:{function.__qualname__}".encode())
            return
        values = function.__globals__
        self._sequence("function", (function.__name__, function.__code__, function.__defaults__))
        self.write(function.__kwdefaults__)
        self.write(function.__dict__)
        self._sequence("captured", map(_cell_contents, function.__closure__ or ()))
        for name in sorted(global_names(function.__code__)):
            # A name bound nowhere yet is a builtin, or missing: there is no value to hash.
            if name in values:
                self._put("global", name.encode())
                self.write(values[name])

    def _write_module(self, module: Any) -> None:
        if not is_user_module(module.__name__):
            self._put("installed", module.__name__.encode())
            return
        values = {name: value for name, value in sorted(vars(module).items()) if not name.startswith("__")}
        self._put("module", module.__name__.encode())
        self._write_dict({name: value for name, value in values.items() if not is_own_thing(value)})

    def _write_class(self, kind: type) -> None:
        if not is_user_module(kind.__module__):
            self._put("installed", f"{kind.__module__}:{kind.__qualname__}".encode())
            return
        values = {name: value for name, value in sorted(vars(kind).items()) if name not in _CLASS_NOISE}
        self._sequence("class", (kind.__qualname__, kind.__bases__, type(kind)))
        members = {n: v for n, v in values.items() if type(v) not in (GetSetDescriptorType, MemberDescriptorType)}
        self._write_dict(members)

    def _write_builtin(self, value: Any) -> None:
        owner = value.__self__
        if owner is None or isinstance(owner, ModuleType):
            self._put("installed", f"{value.__module__}:{value.__qualname__}".encode())
        else:
            self._sequence("bound", (value.__name__, owner))

    def _write_wrapper(self, value: Any) -> None:
        self._sequence(type(value).__name__, (value.__func__,))

    def _write_cached_property(self, value: Any) -> None:
        self._sequence("cached property", (value.func, value.attrname))

    def _write_property(self, value: Any) -> None:
        self._sequence("property", (value.fget, value.fset, value.fdel))

    def _write_recipe(self, value: object) -> None:
        if isinstance(value, set | frozenset):  # a subclass: its recipe would list the items in hash order
            self._sequence("set of", (type(value), getattr(value, "__dict__", None)))
            self._write_set(value)
            return
        registered = copyreg.dispatch_table.get(type(value))
        try:
            recipe = registered(value) if registered else value.__reduce_ex__(5)
        except Exception as error:
            raise _NotCanonicalError from error
        if isinstance(recipe, str):  # an object known by its name, as a function under functools.lru_cache
            inner = getattr(value, "__wrapped__", None)
            self._sequence("named", (recipe, inner))
            return
        function, arguments, *rest = recipe
        state, items, pairs = ([*rest, None, None, None])[:3]
        self._sequence("recipe", (function, arguments, state))
        self._sequence("items", items or ())
        self._sequence("pairs", pairs or ())


def is_own_thing(value: object) -> bool:
    """Return whether a value is a function, class or module of keepwarm itself (not something made with them)."""
    if isinstance(value, ModuleType):
        return is_own_module(value.__name__)
    return isinstance(value, FunctionType | type) and is_own_module(str(value.__module__))


def _is_importable(function: FunctionType) -> bool:
    found: object = sys.modules.get(function.__module__)
    for name in function.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is function


def _cell_contents(cell: Any) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return _Unassigned


class _Unassigned:
    """Stands for a captured variable without a value."""


def _text(value: Any) -> bytes:
    return cast(str, value).encode("utf-8", "surrogatepass")


_ATOMS: Final[dict[type, Callable[[Any], bytes]]] = {
    type(None): lambda _: b"",
    type(...): lambda _: b"",
    bool: lambda value: repr(value).encode(),
    int: lambda value: hex(value).encode(),  # in decimal, huge ones are refused
    float: lambda value: struct.pack(">d", value),
    complex: lambda value: struct.pack(">dd", value.real, value.imag),
    str: _text,
    bytes: bytes,
    bytearray: bytes,
}

# Immutable: whether two of them are one object is the compiler's choice, so they are written each time.
_BY_VALUE: Final = frozenset({tuple, frozenset, CodeType, BuiltinFunctionType})

_WRITERS: Final[dict[type, Callable[[_Writer, Any], None]]] = {
    tuple: _Writer._write_list,
    list: _Writer._write_list,
    set: _Writer._write_set,
    frozenset: _Writer._write_set,
    dict: _Writer._write_dict,
    MappingProxyType: _Writer._write_dict,
    CodeType: _Writer._write_code,
    FunctionType: _Writer._write_function,
    BuiltinFunctionType: _Writer._write_builtin,
    ModuleType: _Writer._write_module,
    staticmethod: _Writer._write_wrapper,
    classmethod: _Writer._write_wrapper,
    property: _Writer._write_property,
    functools.cached_property: _Writer._write_cached_property,
}
