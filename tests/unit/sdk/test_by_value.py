"""By value: the user's modules and classes run where they are not installed; what is installed goes by name."""

from __future__ import annotations

import functools
import importlib
import pickletools
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, NamedTuple, NewType, ParamSpec, TypeVar

import cloudpickle
import pytest

from keepwarm import Future, isolated
from keepwarm.pickling import dumps_arguments, dumps_function, loads_result
from support.bare_process import call_in_bare_process

T = TypeVar("T")
Import = Callable[[str], ModuleType]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Import]:
    """Import modules of a user's project: a package with a submodule, and a module beside it."""
    files = {
        "kwproject/__init__.py": "from . import tools\nLIMIT = 3\n",
        "kwproject/tools.py": """
            import json, logging
            from keepwarm import isolated

            LOGGER = logging.getLogger("tools")

            class Box:
                items = [1]

                def __init__(self, value): self.value = value

                def double(self): return Box(self.value * 2)

            def encode(value): return json.dumps(value)

            @isolated(keep_alive=3)
            def work(value):
                from_helper = helper(value)
                return encode([from_helper, LOGGER.name])

            def helper(value): return Box(value).double().value
        """,
        "kwscript.py": """
            import kwproject
            import kwproject.tools
            from kwproject.tools import Box

            def through_module(value): return kwproject.tools.encode(kwproject.LIMIT + value)

            def with_class(value): return Box(value).double()
        """,
    }
    for name, text in files.items():
        path = tmp_path / "src" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    monkeypatch.syspath_prepend(tmp_path / "src")
    yield importlib.import_module
    for name in [name for name in sys.modules if name.startswith(("kwproject", "kwscript"))]:
        del sys.modules[name]


def run(folder: Path, function: Callable[..., Any], *args: Any) -> Any:
    """Return what a function returns in a process that has nothing installed."""
    returned, value = loads_result(
        call_in_bare_process(folder, dumps_function(function, None), dumps_arguments(args, {}))
    )
    assert returned, value
    return value


def modules_named(data: bytes) -> set[str]:
    """Return the modules that a pickle imports."""
    texts: list[str] = []
    found = set()
    for operation, argument, _ in pickletools.genops(data):
        if isinstance(argument, str):
            texts.append(argument)
        if operation.name == "STACK_GLOBAL":
            found.update(texts[-2:])  # the module is one of them, unless memoized before
    return found


def test_functions_of_imported_modules(project: Import, tmp_path: Path) -> None:
    """A decorated function in a package, with its helpers and classes, runs where the package does not exist."""
    work = project("kwproject.tools").work
    returned, value = loads_result(call_in_bare_process(tmp_path, work.prepared.payload, dumps_arguments((4,), {})))
    assert (returned, value) == (True, '[8, "tools"]')


def test_modules_as_globals(project: Import, tmp_path: Path) -> None:
    """A function that says `package.module.function()` takes the modules along, without what they have of keepwarm."""
    assert run(tmp_path, project("kwscript").through_module, 1) == "4"


def test_classes_come_back_as_the_same_class(project: Import, tmp_path: Path) -> None:
    """An instance made there is an instance here, although its class travelled both ways."""
    box = run(tmp_path, project("kwscript").with_class, 2)
    assert type(box) is project("kwproject.tools").Box
    assert box.value == 4


def test_instances_of_the_users_classes_as_arguments(project: Import, tmp_path: Path) -> None:
    """Arguments follow the same rule as functions."""
    box = project("kwproject.tools").Box(3)
    assert run(tmp_path, lambda given: given.double().value, box) == 6


class Pair(NamedTuple):
    """Has `__slots__`, empty ones, which may not be given when it is made."""

    left: int


class Slotted:
    """Of this module, so that it travels by value."""

    __slots__ = ("__hidden", "value")

    def __init__(self, value: int) -> None:
        self.value = value
        self.__hidden = value

    def doubled(self) -> Slotted:
        return type(self)(self.value + self.__hidden)


def double(slotted: Slotted) -> tuple[Slotted, bool]:
    doubled = slotted.doubled()
    return doubled, hasattr(doubled, "__dict__")


def test_classes_with_slots_keep_them_there_and_come_back(tmp_path: Path) -> None:
    """Without its slots, an instance would have a `__dict__` there, and could not be loaded here."""
    doubled, has_dict = run(tmp_path, double, Slotted(2))
    assert (type(doubled) is Slotted, doubled.value, has_dict) == (True, 4, False)


def widen(pair: Pair) -> Pair:
    return pair._replace(left=pair.left + 1)


def test_named_tuples_come_back_as_what_they_are(tmp_path: Path) -> None:
    widened = run(tmp_path, widen, Pair(1))
    assert (type(widened) is Pair, widened) == (True, Pair(2))


UserId = NewType("UserId", int)
P = ParamSpec("P")


class User(Generic[P]):
    """What typing would look up by name, and a property that holds a lock before Python 3.12."""

    def __init__(self, number: UserId) -> None:
        self.number = number

    @functools.cached_property
    def doubled(self) -> UserId:
        return UserId(self.number * 2)


User.number_type = UserId  # type: ignore[attr-defined]  # as a dataclass keeps the types of its fields


def double_number(user: User[...]) -> int:
    return user.doubled


def test_types_of_typing_and_cached_properties(tmp_path: Path) -> None:
    """Classes that hold them travel."""
    assert run(tmp_path, double_number, User(UserId(2))) == 4


def test_installed_modules_go_by_name() -> None:
    """The standard library and site-packages are named, never copied."""
    dedent, raises, dumps = textwrap.dedent, pytest.raises, cloudpickle.dumps
    data = dumps_function(lambda: (dedent, raises, dumps, Path, pytest), None)
    assert {"textwrap", "_pytest.raises", "pathlib"} <= modules_named(data)
    assert len(data) < 2_000


def test_no_registry_is_changed(project: Import) -> None:
    """cloudpickle's process-wide registry stays empty, and others' pickles stay as they were."""
    before = cloudpickle.dumps(project("kwproject.tools").Box)
    dumps_function(project("kwscript").with_class, None)
    assert cloudpickle.list_registry_pickle_by_value() == set()
    assert cloudpickle.dumps(project("kwproject.tools").Box) == before


def test_many_threads_at_once(project: Import) -> None:
    """Dumps do not disturb one another."""
    function = project("kwproject.tools").work
    wanted = dumps_function(function, None)
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(dumps_function(function, None))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [wanted] * 8


@functools.lru_cache(maxsize=100)
def fibonacci(number: int) -> int:
    """Call itself through its cache."""
    return number if number < 2 else fibonacci(number - 1) + fibonacci(number - 2)


def test_cached_functions(tmp_path: Path) -> None:
    """functools.lru_cache, recursion included, works there with its own parameters."""
    assert run(tmp_path, lambda: (fibonacci(50), fibonacci.cache_parameters()["maxsize"])) == (12586269025, 100)


class Stack(Generic[T]):
    """A generic class of the user's, with a type variable of its own."""

    def __init__(self) -> None:
        self.items: list[T] = []


def test_generic_classes(tmp_path: Path) -> None:
    """Type variables go by value with their module."""
    assert run(tmp_path, lambda: len(Stack[int]().items)) == 0


def test_annotations_of_what_is_called_stay_here(tmp_path: Path) -> None:
    """They would need their imports there; functions it refers to keep theirs, but for keepwarm's."""

    def helper(value: int, future: Any = None) -> int:
        return value

    def called(value: int) -> dict[str, Any]:
        return helper.__annotations__

    helper.__annotations__ = {"value": int, "future": Future[int], "other": Future}
    called.__annotations__ = {"value": Future[int]}
    assert run(tmp_path, called, 1) == {"value": int}
    assert called.__annotations__ == {"value": Future[int]}


def test_self_reference_is_one_function(tmp_path: Path) -> None:
    """A function that refers to its decorated self finds the very function that runs."""
    plain = is_itself.__wrapped__  # type: ignore[attr-defined]
    assert run(tmp_path, plain) is True


@isolated
def is_itself() -> bool:
    """Compare its global self with the function that runs."""
    import sys

    return is_itself.__code__ is sys._getframe().f_code  # type: ignore[attr-defined]
