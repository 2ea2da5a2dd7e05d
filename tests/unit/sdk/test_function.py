"""A decorated function in use: called, submitted, mapped, run here, changed, and referred to by other functions."""

from __future__ import annotations

import copy
import inspect
import itertools
import pickle
import pickletools
from collections.abc import Iterator
from typing import Any

import cloudpickle
import pytest

from keepwarm import isolated
from keepwarm.errors import ArgumentNotSerializable, CallCancelled, FunctionNotSerializable, OptionError, TooManyCalls
from keepwarm.function import IsolatedFunction
from keepwarm.futures import Future
from keepwarm.pickling import CODEC
from support.forking import works_in_a_child
from support.loopback import LoopbackClient


@pytest.fixture
def client(loopback: LoopbackClient) -> LoopbackClient:
    return loopback


@isolated
def square(number: int) -> int:
    """Square it."""
    if number < 0:
        raise ValueError(number)
    return number * number


@isolated(keep_alive=60, requirements=["six"])
async def later(number: int) -> int:
    """Be awaited there."""
    return number + 1


def load_model() -> list[str]:
    """Be the setup."""
    return ["model"]


@isolated(setup=load_model)
def predict(model: list[str], text: str, *, times: int = 1) -> str:
    """Use the setup's value."""
    model.append(text)
    return f"{model[0]}:{text * times}:{len(model)}"


@isolated
def factorial(number: int) -> int:
    """Call itself, by its decorated name."""
    return 1 if number < 2 else number * factorial(number - 1)


@isolated
def combine(number: int) -> tuple[int, str, str]:
    """Call two other decorated functions, one with a setup, twice."""
    return factorial(number), predict("a"), predict("b")


def test_a_call_is_submit_wait_result(client: LoopbackClient) -> None:
    """The value comes back; keyword arguments and coroutines too; exceptions are the function's own."""
    assert square(7) == 49
    assert square(number=3) == 9
    assert later(1) == 2
    with pytest.raises(ValueError, match="-1"):
        square(-1)


def test_submit(client: LoopbackClient) -> None:
    """It returns at once, with a future that knows the function's name."""
    future = square.submit(4)
    assert not future.done()
    assert "test_function:square" in repr(future)
    assert future.result() == 16


def test_ctrl_c_cancels_that_call(client: LoopbackClient) -> None:
    """The interrupt goes on to the caller, and the call does not go on without it."""
    client.interrupt_waits = True
    other = square.submit(1)
    with pytest.raises(KeyboardInterrupt):
        square(2)
    assert client.cancelled == [client.submitted[-1]]
    assert not other.done()


def test_an_argument_may_be_called_self(client: LoopbackClient) -> None:
    """As in a record that is passed on with `**`."""
    given = isolated(lambda **options: options)
    for call in (given, given.local, lambda **options: given.submit(**options).result()):
        assert call(self=1, function=2) == {"self": 1, "function": 2}


def test_setup_value_is_the_first_argument(client: LoopbackClient) -> None:
    """Callers do not pass it, nor see it in the signature."""
    assert predict("x", times=2) == "model:xx:2"
    assert str(inspect.signature(predict)) == "(text: 'str', *, times: 'int' = 1) -> 'str'"


def test_local(client: LoopbackClient) -> None:
    """Local runs use neither client nor pickle; the setup runs once and is kept."""
    assert square.local(5) == 25
    assert later.local(1) == 2
    fresh = predict.on(keep_alive=1)
    assert predict.local("x") == "model:x:2"
    assert fresh.local("y") == "model:y:3", "the same setup, the same value"
    assert predict.on(setup=lambda: ["other"]).local("z") == "other:z:2"
    assert client.submitted == []


def test_functions_that_call_decorated_functions(client: LoopbackClient) -> None:
    """Inside the process they are plain functions: itself, others, and those with a setup, which runs once."""
    assert factorial(5) == 120
    assert combine(3) == (6, "model:a:2", "model:b:3")
    assert len(client.submitted) == 2, "nothing but the two calls made here went through the client"


def test_decorated_functions_as_arguments(client: LoopbackClient) -> None:
    """A decorated function passed along arrives as the plain one."""

    @isolated
    def apply(function: Any, value: int) -> Any:
        return function(value), type(function).__name__

    assert apply(square, 3) == (9, "function")


@pytest.mark.parametrize("function", [square, later, predict, factorial, combine])
def test_nothing_of_keepwarm_travels(function: IsolatedFunction[Any, Any]) -> None:
    """No module of ours is named in the pickle; one made by the user with cloudpickle gives a plain function too."""
    texts = [text for _, text, _ in pickletools.genops(function.prepared.payload) if isinstance(text, str)]
    assert [text for text in texts if text.partition(".")[0].startswith("keepwarm")] == []
    assert not isinstance(pickle.loads(cloudpickle.dumps(function)), IsolatedFunction)


def test_map(client: LoopbackClient) -> None:
    """In order, several iterables as `map` has them, shortest first to end."""
    assert list(square.map(range(5))) == [0, 1, 4, 9, 16]

    @isolated
    def add(one: int, other: int) -> int:
        return one + other

    assert list(add.map([1, 2, 3], [10, 20])) == [11, 22]
    assert list(square.map([])) == []


def test_map_is_lazy_and_bounded(client: LoopbackClient) -> None:
    """Endless input is fine: at most `in_flight` calls are under way, and nothing starts before it is asked for."""
    read: list[int] = []

    def numbers() -> Iterator[int]:
        for number in itertools.count():
            read.append(number)
            yield number

    results = square.map(numbers(), in_flight=3)
    assert read == []
    assert next(results) == 0
    assert read == [0, 1, 2]
    assert list(itertools.islice(results, 3)) == [1, 4, 9]
    assert client.most_under_way <= 3
    results.close()


def test_closing_a_map_cancels_the_rest(client: LoopbackClient) -> None:
    """What was started and not yielded is cancelled."""
    results = square.map(itertools.count(), in_flight=4)
    next(results)
    results.close()
    assert client.cancelled == client.submitted[1:]
    assert len(client.cancelled) == 3


def test_failure_in_a_map_comes_in_its_turn_and_cancels_the_rest(client: LoopbackClient) -> None:
    """Results before it are delivered; calls after it are not left running."""
    results = square.map([1, 2, -1, 3, 4])
    assert next(results) == 1
    assert next(results) == 4
    with pytest.raises(ValueError, match="-1"):
        next(results)
    assert [future.cancelled() for future in client.submitted] == [False, False, False, True, True]
    with pytest.raises(CallCancelled):
        client.submitted[-1].result()


def test_interrupted_map_cancels_all(client: LoopbackClient) -> None:
    """Ctrl-C while it waits cancels also the call that it waits for."""
    client.interrupt_waits = True
    with pytest.raises(KeyboardInterrupt):
        list(square.map([1, 2]))
    assert client.cancelled == client.submitted


class Crowded(LoopbackClient):
    """Has room for so many calls, and no more."""

    room = 2

    def submit(
        self, function: IsolatedFunction[Any, Any], arguments: bytes, *, wait_follows: bool = False
    ) -> Future[Any]:
        """Refuse what is too much."""
        if len(self.queue) >= self.room:
            raise TooManyCalls("no room")
        return super().submit(function, arguments, wait_follows=wait_follows)


def test_map_waits_where_its_arguments_have_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first result makes room for the next call; with nothing under way it can but say so."""
    crowded = Crowded()
    monkeypatch.setattr("keepwarm.function.current_client", lambda: crowded)
    assert list(square.map(range(7))) == [0, 1, 4, 9, 16, 25, 36]
    assert crowded.most_under_way == 2
    crowded.room = 0
    with pytest.raises(TooManyCalls):
        next(square.map(range(7)))


def test_a_fork_while_another_thread_prepares_a_function() -> None:
    """The child has locks of its own: nobody is there to release the other thread's."""
    fresh, other = isolated(lambda: 1), square
    assert works_in_a_child(
        fresh._body._lock,
        lambda: bool(fresh.prepared.payload and other.prepared.payload) and fresh.local() == 1,
    )


def test_wrong_use_of_map(client: LoopbackClient) -> None:
    """Found out at the call, not at the first result."""
    with pytest.raises(TypeError, match="at least one"):
        square.map()
    for wrong in (0, -1, 1.5, True, None):
        with pytest.raises(OptionError, match="in_flight"):
            square.map([1], in_flight=wrong)  # type: ignore[arg-type]


def test_on_changes_a_copy(client: LoopbackClient) -> None:
    """Options are merged and checked again; the pickle is shared unless the setup differs."""
    other = later.on(keep_alive=5)
    assert (other.options.keep_alive, other.options.requirements) == (5.0, ("six",))
    assert later.options.keep_alive == 60.0
    assert other.prepared is later.prepared
    assert predict.on(setup=lambda: [""]).prepared.version != predict.prepared.version
    with pytest.raises(OptionError, match="Did you mean keep_alive"):
        later.on(keepalive=5)  # type: ignore[call-arg]
    with pytest.raises(OptionError, match="first parameter receives"):
        isolated(lambda: 1).on(setup=load_model)


def test_looks_like_the_function() -> None:
    """Name, docstring and signature are the function's; the repr shows what was changed; names have a limit."""
    assert square.__name__ == "square"
    assert square.__doc__ == "Square it."
    assert square.name.endswith("test_function:square")
    assert repr(later) == f"<isolated {later.name} (requirements=('six',), keep_alive=60.0)>"
    assert repr(square) == f"<isolated {square.name}>"
    assert copy.deepcopy(square) is copy.copy(square) is square

    def long() -> None:
        """Get a long name."""

    long.__qualname__ = "x" * 600
    with pytest.raises(OptionError, match="at most 512"):
        isolated(long)


def test_attributes_of_the_function_do_not_get_in_the_way() -> None:
    """A function may have an attribute of any name, ours included."""

    def odd() -> int:
        return 1

    odd.options = odd.name = odd._options = odd.submit = "mine"  # type: ignore[attr-defined]
    assert isolated(odd).options.keep_alive == 10.0
    assert isolated(odd).local() == 1


def test_not_a_method() -> None:
    """As a method it would change a copy of the object: refused when used, with what to write instead."""

    class Counter:
        @isolated
        def count(self) -> int:
            return 1

        @staticmethod
        @isolated
        def one() -> int:
            return 1

    assert isinstance(Counter.count, IsolatedFunction)
    assert Counter.one.local() == 1
    with pytest.raises(TypeError, match="@staticmethod above @isolated"):
        Counter().count()  # type: ignore[call-arg]


def test_prepared() -> None:
    """The pickle is made once, is of this interpreter, and its version does not depend on when."""
    prepared = square.prepared
    assert prepared is square.prepared
    assert prepared.codec == CODEC
    assert len(prepared.version) == 32
    assert isolated(inspect.unwrap(square)).prepared.version == prepared.version


def test_what_cannot_travel_is_named(client: LoopbackClient) -> None:
    """Arguments by their names, setup's value not counted; functions by what they refer to. Nothing is submitted."""
    stream = open(__file__)  # noqa: SIM115, PTH123
    stream.close()

    @isolated
    def captures() -> Any:
        return stream

    with pytest.raises(ArgumentNotSerializable, match=r"argument 'text'\['log'\]\[0\] \(type _io.TextIOWrapper\)"):
        predict({"log": [stream]})  # type: ignore[arg-type]
    with pytest.raises(ArgumentNotSerializable, match=r"argument 'times' \(type _io.TextIOWrapper\)"):
        predict.submit("x", times=stream)  # type: ignore[arg-type]
    with pytest.raises(FunctionNotSerializable, match=r"captures cannot be sent: function -> variable 'stream'"):
        captures.prepared  # noqa: B018
    assert client.submitted == []
