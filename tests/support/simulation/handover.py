"""Payloads between a node and the scheduler: arguments and functions in, results out, each in one piece, after a while.

As an agent's own transfers do: what is lost on the way is asked for again, and a scheduler that has not the bytes
refuses, which is the end of it.
"""

import hashlib
from typing import TYPE_CHECKING

from keepwarm_wire.messages import Failure, Reference
from keepwarm_worker.core import effects, events
from support.simulation.clock import MILLISECOND, SECOND

if TYPE_CHECKING:
    from support.simulation.agent_host import AgentHost
    from support.simulation.machines import Machine

__all__ = ["drop_payload", "drop_result", "fetch", "upload"]

_MOVING_NS = (10 * MILLISECOND, 300 * MILLISECOND)
_AGAIN_NS = (200 * MILLISECOND, SECOND)


def fetch(machine: "Machine", effect: effects.FetchPayload) -> None:
    """Get a payload onto the disk."""
    payload_id = effect.reference.payload_id
    machine.payloads[payload_id] = None
    if machine.happens(machine.trouble.disk, "payload cannot be stored"):
        failure = Failure("payload_not_stored", "simulated")
        machine.tell(*_MOVING_NS, events.PayloadMissing(payload_id, failure))
    else:
        machine.later(*_MOVING_NS, lambda host: _arrived(machine, host, payload_id))


def drop_payload(machine: "Machine", effect: effects.DropPayload) -> None:
    """Nobody here needs it any more."""
    machine.payloads.pop(effect.payload_id, None)


def upload(machine: "Machine", effect: effects.UploadResult) -> None:
    """Hand a result over."""
    if machine.happens(machine.trouble.disk, "result cannot be handed over"):
        failure = Failure("result_not_stored", "simulated")
        machine.tell(*_MOVING_NS, events.ResultRefused(effect.attempt, failure))
    else:
        machine.later(*_MOVING_NS, lambda host: _stored(machine, host, effect.attempt))


def drop_result(machine: "Machine", effect: effects.DropResult) -> None:
    """An attempt is settled."""
    machine.results.pop(effect.attempt, None)


def _is_cut_off(host: "AgentHost") -> bool:
    link = host.link
    return not link.is_connected or link.blocked_up or link.blocked_down


def _arrived(machine: "Machine", host: "AgentHost", payload_id: bytes) -> None:
    if machine.payloads.get(payload_id, b"") is not None:
        return
    if _is_cut_off(host):
        machine.later(*_AGAIN_NS, lambda _: _arrived(machine, host, payload_id))
        return
    data = machine.shelf.get(payload_id)
    if data is None:
        failure = Failure("payload_refused", "The payload was not taken: it is not here.")
        host.feed(events.PayloadMissing(payload_id, failure))
    else:
        machine.payloads[payload_id] = data
        host.feed(events.PayloadFetched(payload_id))


def _stored(machine: "Machine", host: "AgentHost", attempt: int) -> None:
    data = machine.results.get(attempt)
    if data is None:
        return
    if _is_cut_off(host):
        machine.later(*_AGAIN_NS, lambda _: _stored(machine, host, attempt))
        return
    payload_id = hashlib.blake2b(str(attempt).encode(), digest_size=16).digest()
    machine.shelf.put(payload_id, data)
    machine.history.add(machine.clock.now_ns, "stored", machine.node, 0, attempt)
    host.feed(events.ResultStored(attempt, Reference(payload_id, len(data), hashlib.sha256(data).digest())))
