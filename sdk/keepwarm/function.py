"""A decorated function: calling it runs it in its environment, elsewhere.

Owns IsolatedFunction and the one door to the network, the `Client` protocol with `current_client()`.

Rules:
- It is immutable; `.on(...)` returns another one. Both share the function's pickle unless the setup differs.
- The function is pickled at its first call, with the values its globals and closure have then.
- When it is pickled itself (because another function refers to it) it turns into the plain function: inside a remote
  process there is no keepwarm, and calling it there runs it there (`plain_functions`).
"""

from __future__ import annotations

import functools
import inspect
import operator
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, NamedTuple, ParamSpec, Protocol, TypeVar

from keepwarm.detached import DetachedCall, DetachedFunction
from keepwarm.errors import OptionError, TooManyCalls
from keepwarm.futures import Future
from keepwarm.options import Options
from keepwarm.plain_functions import plain_attributes, plain_function
from keepwarm.resources import whole_number

if TYPE_CHECKING:
    from typing import Unpack

    from keepwarm.decorator import GivenOptions

__all__ = ["Client", "IsolatedFunction", "Prepared", "current_client"]

P = ParamSpec("P")
R = TypeVar("R")

IN_FLIGHT_DEFAULT: Final = 1_000
NAME_MAX: Final = 512  # what the wire can carry


class Client(Protocol):
    """What functions need of the network client."""

    def submit(
        self, function: IsolatedFunction[Any, Any], arguments: bytes, *, wait_follows: bool = False
    ) -> Future[Any]:
        """Take a call, its arguments pickled, and return its future. `wait_follows`: this thread will wait at once."""

    def wait(self, future: Future[Any], timeout: float | None) -> None:
        """Drive the connection in this thread until the future is done or `timeout` seconds are over (None: never)."""

    def cancel(self, future: Future[Any]) -> bool:
        """Ask for the call to be cancelled, running or not; return whether that was still possible."""


_imported: Final[dict[str, Any]] = {}
"""What the first call imports. An import statement that finds its module costs each call a third of a microsecond."""


def current_client() -> Client:
    """Return this process's client, connecting it (and starting a local cluster) at the first use."""
    get_client = _imported.get("get_client")
    if get_client is None:
        from keepwarm import client as module

        get_client = _imported["get_client"] = module.get_client
    client: Client = get_client()
    return client


class Prepared(NamedTuple):
    """A function ready to travel: its pickle, the pickle's codec tag, and the version (32 bytes) of what it does."""

    payload: bytes
    codec: str
    version: bytes


class _Body:
    """The function with its setup: pickled once, and set up once for local runs, however many wrappers share it."""

    everyone: ClassVar[weakref.WeakSet[_Body]] = weakref.WeakSet()

    def __init__(self, function: Callable[..., Any], setup: Callable[[], Any] | None, name: str) -> None:
        self.function = function
        self.setup = setup
        self._name = name
        self._lock = threading.RLock()
        self._prepared: Prepared | None = None
        self._setup_values: list[Any] = []
        _Body.everyone.add(self)

    @classmethod
    def renew_locks(cls) -> None:
        """After a fork, in the child: a thread that held one is not here. What it was to store is made again."""
        for body in list(cls.everyone):
            body._lock = threading.RLock()

    def prepared(self) -> Prepared:
        with self._lock:
            if self._prepared is None:
                from keepwarm import pickling

                payload = pickling.dumps_function(self.function, self.setup, self._name)
                version = pickling.function_version(self.function, self.setup, payload)
                self._prepared = Prepared(payload, pickling.CODEC, version)
            return self._prepared

    def setup_value(self) -> Any:
        assert self.setup is not None
        with self._lock:
            if not self._setup_values:
                self._setup_values.append(self.setup())
            return self._setup_values[0]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_Body.renew_locks)


class IsolatedFunction(Generic[P, R]):
    """A function that runs in its own environment; made by `@isolated`, not by hand.

    >>> get_text("https://example.com")                    # runs remotely, waits, returns the result
    >>> future = get_text.submit("https://example.com")    # the same without waiting
    >>> for text in get_text.map(urls): ...                # many, in order
    >>> get_text.local("https://example.com")              # here, in this process
    >>> get_text.on(keep_alive=60)("https://example.com")  # with other options
    """

    __name__: str
    __qualname__: str

    def __init__(self, function: Callable[..., Any], options: Options, body: _Body | None = None) -> None:
        functools.update_wrapper(self, function)  # first, for it copies the function's own attributes over ours
        qualname = getattr(function, "__qualname__", type(function).__qualname__)
        self._name = f"{getattr(function, '__module__', '__main__')}:{qualname}"
        self._options = options
        self._body = body or _Body(function, options.setup, self._name)
        self._parameters = _positional_parameters(function)
        self._declared: object = None
        """What a client keeps of it here, so that its calls need not look it up."""
        if len(self._name) > NAME_MAX:
            raise OptionError(f"{self._name[:80]}...: the name of a function is at most {NAME_MAX} characters")
        if options.setup is not None:
            self.__signature__ = _without_first(function, self._name)
            self._parameters = self._parameters[1:]

    @property
    def name(self) -> str:
        """The function's name in the cluster, `module:qualname`."""
        return self._name

    @property
    def options(self) -> Options:
        """The checked options."""
        return self._options

    @property
    def prepared(self) -> Prepared:
        """The function as it travels; pickled at the first use. Raises FunctionNotSerializable."""
        return self._body.prepared()

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function in its environment, wait for it and return its result.

        Raises what the function raised; else an error of `keepwarm.errors`. Ctrl-C cancels the call.
        """
        client = current_client()
        future = client.submit(self, self._dumps(args, kwargs), wait_follows=True)
        try:
            client.wait(future, None)
        except BaseException:  # Ctrl-C, or what another signal handler raises: nobody has the future any more
            client.cancel(future)
            raise
        result: R = future.result()
        return result

    def submit(self, /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Start the call and return its Future at once.

        Raises ArgumentNotSerializable, FunctionNotSerializable or TooManyCalls; all else is in the future.
        """
        return current_client().submit(self, self._dumps(args, kwargs))

    def map(self, *iterables: Iterable[Any], in_flight: int = IN_FLIGHT_DEFAULT) -> Generator[R, None, None]:
        """Call the function for each set of items, as `map` does, and yield the results in order.

        The iterables are read as needed, so they may be endless: at most `in_flight` calls (default 1000) are under
        way or unread at a time, fewer where their arguments are more than one program may hold. The first failure is
        raised in its turn; then, or when the generator is closed, the calls still under way are cancelled.

        >>> list(square.map(range(3)))
        [0, 1, 4]

        Raises OptionError for `in_flight` below 1, TypeError for no iterable.
        """
        if not iterables:
            raise TypeError("map() needs at least one iterable")
        if not whole_number(in_flight) or in_flight < 1:
            raise OptionError(f"in_flight={in_flight!r}: allowed are whole numbers from 1")
        return self._map(zip(*iterables, strict=False), in_flight)

    def _map(self, rows: Iterator[tuple[Any, ...]], in_flight: int) -> Generator[R, None, None]:
        client = current_client()
        pending: deque[Future[R]] = deque()
        try:
            for row in rows:
                arguments = self._dumps(row, {})
                while (future := _submitted(client, self, arguments, is_last=not pending)) is None:
                    yield _first_result(pending)
                pending.append(future)
                if len(pending) == in_flight:
                    yield _first_result(pending)
            while pending:
                yield _first_result(pending)
        finally:
            for future in pending:
                future.cancel()

    def spawn(self, /, *args: P.args, **kwargs: P.kwargs) -> DetachedCall[R]:
        """Start a detached call: it goes on when this program ends, and through crashes of anything.

        Returns once the cluster has it on disk. Whoever has the handle's ``id`` can ``keepwarm.attach`` to it, within
        the namespace, until its result expires: 24 hours after its end, if not said otherwise by ``detached``.

        >>> call = train.spawn("s3://bucket/data")
        >>> keepwarm.attach(call.id).result()

        Raises ArgumentNotSerializable, FunctionNotSerializable, TooManyCalls, PayloadRefused, SchedulerRefused (no room
        for more calls or results) and ClusterUnreachable: then it may have been accepted all the same, which only a
        ``key`` makes safe to try again. Ctrl-C while it waits stops the call.
        """
        return DetachedFunction(self, None, None).spawn(*args, **kwargs)

    def spawn_map(self, *iterables: Iterable[Any]) -> list[DetachedCall[R]]:
        """Spawn a call for each set of items, as ``map`` takes them; returns once all are accepted.

        If one is refused, or an iterable or Ctrl-C raises, those that were accepted may go on; `keepwarm calls list`
        shows them. With a key (see ``detached``) it can simply be done again.

        >>> calls = resize.spawn_map(paths)
        """
        return DetachedFunction(self, None, None).spawn_map(*iterables)

    def detached(self, *, key: str | None = None, result_ttl: float | None = None) -> DetachedFunction[P, R]:
        """Say more of detached calls: ``f.detached(key="invoice-17", result_ttl=3600).spawn(...)``.

        key: a name for the call, unique in the namespace. While a call has it (and for a time after) spawning the same
            call again returns that one, whichever program does so; another call with it raises KeyConflict.
        result_ttl: seconds for which the outcome is kept; None leaves it to the cluster: 24 hours, if not configured.

        Raises OptionError.
        """
        return DetachedFunction(self, key, result_ttl)

    def local(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function here, in this process and its environment; for tests and debugging.

        A setup runs once per process, at the first local call. An async function is run to its end.
        """
        leading = () if self._options.setup is None else (self._body.setup_value(),)
        result = self._body.function(*leading, *args, **kwargs)
        if inspect.iscoroutine(result):
            import asyncio

            result = asyncio.run(result)
        return result  # type: ignore[no-any-return]

    def on(self, **options: Unpack[GivenOptions]) -> IsolatedFunction[P, R]:
        """Return the same function with some options replaced; raises OptionError as the decorator does.

        >>> get_text.on(keep_alive=60, resources={"cpu": 2})("https://example.com")
        """
        changed = self._options.changed(**options)
        body = self._body if changed.setup is self._options.setup else None
        return IsolatedFunction(self._body.function, changed, body)

    def _dumps(self, args: Sequence[Any], kwargs: dict[str, Any]) -> bytes:
        dumps_arguments = _imported.get("dumps_arguments")
        if dumps_arguments is None:
            from keepwarm import pickling

            dumps_arguments = _imported["dumps_arguments"] = pickling.dumps_arguments
        payload: bytes = dumps_arguments(args, kwargs, self._name, self._parameters)
        return payload

    def __repr__(self) -> str:
        changed = ", ".join(f"{name}={value!r}" for name, value in self._options.differing().items())
        return f"<isolated {self._name}{f' ({changed})' if changed else ''}>"

    def __get__(self, instance: object, owner: type | None = None) -> IsolatedFunction[P, R]:
        if instance is None:
            return self
        raise TypeError(
            f"{self._name} is isolated and cannot be used as a method: it would change a copy of the object. "
            "Decorate a function, or put @staticmethod above @isolated"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        plain = plain_function(self._body.function, self._body.setup)
        recipe = operator.getitem, ((plain,), 0)  # the shortest one for "this very object"
        # Attributes are set there: here the function is the user's, and stays as it is.
        return (*recipe, attributes) if (attributes := plain_attributes(plain, self._name)) else recipe

    def __copy__(self) -> IsolatedFunction[P, R]:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> IsolatedFunction[P, R]:
        return self


def _submitted(
    client: Client, function: IsolatedFunction[Any, R], arguments: bytes, *, is_last: bool
) -> Future[R] | None:
    """Submit a call; None where there is no room before another one has ended, if there is another one."""
    try:
        return client.submit(function, arguments)
    except TooManyCalls:
        if is_last:
            raise
        return None


def _first_result(pending: deque[Future[R]]) -> R:
    """Wait for the first future, and only then take it out: it is to be cancelled if the wait is interrupted."""
    result = pending[0].result()
    pending.popleft()
    return result


def _positional_parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    code = getattr(function, "__code__", None)
    return tuple(code.co_varnames[: code.co_argcount]) if code is not None else ()


def _without_first(function: Callable[..., Any], name: str) -> inspect.Signature:
    """Return the signature that callers see: without the parameter that receives the setup's value."""
    signature = inspect.signature(function)
    try:
        signature.bind_partial(None)
    except TypeError:
        raise OptionError(f"{name} has a setup, so its first parameter receives the setup's value; add one") from None
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = list(signature.parameters.values())
    return signature.replace(parameters=parameters[1:] if parameters[0].kind in kinds else parameters)
