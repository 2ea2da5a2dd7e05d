"""The functions of a session: which it has, which of them are idle, and which the scheduler is told to forget.

Part of the session's state machine and as pure. Rules: a number is given once; a function is forgotten only while
nothing of it is unanswered, the one that has been idle longest first; what a call costs here does not depend on how
many functions there are.
"""

from collections import OrderedDict, deque
from collections.abc import Iterator

from keepwarm.session_calls import Function
from keepwarm_wire.messages import ForgetFunctions, Message
from keepwarm_wire.session_messages import FORGOTTEN_MAX

__all__ = ["Functions"]


class Functions:
    """The functions of one session, by number. Messages are appended to the session's ``outgoing``."""

    def __init__(self, outgoing: list[Message]) -> None:
        self._outgoing = outgoing
        self._by_number: dict[int, Function] = {}
        self._idle: OrderedDict[int, Function] = OrderedDict()
        """Those of which nothing is unanswered, the one that became idle longest ago first."""
        self._forgotten: deque[int] = deque(maxlen=FORGOTTEN_MAX)
        """The last that the scheduler was told to forget: a connection that broke may have lost it."""
        self.next_number = 1

    def __len__(self) -> int:
        return len(self._by_number)

    def __iter__(self) -> Iterator[Function]:
        return iter(self._by_number.values())

    @property
    def idle(self) -> int:
        """Of how many nothing is unanswered."""
        return len(self._idle)

    def get(self, number: int) -> Function | None:
        """The function under a number, if it is not forgotten."""
        return self._by_number.get(number)

    def add(self, function: Function) -> None:
        """Take a function, which has the ``next_number``."""
        self.next_number = function.number + 1
        self._by_number[function.number] = self._idle[function.number] = function

    def begin(self, function: Function) -> None:
        """One more call of it is unanswered."""
        if not function.unanswered:
            self._idle.pop(function.number, None)
        function.unanswered += 1

    def end(self, function: Function) -> None:
        """One call fewer of it is unanswered."""
        function.unanswered -= 1
        if not function.unanswered:
            self._idle[function.number] = function

    def forget(self, count: int) -> list[Function]:
        """Forget up to so many idle functions, and say so to a scheduler that may know them."""
        forgotten = [self._idle.popitem(last=False)[1] for _ in range(min(count, len(self._idle)))]
        for function in forgotten:
            del self._by_number[function.number]
            function.is_forgotten = True
        self._say([function.number for function in forgotten if function.was_declared])
        return forgotten

    def say_again(self) -> None:
        """There is a new connection to a scheduler that knows the session: what was said last may not have arrived."""
        numbers = list(self._forgotten)
        self._forgotten.clear()
        self._say(numbers)

    def start_over(self) -> None:
        """The scheduler knows nothing of the session."""
        self._forgotten.clear()
        for function in self:
            function.is_stored = function.body_wanted = function.was_declared = False
            function.waiting.clear()

    def _say(self, numbers: list[int]) -> None:
        self._forgotten.extend(numbers)
        for start in range(0, len(numbers), FORGOTTEN_MAX):
            self._outgoing.append(ForgetFunctions(tuple(numbers[start : start + FORGOTTEN_MAX])))
