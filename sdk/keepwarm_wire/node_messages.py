"""Messages about one node, from an administrator: taking it out of use and back. The rules are those of ``messages``.

Each may be repeated until answered. An order replaces the one before; what was ordered last holds over restarts of the
scheduler and of the agent, until it is undone.
"""

from typing import NamedTuple

from keepwarm_wire.fields import Count, Duration, Name, Sentence

__all__ = ["CORDON_MODES", "CordonNode", "NodeChanged", "NodeRefused", "ShowNode"]

CORDON_MODES = ("cordon", "drain", "uncordon")
"""What ``CordonNode`` may order."""


class CordonNode(NamedTuple):
    """Take a node out of use, or back.

    With ``mode`` *cordon* nothing new comes to it: no start, no call; leases run out. With *drain* its idle instances
    are ended besides: those without a deadline at once, the others ``max_wait_us`` from now, if their leases have not
    ended by then; with ``stop`` the agent is told to leave once nothing is left. *uncordon* undoes both.
    """

    request_number: Count
    node: Name
    mode: Name
    max_wait_us: Duration = 0
    stop: bool = False


class ShowNode(NamedTuple):
    """Ask how a node stands. Changes nothing."""

    request_number: Count
    node: Name


class NodeChanged(NamedTuple):
    """How a node stands now; in answer to an order, once that is on disk.

    ``state`` is *open*, *cordoned*, *draining* or *drained*; ``reach`` is *alive*, *suspect*, *lost*, or *absent* for a
    node that is not part of the cluster now. ``left_us`` is how long leases are still waited for, ``FOREVER_US`` where
    nothing is to be ended.
    """

    request_number: Count
    node: Name
    state: Name
    reach: Name
    calls: Count
    instances: Count
    left_us: Duration


class NodeRefused(NamedTuple):
    """Nothing was changed, and why: *unknown_node*, *bad_mode* or *too_many*."""

    request_number: Count
    code: Name
    reason: Sentence
