"""What the cluster is doing for waiting calls, shown to the person who waits.

On a terminal: one live line per function (``rich`` is imported only then). Elsewhere: one plain line per phase, and
only once a build takes longer than a second, so that warm calls and quick starts print nothing.
``KEEPWARM_PROGRESS=0`` silences it, ``=1`` forces plain lines. Rules: called by the thread that owns the client's turn,
never under a lock; whatever goes wrong with the terminal goes no further; with nothing waiting, nothing is left on the
screen.
"""

import os
import sys
import time
from typing import TYPE_CHECKING, Protocol, TextIO

from keepwarm.interruptions import BestEffort
from keepwarm_wire.messages import Progress

if TYPE_CHECKING:
    from rich.live import Live
    from rich.spinner import Spinner

__all__ = ["LiveProgress", "PlainProgress", "ProgressView", "SilentProgress", "choose_view"]

PLAIN_AFTER_US = 1_000_000
LIVE_REFRESH_PER_S = 8
SENTENCES = {
    "venv": "making the environment of",
    "lock": "resolving the requirements of",
    "build": "building the environment of",
    "install": "building the environment of",
    "download": "building the environment of",
    "start": "starting a process for",
    "setup": "running the setup of",
}
ENDED = frozenset({"ready", "done", "failed"})
"""Phases after which a function waits for nothing more."""


class ProgressView(Protocol):
    """Where progress is shown."""

    def progress(self, now_ns: int, function_name: str, progress: Progress) -> None:
        """Show a phase that a function's calls wait for."""

    def tick(self, now_ns: int) -> None:
        """Show what has become due."""

    def next_deadline(self) -> int | None:
        """When ``tick`` is next due."""

    def served(self, function_name: str) -> None:
        """A call of the function is over: it waits no more."""

    def make_way(self, function_name: str) -> None:
        """A call of the function has printed something, which is about to be shown: it waits no more."""

    def close(self) -> None:
        """Leave nothing on the screen."""


class SilentProgress:
    """Shows nothing."""

    def progress(self, now_ns: int, function_name: str, progress: Progress) -> None:
        """Show nothing."""

    def tick(self, now_ns: int) -> None:
        """Nothing is ever due."""

    def next_deadline(self) -> int | None:
        """Nothing is ever due."""
        return None

    def served(self, function_name: str) -> None:
        """Show nothing."""

    def make_way(self, function_name: str) -> None:
        """Show nothing."""

    def close(self) -> None:
        """Nothing to do."""


class PlainProgress:
    """One line per function, node and phase, from the moment a function has waited for ``after_us``."""

    def __init__(self, stream: TextIO, after_us: int) -> None:
        self._stream = stream
        self._after_us = after_us
        self._shown: dict[str, set[tuple[str, str]]] = {}
        self._due: dict[str, tuple[int, Progress]] = {}

    def progress(self, now_ns: int, function_name: str, progress: Progress) -> None:
        """Print a phase once, when it is late enough; until then a later phase takes its place."""
        if progress.phase in ENDED:
            self.served(function_name)
            return
        if (progress.node, progress.phase) in self._shown.get(function_name, ()):
            return
        wait_us = max(0, self._after_us - progress.elapsed_us)
        self._due[function_name] = (now_ns + wait_us * 1000, progress)
        self.tick(now_ns)

    def tick(self, now_ns: int) -> None:
        """Print the phases that have lasted long enough."""
        for name, (due_ns, progress) in list(self._due.items()):
            if due_ns <= now_ns:
                del self._due[name]
                self._shown.setdefault(name, set()).add((progress.node, progress.phase))
                with BestEffort():
                    self._stream.write(f"keepwarm: {sentence(name, progress)}\n")
                    self._stream.flush()

    def next_deadline(self) -> int | None:
        """When the next phase has lasted long enough."""
        return min((due_ns for due_ns, _ in self._due.values()), default=None)

    def served(self, function_name: str) -> None:
        """Forget what was shown: the next build is told of anew."""
        self._shown.pop(function_name, None)
        self._due.pop(function_name, None)

    def make_way(self, function_name: str) -> None:
        """Lines do not overwrite one another: only stop waiting."""
        self.served(function_name)

    def close(self) -> None:
        """Nothing to do."""


class _WaitingLine:
    """The line of one waiting function, drawn anew by rich several times a second."""

    def __init__(self, spinner: "Spinner", name: str) -> None:
        self.spinner = spinner
        self.name = name
        self.progress: Progress | None = None
        self.began_s = 0.0

    def __rich__(self) -> "Spinner":
        if self.progress is not None:
            from rich.markup import escape

            elapsed_s = time.monotonic() - self.began_s
            self.spinner.update(text=f"{escape(sentence(self.name, self.progress))} ({elapsed_s:.0f} s)")
        return self.spinner


class LiveProgress:
    """A spinner line per waiting function, with phase, node and elapsed time, on a terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._live: Live | None = None
        self._lines: dict[str, _WaitingLine] = {}

    def progress(self, now_ns: int, function_name: str, progress: Progress) -> None:
        """Show or change the line of a function."""
        if progress.phase in ENDED:
            self.served(function_name)
            return
        from rich.spinner import Spinner

        line = self._lines.get(function_name)
        if line is None:
            line = self._lines[function_name] = _WaitingLine(Spinner("dots"), function_name)
        line.progress = progress
        line.began_s = now_ns / 1_000_000_000 - progress.elapsed_us / 1_000_000
        self._draw()

    def tick(self, now_ns: int) -> None:
        """Rich draws by itself."""

    def next_deadline(self) -> int | None:
        """Rich draws by itself."""
        return None

    def served(self, function_name: str) -> None:
        """Remove the line of a function."""
        if self._lines.pop(function_name, None) is not None:
            self._draw()

    def make_way(self, function_name: str) -> None:
        """Take the lines off the screen; those of other functions come back with their next phase."""
        self._lines.pop(function_name, None)
        with BestEffort():
            live, self._live = self._live, None
            if live is not None:
                live.stop()

    def close(self) -> None:
        """Clear the screen of every line."""
        self._lines.clear()
        self._draw()

    def _draw(self) -> None:
        with BestEffort():
            if not self._lines:
                live, self._live = self._live, None
                if live is not None:
                    live.stop()
                return
            from rich.console import Console, Group
            from rich.live import Live

            if self._live is None:
                # The program's streams are left alone: what it prints must not depend on what is shown here.
                self._live = Live(
                    console=Console(file=self._stream),
                    transient=True,
                    refresh_per_second=LIVE_REFRESH_PER_S,
                    redirect_stdout=False,
                    redirect_stderr=False,
                )
                self._live.start()
            self._live.update(Group(*self._lines.values()))


def sentence(function_name: str, progress: Progress) -> str:
    """One phase in words, as ``building the environment of get_response on node-1: install``."""
    action = SENTENCES.get(progress.phase, f"{progress.phase} for")
    text = f"{action} {function_name}" + (f" on {progress.node}" if progress.node else "")
    return f"{text}: {progress.detail or progress.phase}"


def choose_view(stream: TextIO | None = None) -> ProgressView:
    """The view that fits ``stream`` (standard error by default) and ``KEEPWARM_PROGRESS``."""
    target = stream if stream is not None else sys.stderr
    wish = os.environ.get("KEEPWARM_PROGRESS", "").strip()
    if wish == "0" or target is None:
        return SilentProgress()
    if wish == "1":
        return PlainProgress(target, 0)
    with BestEffort():
        if target.isatty():
            return LiveProgress(target)
    return PlainProgress(target, PLAIN_AFTER_US)
