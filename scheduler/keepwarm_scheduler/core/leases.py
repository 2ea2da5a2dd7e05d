"""What keep_alive means: the lease that lets an idle instance live.

Rules, with L the end of a function's last call on the instance and K its keep_alive:

* the deadline is the maximum of L + K over the functions that the instance has served, so that no function
  shortens another's lease; each call of a function replaces that function's own term, it never adds to it;
* an instance that has served nothing holds the lease it was started for (under the name ""), from the moment it
  became ready until its first call ends;
* ``FOREVER_US`` means that there is no deadline, and then the instance is in no timing wheel;
* while a call is in flight there is no deadline: the caller of this module asks only for idle instances.
"""

from keepwarm_wire.fields import FOREVER_US

__all__ = ["FOREVER_NS", "UNKNOWN_TERM", "UNSERVED", "Lease"]

FOREVER_NS = 1 << 63
"""The deadline of a lease without end."""
UNSERVED = ""
"""The name of the term of an instance that has served nothing."""
UNKNOWN_TERM = "?"
"""No function's name: unlike the term that an instance was started for, this one does not end with the next call."""


class Lease:
    """The terms that functions hold on one instance, by function name.

    >>> lease = Lease()
    >>> lease.restart("slow", ended_ns=0, keep_alive_us=300)
    >>> lease.restart("quick", ended_ns=1_000, keep_alive_us=1)
    >>> lease.deadline_ns
    300000
    """

    __slots__ = ("_deadlines", "deadline_ns")

    def __init__(self) -> None:
        self._deadlines: dict[str, int] = {}
        self.deadline_ns = 0

    def restart(self, function: str, ended_ns: int, keep_alive_us: int) -> None:
        """A call of ``function`` ended: its term begins anew and the common deadline follows."""
        deadlines = self._deadlines
        deadline_ns = FOREVER_NS if keep_alive_us >= FOREVER_US else ended_ns + keep_alive_us * 1_000
        previous_ns = deadlines.get(function, 0)
        deadlines[function] = deadline_ns
        if function and deadlines.pop("", None) == self.deadline_ns:
            self.deadline_ns = max(deadlines.values())  # the term that it was started for ends with its first call
        elif deadline_ns >= self.deadline_ns:
            self.deadline_ns = deadline_ns
        elif previous_ns == self.deadline_ns:
            # The longest term was this function's own and has become shorter: look again.
            self.deadline_ns = max(deadlines.values())

    def left_us(self, now_ns: int) -> dict[str, int]:
        """The terms that are not over, by function, each with what is left of it; ``FOREVER_US`` when endless."""
        return {
            function: FOREVER_US if deadline_ns >= FOREVER_NS else (deadline_ns - now_ns) // 1_000
            for function, deadline_ns in self._deadlines.items()
            if deadline_ns > now_ns
        }

    @property
    def is_infinite(self) -> bool:
        """True when the instance stays until told otherwise."""
        return self.deadline_ns >= FOREVER_NS

    def remaining_us(self, now_ns: int) -> int:
        """Time left, 0 when over, ``FOREVER_US`` when endless."""
        if self.is_infinite:
            return FOREVER_US
        return max(0, self.deadline_ns - now_ns) // 1_000
