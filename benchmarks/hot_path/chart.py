"""A chart of the main figures, a bar for each system. matplotlib draws it, as PNG and SVG."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.hot_path.figures import Sample, spread, values
from benchmarks.hot_path.table import title_of

__all__ = ["FILES", "PANELS", "draw"]

FILES = ("hot_path.png", "hot_path.svg")
TITLE = "One machine, two workers: median of the runs, smallest and largest as a line"
PANELS = (
    ("round_trip", "", "p50_ms"),
    ("round_trip", "", "cpu_us_per_call"),
    ("in_flight", "", "calls_per_s"),
    ("in_flight", "", "cpu_us_per_call"),
    ("kilobyte", "", "calls_per_s"),
    ("millisecond", "", "efficiency"),
    ("cold_start", "nothing running", "first_result_s"),
    ("idle", "", "pss_mib"),
    ("growth", "", "growth_mib"),
)
"""What is drawn, if it was measured."""

COLUMNS = 3
PANEL_INCHES = (3.6, 2.3)
DOTS_PER_INCH = 150
MARGIN = 1.25  # for the numbers behind the bars
COLOURS = ("#1f6fb4", "#9a9a9a", "#d08a2e", "#5b9a4a", "#8a5fb0", "#b04a4a")


def draw(samples: Sequence[Sample], folder: Path, systems: Sequence[str]) -> list[Path]:
    """Draw it into a folder; the files.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: the files cannot be written.
    """
    drawn = [panel for panel in PANELS if any(values(samples, panel, system) for system in systems)]
    if not drawn:
        return []
    rows = -(-len(drawn) // COLUMNS)
    size = (PANEL_INCHES[0] * COLUMNS, PANEL_INCHES[1] * rows + 0.5)
    with import_module("matplotlib").rc_context({"svg.fonttype": "none", "svg.hashsalt": "keepwarm"}):
        figure = import_module("matplotlib.figure").Figure(figsize=size, layout="constrained")
        figure.suptitle(TITLE, fontsize="medium")
        for number, panel in enumerate(drawn, 1):
            _fill(figure.add_subplot(rows, COLUMNS, number), samples, panel, systems)
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            without_date = {"Date": None} if name.endswith(".svg") else {}
            figure.savefig(folder / name, dpi=DOTS_PER_INCH, metadata=without_date)
    return [folder / name for name in FILES]


def _fill(axes: Any, samples: Sequence[Sample], panel: tuple[str, str, str], systems: Sequence[str]) -> None:
    workload, case, figure = panel
    title = title_of(figure)
    measured = [(system, list(values(samples, panel, system).values())) for system in systems]
    shown = [(system, spread(numbers)) for system, numbers in measured if numbers]
    for place, (system, (median, low, high)) in enumerate(shown):
        colour = COLOURS[systems.index(system) % len(COLOURS)]
        axes.barh(place, median, color=colour, xerr=[[median - low], [high - median]], ecolor="#333333")
        axes.annotate(
            f"{median:{title.form}}",
            (max(high, 0), place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    lowest, highest = min(low for _, (_, low, _) in shown), max(high for _, (_, _, high) in shown)
    axes.set_xlim(min(0, MARGIN * lowest), MARGIN * highest if highest > 0 else 1)
    axes.set_yticks(range(len(shown)), [system for system, _ in shown])
    axes.tick_params(labelsize="small")
    axes.locator_params(axis="x", nbins=5)
    axes.invert_yaxis()
    axes.set_title(f"{workload}{', ' + case if case else ''}\n{title.text}", fontsize="small")
    axes.spines[["top", "right"]].set_visible(False)
