"""The table of mutants follows the sources: an edit that fits no more is seen by `make check`, not minutes later."""

import pytest

from mutants.patching import edited
from mutants.table import MUTANTS


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_still_fits_its_module(name: str) -> None:
    """Each of its edits finds its text exactly once."""
    assert edited(MUTANTS[name].edits)
