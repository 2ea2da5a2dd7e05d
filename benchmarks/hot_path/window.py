"""A stretch of time in which something is measured: wall time, and processor time by part of the tree.

Rules: the tree is that of this process. What it does itself to look around lies outside the stretch. Processor time of
the same processors that went to others is reported with it: a high value marks a disturbed measurement.
"""

import os
import time
from collections import Counter
from types import TracebackType

from benchmarks.hot_path.processes import busy_s, cpu_ns, tree

__all__ = ["Window"]


class Window:
    """``with Window() as window: work()``; afterwards ``figures(calls)`` and ``parts(calls)``."""

    def __init__(self) -> None:
        self.wall_s = 0.0
        self.cpu_s = 0.0
        self.others_percent = 0.0
        self._ns: Counter[str] = Counter()
        self._processors = tuple(os.sched_getaffinity(0))

    def __enter__(self) -> "Window":
        me = os.getpid()
        self._part_of = {process.pid: process.part for process in tree(me)}
        self._before = {pid: cpu_ns(pid) for pid in self._part_of if pid != me}
        self._busy_s = busy_s(self._processors)
        self._before[me] = cpu_ns(me)
        self._begun_s = time.perf_counter()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.wall_s = time.perf_counter() - self._begun_s
        me = os.getpid()
        after = {me: cpu_ns(me)}
        busy_for_s = busy_s(self._processors) - self._busy_s
        parts = self._part_of | {process.pid: process.part for process in tree(me)}
        for pid, part in parts.items():
            used_ns = after.get(pid) or cpu_ns(pid)
            self._ns[part] += max(0, used_ns - self._before.get(pid, 0))
        self.cpu_s = self._ns.total() / 1e9
        others_s = max(0.0, busy_for_s - self.cpu_s)
        self.others_percent = 100 * others_s / (self.wall_s * len(self._processors))

    def figures(self, calls: int) -> dict[str, float]:
        """What is the same for all measurements of calls."""
        return {
            "calls_per_s": calls / self.wall_s,
            "cpu_us_per_call": self.cpu_s / calls * 1e6,
            "others_percent": self.others_percent,
        }

    def parts(self, calls: int) -> dict[str, float]:
        """Microseconds of processor time per call, by part; parts that did nothing are left out."""
        return {part: used_ns / calls / 1e3 for part, used_ns in sorted(self._ns.items()) if used_ns}
