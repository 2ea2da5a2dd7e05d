"""What becomes of what a turn brought: futures end, output and progress are shown, questions are answered.

Rules: only the thread that owns the client's turn calls this, and never under the lock. What ends a call is not lost
when a signal handler of the program's raises something in the middle: the next turn delivers it.
"""

import time
from collections import deque
from typing import TYPE_CHECKING, Any

from keepwarm.call_future import call_id_of
from keepwarm.connection import Dropped, Failed
from keepwarm.early_ends import EarlyEnds
from keepwarm.failures import error_of
from keepwarm.futures import Future
from keepwarm.interruptions import is_the_programs
from keepwarm.pickling import loads_result
from keepwarm.printing import OutputPrinter
from keepwarm.progress import choose_view
from keepwarm.session_calls import Call, short
from keepwarm.session_deliveries import Completion, Delivery, Explained, LoanEnded, Printed, Progressed, Returned
from keepwarm_wire.messages import LeaseBroken, Outcome

if TYPE_CHECKING:
    from keepwarm.client import Client

__all__ = ["Deliverer"]

_SHOWN = (LeaseBroken, Printed, Progressed)
"""What is only shown: it is not worth a second try, which might show it twice."""


class Deliverer:
    """Delivers what one client gets."""

    def __init__(self, client: "Client") -> None:
        self._client = client
        self._printer = OutputPrinter()
        self.progress = choose_view()
        self._early_ends = EarlyEnds(lambda: self.progress.make_way(""))

    def deliver(self, deliveries: "deque[Delivery | Failed | Dropped]") -> None:
        """Deliver everything, in order."""
        while deliveries:
            delivery = deliveries[0]
            try:
                deliveries.popleft()
                self._deliver(delivery)
            except Exception as error:
                if not isinstance(delivery, _SHOWN) and is_the_programs(error):
                    deliveries.appendleft(delivery)
                raise

    def _deliver(self, delivery: Delivery | Failed | Dropped) -> None:
        if isinstance(delivery, Returned):
            self._return(delivery)
        elif isinstance(delivery, Completion):
            self.complete(delivery)
        elif isinstance(delivery, Failed):
            self._end(delivery.call, delivery.error)
        elif isinstance(delivery, Explained):
            self._answer(delivery)
        elif isinstance(delivery, LeaseBroken):
            self._early_ends.tell(time.monotonic_ns(), delivery)
        elif isinstance(delivery, Printed):
            name = delivery.call.function.short_name
            self.progress.make_way(name)
            self._printer.output(name, delivery.output)
        elif isinstance(delivery, Progressed):
            self.progress.progress(time.monotonic_ns(), short(delivery.function_name), delivery.progress)
        elif isinstance(delivery, LoanEnded):
            self._printer.finish(delivery.call.number)
        elif isinstance(delivery, Dropped):
            self._client.detached.drop(delivery.owner, delivery.error)
        else:
            self._client.detached.deliver(delivery)

    def close(self) -> None:
        """Leave nothing on the screen, and nothing untold."""
        self.progress.close()
        self._early_ends.close()

    def _answer(self, explained: Explained) -> None:
        owner, document = explained
        assert isinstance(owner, Future)
        owner._finish(lambda: document)
        self._client.wake_sleepers(owner)

    def complete(self, completion: Completion) -> None:
        """A call has ended."""
        call, outcome, result = completion
        if result is None:
            call_id = call_id_of(self._client.session_id, call)
            self._end(call, error_of(outcome, call.function.name, call_id), outcome)
        else:
            self._end(call, result, outcome)

    def _return(self, returned: Returned) -> None:
        """A call has returned that a lent process ran."""
        call, result, run_us = returned
        future: Any = call.owner
        if future is None:
            return
        self.progress.served(call.function.short_name)
        future._finish_with(loads_result, result, run_us)
        self._client.wake_sleepers(future)
        call.owner = None

    def _end(self, call: Call, end: bytes | BaseException, outcome: Outcome | None = None) -> None:
        self._printer.finish(call.number)
        self.progress.served(call.function.short_name)
        report = outcome.report if outcome is not None else None
        future: Any = call.owner
        if future is None:
            return  # delivered already, by a turn that was interrupted just then
        assert isinstance(future, Future)
        if isinstance(end, BaseException):
            future._fail(end, report)
        else:
            future._finish_with(loads_result, end, report)
        self._client.wake_sleepers(future)
        call.owner = None  # or each would keep the other until a garbage collection
