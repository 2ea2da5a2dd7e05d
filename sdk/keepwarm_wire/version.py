"""Protocol versions and the handshake's decision. Nothing here knows about sockets.

A hello carries the range of protocol versions its sender can speak. The scheduler answers with the highest
version both know, or refuses in words. Agents and clients may be one minor release older than the scheduler,
never newer: a scheduler therefore speaks its own version and the one before.
"""

from typing import NamedTuple

__all__ = ["PROTOCOL_MAX", "PROTOCOL_MIN", "SOFTWARE", "Negotiation", "negotiate"]

SOFTWARE = "keepwarm 0.1.0"
"""Name and release, sent for display only: decisions look at protocol numbers alone."""

PROTOCOL_MIN = 1
PROTOCOL_MAX = 1


class Negotiation(NamedTuple):
    """Outcome of a handshake: ``protocol`` is 0 when refused, and ``reason`` then says why and what to do."""

    protocol: int
    reason: str


def negotiate(peer_min: int, peer_max: int, peer_software: str) -> Negotiation:
    """Choose the protocol to speak with a peer that can speak ``peer_min`` to ``peer_max``.

    >>> negotiate(1, 1, "keepwarm 0.1.0").protocol
    1
    """
    chosen = min(peer_max, PROTOCOL_MAX)
    if peer_min <= chosen and chosen >= PROTOCOL_MIN:
        return Negotiation(chosen, "")
    older, advice = ("the scheduler", "upgrade the scheduler") if peer_min > PROTOCOL_MAX else ("it", "upgrade it")
    return Negotiation(
        0,
        f"{peer_software} speaks protocol {peer_min} to {peer_max}, this scheduler ({SOFTWARE}) speaks "
        f"{PROTOCOL_MIN} to {PROTOCOL_MAX}: {older} is too old; {advice}.",
    )
