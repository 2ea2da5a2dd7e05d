"""How much room texts take up: in bytes as they travel, with something for each entry."""

from hypothesis import given
from hypothesis import strategies as st

from keepwarm_wire.texts import TEXT_BYTES_MAX, text_bytes

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(st.lists(st.tuples(TEXTS, TEXTS), max_size=20))
def test_every_text_counts_in_bytes_and_every_entry_counts_besides(entries: list[tuple[str, str]]) -> None:
    content = sum(len(name.encode()) + len(value.encode()) for name, value in entries)
    assert content + len(entries) <= text_bytes(entries) <= content + 100 * len(entries)


def test_many_empty_entries_are_not_free() -> None:
    assert text_bytes([("", "")] * TEXT_BYTES_MAX) > TEXT_BYTES_MAX


def test_what_is_no_text_does_not_count() -> None:
    assert text_bytes([("a", 10**30)]) == text_bytes([("a",)])
