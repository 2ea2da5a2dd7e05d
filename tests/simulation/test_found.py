"""Defects that the simulation has found, each as the shortest exchange that shows it."""

from keepwarm_scheduler.config import CoreConfig
from keepwarm_scheduler.core.effects import Send
from keepwarm_scheduler.core.events import LOCAL, PeerMessage
from keepwarm_scheduler.core.leases import Lease
from keepwarm_scheduler.core.machine import SchedulerCore
from keepwarm_wire import messages as wire
from keepwarm_wire.fields import FOREVER_US
from support.agent_core import welcomed


def test_a_copy_of_a_welcome_does_not_make_old_commands_new() -> None:
    """A node that obeyed a late copy of a command had an instance that its scheduler had given up."""
    agent = welcomed()
    agent.start(1)
    agent.receive(wire.Welcome(1, b"c" * 16, agent.core.state.link.epoch, False, 0, 0, 1_000_000))
    assert agent.core.state.link.last_command == agent.command


def test_a_welcome_of_an_earlier_epoch_is_ignored() -> None:
    """Overtaken on the way: it would make the agent's and the scheduler's numbering differ."""
    agent = welcomed()
    agent.welcome(epoch=5)
    agent.receive(wire.Welcome(1, b"c" * 16, 4, False, 0, 0, 1_000_000))
    assert agent.core.state.link.epoch == 5


def test_a_call_answered_under_an_earlier_scheduler_is_named_missing_once() -> None:
    """Else each reply to a beat named all of them again, and beyond its limit never one that is really missing."""
    core = SchedulerCore(CoreConfig(), 2, bytes(16), 0)

    def missing(message: wire.Message) -> list[tuple[int, ...]]:
        sent = [each.message for each in core.handle(0, PeerMessage(b"c", LOCAL, message)) if isinstance(each, Send)]
        return [reply.missing for reply in sent if isinstance(reply, wire.ClientBeatReply)]

    missing(wire.ClientHello(1, 1, "test", b"s" * 16, "", 1))
    assert missing(wire.ClientBeat(1, 4)) == [(1, 2, 3, 4)]
    missing(wire.Received((1, 2, 4)))
    assert missing(wire.ClientBeat(2, 4)) == [(3,)]


def test_the_term_an_instance_was_started_for_ends_with_its_first_call() -> None:
    """An instance started for an endless lease that only ever served short ones was kept for ever."""
    lease = Lease()
    lease.restart("", 0, FOREVER_US)
    assert lease.is_infinite
    lease.restart("short", 1_000, 2)
    assert lease.deadline_ns == 3_000


def test_the_term_an_instance_was_started_for_holds_until_its_first_call_ends() -> None:
    """The same the other way round: nothing is shortened by it."""
    lease = Lease()
    lease.restart("", 0, 5)
    lease.restart("long", 1_000, 10)
    lease.restart("short", 2_000, 1)
    assert lease.deadline_ns == 11_000
