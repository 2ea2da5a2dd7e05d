"""What a run consisted of, counted: events that the cores handled, and faults that struck.

An *event* is one message that was handed to a core (a message of a frame that arrived, a word of a runner or of a
build to its agent, the news of a broken connection), or one timer that fired and woke a core. The tick that a host
makes at the end of a turn is none. A *fault* is counted when it does harm: a crash of what is down already is none.
"""

from dataclasses import dataclass, field

__all__ = ["Tally"]


@dataclass(slots=True)
class Tally:
    """The counts of one run. The hosts, machines and the network of a cluster share it."""

    messages: int = 0
    timers: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    met: dict[str, int] = field(default_factory=dict)
    """What else happened that schedules are meant to lead to."""

    @property
    def events(self) -> int:
        """Messages handled and timers fired."""
        return self.messages + self.timers

    def meet(self, kind: str) -> None:
        """Something that is no fault has happened."""
        self.met[kind] = self.met.get(kind, 0) + 1

    def strike(self, kind: str) -> None:
        """A fault has struck."""
        self.faults[kind] = self.faults.get(kind, 0) + 1
