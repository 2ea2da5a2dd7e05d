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


def negotiate(peer_min: int, peer_max: int, peer_software: str, *, may_be_newer: bool = False) -> Negotiation:
    """Choose the protocol to speak with a peer that can speak ``peer_min`` to ``peer_max``.

    A peer that could speak a newer one than this scheduler is newer than it, and refused though both might find a
    protocol that they share; with ``may_be_newer`` they use that: a newly installed command line has to be able to
    stop the scheduler that it is to replace.

    >>> negotiate(1, 1, "keepwarm 0.1.0").protocol
    1
    """
    chosen = min(peer_max, PROTOCOL_MAX)
    is_newer = peer_max > PROTOCOL_MAX and not may_be_newer
    if peer_min <= chosen and chosen >= PROTOCOL_MIN and not is_newer:
        return Negotiation(chosen, "")
    is_behind = peer_min > PROTOCOL_MAX or (is_newer and peer_min <= chosen)
    older, advice = ("the scheduler", "upgrade the scheduler") if is_behind else ("it", "upgrade it")
    return Negotiation(
        0,
        f"{peer_software} speaks protocol {peer_min} to {peer_max}, this scheduler ({SOFTWARE}) speaks "
        f"{PROTOCOL_MIN} to {PROTOCOL_MAX}: {older} is too old; {advice}.",
    )
