"""One mutated process: ``python -m mutants.child``, with a JSON document ``{"sources": ..., "tests": ...}`` as input.

It runs the tests with the sources in the place of those modules, looks for a failing example and does not shrink it.
The exit status is pytest's.
"""

import json
import sys
from pathlib import Path

import pytest

from mutants.patching import import_instead

TESTS = Path(__file__).parents[1]


class _Hunt:
    """The same examples at each run, as many as on every push; the first that fails is enough."""

    def pytest_configure(self) -> None:
        """After ``conftest`` has chosen a profile, before any test is imported."""
        from hypothesis import HealthCheck, Phase, settings

        settings.register_profile(
            "hunt",
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        )
        settings.load_profile("hunt")


def main() -> int:
    """Run what the standard input asks for."""
    wanted = json.load(sys.stdin)
    import_instead(wanted["sources"])
    names = [each.partition("::") for each in wanted["tests"]]
    paths = list(dict.fromkeys(str(TESTS / path) for path, _, _ in names))
    words = [name for _, _, name in names]
    # A name is the beginning of one, as a keyword expression; a file without a name is taken whole.
    chosen = [] if "" in words else ["-k", " or ".join(words)]
    flags = ["-x", "-q", "--tb=line", "-p", "no:cacheprovider", "-c", str(TESTS.parent / "pyproject.toml")]
    return int(pytest.main([*flags, *chosen, *paths], plugins=[_Hunt()]))


if __name__ == "__main__":
    sys.exit(main())
