"""What the processes of a node do with the calls that they are given: what the calls' arguments say.

A process runs one call at a time, in the order in which they were given to it, and gives back those that it has not
begun when it is asked to. It is told to end a call by an interruption, which some calls do not mind. That a call began
is told at once only where somebody has to know; else when the process ends, or when its host looks.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from keepwarm_wire.fields import INLINE_BYTES_MAX
from keepwarm_wire.messages import Failure
from keepwarm_worker.core import effects, events
from support.simulation.clock import MILLISECOND, SECOND
from support.simulation.lending import Lending
from support.simulation.workload import ENDLESS, UNMOVED, Work, result_of

if TYPE_CHECKING:
    from support.simulation.agent_host import AgentHost
    from support.simulation.machines import Machine

__all__ = ["Process", "announce", "call", "cancel", "load", "recall"]

_ENDLESS_NS = 3_600 * SECOND
_SETUP_NS = 2 * MILLISECOND
_SLOW_SETUP_NS = 8 * SECOND


@dataclass(eq=False)
class Process:
    """A runner. ``attempt`` is what it is running; ``is_deaf`` when it does not exit when asked to."""

    instance_id: int
    host: "AgentHost"
    is_deaf: bool
    is_ready: bool = False
    is_lost: bool = False
    """It has closed its socket: nothing that it does is heard."""
    attempt: int = 0
    is_untold: bool = False
    """Nobody has been told that it runs."""
    waiting: deque[effects.StartCall] = field(default_factory=deque)
    interrupted: dict[int, None] = field(default_factory=dict)
    """Calls that were interrupted before they began."""
    loaded: dict[str, bytes] = field(default_factory=dict)
    set_up: dict[str, bytes] = field(default_factory=dict)
    work: Work | None = None
    lending: Lending | None = None
    """What it does while it is lent."""


def load(machine: "Machine", effect: effects.LoadFunction) -> None:
    """The process is given a function; a large one is on the node's disk by now."""
    process = machine.processes.get(effect.instance_id)
    if process is not None:
        body = effect.body
        assert isinstance(body, bytes) or machine.payloads.get(body.payload_id) is not None, f"{effect} without bytes"
        process.loaded[effect.name] = effect.version


def call(machine: "Machine", effect: effects.StartCall) -> None:
    """The process is given a call."""
    process = machine.processes.get(effect.instance_id)
    if process is None or process.is_lost:
        return
    assert process.loaded.get(effect.name) == effect.version, f"{effect} without its function"
    process.waiting.append(effect)
    _go_on(machine, process)


def _go_on(machine: "Machine", process: Process) -> None:
    """The process begins its next call, if it has one and is free."""
    is_there = machine.processes.get(process.instance_id) is process and not process.is_lost
    if is_there and not process.attempt and process.waiting:
        _begin(machine, process, process.waiting.popleft())


def _begin(machine: "Machine", process: Process, effect: effects.StartCall) -> None:
    if machine.happens(machine.trouble.load, "process dies before it takes a call"):
        machine.later(1, MILLISECOND, lambda _: machine.exit(process, None, "SIGSEGV"))
        return
    if effect.is_loan:
        _lend(machine, process, effect)
        return
    arguments = effect.arguments
    data = arguments if isinstance(arguments, bytes) else machine.payloads.get(arguments.payload_id)
    assert data is not None, f"{effect} without its arguments"
    work, token = Work.decode(data), effect.attempt
    keep_alive_us = process.host.core.state.attempts[token].command.keep_alive_us
    machine.history.add(
        machine.clock.now_ns, "run", machine.node, effect.instance_id, token, work.uid, effect.name, keep_alive_us,
        process.attempt,
    )  # fmt: skip
    process.attempt, process.work = token, work
    needs_setup = process.set_up.get(effect.name) != effect.version
    is_rude = machine.happens(machine.trouble.rude, "runner says too little")
    begun_ns = MILLISECOND
    is_quiet = not (effect.is_timed or needs_setup)
    process.is_untold = is_quiet and not is_rude
    if needs_setup or not (is_rude or is_quiet):
        _say(machine, process, token, begun_ns, events.RunnerStarted(effect.instance_id, token, needs_setup))
    if needs_setup:
        begun_ns += _SLOW_SETUP_NS if work.behaviour == "slow setup" else _SETUP_NS
        if work.behaviour == "bad setup":
            machine.clock.after(begun_ns, lambda: _fail_setup(machine, process, token))
            return
        machine.clock.after(begun_ns, lambda: _set_up(machine, process, effect, is_rude=is_rude))
    if work.behaviour == "print":
        printed = events.RunnerOutput(effect.instance_id, 1, b"printed")
        _say(machine, process, token, begun_ns + MILLISECOND, printed)
    run_ns = _ENDLESS_NS if work.behaviour in ENDLESS else work.run_ns
    machine.clock.after(begun_ns + 2 * MILLISECOND + run_ns, lambda: _end(machine, process, token))
    if token in process.interrupted:
        machine.clock.after(begun_ns, lambda: _interrupt(machine, process, token))


def _lend(machine: "Machine", process: Process, effect: effects.StartCall) -> None:
    """The call is a loan."""
    token, begun_ns = effect.attempt, MILLISECOND // 10
    process.attempt, process.work = token, None
    process.lending = lent = Lending(machine, process, effect, lambda why: _answer(machine, process, b"", why))
    needs_setup = process.set_up.get(effect.name) != effect.version
    process.is_untold = not (effect.is_timed or needs_setup)
    if not process.is_untold:
        _say(machine, process, token, begun_ns, events.RunnerStarted(effect.instance_id, token, needs_setup))
    if needs_setup:
        begun_ns += _SETUP_NS
        machine.clock.after(begun_ns, lambda: _set_up(machine, process, effect, is_rude=False))
    machine.clock.after(begun_ns + MILLISECOND // 10, lent.connect)
    if token in process.interrupted:
        machine.clock.after(begun_ns, lambda: _interrupt(machine, process, token))


def cancel(machine: "Machine", effect: effects.CancelCall) -> None:
    """The process's call is interrupted."""
    process = machine.processes.get(effect.instance_id)
    if process is not None:
        machine.later(MILLISECOND, 100 * MILLISECOND, lambda _: _interrupt(machine, process, effect.attempt))


def _interrupt(machine: "Machine", process: Process, token: int) -> None:
    if not _is_running(machine, process, token):
        process.interrupted[token] = None
    elif process.lending is not None:
        process.lending.interrupt()
    elif process.work is not None and process.work.behaviour not in UNMOVED:
        _answer(machine, process, b"", Failure("cancelled", "interrupted"))


def recall(machine: "Machine", effect: effects.RecallCall) -> None:
    """The process is asked not to run a call that it has not begun."""
    process = machine.processes.get(effect.instance_id)
    if process is not None:
        machine.later(MILLISECOND, 20 * MILLISECOND, lambda _: _give_back(machine, process, effect.attempt))


def _give_back(machine: "Machine", process: Process, token: int) -> None:
    waiting = [each for each in process.waiting if each.attempt == token]
    if not waiting or process.is_lost or machine.processes.get(process.instance_id) is not process:
        return
    process.waiting.remove(waiting[0])
    machine.tally.strike("call is given back")
    process.host.feed(events.RunnerRecalled(process.instance_id, token))


def announce(process: Process) -> None:
    """Somebody looks at what the process runs."""
    if process.is_untold and process.attempt and not process.is_lost:
        process.is_untold = False
        process.host.feed(events.RunnerStarted(process.instance_id, process.attempt, setup=False))


def _is_running(machine: "Machine", process: Process, token: int) -> bool:
    return process.attempt == token and machine.processes.get(process.instance_id) is process


def _say(machine: "Machine", process: Process, token: int, delay_ns: int, event: events.Event) -> None:
    def say() -> None:
        if process.attempt == token and not process.is_lost:
            process.host.feed(event)

    machine.clock.after(delay_ns, say)


def _set_up(machine: "Machine", process: Process, effect: effects.StartCall, *, is_rude: bool) -> None:
    if _is_running(machine, process, effect.attempt):
        process.set_up[effect.name] = effect.version
        if not is_rude and not process.is_lost:
            process.host.feed(events.RunnerSetupDone(process.instance_id, effect.attempt))


def _fail_setup(machine: "Machine", process: Process, token: int) -> None:
    if _is_running(machine, process, token):
        assert process.work is not None
        _answer(machine, process, b"", Failure("setup_failed", f"{process.work.uid}|{token}|"))


def _end(machine: "Machine", process: Process, token: int) -> None:
    if not _is_running(machine, process, token):
        return
    assert process.work is not None
    work = process.work
    if work.behaviour == "crash" or (work.behaviour == "flaky" and work.uid not in machine.crashed):
        machine.crashed[work.uid] = None
        machine.exit(process, None, "SIGSEGV")
    elif work.behaviour == "raise":
        _answer(machine, process, b"", Failure("user_exception", f"{work.uid}|{token}|"))
    else:
        _answer(machine, process, result_of(work, token), None)


def _answer(machine: "Machine", process: Process, result: bytes, failure: Failure | None) -> None:
    if process.is_lost:
        return
    token, process.attempt = process.attempt, 0
    process.is_untold = False
    how = "returned" if failure is None else "raised"
    what = "ran" if process.lending is None else "lend over"
    process.lending = None
    machine.history.add(machine.clock.now_ns, what, machine.node, process.instance_id, token, how)
    spooled: bytes | events.SpooledResult = result
    if len(result) > INLINE_BYTES_MAX:
        machine.results[token] = result
        spooled = events.SpooledResult(len(result))
    if process.waiting:
        machine.tally.strike("call follows without a word")
        _go_on(machine, process)  # before its agent knows
    process.host.feed(events.RunnerResult(process.instance_id, token, spooled, failure, 0, 1000))
