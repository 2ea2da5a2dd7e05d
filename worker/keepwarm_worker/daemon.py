"""The agent's process: the loop that feeds the core and does what the core wants.

Rules:
- One thread runs the loop, starts every process and owns every socket; build threads only post events.
- A turn: wait, read what is ready, feed the core, perform the effects, send one frame. Nothing in it blocks, and
  nothing in it is of the order of the number of instances.
- What the core wants is performed in order; what comes of it at once is fed after it.
"""

import logging
import signal
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from types import FrameType
from typing import Any

from keepwarm_wire.key_files import StoredKey
from keepwarm_wire.messages import AgentHello, Message
from keepwarm_wire.streams import is_direct_offered
from keepwarm_wire.version import PROTOCOL_MAX, PROTOCOL_MIN, SOFTWARE
from keepwarm_worker import detection, gpus, processes
from keepwarm_worker.config import AgentConfig
from keepwarm_worker.core import effects, events
from keepwarm_worker.core.attempts import AHEAD_MAX
from keepwarm_worker.core.failures import START_FAILED, failure
from keepwarm_worker.core.machine import AgentCore
from keepwarm_worker.core.state import CoreConfig
from keepwarm_worker.descriptors import raise_own_limit
from keepwarm_worker.direct_link import DirectLink
from keepwarm_worker.environments.interpreters import Interpreter, discover
from keepwarm_worker.environments.store import EnvironmentStore
from keepwarm_worker.environments.uv import Uv
from keepwarm_worker.guardian import MARKER_VARIABLE
from keepwarm_worker.homes import NodeHome
from keepwarm_worker.hosting import Host
from keepwarm_worker.joining import join
from keepwarm_worker.log_lines import log_message
from keepwarm_worker.payloads import Step, Transfers
from keepwarm_worker.poller import Poller, Waker
from keepwarm_worker.runner_files import install_runner
from keepwarm_worker.scheduler_link import SchedulerLink
from keepwarm_worker.workshop import Workshop

__all__ = ["STOP_SIGNALS", "Daemon", "run"]

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
MEASURE_INTERVAL_NS = 900_000_000
REOPEN_S = 15
"""How long after a refusal of its key an agent tries again."""

LOCAL_ALONE_NS = 30_000_000_000
"""How long the agent of a local cluster waits for a scheduler before it leaves; a client starts both together."""

_log = logging.getLogger(__name__)


class StopSignals:
    """Catches the signals that end the agent, from the start of its process: early ones wait for the daemon."""

    def __init__(self) -> None:
        self._waiting: list[int] = []
        self._deliver: Callable[[int], None] = self._waiting.append
        for number in STOP_SIGNALS:
            signal.signal(number, self._on_signal)

    def deliver_to(self, deliver: Callable[[int], None]) -> None:
        self._deliver = deliver
        for number in self._waiting:
            deliver(number)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._deliver(number)


class Daemon:
    """One agent. ``run`` returns when it has left."""

    def __init__(
        self,
        config: AgentConfig,
        incarnation: bytes,
        home: NodeHome,
        store: EnvironmentStore,
        interpreters: dict[str, Interpreter],
        signals: "StopSignals",
        key: StoredKey | None = None,
    ) -> None:
        self._signals = signals
        platform = detection.platform_name()
        found = () if config.gpus == 0 else gpus.probe(gpus.SOURCES)
        offered = gpus.offered(config.gpus, found, config.visible_gpus)
        hello = _hello(
            config, incarnation, platform, interpreters, len(offered), found[0].model if offered and found else ""
        )
        alone_ns = LOCAL_ALONE_NS if config.local else None
        self._core = AgentCore(CoreConfig(hello, alone_ns=alone_ns, gpus=offered))
        self._events: deque[events.Event] = deque()
        self._outbox: list[Message] = []
        self._exit_reason: str | None = None
        self._measured_ns = 0
        self._meter = detection.LoadMeter(home.path)
        self._environment_of: dict[int, str] = {}
        self._poller = Poller()
        self._waker = Waker(self._poller)
        self._transfers = Transfers(home.spool)
        with home.failures_named():
            runner = install_runner(home.runner)
        self._host = Host(self._poller, self._emit, self._transfers, runner, home.spool, incarnation)
        uv = Uv(None, home.uv_cache, {MARKER_VARIABLE: f"{incarnation.hex()}:build"})
        self._workshop = Workshop(store, uv, interpreters, platform, config.store_bytes, self._post)
        self._address, self._key = config.scheduler, key
        self._link = self._open_link()
        self._reopen_ns: int | None = _in(self._link.retry_s)
        self._perform: dict[type[Any], Callable[[Any], None]] = {
            effects.SendMessage: lambda effect: self._outbox.append(effect.message),
            effects.RunLock: self._workshop.lock,
            effects.RunBuild: self._workshop.build,
            effects.CancelBuild: self._workshop.cancel_build,
            effects.SpawnInstance: self._spawn,
            effects.LoadFunction: self._host.load,
            effects.StartCall: self._host.call,
            effects.CancelCall: self._host.cancel,
            effects.RecallCall: self._host.recall,
            effects.AskToExit: self._host.ask_to_exit,
            effects.Terminate: self._host.terminate,
            effects.KillTree: self._host.kill,
            effects.FetchPayload: lambda effect: self._take(
                self._transfers.fetch(time.monotonic_ns(), effect.reference)
            ),
            effects.DropPayload: lambda effect: self._transfers.drop(effect.payload_id),
            effects.UploadResult: lambda effect: self._take(
                self._transfers.upload(time.monotonic_ns(), effect.attempt)
            ),
            effects.DropResult: lambda effect: self._transfers.drop_result(effect.attempt),
            effects.Exit: self._exit,
        }

    def run(self) -> str:
        """Serve until told to stop; the reason."""
        self._signals.deliver_to(lambda number: self._post(events.StopRequested(signal.Signals(number).name)))
        self._workshop.survey()
        self._on_connection(0)
        try:
            while self._exit_reason is None:
                self._poller.wait(self._timeout_s())
                self._turn()
        finally:
            self._close()
        return self._exit_reason

    def _turn(self) -> None:
        now_ns = time.monotonic_ns()
        for message in self._link.receive():
            log_message(message)
            if self._transfers.is_payload_message(message):
                self._take(self._transfers.handle(now_ns, message))
            else:
                self._emit(events.Received(message))
        if self._reopen_ns is not None and self._reopen_ns <= now_ns:
            self._reopen_link()
        stalled_ns = self._transfers.next_deadline()
        if stalled_ns is not None and stalled_ns <= now_ns:
            self._take(self._transfers.tick(now_ns))
        due_ns = self._core.next_deadline()
        if due_ns is not None and due_ns <= now_ns:
            self._measure(now_ns)
            self._host.announce()  # the core is about to judge by what has begun
            self._emit(events.Tick())
        self._feed_core()
        self._host.flush()
        self._send()

    def _open_link(self) -> SchedulerLink | DirectLink:
        if self._key is None and is_direct_offered(self._address):
            return DirectLink(self._address, self._poller, self._on_connection)
        link = SchedulerLink(self._address, self._key)
        self._poller.add(link.descriptor, lambda _mask: None)
        self._poller.add(link.monitor_descriptor, self._on_connection)
        return link

    def _on_connection(self, _mask: int) -> None:
        change = self._link.changes()
        if change.was_made:
            _log.info("connected to the scheduler")
            self._emit(events.Connected())
        if change.is_made:
            self._reopen_ns = None
        elif self._reopen_ns is None:
            self._reopen_ns = _in(self._link.retry_s)
        if change.refusal:
            # What runs goes on: whoever runs the cluster may mend this, and outcomes are kept until then.
            _log.error("%s. Trying again in %d s; `keepwarm agent --join TOKEN` joins anew", change.refusal, REOPEN_S)
            self._reopen_ns = _in(REOPEN_S)

    def _reopen_link(self) -> None:
        if isinstance(self._link, SchedulerLink):
            self._poller.remove(self._link.descriptor)
            self._poller.remove(self._link.monitor_descriptor)
        self._link.close(linger_ms=0)
        self._link = self._open_link()
        self._reopen_ns = _in(self._link.retry_s)
        self._on_connection(0)

    def _feed_core(self) -> None:
        pending = self._events
        while pending:
            event = pending.popleft()
            if type(event) is events.ProcessExited:
                self._on_exited(event)
            for effect in self._core.handle(time.monotonic_ns(), event):
                self._perform[type(effect)](effect)

    def _send(self) -> None:
        if self._outbox:
            messages, self._outbox = self._outbox, []
            for message in messages:
                log_message(message)
            self._link.send(messages)

    def _timeout_s(self) -> float | None:
        """How long nothing needs to be done. The socket's descriptor is edge-triggered: it must be asked first."""
        if self._events or self._link.has_input():
            return 0
        deadlines = (self._core.next_deadline(), self._transfers.next_deadline(), self._reopen_ns)
        earliest = min((each for each in deadlines if each is not None), default=None)
        return None if earliest is None else max(0.0, (earliest - time.monotonic_ns()) / 1e9)

    def _emit(self, event: events.Event) -> None:
        self._events.append(event)

    def _post(self, event: events.Event) -> None:
        """For other threads: appending to a deque is atomic."""
        self._events.append(event)
        self._waker.wake()

    def _take(self, step: Step) -> None:
        self._outbox += step.messages
        self._events += step.events

    def _spawn(self, effect: effects.SpawnInstance) -> None:
        gate = self._workshop.gate
        environment_id = effect.environment_id
        if not gate.enter(environment_id):
            self._emit(events.EnvironmentMissing(effect.instance_id))
            return
        try:
            python = self._workshop.find(environment_id, effect.python)
        except OSError as error:  # it may well be there
            gate.leave(environment_id)
            why = failure(START_FAILED, f"The environment cannot be read: {error.strerror}.")
            self._emit(events.SpawnProblem(effect.instance_id, why, True))
            return
        if python is None:
            gate.leave(environment_id)
            self._emit(events.EnvironmentMissing(effect.instance_id))
            return
        self._environment_of[effect.instance_id] = environment_id
        self._workshop.touch(environment_id)
        self._host.spawn(effect, python)
        if effect.instance_id not in self._host.process_ids():
            self._release_environment(effect.instance_id)

    def _on_exited(self, event: events.ProcessExited) -> None:
        self._release_environment(event.instance_id)
        if not self._workshop.is_busy:
            # Builds have child processes of their own, whose end only they may see.
            processes.reap_strays(set(self._host.process_ids().values()))

    def _release_environment(self, instance_id: int) -> None:
        environment_id = self._environment_of.pop(instance_id, None)
        if environment_id is not None:
            self._workshop.touch(environment_id)
            self._workshop.gate.leave(environment_id)

    def _measure(self, now_ns: int) -> None:
        """At most about once per beat: what the next heartbeat will tell of this node."""
        if now_ns - self._measured_ns < MEASURE_INTERVAL_NS:
            return
        self._measured_ns = now_ns
        used = tuple(
            (instance_id, detection.process_memory_bytes(process_id))
            for instance_id, process_id in self._host.process_ids().items()
        )
        self._host.measured(used)
        self._emit(events.Measured(self._meter.measure(), used))

    def _exit(self, effect: effects.Exit) -> None:
        self._exit_reason = effect.reason

    def _close(self) -> None:
        with ExitStack() as stack:
            # Last in, first out; each happens whatever befalls the others.
            stack.callback(self._poller.close)
            stack.callback(self._waker.close)
            stack.callback(self._link.close)
            stack.callback(self._transfers.close)
            stack.callback(self._workshop.close)
            stack.callback(self._host.close)
            self._send()


def _in(seconds: float) -> int:
    """The instant in so many seconds."""
    return time.monotonic_ns() + int(seconds * 1e9)


def run(config: AgentConfig, incarnation: bytes) -> int:
    """Run an agent until it is told to stop; the exit code of its process."""
    signals = StopSignals()
    _configure_logging(config.log_level)
    raise_own_limit()
    processes.become_subreaper()
    home = NodeHome(config.home).open(incarnation)
    key = join(config)
    with home.failures_named():
        store = EnvironmentStore(home.store).open()
    with store:
        interpreters = discover(config.pythons, cache_file=home.interpreters)
        _log.info(
            "agent %s of node %s: home %s, scheduler %s, Python %s",
            incarnation.hex()[:8],
            config.node,
            config.home,
            config.scheduler,
            ", ".join(interpreters) or "none",
        )
        reason = Daemon(config, incarnation, home, store, interpreters, signals, key).run()
    home.close()
    _log.info("left: %s", reason)
    return 0


def _hello(
    config: AgentConfig,
    incarnation: bytes,
    platform: str,
    interpreters: dict[str, Interpreter],
    gpus_offered: int,
    gpu_model: str,
) -> AgentHello:
    return AgentHello(
        PROTOCOL_MIN,
        PROTOCOL_MAX,
        SOFTWARE,
        config.node,
        incarnation,
        platform,
        tuple(interpreters),
        detection.resources(config.cpu_permille, config.memory_bytes, gpus_offered),
        detection.labels(config.node, config.labels, gpu_model),
        0,
        AHEAD_MAX,
        can_lend=sys.platform == "linux",
    )


def _configure_logging(level: str) -> None:
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True)
