"""What a session asked the scheduler to explain, and which leases ended early: as far as it is remembered."""

from collections import deque

from keepwarm.session_calls import Call
from keepwarm_wire.messages import LeaseBroken

__all__ = ["Explaining"]

BROKEN_REMEMBERED = 64


class Explaining:
    """Questions that are open, each with who asked; and the last leases that were broken."""

    def __init__(self) -> None:
        self._questions: dict[int, object] = {}
        self._last_question = 0
        self._broken: deque[tuple[int, LeaseBroken]] = deque(maxlen=BROKEN_REMEMBERED)
        """Each with the number of the last call that had been sent then."""

    def ask(self, owner: object) -> int:
        """The number of a new question."""
        self._last_question += 1
        self._questions[self._last_question] = owner
        return self._last_question

    def answer(self, number: int) -> object | None:
        """Who asked; nobody if that is answered, or forgotten."""
        return self._questions.pop(number, None)

    def broken(self, last_number: int, notice: LeaseBroken) -> None:
        """Leases were broken after the calls up to that number had been sent."""
        self._broken.append((last_number, notice))

    def broken_before(self, call: Call) -> LeaseBroken | None:
        """The last lease of a call's function that was broken before the call was sent, if one is remembered."""
        name = call.function.name
        told = (broken for sent, broken in reversed(self._broken) if sent < call.number and name in broken.functions)
        return next(told, None)
