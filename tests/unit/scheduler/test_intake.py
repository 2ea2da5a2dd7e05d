"""Slices of turns, bounds on what waits, and frames that cannot be read."""

from itertools import count

import msgpack

from keepwarm_scheduler.core.events import LOCAL, Principal
from keepwarm_scheduler.intake import (
    BAD_FRAMES_MAX,
    BLAME_HALVED_NS,
    BLAME_MAX,
    FRAMES_MAX,
    PARTS_MAX,
    ROWS_AT_ONCE,
    SLICE_NS,
    SLOWNESS,
    SUSPECT_BLAME,
    WAITING_BYTES_MAX,
    Intake,
)
from keepwarm_wire.codec import ProtocolError, encode_frame
from keepwarm_wire.messages import Cancel, PayloadChunk

A, B = b"a", b"b"
OTHER = Principal("key", "client", "x")


class Rig:
    """An intake, a clock that every message costs something of, and what was complained of."""

    def __init__(self, cost_ns: int = 0) -> None:
        self.now_ns, self.cost_ns = 0, cost_ns
        self.bad: list[tuple[bytes, bool]] = []
        self.overflows: list[bytes] = []
        self.intake = Intake(self._on_bad_frame, self.overflows.append, lambda: self.now_ns)

    def _on_bad_frame(self, peer: bytes, _: ProtocolError, is_over: bool) -> None:
        self.bad.append((peer, is_over))

    def put(self, peer: bytes, *numbers: int, principal: Principal = LOCAL) -> None:
        self.intake.put(peer, principal, [encode_frame([Cancel(number) for number in numbers])])

    def turn(self) -> list[tuple[bytes, int]]:
        """What one turn handles."""
        handled = []
        for peer, _, message in self.intake.take():
            handled.append((peer, message.call_number))
            self.now_ns += self.cost_ns
        return handled


def test_a_turn_handles_everything_where_there_is_little() -> None:
    rig = Rig()
    rig.put(A, 1, 2)
    rig.put(B, 3)
    rig.put(A, 4)
    assert rig.turn() == [(A, 1), (A, 2), (A, 4), (B, 3)]
    assert not rig.intake.is_waiting
    assert rig.turn() == []


def test_who_says_much_delays_the_others_by_a_slice_at_most() -> None:
    rig = Rig(cost_ns=SLICE_NS // 2)
    rig.put(A, *range(1, 8))
    rig.put(B, 1)
    assert rig.turn() == [(A, 1), (A, 2), (B, 1)]
    assert rig.intake.is_waiting
    rig.put(B, 2)
    assert rig.turn() == [(A, 3), (A, 4), (B, 2)]
    assert rig.turn() == [(A, 5), (A, 6)]
    assert rig.turn() == [(A, 7)]
    assert not rig.intake.is_waiting


def test_whose_slice_was_used_up_comes_after_the_others_in_the_next_turn() -> None:
    rig = Rig(cost_ns=SLICE_NS)
    rig.put(A, 1, 2, 3)
    rig.put(B, 1, 2)
    assert rig.turn() == [(A, 1), (B, 1)]
    assert rig.turn() == [(A, 2), (B, 2)]
    rig.put(B, 3)
    assert rig.turn() == [(A, 3), (B, 3)]


def test_a_frame_is_its_senders_even_when_the_key_of_the_connection_changes() -> None:
    rig = Rig()
    rig.put(A, 1)
    rig.put(A, 2, principal=OTHER)
    assert [(taken.principal, taken.message.call_number) for taken in rig.intake.take()] == [(LOCAL, 1), (OTHER, 2)]


def test_after_three_bad_frames_nothing_more_is_read_until_there_is_a_new_connection() -> None:
    rig = Rig()
    for _ in range(BAD_FRAMES_MAX):
        rig.intake.put(A, LOCAL, [b"\xc1"])
        rig.put(A, 1)
    assert rig.turn() == [(A, 1)] * (BAD_FRAMES_MAX - 1)
    assert rig.bad == [(A, False)] * (BAD_FRAMES_MAX - 1) + [(A, True)]
    rig.put(A, 2)
    assert rig.turn() == []
    assert not rig.intake.is_waiting
    rig.intake.forget(A)
    rig.put(A, 3)
    assert rig.turn() == [(A, 3)]


def test_a_long_frame_is_decoded_in_parts_between_which_the_others_are_heard() -> None:
    rig, numbers = Rig(), range(1, 2 * ROWS_AT_ONCE + 2)
    rig.put(A, *numbers)
    looks = count(0, SLICE_NS)
    rig.intake._clock_ns = lambda: next(looks)  # so that every part takes a slice
    assert rig.turn() == []
    rig.put(B, 1)
    assert rig.turn() == []
    assert rig.turn() == [(B, 1)]
    rig.intake._clock_ns = lambda: 0
    assert rig.turn() == [(A, number) for number in numbers]
    assert not rig.intake.is_waiting


def test_a_frame_as_long_as_a_part_is_whole() -> None:
    rig = Rig()
    rig.put(A, *range(ROWS_AT_ONCE))
    rig.put(A, 7)
    assert [number for _, number in rig.turn()] == [*range(ROWS_AT_ONCE), 7]


def test_nothing_of_a_frame_counts_whose_last_message_is_bad() -> None:
    rig = Rig()
    rows = [[row[0], *row[1:]] for row in msgpack.unpackb(encode_frame([Cancel(1)] * 2 * ROWS_AT_ONCE))]
    rig.intake.put(A, LOCAL, [msgpack.packb([*rows, ["?"]])])
    rig.put(A, 9)
    assert rig.turn() == [(A, 9)]
    assert rig.bad == [(A, False)]


def test_good_frames_between_bad_ones_pardon_nothing() -> None:
    rig = Rig()
    for _ in range(BAD_FRAMES_MAX):
        rig.intake.put(A, LOCAL, [])
        rig.put(A, 1)
        rig.turn()
    assert rig.bad[-1] == (A, True)


def test_several_frames_and_none_are_bad() -> None:
    rig = Rig()
    rig.intake.put(A, LOCAL, [encode_frame([Cancel(1)]), b""])
    rig.intake.put(B, LOCAL, [])
    assert rig.turn() == []
    assert [peer for peer, _ in rig.bad] == [A, B]


def test_what_waits_is_bounded_for_each_connection_and_said_once() -> None:
    rig = Rig()
    chunk = encode_frame([PayloadChunk(b"p" * 16, 0, bytes(1 << 20))])
    for _ in range(100):
        rig.intake.put(A, LOCAL, [chunk])
    rig.put(B, 1)
    assert rig.overflows == [A]
    handled = [taken.peer for taken in rig.intake.take()]
    assert handled.count(A) == WAITING_BYTES_MAX // (len(chunk) + 256)
    assert handled.count(B) == 1
    rig.put(A, 1)
    assert rig.turn() == [(A, 1)]


def test_even_a_frame_beyond_the_bound_is_taken_where_nothing_waits() -> None:
    rig = Rig()
    rig.intake.put(A, LOCAL, [bytes(WAITING_BYTES_MAX)])
    assert rig.turn() == []
    assert rig.bad == [(A, False)]


def test_small_frames_count_for_what_they_cost() -> None:
    """A million empty frames are not nothing."""
    rig = Rig()
    for _ in range(WAITING_BYTES_MAX // 256 + 10):
        rig.intake.put(A, LOCAL, [encode_frame([])])
    assert rig.overflows == [A]


def test_what_waits_of_a_connection_that_is_gone_is_not_handled() -> None:
    rig = Rig()
    rig.put(A, 1, 2)
    rig.put(B, 1)
    handled = []
    for peer, _, message in rig.intake.take():
        handled.append((peer, message.call_number))
        rig.intake.forget(A)
    assert handled == [(A, 1), (B, 1)]
    assert not rig.intake.is_waiting


# ---------------------------------------------------------------- floods


def test_no_more_than_a_few_small_frames_of_a_connection_are_read_in_a_turn() -> None:
    rig = Rig()
    frame = [encode_frame([Cancel(1)])]
    answers = [rig.intake.put(A, LOCAL, frame) for _ in range(FRAMES_MAX)]
    assert answers == [True] * (FRAMES_MAX - 1) + [False]
    assert rig.intake.is_flooded
    assert rig.intake.put(B, LOCAL, frame)
    assert len(rig.turn()) == FRAMES_MAX + 1
    assert rig.intake.put(A, LOCAL, frame)


def test_large_frames_are_read_even_while_others_wait_but_few_in_a_turn() -> None:
    rig = Rig(cost_ns=SLICE_NS)
    large = [encode_frame([PayloadChunk(b"p" * 16, 0, bytes(1 << 20))])]
    for _ in range(3):
        answers = [rig.intake.put(A, LOCAL, large) for _ in range(FRAMES_MAX)]
        assert answers == [True] * (FRAMES_MAX - 1) + [False]
        for _ in rig.intake.take():
            rig.now_ns += SLICE_NS
    assert rig.intake.is_waiting
    assert not rig.intake.is_flooded


def test_who_is_to_blame_is_served_slowly_until_most_of_that_is_forgotten() -> None:
    rig = Rig(cost_ns=SLICE_NS)
    rig.put(A, *range(1, 40))
    assert len(rig.turn()) == 1
    rig.intake.blame(A, BLAME_MAX)
    assert len(rig.turn()) == 0
    assert rig.intake.is_flooded
    rig.now_ns += SLOWNESS * SLICE_NS
    assert len(rig.turn()) == 1
    assert len(rig.turn()) == 0
    rig.now_ns += 2 * BLAME_HALVED_NS
    assert [len(rig.turn()) for _ in range(3)] == [1, 1, 1]


def test_who_is_suspected_is_to_blame_sooner() -> None:
    rig = Rig()
    for peer in (A, B):
        rig.intake.suspect(peer)
    rig.put(A, 1)
    rig.intake.blame(A, BLAME_MAX - SUSPECT_BLAME - 1)
    assert rig.intake.holds(A)
    rig.intake.blame(A, 1)
    assert not rig.intake.holds(A)


def test_blame_is_forgotten_in_silence_too() -> None:
    rig = Rig()
    rig.put(A, 1)
    rig.turn()
    rig.intake.blame(A, BLAME_MAX)
    assert not rig.intake.holds(A)
    rig.now_ns += BLAME_HALVED_NS
    for number in range(FRAMES_MAX + 1):
        rig.put(A, number)
    assert not rig.intake.is_deaf
    assert rig.intake.holds(A)
    assert len(rig.turn()) == FRAMES_MAX + 1


def test_who_sends_large_frames_within_its_credit_is_not_deaf() -> None:
    rig = Rig()
    rig.put(A, 1)
    rig.turn()
    rig.intake.blame(A, BLAME_MAX)
    chunk = encode_frame([PayloadChunk(b"p" * 16, 0, bytes(1 << 20))])
    for _ in range(2 * FRAMES_MAX):
        rig.intake.put(A, LOCAL, [chunk])
    assert not rig.intake.is_deaf


def test_blame_of_a_connection_that_is_unknown_is_nobodys() -> None:
    rig = Rig()
    rig.intake.blame(A, BLAME_MAX)
    rig.put(A, 1)
    assert rig.turn() == [(A, 1)]
    assert not rig.intake.is_flooded


def test_who_is_not_read_any_more_floods_with_every_frame() -> None:
    rig = Rig()
    for _ in range(BAD_FRAMES_MAX):
        rig.intake.put(A, LOCAL, [b"\xc1"])
    rig.turn()
    assert not rig.intake.is_flooded
    rig.put(A, 1)
    assert rig.intake.is_flooded


# ---------------------------------------------------------------- hanging up


def flood(rig: Rig, frames: int) -> int:
    """How many frames of one connection are put before it turns out that it should be hung up on."""
    for number in range(frames):
        rig.put(A, 1)
        if rig.intake.is_deaf:
            return number
    return frames


def test_who_is_to_blame_and_goes_on_is_deaf() -> None:
    rig = Rig(cost_ns=SLICE_NS)
    rig.put(A, 1, 2)
    rig.turn()
    assert flood(rig, 1_000) == 1_000, "nothing is to be blamed on it"
    rig.intake.blame(A, BLAME_MAX)
    assert flood(rig, 2) == 0
    rig.put(B, 1)
    assert not rig.intake.is_deaf


def test_who_is_to_blame_and_waits_is_not_deaf() -> None:
    rig = Rig()
    rig.put(A, 1)
    rig.turn()
    rig.intake.blame(A, BLAME_MAX)
    assert flood(rig, FRAMES_MAX) == FRAMES_MAX
    assert flood(rig, 1) == 0


def test_a_message_of_very_many_frames_is_deaf() -> None:
    rig = Rig()
    answers = [(rig.intake.put(A, LOCAL, [b""] * count), rig.intake.is_deaf) for count in (PARTS_MAX - 1, PARTS_MAX)]
    assert answers == [(True, False), (False, True)]
    rig.turn()
    assert rig.bad == [(A, False)] * 2, "where it cannot be hung up on it is told"


def test_nothing_more_is_handled_of_a_connection_that_was_hung_up_on() -> None:
    rig = Rig(cost_ns=SLICE_NS)
    rig.put(A, *range(1, 300))
    rig.put(B, 1)
    assert rig.turn() == [(A, 1), (B, 1)]
    rig.intake.cut(A)
    assert not rig.intake.is_waiting
    assert not rig.intake.holds(A)
    rig.put(A, 1)
    rig.put(B, 2)
    assert rig.turn() == [(B, 2)]
    rig.intake.forget(A)
    rig.put(A, 3)
    assert rig.turn() == [(A, 3)]
