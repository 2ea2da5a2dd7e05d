"""What has been measured and what it lets one expect: how long calls run, what it costs to start an instance.

Run times are kept per function version, costs per environment. Pure numbers in nanoseconds; nothing here decides.
"""

from bisect import bisect_right
from itertools import accumulate

__all__ = ["BUILD_DEFAULT_NS", "MIN_SAMPLES", "START_DEFAULT_NS", "RunTimes", "StartCosts"]

START_DEFAULT_NS = 500_000_000
"""Assumed cost of starting a process in an environment that is on disk, before the cluster has measured any."""
BUILD_DEFAULT_NS = 2_000_000_000
"""Assumed cost of building an environment, before the cluster has measured any."""
MIN_SAMPLES = 5
"""With fewer measured runs, nothing is expected of a function."""

_SMOOTHING = 8
"""Weight of the past in the moving average: each new sample counts one eighth."""
_RECENT = 16
"""How many of the last run times the expectation of what is left rests on."""


class RunTimes:
    """How long calls of one function version run.

    >>> times = RunTimes()
    >>> for duration_ns in (10, 10, 20, 40, 40):
    ...     times.add(duration_ns)
    >>> times.residual_ns(15)  # of those that ran for longer: 20, 40, 40
    18
    """

    __slots__ = ("_recent", "_tail", "mean_ns", "samples")

    def __init__(self) -> None:
        self.samples = 0
        self.mean_ns = 0
        self._recent: list[int] = []
        self._tail: tuple[list[int], list[int]] | None = None
        """The recent ones sorted, and their sums from the longest down; made when asked for."""

    def add(self, duration_ns: int) -> None:
        """A call has run for so long."""
        samples = self.samples
        if samples < _RECENT:
            self._recent.append(duration_ns)
        else:
            self._recent[samples % _RECENT] = duration_ns
        self.mean_ns += (duration_ns - self.mean_ns) // _SMOOTHING if samples else duration_ns
        self.samples = samples + 1
        self._tail = None

    @property
    def is_measured(self) -> bool:
        """Whether enough calls have run to expect anything."""
        return self.samples >= MIN_SAMPLES

    def residual_ns(self, age_ns: int) -> int:
        """How much longer a call runs that has run for ``age_ns``: the mean over recent ones that ran longer.

        If none did, it is expected to take as long again (a heavy tail).
        """
        if self._tail is None:
            ordered = sorted(self._recent)
            self._tail = ordered, list(accumulate(reversed(ordered)))
        ordered, sums = self._tail
        longer = len(ordered) - bisect_right(ordered, age_ns)
        return sums[longer - 1] // longer - age_ns if longer else age_ns


class StartCosts:
    """What it costs to have an instance of one environment: the process, and the directory where it is missing."""

    __slots__ = ("build_ns", "builds", "start_ns", "starts")

    def __init__(self, prior: "StartCosts | None" = None) -> None:
        self.start_ns: int = START_DEFAULT_NS if prior is None else prior.start_ns
        self.build_ns: int = BUILD_DEFAULT_NS if prior is None else prior.build_ns
        self.starts = self.builds = 0

    def add(self, elapsed_ns: int, build_ns: int) -> None:
        """An instance took so long from being wanted to being ready; ``build_ns`` of it to build, 0 if it was there.

        These change rarely and matter at once, so that each sample counts half.
        """
        build_ns = min(build_ns, elapsed_ns)
        if build_ns:
            self.build_ns += (build_ns - self.build_ns) // 2
            self.builds += 1
        self.start_ns += (elapsed_ns - build_ns - self.start_ns) // 2
        self.starts += 1

    def expected_ns(self, *, is_built: bool) -> int:
        """The cost of a start where the environment is on disk, or where it is not."""
        return self.start_ns if is_built else self.start_ns + self.build_ns
