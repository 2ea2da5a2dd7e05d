"""What people see while they wait: when lines appear, what they say, and that nothing is left behind."""

import io
import subprocess
import sys

import pytest

from keepwarm.progress import LiveProgress, PlainProgress, SilentProgress, choose_view, sentence
from keepwarm_wire.messages import Progress

SECOND_NS = 1_000_000_000


class Terminal(io.StringIO):
    """Text that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def phase(name: str, elapsed_us: int = 0, detail: str = "", node: str = "node-1") -> Progress:
    return Progress(1, node, name, detail, elapsed_us)


def test_a_sentence_names_the_function_the_node_and_the_phase() -> None:
    assert sentence("get_response", phase("build", detail="install")) == (
        "building the environment of get_response on node-1: install"
    )
    assert sentence("f", phase("start", node="")) == "starting a process for f: start"
    assert sentence("f", phase("odd")) == "odd for f on node-1: odd"


def test_a_quick_build_prints_nothing() -> None:
    out = io.StringIO()
    view = PlainProgress(out, 1_000_000)
    view.progress(0, "f", phase("build"))
    view.progress(SECOND_NS // 2, "f", phase("start", 500_000))
    view.served("f")
    view.tick(10 * SECOND_NS)
    assert out.getvalue() == ""
    assert view.next_deadline() is None


def test_a_phase_is_printed_once_it_has_lasted_a_second_even_without_news() -> None:
    out = io.StringIO()
    view = PlainProgress(out, 1_000_000)
    view.progress(0, "f", phase("build", 300_000, "install"))
    assert view.next_deadline() == 700_000_000
    view.tick(699_999_999)
    assert out.getvalue() == ""
    view.tick(700_000_000)
    view.tick(SECOND_NS)
    view.progress(2 * SECOND_NS, "f", phase("build", 2_300_000, "install"))
    assert out.getvalue() == "keepwarm: building the environment of f on node-1: install\n"


def test_each_phase_of_a_long_build_has_its_line() -> None:
    out = io.StringIO()
    view = PlainProgress(out, 1_000_000)
    view.progress(0, "f", phase("lock", 1_500_000))
    view.progress(0, "f", phase("build", 1_600_000))
    view.progress(0, "g", phase("build", 1_600_000, node="node-2"))
    assert out.getvalue().splitlines() == [
        "keepwarm: resolving the requirements of f on node-1: lock",
        "keepwarm: building the environment of f on node-1: build",
        "keepwarm: building the environment of g on node-2: build",
    ]


def test_after_the_end_of_a_build_the_next_is_told_of_anew() -> None:
    out = io.StringIO()
    view = PlainProgress(out, 0)
    view.progress(0, "f", phase("build"))
    view.served("f")
    view.progress(0, "f", phase("build"))
    view.progress(0, "f", phase("ready"))
    view.progress(0, "f", phase("build"))
    assert out.getvalue().count("building") == 3


def test_a_closed_stream_does_no_harm() -> None:
    out = io.StringIO()
    out.close()
    PlainProgress(out, 0).progress(0, "f", phase("build"))


def test_the_environment_variable_and_the_stream_choose_the_view(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KEEPWARM_PROGRESS", raising=False)
    assert isinstance(choose_view(io.StringIO()), PlainProgress)
    assert isinstance(choose_view(Terminal()), LiveProgress)
    monkeypatch.setenv("KEEPWARM_PROGRESS", "0")
    assert isinstance(choose_view(Terminal()), SilentProgress)
    monkeypatch.setenv("KEEPWARM_PROGRESS", "1")
    out = Terminal()
    view = choose_view(out)
    view.progress(0, "f", phase("build"))
    assert out.getvalue() == "keepwarm: building the environment of f on node-1: build\n"


def test_a_program_without_standard_error_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert isinstance(choose_view(), SilentProgress)


def test_the_live_view_shows_a_line_while_a_function_waits_and_removes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    view = LiveProgress(out)
    view.progress(0, "get_response", phase("build", detail="install [all]"))
    view.progress(0, "other", phase("start"))
    assert view._live is not None
    view._live.refresh()
    assert "install [all]" in out.getvalue()
    assert "starting a process for other" in out.getvalue()
    live = view._live
    started = []
    for name in ("get_response", "other"):
        view.served(name)
        started.append(live.is_started)
    assert started == [True, False]
    view.close()


def test_rich_is_imported_only_by_a_live_line() -> None:
    program = (
        "import io, sys\n"
        "from keepwarm.progress import choose_view\n"
        "from keepwarm_wire.messages import Progress\n"
        "choose_view(io.StringIO()).progress(0, 'f', Progress(1, 'n', 'build', '', 2_000_000))\n"
        "sys.exit(any(name.partition('.')[0] == 'rich' for name in sys.modules))\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_lines_make_way_for_output_and_come_back_with_the_next_phase() -> None:
    """What a call prints must not land in the middle of a spinner's line."""
    stream = Terminal()
    view = LiveProgress(stream)
    view.progress(0, "first", phase("install"))
    view.progress(0, "second", phase("install"))
    view.make_way("first")
    written = len(stream.getvalue())
    assert stream.getvalue().rstrip().endswith("\x1b[2K")  # the last thing drawn is an erased line
    view.progress(0, "second", phase("start"))
    view.close()
    assert "starting a process for second" in stream.getvalue()[written:]
    assert "first" not in stream.getvalue()[written:]


class Odd(Terminal):
    """A stream of the program's own, with errors of its own."""

    def write(self, text: str) -> int:
        raise RuntimeError(text)

    def isatty(self) -> bool:
        raise RuntimeError("who knows")


def test_whatever_a_stream_of_the_program_raises_goes_no_further() -> None:
    assert isinstance(choose_view(Odd()), PlainProgress)
    for view in (PlainProgress(Odd(), 0), LiveProgress(Odd())):
        view.progress(0, "f", phase("build"))
        view.make_way("f")
        view.progress(1, "f", phase("start"))
        view.served("f")
        view.close()
