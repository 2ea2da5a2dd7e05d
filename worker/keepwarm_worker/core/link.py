"""The agent's link to the scheduler: hello, welcome, heartbeats, silence, and which commands count.

Rules:
- Until welcomed, and again after ``silence_beats`` without a word, the agent says hello every second and nothing else.
- A command counts once: its number must be above all seen. Numbers begin anew with a new epoch only: a scheduler that
  has forgotten us goes on from the number that our first beat tells, so no copy of what it said before counts again.
- Losing the scheduler ends nothing at once: idle instances live on to the end of their leases and a grace. An agent
  that was told to (`alone_ns`) leaves after them; any other waits for its scheduler for ever.
"""

from keepwarm_wire import messages as wire
from keepwarm_worker.core import instances, leaving, outcomes
from keepwarm_worker.core.effects import SendMessage
from keepwarm_worker.core.events import Connected
from keepwarm_worker.core.state import AgentState
from keepwarm_worker.core.transitions import InstanceState

__all__ = [
    "HELLO_FIRST",
    "REPEATED_AFTER_NS",
    "is_new_command",
    "note_heard",
    "on_beat_due",
    "on_beat_reply",
    "on_connected",
    "on_hello_due",
    "on_refused",
    "on_silence_due",
    "on_welcome",
]

REPEATED_AFTER_NS = 1_000_000_000
"""An outcome that a beat finds not final is repeated once it is so old: those of calls in flight are final sooner."""

HELLO_FIRST = "hello_first"
"""The refusal of a scheduler that does not know this connection."""


def on_hello_due(state: AgentState, _: int = 0) -> None:
    """Introduce ourselves, and again in a second if nobody answers; leave if nobody has for too long."""
    link, alone_ns = state.link, state.config.alone_ns
    if link.alone_since_ns is None:
        link.alone_since_ns = state.now_ns
    if alone_ns is not None and state.now_ns - link.alone_since_ns >= alone_ns and not state.instances:
        leaving.begin_to_leave(state, "the scheduler is gone and nothing is left here")
        return
    state.effects.append(SendMessage(state.config.hello._replace(last_epoch=state.link.epoch)))
    state.timers.set(("hello", 0), state.now_ns + state.config.hello_interval_ns)


def on_connected(state: AgentState, _: Connected) -> None:
    """The connection stands: speak at once. A scheduler that was restarted answers that it does not know us."""
    if state.link.welcomed:
        _beat(state, repeat_older_than_ns=0)
    elif not state.stopping:
        on_hello_due(state)


def on_welcome(state: AgentState, message: wire.Welcome) -> None:
    """The scheduler takes us in: tell it everything."""
    link = state.link
    restarted = message.epoch != link.epoch
    if restarted and message.cluster_id == link.cluster_id and message.epoch < link.epoch:
        return  # from before a restart, overtaken on the way
    if link.welcomed and not restarted:
        _beat(state, repeat_older_than_ns=0)  # to another hello, or a copy: the numbering of commands goes on
        return
    if restarted:
        link.last_command = 0
        outcomes.hand_over_again(state)
    link.welcomed = True
    link.epoch, link.cluster_id = message.epoch, message.cluster_id
    link.beat_interval_ns = message.beat_interval_us * 1000
    link.alone_since_ns = None
    state.timers.cancel(("hello", 0))
    state.timers.set(("silence", 0), state.now_ns + _silence_ns(state))
    for instance_id in state.instances:
        state.timers.cancel(("orphan", instance_id))
    for report in state.unreported:
        state.say(report)
    state.unreported.clear()
    _beat(state, repeat_older_than_ns=0)


def on_refused(state: AgentState, message: wire.Refused) -> None:
    """A scheduler that does not know us was restarted or has forgotten us; other refusals are for people to read."""
    if message.code == HELLO_FIRST and state.link.welcomed:
        _lose(state)
        on_hello_due(state)


def on_beat_due(state: AgentState, _: int = 0) -> None:
    """Tell the full state, and repeat what should be known to have arrived by now."""
    _beat(state, repeat_older_than_ns=REPEATED_AFTER_NS)


def _beat(state: AgentState, *, repeat_older_than_ns: int) -> None:
    link = state.link
    link.beat_number += 1
    for version in state.wanted_functions:
        if version not in state.functions:
            state.say(wire.NeedFunction(version))
    outcomes.repeat(state, older_than_ns=repeat_older_than_ns)
    state.say(
        wire.AgentBeat(
            link.beat_number,
            link.last_command,
            tuple(instances.describe(state, instance) for instance in state.instances.values()),
            outcomes.describe_held(state),
            tuple(state.locks),
            tuple(wire.EnvironmentState(name, size) for name, size in state.environments.items()),
            state.load,
            link.epoch,
        )
    )
    state.timers.set(("beat", 0), state.now_ns + link.beat_interval_ns)


def on_beat_reply(state: AgentState, message: wire.AgentBeatReply) -> None:
    """Everything up to this command was sent before: what has not arrived never will. It says when to beat next."""
    link = state.link
    link.last_command = max(link.last_command, message.last_command)
    if message.next_beat_us and message.beat_number == link.beat_number and link.welcomed:
        link.beat_interval_ns = message.next_beat_us * 1000
        state.timers.set(("beat", 0), state.now_ns + link.beat_interval_ns)
        state.timers.set(("silence", 0), state.now_ns + _silence_ns(state))


def on_silence_due(state: AgentState, _: int = 0) -> None:
    """If nothing was heard for some beats the scheduler is out of reach; else look again when that could be."""
    quiet_until_ns = state.link.heard_ns + _silence_ns(state)
    if quiet_until_ns > state.now_ns:
        state.timers.set(("silence", 0), quiet_until_ns)
    elif state.link.welcomed:
        _lose(state)
        on_hello_due(state)


def note_heard(state: AgentState) -> None:
    state.link.heard_ns = state.now_ns


def is_new_command(state: AgentState, number: int) -> bool:
    """Whether a numbered command is to be obeyed; from then on it and all before it are not."""
    if number <= state.link.last_command:
        return False
    state.link.last_command = number
    return True


def _lose(state: AgentState) -> None:
    state.link.welcomed = False
    for timer in ("beat", "silence"):
        state.timers.cancel((timer, 0))
    for instance in state.instances.values():
        if instance.state is InstanceState.IDLE:
            instances.watch_orphan(state, instance)


def _silence_ns(state: AgentState) -> int:
    return state.config.silence_beats * state.link.beat_interval_ns
