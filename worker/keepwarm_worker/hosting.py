"""The processes of a node's instances: effects of the core in, events for the core out.

Rules:
- What a runner says is a claim of user code: a frame that does not fit what it was given makes the runner *lost*.
- A call's output is read before its result is passed on, everything is read before an exit is.
- A process is announced as exited when it is reaped and nothing that it started is left.
- The board runs ahead of the data socket: nothing is concluded from it before what was sent earlier has been read.
- Values of environment variables are never logged.
"""

import logging
import os
import select
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, cast

from keepwarm_wire.fields import CHUNK_BYTES_MAX
from keepwarm_wire.messages import Failure, Reference
from keepwarm_worker import gpus, processes
from keepwarm_worker.core import effects, events
from keepwarm_worker.core.failures import START_FAILED, failure
from keepwarm_worker.hosted import OUTPUT_READ_BYTES, Hosted, outputs, printer, read_available
from keepwarm_worker.memory_kills import MemoryKills
from keepwarm_worker.payloads import Transfers
from keepwarm_worker.poller import READABLE, WRITABLE, Poller
from keepwarm_worker.processes import FrameReader, FrameWriter
from keepwarm_worker.runner import frames
from keepwarm_worker.runner.unread import unread_bytes
from keepwarm_worker.trash import Trash

__all__ = ["Host", "signal_name"]

KILL_PASSES_MAX = 5
READS_MAX = 64
"""Each takes up to 1 MiB of a socket, which holds less than this: more was written after we began to read."""
CLOSE_S = 1.0
"""So long the end of the agent waits for killed processes: one that is stuck in the kernel dies when it can."""

DEFERRED_MAX_NS = 2_000_000
"""So long outcomes may wait to be taken together, at most; and not longer than this share of what waits to be run."""
DEFERRED_PERCENT = 40
CALL_MIN_NS = 20_000
"""What a call costs a runner at least."""


_log = logging.getLogger(__name__)


class Host:
    """All instances of this node that have a process. ``emit`` takes events for the core, in order."""

    def __init__(
        self,
        poller: Poller,
        emit: Callable[[events.Event], None],
        transfers: Transfers,
        runner: Path,
        spool: Path,
        incarnation: bytes,
    ) -> None:
        self._poller = poller
        self._emit = emit
        self._transfers = transfers
        self._runner = runner
        self._spool = spool
        self._incarnation = incarnation
        self._hosted: dict[int, Hosted] = {}
        self._unflushed: dict[int, Hosted] = {}
        self._on_frames: dict[type[Any], Callable[[Hosted, Any], None]] = {
            frames.Hello: lambda hosted, _: self._emit(events.RunnerHello(hosted.instance_id, hosted.process.pid)),
            frames.Started: self._on_started,
            frames.SetupDone: lambda hosted, frame: self._emit(
                events.RunnerSetupDone(hosted.instance_id, frame.attempt)
            ),
            frames.Result: self._on_result,
        }
        self._memory_kills = MemoryKills()
        self._trash = Trash(spool / "trash")

    def process_ids(self) -> dict[int, int]:
        """Process ids by instance id."""
        return {instance_id: hosted.process.pid for instance_id, hosted in self._hosted.items()}

    def spawn(self, effect: effects.SpawnInstance, python: Path) -> None:
        """Start an instance's process. Must be called from the main thread, which lives as long as the agent."""
        instance_id = effect.instance_id
        directory = self._spool / f"instance-{instance_id}"
        try:
            (directory / "results").mkdir(parents=True, mode=0o700)
            (directory / "work").mkdir(mode=0o700)
            process = processes.spawn_instance(
                python,
                self._runner,
                directory / "results",
                {pair.name: pair.value for pair in effect.env_vars} | gpus.environment(effect.devices),
                directory / "work",
                f"{self._incarnation.hex()}:{instance_id}",
            )
        except (OSError, ValueError, processes.SpawnError) as error:
            self._trash.discard(directory)
            why = failure(START_FAILED, f"The process could not be started: {error}.")
            self._emit(events.SpawnProblem(instance_id, why, not isinstance(error, ValueError)))
            return
        hosted = self._hosted[instance_id] = Hosted(
            instance_id,
            process,
            FrameReader(process.data),
            FrameWriter(process.data),
            FrameReader(process.control),
            FrameWriter(process.control),
            directory,
        )
        self._memory_kills.began(instance_id)
        self._watch(hosted)
        _log.info("instance %d: process %d started with %s", instance_id, process.pid, python)

    def load(self, effect: effects.LoadFunction) -> None:
        body = self._payload(effect.body)
        self._write(effect.instance_id, frames.Load(effect.version, effect.codec, effect.name, body))

    def call(self, effect: effects.StartCall) -> None:
        hosted = self._hosted.get(effect.instance_id)
        if hosted is None:
            return
        if not hosted.given:
            self._discard_outputs(hosted)
        hosted.given.append(effect.attempt)
        arguments = self._payload(effect.arguments)
        flags = (0 if effect.is_timed else frames.QUIET) | (frames.LOAN if effect.is_loan else 0)
        self._write(effect.instance_id, frames.Call(effect.attempt, effect.version, flags, arguments))
        if len(hosted.given) > 1:
            self._pace(hosted)

    def _pace(self, hosted: Hosted) -> None:
        """Outcomes of short calls are taken a few at a time while more are on their way; the last one at once."""
        descriptor, behind = hosted.process.data.fileno(), len(hosted.given) - 1
        if behind > 0:
            call_ns = max(hosted.run_us * 1_000, CALL_MIN_NS)
            self._poller.defer(descriptor, min(behind * call_ns * DEFERRED_PERCENT // 100, DEFERRED_MAX_NS))
        else:
            self._poller.attend(descriptor)

    @staticmethod
    def _discard_outputs(hosted: Hosted) -> None:
        """What an earlier call left behind has printed something: it belongs to no call."""
        for _stream, descriptor in outputs(hosted):
            if unread_bytes(descriptor):
                read_available(descriptor)

    def cancel(self, effect: effects.CancelCall) -> None:
        hosted = self._hosted.get(effect.instance_id)
        if hosted is not None:
            frame = frames.Timeout(effect.attempt) if effect.timed_out else frames.Cancel(effect.attempt)
            hosted.control.queue(frame)
            hosted.control.flush()  # a few bytes on a socket of its own: they always fit

    def recall(self, effect: effects.RecallCall) -> None:
        hosted = self._hosted.get(effect.instance_id)
        if hosted is not None and effect.attempt in hosted.given and effect.attempt not in hosted.recalling:
            hosted.recalling[effect.attempt] = None
            hosted.control.queue(frames.Recall(effect.attempt))
            hosted.control.flush()

    def ask_to_exit(self, effect: effects.AskToExit) -> None:
        self._write(effect.instance_id, frames.Exit())

    def terminate(self, effect: effects.Terminate) -> None:
        hosted = self._hosted.get(effect.instance_id)
        if hosted is not None:
            hosted.process.send_signal(signal.SIGTERM)

    def kill(self, effect: effects.KillTree) -> None:
        hosted = self._hosted.get(effect.instance_id)
        if hosted is not None:
            hosted.is_killed_by_us = True
            hosted.process.kill_tree()

    def measured(self, used: Iterable[tuple[int, int]]) -> None:
        """What was measured of each instance's memory, in bytes by its id: it tells who was killed for it."""
        self._memory_kills.measured(used)

    def close(self) -> None:
        """Kill whatever is left, without waiting for its last words."""
        end_s = time.monotonic() + CLOSE_S
        for hosted in list(self._hosted.values()):
            hosted.process.kill_tree()
            ended = select.poll()
            ended.register(hosted.process.pidfd, select.POLLIN)
            ended.poll(max(0.0, end_s - time.monotonic()) * 1000)
            with suppress(ChildProcessError):
                hosted.process.reap()
            self._forget(hosted)
        self._trash.close()

    def _watch(self, hosted: Hosted) -> None:
        self._poller.add(hosted.process.data.fileno(), partial(self._on_data, hosted))
        self._poller.add(hosted.process.control.fileno(), partial(self._on_control, hosted))
        self._poller.add(hosted.process.pidfd, partial(self._on_exit, hosted))
        for stream, descriptor in outputs(hosted):
            self._poller.add(descriptor, partial(self._on_output, hosted, stream, descriptor))

    def _payload(self, payload: bytes | Reference) -> frames.Payload:
        if isinstance(payload, bytes):
            return payload
        return frames.Stored(str(self._transfers.path_of(payload.payload_id)), payload.size, payload.sha256)

    def _write(self, instance_id: int, frame: Any) -> None:
        hosted = self._hosted.get(instance_id)
        if hosted is None:
            return
        try:
            hosted.data.queue(frame)
        except frames.FrameError as error:
            self._emit(events.RunnerLost(instance_id, f"The runner cannot be written to: {error}."))
            return
        self._unflushed[instance_id] = hosted

    def flush(self) -> None:
        """Send what was written in this turn; what a runner does not take yet follows when it does."""
        if not self._unflushed:
            return
        for instance_id, hosted in self._unflushed.items():
            if instance_id in self._hosted and hosted.data.flush():
                self._poller.change(hosted.process.data.fileno(), READABLE | WRITABLE)
        self._unflushed.clear()

    def _on_data(self, hosted: Hosted, mask: int) -> None:
        if mask & WRITABLE and not hosted.data.flush():
            self._poller.change(hosted.process.data.fileno(), READABLE)
        if mask & READABLE:
            self._read_frames(hosted)

    def _read_frames(self, hosted: Hosted) -> bool:
        """Pass on the frames that are here; false if there can be no more."""
        try:
            received = hosted.reader.receive()
            for frame in received:
                self._on_frame(hosted, frame)
        except frames.FrameError as error:
            self._poller.remove(hosted.process.data.fileno())
            self._emit(events.RunnerLost(hosted.instance_id, f"The runner's messages were forged or damaged: {error}."))
            return False
        if hosted.reader.closed:
            # It is ending, or has closed our socket and will: the exit tells how.
            self._poller.remove(hosted.process.data.fileno())
        return bool(received) and not hosted.reader.closed

    def _on_frame(self, hosted: Hosted, frame: frames.Frame) -> None:
        kind = type(frame)
        if kind is frames.Done:
            self._on_done(hosted, cast("frames.Done", frame))
            return
        handler = self._on_frames.get(kind)
        if handler is None:
            raise frames.FrameError(f"a runner does not say {kind.__name__}")
        handler(hosted, frame)

    def _on_started(self, hosted: Hosted, frame: frames.Started) -> None:
        self._run_past(hosted, frame.attempt)
        hosted.announced = frame.attempt
        self._emit(events.RunnerStarted(hosted.instance_id, frame.attempt, bool(frame.setup)))

    def _on_control(self, hosted: Hosted, _mask: int) -> None:
        """The runner gives calls back. What it has ended before it said so may still be on the other socket."""
        try:
            for frame in hosted.control_reader.receive():
                if not isinstance(frame, frames.Recalled) or hosted.recalling.pop(frame.attempt, 0) is not None:
                    raise frames.FrameError("a recall of an attempt that it was not given")
                if frame.attempt in hosted.given:
                    hosted.given.remove(frame.attempt)
                    self._emit(events.RunnerRecalled(hosted.instance_id, frame.attempt))
        except frames.FrameError as error:
            self._poller.remove(hosted.process.control.fileno())
            self._emit(events.RunnerLost(hosted.instance_id, f"The runner's messages were forged or damaged: {error}."))
            return
        if hosted.control_reader.closed:
            self._poller.remove(hosted.process.control.fileno())

    def _run_past(self, hosted: Hosted, attempt: int) -> None:
        """It is this one's turn: those before it that were asked back will not run. To be told so may take longer."""
        given = hosted.given
        while given and given[0] != attempt and given[0] in hosted.recalling and attempt in given:
            self._emit(events.RunnerRecalled(hosted.instance_id, given.popleft()))

    def _take_given(self, hosted: Hosted, frame: frames.Result | frames.Done) -> None:
        """An outcome must be that of the attempt whose turn it is. What it printed is read before that counts."""
        if hosted.recalling:
            self._run_past(hosted, frame.attempt)
            hosted.recalling.pop(frame.attempt, None)
        if not hosted.given or frame.attempt != hosted.given[0]:
            raise frames.FrameError("a result of an attempt that it was not given")
        if frame.printed:
            self._drain_outputs(hosted, frame.attempt)
            self._write(hosted.instance_id, frames.Drained())
        hosted.given.popleft()
        hosted.run_us = frame.run_us
        self._pace(hosted)

    def _on_done(self, hosted: Hosted, frame: frames.Done) -> None:
        self._take_given(hosted, frame)
        result, why = self._take_result(hosted, frame)
        self._emit(events.RunnerResult(hosted.instance_id, frame.attempt, result, why, 0, frame.run_us))

    def _on_result(self, hosted: Hosted, frame: frames.Result) -> None:
        self._take_given(hosted, frame)
        result: bytes | events.SpooledResult = b""
        why = None
        if frame.status == frames.STATUS_OK:
            result, why = self._take_result(hosted, frame)
        else:
            names_type = frame.type_name and frame.kind in ("", "user_exception", "setup_failed")  # others say it all
            text = f"{frame.type_name}: {frame.message}" if names_type else frame.message
            exception = self._take_exception(hosted, frame.payload)
            why = failure(frame.kind or "user_exception", text, frame.traceback, exception)
        self._emit(events.RunnerResult(hosted.instance_id, frame.attempt, result, why, frame.setup_us, frame.run_us))

    def _take_result(
        self, hosted: Hosted, frame: frames.Result | frames.Done
    ) -> tuple[bytes | events.SpooledResult, Failure | None]:
        """The result, or why the node cannot hand it over, which is nobody's forgery."""
        stored = frame.payload
        if isinstance(stored, bytes):
            return stored, None
        try:
            descriptor = processes.open_result(hosted.results, stored)
        except processes.NodeFault as error:
            return b"", failure("result_not_stored", f"The function returned, but the node lost its result: {error}.")
        with suppress(OSError):
            (hosted.results / stored.path).unlink()
        name = blake2b(self._incarnation + frame.attempt.to_bytes(8, "big"), digest_size=16).digest()
        self._transfers.hold_result(frame.attempt, Reference(name, stored.size, stored.sha256), descriptor)
        return events.SpooledResult(stored.size), None

    def _take_exception(self, hosted: Hosted, stored: frames.Payload) -> bytes:
        """The pickled exception; nothing if it is too large to travel or cannot be read: its texts do."""
        if isinstance(stored, bytes):
            return stored
        try:
            descriptor = processes.open_result(hosted.results, stored)
        except processes.NodeFault:
            return b""
        try:
            with suppress(OSError):
                (hosted.results / stored.path).unlink()
            return os.pread(descriptor, stored.size, 0) if stored.size <= CHUNK_BYTES_MAX else b""
        except OSError:
            return b""
        finally:
            os.close(descriptor)

    def _on_output(self, hosted: Hosted, stream: int, descriptor: int, _mask: int) -> None:
        read_ns = time.monotonic_ns()
        hosted.process.board.output_comes()
        try:
            data = os.read(descriptor, OUTPUT_READ_BYTES)
        except BlockingIOError:
            return
        if data:
            self._emit(events.RunnerOutput(hosted.instance_id, stream, data, printer(hosted, read_ns)))
        else:
            self._poller.remove(descriptor)

    def _drain_outputs(self, hosted: Hosted, attempt: int = 0) -> None:
        for stream, descriptor in outputs(hosted):
            for data in read_available(descriptor):
                self._emit(events.RunnerOutput(hosted.instance_id, stream, data, attempt))

    def _announce(self, hosted: Hosted) -> None:
        """Tell the core which call had begun, if its runner was not to say so itself.

        What the runner has sent before it began that one is read first: of a call that was asked back, and is not the
        latest to begin, only that tells whether it was ended or not begun.
        """
        attempt, _ = hosted.process.board.read()
        if hosted.given and hosted.given[0] != attempt:
            self._read_all(hosted)
        self._run_past(hosted, attempt)
        if attempt != hosted.announced and hosted.given and hosted.given[0] == attempt:
            hosted.announced = attempt
            self._emit(events.RunnerStarted(hosted.instance_id, attempt, setup=False))

    def announce(self) -> None:
        """Tell the core what runs. Costs by the instance: for when time is up for something, not for every turn."""
        for hosted in self._hosted.values():
            if hosted.given:
                self._announce(hosted)

    def _read_all(self, hosted: Hosted) -> None:
        for _ in range(READS_MAX):
            if hosted.reader.closed or not self._read_frames(hosted):
                break

    def _on_exit(self, hosted: Hosted, _mask: int) -> None:
        reason = hosted.process.reap()
        if reason is None:
            return
        self._read_all(hosted)
        self._announce(hosted)
        self._drain_outputs(hosted)
        for _ in range(KILL_PASSES_MAX):
            if not hosted.process.kill_tree():
                break
        self._forget(hosted)
        number = reason.signal_number
        is_riddle = number == signal.SIGKILL and not hosted.is_killed_by_us
        evidence = self._memory_kills.evidence(hosted.instance_id, self._riddles()) if is_riddle else ""
        self._memory_kills.ended(hosted.instance_id)
        name = "" if number is None else signal_name(number)
        self._emit(events.ProcessExited(hosted.instance_id, reason.exit_code, name, evidence))

    def _riddles(self) -> Iterable[int]:
        """The instances that have died of a SIGKILL which is not ours, and have not been reaped yet."""
        for instance_id, hosted in self._hosted.items():
            if not hosted.is_killed_by_us and hosted.process.has_died_of(signal.SIGKILL):
                yield instance_id

    def _forget(self, hosted: Hosted) -> None:
        del self._hosted[hosted.instance_id]
        for descriptor in (
            hosted.process.data.fileno(),
            hosted.process.control.fileno(),
            hosted.process.pidfd,
            hosted.process.stdout_fd,
            hosted.process.stderr_fd,
        ):
            self._poller.remove(descriptor)
        hosted.process.close()
        self._trash.discard(hosted.directory)


def signal_name(number: int) -> str:
    """``SIGSEGV`` for 11; real-time signals by number.

    >>> signal_name(9)
    'SIGKILL'
    """
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
