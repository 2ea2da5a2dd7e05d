"""Rows that go to a pipe are whole; a terminal's are as wide as it is."""

import pytest
from rich.table import Table

from keepwarm.cli.screen import screen


def printed(capsys: pytest.CaptureFixture[str]) -> list[str]:
    table = Table("one", "two", box=None)
    table.add_row("a" * 100, "failed: of its own")
    screen().print(table)
    return capsys.readouterr().out.splitlines()


def test_a_row_that_goes_to_a_pipe_is_one_line_however_long(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    head, row = printed(capsys)
    assert row.split() == ["a" * 100, "failed:", "of", "its", "own"]
    assert len(head) < 200


def test_who_says_how_wide_it_is_gets_that(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert max(map(len, printed(capsys))) == 60
