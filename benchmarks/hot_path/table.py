"""The report as Markdown. Pure: from samples to text."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from benchmarks.hot_path.figures import DISTURBED_PERCENT, Sample, cells, disturbances, ratios, spread, values

__all__ = ["TITLES", "report", "title_of"]


class Title(NamedTuple):
    """What a figure is called, and how many digits are worth printing."""

    text: str
    form: str


TITLES = {
    "p50_ms": Title("median, ms", ".3f"),
    "p99_ms": Title("99th percentile, ms", ".3f"),
    "calls_per_s": Title("calls per second", ",.0f"),
    "cpu_us_per_call": Title("processor time per call, µs", ",.0f"),
    "efficiency": Title("efficiency", ".2f"),
    "overhead_us_per_call": Title("processor time besides the work, µs per call", ",.0f"),
    "first_result_s": Title("interpreter start to first result, s", ".3f"),
    "core_percent": Title("% of a core", ".3f"),
    "pss_mib": Title("memory (PSS), MiB", ".1f"),
    "growth_mib": Title("memory (RSS) gained, MiB", ".1f"),
    "peak_rss_mib": Title("largest memory (RSS) of the tree, MiB", ",.0f"),
    "single_calls": Title("single calls", ",.0f"),
    "still_queued": Title("still queued after them", ",.0f"),
}
HIDDEN = {"others_percent", "single_calls"}
WITHOUT_RATIO = {"growth_mib", "still_queued", "single_calls"}
"""Next to nothing in the pool, or not a matter of more and less."""


def title_of(figure: str) -> Title:
    """The title of a figure; one of a part, such as ``pss_mib.agent``, is called after both."""
    name, _, part = figure.partition(".")
    title = TITLES.get(name, Title(name, ".3g"))
    return title._replace(text=f"{title.text}: {part}") if part else title


def _spread(numbers: Sequence[float], form: str) -> str:
    if not numbers:
        return ""
    median, low, high = (f"{value:{form}}" for value in spread(numbers))
    return median if low == high else f"{median} ({low} to {high})"


def _lines(rows: Iterable[Sequence[str]]) -> list[str]:
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return [head, "|" + "---|" * head.count(" | ") + "---|", *body]


def _figures(samples: Sequence[Sample], first: str, reference: str, others: Sequence[str]) -> list[str]:
    rows: list[list[str]] = [["workload", "figure", first, reference, "ratio", *others]]
    for cell in cells(samples):
        workload, case, figure = cell
        if figure in HIDDEN:
            continue
        title = title_of(figure)
        name = f"{workload}, {case}" if case else workload
        columns = [
            _spread(list(values(samples, cell, system).values()), title.form) for system in (first, reference, *others)
        ]
        is_compared = figure.partition(".")[0] not in WITHOUT_RATIO
        ratio = _spread(ratios(samples, cell, first, reference), ".2f") if is_compared else ""
        rows.append([name, title.text, *columns[:2], ratio, *columns[2:]])
    return _lines(rows)


def _parts(samples: Sequence[Sample]) -> list[str]:
    with_parts = [sample for sample in samples if sample.parts]
    names = sorted({part for sample in with_parts for part in sample.parts})
    rows: list[list[str]] = [["workload", "system", *names]]
    for key in dict.fromkeys((sample.workload, sample.case, sample.system) for sample in with_parts):
        found = [sample.parts for sample in with_parts if (sample.workload, sample.case, sample.system) == key]
        texts = [_spread([parts[name] for parts in found if name in parts], ",.0f") for name in names]
        workload, case, system = key
        rows.append([f"{workload}, {case}" if case else workload, system, *texts])
    return _lines(rows) if with_parts else []


def _noise(samples: Sequence[Sample]) -> str:
    disturbed = disturbances(samples)
    if not disturbed:
        return f"Others used at most {DISTURBED_PERCENT:g} % of the processors during every measurement."
    named = ", ".join(f"{workload} with {system} {percent:.0f} %" for (workload, system), percent in disturbed.items())
    return f"Others used the processors meanwhile, at worst: {named}. Look again when the machine is quiet."


def report(samples: Sequence[Sample], compared: tuple[str, str], over_tcp: tuple[str, ...]) -> str:
    """All tables: two systems compared, for ``curve`` one with each other; processor time by part; and the noise."""
    ours, reference = compared
    local = [sample for sample in samples if sample.workload != "curve"]
    curve = [sample for sample in samples if sample.workload == "curve"]
    others = [name for name in dict.fromkeys(sample.system for sample in local) if name not in (ours, reference)]
    blocks = []
    if local:
        blocks.append(_figures(local, ours, reference, others))
    if curve:
        blocks += [_figures(curve, over_tcp[0], reference, []) for reference in over_tcp[1:]]
    if parts := _parts(samples):
        blocks.append(["Processor time per call by part, µs:", "", *parts])
    if samples:
        blocks.append([_noise(samples)])
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"
