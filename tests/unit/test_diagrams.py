"""The page of state machines shows the tables that the cores obey."""

from enum import Enum

import pytest

from support.diagrams import DIAGRAMS, PAGE, Diagram, drawn, marked, with_diagrams


def test_the_page_shows_the_tables_of_the_code() -> None:
    """If not: ``PYTHONPATH=tests python -m support.diagrams --write``."""
    page = PAGE.read_text(encoding="utf-8")
    assert page == with_diagrams(page)


def test_every_diagram_is_on_the_page_once() -> None:
    """A marker that was misspelled would leave a diagram as it was for ever."""
    assert sorted(marked(PAGE.read_text(encoding="utf-8"))) == sorted(DIAGRAMS)


def test_the_page_names_every_state() -> None:
    """In words, besides the diagrams."""
    words = "".join(part for part in PAGE.read_text(encoding="utf-8").split("```")[::2])
    for name, diagram in DIAGRAMS.items():
        for state in type(diagram.initial):
            assert f"**{state.name}**" in words, f"{name}: {state.name} is not explained"


@pytest.mark.parametrize("name", DIAGRAMS)
def test_every_state_can_be_reached_and_left_for_an_end(name: str) -> None:
    """No state is an island, and none is a trap."""
    table, initial = DIAGRAMS[name]
    reached, before = {initial}, set[Enum]()
    while reached != before:
        before = set(reached)
        reached |= {end for start, end in table if start in reached}
    assert reached == set(type(initial))
    ends = {end for _, end in table} - {start for start, _ in table}
    assert ends
    leads, before = set(ends), set[Enum]()
    while leads != before:
        before = set(leads)
        leads |= {start for start, end in table if end in leads}
    assert leads == reached


class _State(Enum):
    A = 1
    B = 2


def test_a_diagram_has_an_arrow_for_each_row_and_for_begin_and_end() -> None:
    """Colons in a reason would end Mermaid's label."""
    assert drawn(Diagram({(_State.A, _State.B): "it ends: at last"}, _State.A)).splitlines() == [
        "```mermaid",
        "stateDiagram-v2",
        "    [*] --> A",
        "    A --> B: it ends - at last",
        "    B --> [*]",
        "```",
    ]


def test_only_what_is_between_the_markers_changes() -> None:
    """Drawing twice is drawing once."""
    page = "# Title\n\n<!-- diagram: agent-attempt -->\nold\n<!-- end of diagram -->\nwords\n"
    once = with_diagrams(page)
    assert "old" not in once
    assert once.startswith("# Title\n\n<!-- diagram: agent-attempt -->\n```mermaid\n")
    assert once.endswith("```\n<!-- end of diagram -->\nwords\n")
    assert with_diagrams(once) == once


def test_a_marker_of_no_diagram_is_an_error() -> None:
    """Not a silence."""
    with pytest.raises(KeyError):
        with_diagrams("<!-- diagram: nothing -->\n<!-- end of diagram -->\n")
