"""The pickler for what exists on this machine only: the user's functions, classes and modules, as code.

Rules:
- A function, class or module of the user's goes by value, whatever its `__module__` says; what is installed goes by
  name. cloudpickle's registry of modules is left alone, so other threads and other users of it never notice; its
  tracker of classes is told the stable identity of the user's classes.
- Nothing of keepwarm may be in a pickle: it is not installed where functions run. A decorated function reduces itself
  to the plain one; a user's module goes without the names it imported from keepwarm; anything else is refused.
- Importing this module imports cloudpickle (13 ms): import it only inside functions.

It relies on parts of cloudpickle that are private but unchanged since its release 2; the tests would tell.
"""

from __future__ import annotations

import functools
import pickle
import typing
import weakref
from collections import ChainMap
from collections.abc import Callable
from types import FunctionType, MemberDescriptorType, ModuleType
from typing import IO, Any, ClassVar, Final, TypeVar

from cloudpickle import cloudpickle

from keepwarm.fingerprint import class_version, is_own_thing
from keepwarm.provenance import is_own_module, is_user_module

__all__ = ["ByValuePickler"]

# Module variables that describe the file on this machine, or are made anew by the import there.
_MODULE_NOISE: Final = frozenset({"__builtins__", "__cached__", "__loader__", "__spec__"})


class _Made:
    """An object that exists only in the pickle: when loaded, `function(*arguments)` is called in its place."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self._recipe = (function, arguments)

    def __call__(self) -> None:
        """Exist, for pickle wants a recipe to begin with something callable."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self._recipe


def _reduce_module(module: ModuleType) -> Any:
    if is_own_module(module.__name__):
        raise pickle.PicklingError(_refusal(module.__name__))
    if not is_user_module(module.__name__):
        return cloudpickle._module_reduce(module)
    values = {name: value for name, value in vars(module).items() if name not in _MODULE_NOISE}
    kept = {name: value for name, value in values.items() if not is_own_thing(value)}
    return cloudpickle.dynamic_subimport, (module.__name__, kept)


_identified: Final[weakref.WeakSet[type]] = weakref.WeakSet()


def _identify(kind: type) -> None:
    """Give a class the same identity in every run of the program.

    A process that is still warm from an earlier run has the classes of that run: theirs and ours must be one, there
    and when an instance or an exception comes back. cloudpickle's own identities are random, made anew in every run.
    """
    if kind in _identified:
        return
    version = class_version(kind)
    if version is not None:
        identity = version.hex()
        with cloudpickle._DYNAMIC_CLASS_TRACKER_LOCK:
            cloudpickle._DYNAMIC_CLASS_TRACKER_BY_CLASS[kind] = identity
            cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID[identity] = kind
    _identified.add(kind)


def _reduce_class(kind: type) -> Any:
    _identify(kind)
    recipe = cloudpickle._dynamic_class_reduce(kind)
    is_plain = recipe[0] is cloudpickle._make_skeleton_class and not issubclass(kind, tuple)
    if is_plain and "__slots__" in vars(kind):
        # Slots must be there when the class is made. cloudpickle sets them later, which leaves a class whose instances
        # have a __dict__, and whose instances the original class cannot load. A tuple's are always empty, and
        # NamedTuple refuses them.
        recipe[1][3]["__slots__"] = vars(kind)["__slots__"]
        members, _ = recipe[2]
        for name in [name for name, member in members.items() if type(member) is MemberDescriptorType]:
            del members[name]
    return recipe


def _reduce_type_variable(variable: TypeVar) -> Any:
    if is_user_module(str(variable.__module__)):
        return cloudpickle._make_typevar, cloudpickle._decompose_typevar(variable)
    return cloudpickle._typevar_reduce(variable)


def _reduce_cached_function(function: Any) -> Any:
    # functools answers "look it up by name", which fails where its module is not installed.
    inner = function.__wrapped__
    if not is_user_module(str(inner.__module__)):
        return function.__reduce__()
    parameters = function.cache_parameters()
    return _Made(functools.lru_cache, parameters["maxsize"], parameters["typed"]), (inner,)


def _reduce_cached_property(value: functools.cached_property[Any]) -> Any:
    # Until Python 3.12 it holds a lock, which cannot travel and is made anew.
    state = {name: item for name, item in vars(value).items() if name != "lock"}
    return functools.cached_property, (value.func,), state


_TYPING_RECIPES: Final[dict[type, Callable[[Any], tuple[object, ...]]]] = {
    typing.NewType: lambda value: (value.__name__, value.__supertype__),
    typing.ParamSpec: lambda value: (value.__name__,),
    typing.TypeVarTuple: lambda value: (value.__name__,),
}


def _reduce_typing(value: Any) -> Any:
    # typing answers "look it up by name", as functools does.
    if not is_user_module(str(value.__module__)):
        return value.__reduce__()
    return type(value), _TYPING_RECIPES[type(value)](value)


class ByValuePickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    """Pickles by value what is the user's. `roots` are the functions that will be called, not merely referred to."""

    dispatch_table: ClassVar[ChainMap[type, Callable[[Any], Any]]] = ChainMap(
        {
            ModuleType: _reduce_module,
            TypeVar: _reduce_type_variable,
            functools._lru_cache_wrapper: _reduce_cached_function,
            functools.cached_property: _reduce_cached_property,
            **dict.fromkeys(_TYPING_RECIPES, _reduce_typing),
        },
        *cloudpickle.Pickler.dispatch_table.maps,
    )

    def __init__(self, file: IO[bytes], protocol: int, roots: tuple[object, ...] = ()) -> None:
        super().__init__(file, protocol)
        self._roots = roots

    def reducer_override(self, value: Any) -> Any:
        """Called by pickle for everything but builtin data."""
        if not isinstance(value, type | FunctionType):
            return NotImplemented
        module_name = str(value.__module__)
        if is_own_module(module_name):
            raise pickle.PicklingError(_refusal(f"{module_name}.{value.__qualname__}"))
        if not is_user_module(module_name):
            recipe = super().reducer_override(value)
        elif isinstance(value, type):
            recipe = _reduce_class(value)
        else:
            recipe = self._dynamic_function_reduce(value)
        if isinstance(value, FunctionType) and isinstance(recipe, tuple):
            # The signature of what is called has served its purpose here; there it would only need the imports of
            # its annotations. Functions that are merely referred to keep theirs, but for what cannot travel.
            called = any(value is root for root in self._roots)
            recipe[2][1]["__annotations__"] = {} if called else _annotations(value)
        return recipe


def _annotations(function: FunctionType) -> dict[str, Any]:
    return {
        name: annotation
        for name, annotation in function.__annotations__.items()
        if not is_own_thing(getattr(annotation, "__origin__", annotation))
    }


def _refusal(name: str) -> str:
    return f"it refers to {name}, and keepwarm is not installed where functions run"
