"""The chart of a replay: what each keep_alive costs in memory held idle, against what it saves in cold starts.

matplotlib draws it, which is the extra ``plots``, as SVG or PNG: nothing is shown on a screen, and nothing else of the
simulator needs it.
"""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from keepwarm_scheduler.simulate.report import Row, term_text

__all__ = ["SUFFIXES", "TITLE", "X_TITLE", "Y_TITLE", "NoMatplotlib", "draw", "require"]

SUFFIXES = (".svg", ".png")
TITLE = "What each keep_alive costs in idle memory, and saves in cold starts"
X_TITLE = "memory held idle, GiB s"
X_MEAN_TITLE = "mean, GiB"
Y_TITLE = "cold starts, % of invocations"

_SIZE_INCHES = (8, 5.2)
_DOTS_PER_INCH = 150
_COLOUR = "#1f6fb4"
_MARGIN = 1.16
"""The axes are so much longer than what they show, to make room for the labels."""


class NoMatplotlib(Exception):  # noqa: N818  # it is what is missing, said by its name
    """matplotlib is not installed."""


def require() -> None:
    """See that a chart can be drawn, before hours of work for it.

    Raises:
        NoMatplotlib: with what to install.
    """
    try:
        import_module("matplotlib")
    except ImportError:
        raise NoMatplotlib(
            "--chart needs matplotlib, which is not installed: run `pip install 'keepwarm[plots]'`, or leave --chart "
            "out: the table and --json have the same figures."
        ) from None


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw a labelled point for each row, in the order of the memory that they cost.

    Raises:
        NoMatplotlib: it is not installed.
        OSError: the file cannot be written.
    """
    require()
    settings = {"svg.fonttype": "none", "svg.hashsalt": "keepwarm"}  # text stays text; equal rows give equal files
    with import_module("matplotlib").rc_context(settings):
        figure = import_module("matplotlib.figure").Figure(figsize=_SIZE_INCHES, layout="constrained")
        figure.suptitle(TITLE)
        _fill(figure.add_subplot(xlabel=X_TITLE, ylabel=Y_TITLE), sorted(rows, key=lambda row: row.idle_gib_s))
        without_date = {"Date": None} if path.suffix.lower() == ".svg" else {}
        figure.savefig(path, dpi=_DOTS_PER_INCH, metadata=without_date)


def _fill(axes: Any, rows: Sequence[Row]) -> None:
    idle_gib_s, cold_percent = [row.idle_gib_s for row in rows], [100 * row.cold_share for row in rows]
    axes.plot(idle_gib_s, cold_percent, marker="o", color=_COLOUR)
    for row, x, y in zip(rows, idle_gib_s, cold_percent, strict=True):
        label = f"{term_text(row.keep_alive_s)}\n{y:.3g} %"
        axes.annotate(label, (x, y), xytext=(5, 5), textcoords="offset points", fontsize="small")
    axes.set_xlim(0, _MARGIN * max(idle_gib_s) or 1)
    axes.set_ylim(0, _MARGIN * max(cold_percent) or 1)
    axes.xaxis.set_major_formatter("{x:,.10g}")
    axes.grid(alpha=0.3)
    last = rows[-1]
    if last.idle_gib_mean:
        span_s = last.idle_gib_s / last.idle_gib_mean
        mean = axes.secondary_xaxis("top", functions=(lambda total: total / span_s, lambda mean: mean * span_s))
        mean.set_xlabel(X_MEAN_TITLE)
