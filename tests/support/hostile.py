"""Enrolled peers that lie: legal messages of their own role, with the ids, names and numbers of others in them.

What they say is a function of a generator and of the cluster's state, so a failure is repeated by its seed. The worst
is assumed: they know every id there is, which real peers have to guess.
"""

import random
import types
from collections.abc import Callable
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from keepwarm_scheduler.security.answering import ABOUT_KEYS
from keepwarm_scheduler.security.authorisation import MAY_SEND
from keepwarm_wire import messages as wire
from keepwarm_wire.fields import FOREVER_US, Bounds
from keepwarm_wire.identifiers import token
from keepwarm_wire.spec import canonical_spec
from support.scheduler_driver import Agent, Client, Driver

__all__ = ["HostilePeer"]

_PAYLOADS = frozenset({wire.PayloadOffer, wire.PayloadCredit, wire.PayloadChunk, wire.PayloadRefused})
"""The daemon keeps these to itself."""

_STATES = ("building", "starting", "idle", "busy", "stopping", "ended", "")
_CAUSES = ("expired", "evicted", "killed", "died", "start_failed", "build_failed", "released", "gone", "busy")
_KINDS = ("user_exception", "process_died", "out_of_memory", "run_timeout", "setup_failed", "node_stopping", "in_doubt")
_WORDS = (
    *_STATES,
    *_CAUSES,
    *_KINDS,
    "memory",
    "cpu",
    "gpu",
    "3.11",
    "linux",
    "a",
    "b",
    "?",
    "x" * 70_000,
    "\0",
    "\u202e",
)
_NUMBERS = (0, 1, 2, 3, 5, 1000, 256 << 20, (1 << 31) - 1, FOREVER_US - 1, FOREVER_US, (1 << 63) - 1)


class HostilePeer:
    """Lies on the connection of an agent or client that does its work otherwise: so it has something to lie about.

    Args:
        driver: the scheduler under attack.
        rng: where every choice comes from.
        honest: whose connection it is; ``driver.principals`` says with which key.
    """

    def __init__(self, driver: Driver, rng: random.Random, honest: Agent | Client) -> None:
        self.driver, self.rng, self.honest = driver, rng, honest
        principal = driver.principals[honest.peer]
        roles = {kind: roles for kind, roles in MAY_SEND.items() if kind not in ABOUT_KEYS | _PAYLOADS}
        self.kinds = [kind for kind, allowed in roles.items() if principal.role in allowed]

    def say(self, message: wire.Message) -> None:
        """Send a message, and let everybody else act on what it has led to."""
        self.driver.transmit(self.honest.peer, message)
        self.driver.settle()

    def strike(self) -> wire.Message:
        """Say one thing; what it was."""
        kind = self.rng.choice(self.kinds)
        if kind is wire.Goodbye and self.rng.random() < 0.8:
            kind = self.rng.choice(self.kinds)
        message = self._made(kind)
        self.say(message)
        if kind in (wire.Goodbye, wire.AgentHello, wire.ClientHello):
            self.honest.hello()
            self.driver.settle()
        return message

    def work(self) -> None:
        """Do what an honest agent does with calls; a client submits one."""
        if isinstance(self.honest, Agent):
            self.honest.complete()
        else:
            self.honest.submit(1, number=self.rng.randrange(1, 40))

    def _made(self, kind: type[Any]) -> Any:
        message = self._example(kind)
        if kind in (wire.AgentHello, wire.ClientHello) and self.rng.random() < 0.9:
            message = message._replace(protocol_min=1, protocol_max=1)
        if kind is wire.AgentHello:  # the doorkeeper lets no other name pass
            message = message._replace(node=self.honest.name)  # type: ignore[union-attr]
        if kind is wire.DeclareFunction and self.rng.random() < 0.9:
            requirements = self.rng.choice(((), ("x",)))
            message = message._replace(spec=canonical_spec(requirements, "3.11"))
        return message

    # ------------------------------------------------------------ values

    def _example(self, kind: type[Any]) -> Any:
        hints = get_type_hints(kind, include_extras=True)
        return kind(*[self._value(hints[name], name) for name in kind._fields])

    def _value(self, annotation: Any, name: str) -> Any:
        bounds: Bounds | None = None
        if get_origin(annotation) is Annotated:
            annotation, bounds = get_args(annotation)
        origin = get_origin(annotation)
        if origin in (Union, types.UnionType):
            return self._value(self.rng.choice(get_args(annotation)), name)
        if annotation is type(None):
            return None
        if annotation is bool:
            return self.rng.random() < 0.5
        if origin is tuple:
            return tuple(self._value(get_args(annotation)[0], name) for _ in range(self.rng.choice((0, 1, 1, 2, 4))))
        if issubclass(annotation, tuple):
            return self._example(annotation)
        assert bounds is not None
        return self._scalar(annotation, bounds, name)

    def _scalar(self, kind: type[Any], bounds: Bounds, name: str) -> Any:
        known = _KNOWN.get(name)
        if known is not None and self.rng.random() < 0.8:
            found = [value for value in known(self.driver) if type(value) is kind]
            if found:
                return self.rng.choice(found)
        if kind is int:
            return max(bounds.low, min(bounds.high, self.rng.choice(_NUMBERS)))
        if kind is str:
            return self.rng.choice(_WORDS)[: bounds.high]
        length = min(bounds.high, max(bounds.low, self.rng.choice((0, 3))))
        return bytes([self.rng.randrange(4)]) * length


def _attempts(driver: Driver) -> list[int]:
    known = [*driver.cluster.attempts, *driver.cluster.given_up]
    return [*known, token(driver.epoch, 1), 7, (1 << 63) - 1, *[each + 1 for each in known]]


def _calls(driver: Driver) -> list[Any]:
    return [number for session in driver.cluster.sessions.values() for number in session.calls] + [1, 2, 99]


_KNOWN: dict[str, Callable[[Driver], list[Any]]] = {
    "attempt": _attempts,
    "instance_id": lambda driver: [*driver.cluster.instances, token(driver.epoch, 1), token(driver.epoch, 900)],
    "session_id": lambda driver: list(driver.cluster.sessions),
    "call_number": _calls,
    "call_numbers": _calls,
    "pool": lambda driver: list(driver.cluster.pools),
    "environment_id": lambda driver: list(driver.cluster.pools_of),
    "spec_key": lambda driver: [key for _, key in driver.cluster.environments],
    "locks_under_way": lambda driver: [key for _, key in driver.cluster.environments],
    "function_number": lambda _: [0, 1, 2],
    "function": lambda driver: ["module:function", "", "?"],
    "node": lambda driver: list(driver.cluster.nodes),
    "state": lambda _: list(_STATES),
    "cause": lambda _: list(_CAUSES),
    "reason": lambda _: list(_CAUSES),
    "kind": lambda _: list(_KINDS),
    "status": lambda _: list(range(7)),
    "beat_number": lambda _: list(range(40)),
    "version": lambda _: [b"module:function".ljust(32, b"v")],
}
