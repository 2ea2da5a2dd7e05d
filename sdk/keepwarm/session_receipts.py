"""Which outcomes a session has and has not acknowledged: the scheduler keeps each until then, and tells it again.

Rule: acknowledgements ride on whatever is sent next, at the latest after ``RECEIVED_DELAY_NS``. One that was lost is
said again when its outcome comes again.
"""

from keepwarm_wire.messages import Message, Received
from keepwarm_wire.session_messages import RECEIVED_MAX

__all__ = ["RECEIVED_DELAY_NS", "Receipts"]

RECEIVED_DELAY_NS = 50_000_000


class Receipts:
    """The receipts of one session. ``outgoing`` is where its messages go."""

    def __init__(self, outgoing: list[Message]) -> None:
        self._outgoing = outgoing
        self._numbers: list[int] = []
        self.due_ns: int | None = None
        """By when they are to be sent; ``None`` where there are none."""

    def note(self, now_ns: int, number: int) -> None:
        """The outcome of this call is here."""
        self._numbers.append(number)
        if self.due_ns is None:
            self.due_ns = now_ns + RECEIVED_DELAY_NS
        if len(self._numbers) >= RECEIVED_MAX:
            self.due_ns = now_ns

    def send(self) -> None:
        """Acknowledge what there is to acknowledge."""
        numbers, self._numbers, self.due_ns = self._numbers, [], None
        for start in range(0, len(numbers), RECEIVED_MAX):
            self._outgoing.append(Received(tuple(numbers[start : start + RECEIVED_MAX])))
