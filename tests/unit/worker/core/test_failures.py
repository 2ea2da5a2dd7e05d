"""What the agent says went wrong must fit into a message."""

from keepwarm_wire.codec import decode_frame, encode_frame
from keepwarm_wire.fields import FOREVER_US
from keepwarm_wire.messages import InstanceEnded
from keepwarm_worker.core.failures import failure, seconds


def test_a_failure_of_any_size_can_travel() -> None:
    why = failure("process_died", "m" * 100_000, "x" * 100_000 + "the end", b"e" * 2_000_000)
    assert decode_frame(encode_frame([InstanceEnded(1, "died", why, False)])) == [InstanceEnded(1, "died", why, False)]
    assert why.detail.endswith("the end")
    assert why.exception == b""


def test_a_failure_that_fits_is_left_alone() -> None:
    why = failure("process_died", "message", "detail", b"exception")
    assert why == ("process_died", "message", "detail", b"exception")


def test_durations_are_written_for_people() -> None:
    assert seconds(2_500_000) == "2.5 s"
    assert seconds(FOREVER_US) == "no limit"
