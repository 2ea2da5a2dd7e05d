"""The chart of a replay: drawn where matplotlib is, and what is said where it is not."""

import math
import re
import sys
from pathlib import Path

import pytest

from keepwarm_scheduler.simulate import chart
from keepwarm_scheduler.simulate.report import Row, term_text

MINUTE = Row(60, 1_000, 165, 0.165, 170, 0.0, 500.0, 500.0, 27_497.0, 0.32, 0, 0, 0.1, 1.0)
FIVE_MINUTES = MINUTE._replace(keep_alive_s=300, cold_share=0.033, idle_gib_s=54_026.0, idle_gib_mean=0.63)
FOREVER = MINUTE._replace(keep_alive_s=math.inf, cold_share=0.001, idle_gib_s=150_000.0, idle_gib_mean=1.75)
FREE = MINUTE._replace(keep_alive_s=0, cold_share=0.0, idle_gib_s=0.0, idle_gib_mean=0.0)
ROWS = [FOREVER, MINUTE, FIVE_MINUTES]


def test_an_svg_names_its_axes_with_units_and_labels_a_point_for_each_row(tmp_path: Path) -> None:
    """Text stays text; under each keep_alive stands its share of cold starts."""
    path = tmp_path / "chart.svg"
    chart.draw(ROWS, path)
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text(encoding="utf-8"))
    assert {chart.TITLE, chart.X_TITLE, chart.Y_TITLE} <= set(texts)
    for row, share in ((MINUTE, "16.5 %"), (FIVE_MINUTES, "3.3 %"), (FOREVER, "0.1 %")):
        at = texts.index(term_text(row.keep_alive_s))
        assert texts[at + 1] == share


def test_equal_rows_give_equal_files(tmp_path: Path) -> None:
    """No date and no random name: a chart can be kept under version control."""
    for name in ("one.svg", "other.svg"):
        chart.draw(ROWS, tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "other.svg").read_bytes()


@pytest.mark.parametrize("rows", [ROWS, [MINUTE], [FREE]], ids=["three", "one", "nothing to show"])
def test_a_png_is_drawn_of_any_rows(tmp_path: Path, rows: list[Row]) -> None:
    """Large enough to read: width and height stand in the file's header."""
    path = tmp_path / "chart.png"
    chart.draw(rows, path)
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
    assert (width, height) == (1200, 780)


@pytest.mark.parametrize("suffix", chart.SUFFIXES)
def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    """A module that is None in the table of modules cannot be imported: the same where it is installed."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(chart.NoMatplotlib, match=r"pip install 'keepwarm\[plots\]'"):
        chart.draw(ROWS, tmp_path / f"chart{suffix}")
    assert list(tmp_path.iterdir()) == []
