"""What travels: arguments plainly or by value, results back under cloudpickle's own name; and names for culprits."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import functools
import io
import math
import pickle
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepwarm import Future, Options, isolated
from keepwarm.errors import ArgumentNotSerializable, FunctionNotSerializable, ResultNotLoadable
from keepwarm.pickling import CODEC, dumps_arguments, dumps_function, loads_result
from support.bare_process import call_in_bare_process

plain_data = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@dataclasses.dataclass
class Point:
    """A user's class."""

    x: int
    y: int


class Color(enum.Enum):
    """A user's enum."""

    RED = 1


class OddError(Exception):
    """A user's exception."""


def double(value: Any) -> Any:
    """Be a user's function."""
    return value * 2


class NotingUnpickler(pickle.Unpickler):
    """Notes the modules that a pickle names."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.modules: list[str] = []

    def find_class(self, module: str, name: str) -> Any:
        """Note and find."""
        self.modules.append(module)
        return super().find_class(module, name)


def test_codec_names_this_interpreter() -> None:
    """The tag is what the runner compares with its own."""
    assert f"cloudpickle:cp{sys.version_info[0]}{sys.version_info[1]}" == CODEC


@given(st.lists(plain_data, max_size=3), st.dictionaries(st.text(), plain_data, max_size=3))
def test_plain_data_needs_no_cloudpickle(args: list[Any], kwargs: dict[str, Any]) -> None:
    """Builtin data survives, in a pickle that any Python reads."""
    data = dumps_arguments(args, kwargs)
    unpickler = NotingUnpickler(io.BytesIO(data))
    assert unpickler.load() == (tuple(args), kwargs)
    assert not any("cloudpickle" in module for module in unpickler.modules)


def test_plain_arguments_do_not_import_cloudpickle() -> None:
    """A call with plain data and a plain result does without the import."""
    program = (
        "import sys; from keepwarm.pickling import dumps_arguments, loads_result;"
        "loads_result(dumps_arguments((1, 'a', [2.0, {3: b'c'}], {4}, range(5), 1j), {'d': (None, ...)}));"
        "assert 'cloudpickle' not in sys.modules;"
        "dumps_arguments((lambda: 1,), {}); assert 'cloudpickle' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    "value",
    [
        datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC),
        Path("a"),
        re.compile("a+"),
        Point(1, 2),
        Color.RED,
        [Point(1, 2), {"c": Color.RED}],
        functools.partial(double, 2),
        math.sqrt,
        OddError("odd"),
    ],
    ids=lambda value: re.sub(" at 0x[0-9a-f]+", "", repr(value)),
)
def test_other_values_arrive_where_nothing_is_installed(value: Any, tmp_path: Path) -> None:
    """Library types go by name, the user's by value; the result comes back as what was sent, classes the same."""
    function = dumps_function(lambda given: (given, type(given).__name__), None)
    arrived, (back, name) = loads_result(call_in_bare_process(tmp_path, function, dumps_arguments((value,), {})))
    assert arrived
    assert name == type(value).__name__
    assert type(back) is type(value)
    if not isinstance(value, functools.partial | OddError):
        assert back == value


def test_functions_as_arguments(tmp_path: Path) -> None:
    """A user's function, a lambda and a decorated function arrive as callables."""
    run = dumps_function(lambda functions: [function(2) for function in functions], None)
    arguments = dumps_arguments(([double, lambda value: value + 1, isolated(double)],), {})
    assert loads_result(call_in_bare_process(tmp_path, run, arguments)) == (True, [4, 3, 4])


def test_the_users_exception_type_comes_back(tmp_path: Path) -> None:
    """Raised there, where its module is not installed, it is the same class here."""

    def fail() -> None:
        raise OddError("odd", Point(1, 2))

    failed, error = loads_result(call_in_bare_process(tmp_path, dumps_function(fail, None)))
    assert not failed
    assert type(error) is OddError
    assert error.args == ("odd", Point(1, 2))


@given(st.lists(plain_data, max_size=3), st.dictionaries(st.text(), plain_data, max_size=3))
def test_the_quick_way_writes_the_same_bytes(args: list[Any], kwargs: dict[str, Any]) -> None:
    """Arguments that hold nothing else, and none at all, are pickled as any others are."""
    assert dumps_arguments(args, kwargs) == pickle.dumps((tuple(args), dict(kwargs)), 5)
    assert dumps_arguments((), {}) == pickle.dumps(((), {}), 5)


@pytest.mark.parametrize("size", [0, 1 << 20])
def test_the_private_name_is_understood_in_results_of_every_size(size: int) -> None:
    """Small ones are searched for it, large ones are not."""
    data = pickle.dumps(bytes(size), 3)[:-1] + b"c_keepwarm_cloudpickle\ndumps\n\x86."
    from cloudpickle import cloudpickle

    assert loads_result(data)[1] is cloudpickle.dumps


def test_classes_made_there_come_back(tmp_path: Path) -> None:
    """What only that process can name is sent by value with the private cloudpickle, whose names mean ours here."""

    def make() -> Any:
        class Local:
            def answer(self) -> int:
                return 42

        return Local()

    data = call_in_bare_process(tmp_path, dumps_function(make, None))
    assert b"_keepwarm_cloudpickle" in data
    assert loads_result(data)[1].answer() == 42


def test_setup_travels_with_the_function(tmp_path: Path) -> None:
    """The pair is one pickle, sharing what both refer to."""
    shared = {"key": "value"}
    data = dumps_function(lambda model, extra: (model is shared, extra), lambda: shared)
    assert loads_result(call_in_bare_process(tmp_path, data, dumps_arguments((3,), {}))) == (True, (True, 3))


def test_missing_module_for_a_result() -> None:
    """The error names the module and says what to do."""
    with pytest.raises(ResultNotLoadable, match=r"module 'no_such_module', which is not installed here. Install"):
        loads_result(b"cno_such_module\nThing\n.")


@pytest.mark.parametrize("data", [b"", b"garbage", pickle.dumps([1])[:-2], b"cbuiltins\nno_such_name\n."])
def test_broken_results(data: bytes) -> None:
    """Any trouble with the bytes is one kind of error."""
    with pytest.raises(ResultNotLoadable):
        loads_result(data)


class Locked:
    """Holds what cannot travel, deep inside."""

    def __init__(self) -> None:
        self.inner = {"deep": [1, threading.Lock()]}


class Refuses:
    """Raises its own error when it is pickled."""

    def __reduce__(self) -> str:
        raise ZeroDivisionError("not me")


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        (
            (1, threading.Lock()),
            {},
            r"argument 'lock' \(type _thread.lock\) of m:f cannot be sent: TypeError: cannot pickle",
        ),
        ((1, 2, threading.Lock()), {}, r"argument 3 \(type _thread.lock\)"),
        ((), {"key": threading.Lock()}, r"argument 'key' \(type _thread.lock\)"),
        (([0, {"a": threading.Lock()}],), {}, r"argument 'first'\[1\]\['a'\] \(type _thread.lock\)"),
        ((Locked(),), {}, r"argument 'first'\.inner\['deep'\]\[1\] \(type _thread.lock\)"),
        ((Refuses(),), {}, r"argument 'first' \(type .*Refuses\) of m:f cannot be sent: ZeroDivisionError: not me"),
        ((Future(),), {}, r"argument 'first' \(type keepwarm.futures.Future\).*use its result\(\)"),
        ((Options(),), {}, r"argument 'first' .*keepwarm is not installed where functions run"),
        ((Options,), {}, r"it refers to keepwarm.options.Options"),
    ],
)
def test_arguments_that_cannot_be_sent(args: tuple[Any, ...], kwargs: dict[str, Any], message: str) -> None:
    """The error names the argument, the path to the culprit, its type, and the reason."""
    with pytest.raises(ArgumentNotSerializable, match=message):
        dumps_arguments(args, kwargs, "m:f", ("first", "lock"))


def test_too_deep() -> None:
    """Endless nesting is an error of the argument, not a crash."""
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(ArgumentNotSerializable, match="too deeply"):
        dumps_arguments((nested,), {}, "m:f")


LOCK = threading.Lock()


def test_functions_that_cannot_be_sent() -> None:
    """The path leads through globals, closures, other functions, and the setup."""

    def uses_lock() -> None:
        LOCK.acquire()

    def outer() -> None:
        uses_lock()

    lock = threading.Lock()
    with pytest.raises(FunctionNotSerializable, match=r"function -> global 'LOCK' \(type _thread.lock\)"):
        dumps_function(uses_lock, None)
    with pytest.raises(FunctionNotSerializable, match=r"function -> variable 'uses_lock' -> global 'LOCK'"):
        dumps_function(outer, None)
    with pytest.raises(FunctionNotSerializable, match=r"setup -> variable 'lock'"):
        dumps_function(double, lambda: lock)
    with pytest.raises(
        FunctionNotSerializable, match=r"global 'Options' .*keepwarm is not installed where functions run"
    ):
        dumps_function(lambda: Options().spec(), None, "m:f")
