"""From a decorated function to what the wire says of it, found once per function and client.

Rule: a session has a bounded number of functions, however many the program makes: those that were not called for
longest are forgotten here and at the scheduler, and declared anew when they are called again.
"""

from typing import Any, Final, NamedTuple

from keepwarm.errors import TooManyCalls
from keepwarm.function import IsolatedFunction
from keepwarm.options import Options, Timeouts, duration_us
from keepwarm.resources import Resources
from keepwarm.session import Session
from keepwarm.session_calls import Function
from keepwarm.session_functions import Functions
from keepwarm_wire.messages import FunctionOptions, Pair, Quantity, RetryLimits

__all__ = ["FORGET_BATCH", "FUNCTIONS_KEPT", "FUNCTIONS_MAX", "Declarations", "Declared", "Description", "describe"]

FUNCTIONS_KEPT: Final = 2_000
"""With so many, a session forgets those that have not been called for longest."""

FUNCTIONS_MAX: Final = 10_000
"""What a scheduler takes of one session."""

FORGET_BATCH: Final = 500


class Description(NamedTuple):
    """What is declared of a function. Equal descriptions are the same function to the cluster."""

    name: str
    version: bytes
    codec: str
    spec: bytes
    has_setup: bool
    options: FunctionOptions
    body: bytes


def describe(function: IsolatedFunction[Any, Any]) -> Description:
    """Describe a function; it is pickled if it was not yet. Raises ``FunctionNotSerializable``."""
    payload, codec, version = function.prepared
    options = function.options
    has_setup = options.setup is not None
    return Description(function.name, version, codec, options.spec(), has_setup, _wire_options(options), payload)


class Declared:
    """What a client keeps of a function, at the function: its description, and its session's record of it."""

    __slots__ = ("by", "description", "function", "generation")

    def __init__(self, by: "Declarations", description: Description) -> None:
        self.by = by
        self.description = description
        self.function: Function | None = None
        self.generation = -1
        """Of the session to which ``function`` belongs."""


class Declarations:
    """The functions of one client. Functions of the same description are one function of the session."""

    def __init__(self) -> None:
        self._generation = -1
        self._functions: dict[Description, Function] = {}

    def of(self, function: IsolatedFunction[Any, Any]) -> Declared:
        """What is kept of a function. From any thread. Raises ``FunctionNotSerializable``."""
        declared = function._declared
        if not isinstance(declared, Declared) or declared.by is not self:
            declared = function._declared = Declared(self, describe(function))
        return declared

    def known(self, declared: Declared, session: Session, generation: int) -> Function:
        """The record of a function in the session of this generation, made if need be. Under the client's lock.

        Raises ``TooManyCalls`` where unanswered calls are of as many other functions as a scheduler takes.
        """
        function = declared.function
        if function is None or declared.generation != generation or function.is_forgotten:
            if self._generation != generation:
                self._functions.clear()
                self._generation = generation
            function = self._functions.get(declared.description)
            if function is None:
                self._make_room(session.functions)
                function = self._functions[declared.description] = session.declare(**declared.description._asdict())
            declared.function, declared.generation = function, generation
        return function

    def _make_room(self, functions: Functions) -> None:
        is_full = len(functions) >= FUNCTIONS_MAX
        if is_full and not functions.idle:
            raise TooManyCalls(
                f"this program has unanswered calls of {len(functions)} functions, and a cluster takes no more of one "
                "program at once. The same function with other options, or other captured values, is another one"
            )
        if is_full or (len(functions) >= FUNCTIONS_KEPT and functions.idle >= FORGET_BATCH):
            for function in functions.forget(FORGET_BATCH):
                del self._functions[_described(function)]
                function.body = b""  # futures that the program keeps refer to their function


def _described(function: Function) -> Description:
    return Description(*(getattr(function, name) for name in Description._fields))


def _wire_options(options: Options) -> FunctionOptions:
    timeouts, resources, retries = options.timeouts, options.resources, options.retries
    assert isinstance(timeouts, Timeouts)
    assert isinstance(resources, Resources)
    assert not isinstance(retries, int)
    limits = RetryLimits(retries.lost_node, retries.exceptions, retries.crash, retries.out_of_memory)
    return FunctionOptions(
        keep_alive_us=duration_us(options.keep_alive),
        queue_timeout_us=duration_us(timeouts.queue),
        startup_timeout_us=duration_us(timeouts.startup),
        run_timeout_us=duration_us(timeouts.run),
        overall_timeout_us=duration_us(timeouts.overall),
        retries=RetryLimits(0, 0, 0, 0) if options.at_most_once else limits,
        cpu=resources.cpu_thousandths,
        memory_bytes=resources.memory_bytes,
        gpu=resources.gpu_thousandths,
        custom=tuple(Quantity(name, amount) for name, amount in sorted(resources.custom_thousandths.items())),
        labels=tuple(Pair(name, value) for name, value in sorted(resources.labels.items())),
        env_vars=tuple(Pair(name, value) for name, value in sorted(options.env_vars.items())),
        at_most_once=options.at_most_once,
    )
