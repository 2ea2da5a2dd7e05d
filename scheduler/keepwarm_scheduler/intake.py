"""What has been received and not handled yet: frames by connection, a slice of every turn for each.

ZeroMQ takes turns between connections frame by frame, but one frame can hold a thousand messages. So frames wait here,
each connection's in their order, and a turn handles of each no more than ``SLICE_NS`` takes: whoever says a lot
delays itself, and the others by one slice at most.

Rules: of a connection that has many small frames waiting no more are read for now, so that ZeroMQ keeps them, and then
their sender has to. Large ones would take up too much there: they are read, and dropped, as a network may do, once too
many bytes wait. Nothing relies on delivery, and peers that keep to their credit never get there. Who says much that is
of no use is served slowly. A frame that cannot be read is answered by ``on_bad_frame``; after ``BAD_FRAMES_MAX`` of
them nothing more of that connection is read. Who goes on all the same, or sends messages of very many parts, is deaf,
and to be hung up on where that can be done. A new connection starts anew.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, NamedTuple

from keepwarm_scheduler.core.events import Principal
from keepwarm_wire.codec import ProtocolError, decode_rows, read_rows
from keepwarm_wire.messages import Message

__all__ = [
    "BAD_FRAMES_MAX",
    "BLAME_HALVED_NS",
    "BLAME_MAX",
    "FRAMES_MAX",
    "PARTS_MAX",
    "SLICE_NS",
    "SLOWNESS",
    "SUSPECT_BLAME",
    "WAITING_BYTES_MAX",
    "Intake",
    "Taken",
]

SLICE_NS = 500_000
"""Of a turn, for one connection; one message may take longer."""

WAITING_BYTES_MAX = 48 * 1024 * 1024
"""Of one connection: more than the chunks of payloads that a client or agent may have under way."""

BAD_FRAMES_MAX = 3

BLAME_MAX = 2_000
"""With so much blame on it, a connection is served slowly."""

SUSPECT_BLAME = BLAME_MAX * 3 // 4

BLAME_HALVED_NS = 1_000_000_000
"""In so long, half of the blame is forgotten."""

SLOWNESS = 20
"""Who is to blame waits after each slice so many times as long as it took: one long message cannot help it."""

REST_MAX_NS = 1_000_000_000

FRAMES_MAX = 16
"""Of one connection in one turn; and so many of them may wait, unless they are large."""

ROWS_AT_ONCE = 100
"""Messages of a frame that are decoded in one step: the others need not wait for a thousand of them."""

LARGE_BYTES = 256 * 1024

PARTS_MAX = 64
"""Frames of one message, which ought to be one. ZeroMQ hands them out one by one, and nothing else before the last."""

SMALL_BYTES = 1024
"""Who is busy puts many messages into each frame; frames that are many and small are a flood."""

_FRAME_COST_BYTES = 256
"""What a waiting frame takes up besides its bytes."""


class Taken(NamedTuple):
    """A message, ready to be handled."""

    peer: bytes
    principal: Principal
    message: Message


class _Lane:
    """What waits of one connection."""

    __slots__ = (
        "bad_frames",
        "blame",
        "blame_ns",
        "decoded",
        "frames",
        "has_dropped",
        "is_cut",
        "messages",
        "principal",
        "read",
        "rests_until_ns",
        "rows",
        "turn",
        "waiting_bytes",
    )

    def __init__(self) -> None:
        self.frames: deque[tuple[Principal, bytes, int]] = deque()
        self.rows: Iterator[Any] | None = None
        """What is to be decoded of the latest frame; ``decoded`` is what was, and waits for the rest."""
        self.decoded: list[Message] = []
        self.messages: deque[Message] = deque()
        self.principal: Principal | None = None
        """Whose ``messages`` are."""
        self.waiting_bytes = 0
        self.bad_frames = 0
        self.has_dropped = False
        self.is_cut = False
        """Whether it has been hung up on: what still comes of it was under way."""
        self.rests_until_ns = 0
        self.blame = self.blame_ns = 0
        """How much is blamed on it, and when half of that was forgotten last."""
        self.turn = self.read = 0
        """How many frames have been read in that turn."""


class Intake:
    """Frames in, messages out.

    Args:
        on_bad_frame: called with the connection, what is wrong, and whether nothing more of it will be read.
        on_overflow: called with a connection when the first of its frames is dropped.
        clock_ns: a clock that goes on while messages are handled.
    """

    def __init__(
        self,
        on_bad_frame: Callable[[bytes, ProtocolError, bool], None],
        on_overflow: Callable[[bytes], None],
        clock_ns: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self._on_bad_frame, self._on_overflow, self._clock_ns = on_bad_frame, on_overflow, clock_ns
        self._lanes: dict[bytes, _Lane] = {}
        self._waiting: dict[bytes, _Lane] = {}
        self._turn = 0
        self.is_deaf = False
        """Whether the connection that was put last goes on though it is served slowly, or not at all."""
        self.is_flooded = False
        """Whether in this turn some connection had more small frames than it should: a pause would make it wait."""

    @property
    def is_waiting(self) -> bool:
        """Whether there is something left for the next turn."""
        return bool(self._waiting)

    def holds(self, peer: bytes) -> bool:
        """Whether something that a connection has said is left to be heard, and was worth hearing so far."""
        lane = self._waiting.get(peer)
        return lane is not None and not self._is_blamed(lane)

    def put(self, peer: bytes, principal: Principal, frames: list[bytes]) -> bool:
        """A message of ZeroMQ has come, one frame if it is ours. False once no more is to be read now.

        ZeroMQ gives the frames of many connections in turn, so that no more of this one means enough of the others.
        """
        lane = self._lanes.get(peer)
        if lane is None:
            lane = self._lanes[peer] = _Lane()
        if lane.turn != self._turn:
            lane.turn, lane.read = self._turn, 0
        lane.read += 1
        self.is_deaf = len(frames) >= PARTS_MAX
        if lane.is_cut:
            return True
        if lane.bad_frames < BAD_FRAMES_MAX:
            frame = frames[0] if frames else b""
            size = len(frame) + _FRAME_COST_BYTES
            is_blamed = self._is_blamed(lane)
            if is_blamed and len(lane.frames) >= FRAMES_MAX and size < LARGE_BYTES:
                self.is_flooded = self.is_deaf = True
            elif not lane.waiting_bytes or lane.waiting_bytes + size <= WAITING_BYTES_MAX:
                lane.waiting_bytes += size
                lane.frames.append((principal, frame, len(frames)))
                self._waiting[peer] = lane
            elif not lane.has_dropped:
                lane.has_dropped = True
                self._on_overflow(peer)
            if size < LARGE_BYTES and (is_blamed or len(lane.frames) >= FRAMES_MAX):
                self.is_flooded = self.is_flooded or is_blamed or lane.waiting_bytes < FRAMES_MAX * SMALL_BYTES
                return False
        else:
            self.is_flooded = self.is_deaf = True
        if lane.read < FRAMES_MAX and len(frames) < PARTS_MAX:
            return True
        self.is_flooded = self.is_flooded or lane.waiting_bytes < FRAMES_MAX * SMALL_BYTES
        return False

    def suspect(self, peer: bytes) -> None:
        """A new connection, of somebody who has flooded us: it is borne for less long than others are."""
        lane = self._lanes.setdefault(peer, _Lane())
        lane.blame, lane.blame_ns = SUSPECT_BLAME, self._clock_ns()

    def blame(self, peer: bytes, weight: int) -> None:
        """What a connection said was of no use, as an honest peer's hardly ever is."""
        lane = self._lanes.get(peer)
        if lane is not None:
            lane.blame = self._blame_of(lane) + weight

    def _is_blamed(self, lane: _Lane) -> bool:
        return lane.blame >= BLAME_MAX and self._blame_of(lane) >= BLAME_MAX

    def _blame_of(self, lane: _Lane) -> int:
        """What is still remembered of it."""
        passed = (self._clock_ns() - lane.blame_ns) // BLAME_HALVED_NS
        if passed:
            lane.blame >>= min(passed, 64)
            lane.blame_ns += passed * BLAME_HALVED_NS
        return lane.blame

    def take(self) -> Iterator[Taken]:
        """The messages of this turn: of every connection in turn, as many as its slice allows."""
        clock_ns, waiting = self._clock_ns, self._waiting
        self._turn += 1
        for peer, lane in list(waiting.items()):
            began_ns = clock_ns()
            if self._is_blamed(lane):
                self.is_flooded = True
                if began_ns < lane.rests_until_ns:
                    continue
            end_ns = began_ns + SLICE_NS
            while waiting.get(peer) is lane:
                if lane.messages:
                    assert lane.principal is not None
                    yield Taken(peer, lane.principal, lane.messages.popleft())
                elif lane.frames or lane.rows is not None:
                    self._decode(peer, lane)
                else:
                    del waiting[peer]
                    break
                if clock_ns() >= end_ns:
                    # The others first, next time.
                    if waiting.pop(peer, None) is lane and (lane.messages or lane.frames or lane.rows is not None):
                        waiting[peer] = lane
                    break
            ended_ns = clock_ns()
            lane.rests_until_ns = ended_ns + min(REST_MAX_NS, SLOWNESS * (ended_ns - began_ns))

    def _decode(self, peer: bytes, lane: _Lane) -> None:
        """Read the next frame, or the next part of a long one. None of its messages counts before all are decoded."""
        try:
            if lane.rows is None:
                rows = self._next_rows(lane)
                if len(rows) <= ROWS_AT_ONCE:
                    lane.messages.extend(decode_rows(rows))
                    return
                lane.rows = iter(rows)
            part = decode_rows(tuple(islice(lane.rows, ROWS_AT_ONCE)))
        except ProtocolError as error:
            self._on_bad(peer, lane, error)
            return
        lane.decoded += part
        if len(part) < ROWS_AT_ONCE:
            lane.messages.extend(lane.decoded)
            lane.decoded.clear()
            lane.rows = None

    @staticmethod
    def _next_rows(lane: _Lane) -> tuple[Any, ...]:
        lane.principal, frame, count = lane.frames.popleft()
        lane.waiting_bytes -= len(frame) + _FRAME_COST_BYTES
        if count != 1:
            raise ProtocolError(f"a message of {count} frames or more, 1 expected")
        return read_rows(frame)

    def _on_bad(self, peer: bytes, lane: _Lane, error: ProtocolError) -> None:
        lane.rows = None
        lane.decoded.clear()
        lane.bad_frames += 1
        is_over = lane.bad_frames >= BAD_FRAMES_MAX
        if is_over:
            lane.frames.clear()
            lane.waiting_bytes = 0
        self._on_bad_frame(peer, error, is_over)

    def cut(self, peer: bytes) -> None:
        """It has been hung up on: nothing of what it has said is handled any more, nor of what still comes."""
        lane = self._lanes[peer]
        lane.is_cut, lane.waiting_bytes = True, 0
        lane.rows = None
        for waiting in (lane.frames, lane.decoded, lane.messages):
            waiting.clear()
        self._waiting.pop(peer, None)

    def forget(self, peer: bytes) -> None:
        """A connection is gone: what waits of it is not handled any more."""
        self._lanes.pop(peer, None)
        self._waiting.pop(peer, None)
