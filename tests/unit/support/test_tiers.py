"""The tiers of the tests: which variables choose which, and what each tier leaves out."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.tiers import tier_of

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("environment", "tier"),
    [
        ({}, "default"),
        ({"CI": "true"}, "ci"),
        ({"CI": "false"}, "default"),
        ({"KEEPWARM_TIER": "long"}, "long"),
        ({"KEEPWARM_TIER": "long", "CI": "true"}, "long"),
        ({"KEEPWARM_TIER": "default", "CI": "true"}, "default"),
        ({"KEEPWARM_TIER": "", "CI": "true"}, "ci"),
    ],
)
def test_the_tier_is_chosen_by_the_environment(environment: dict[str, str], tier: str) -> None:
    """``KEEPWARM_TIER`` first, then whether this is CI."""
    assert tier_of(environment) == tier


def test_a_tier_that_does_not_exist_is_refused() -> None:
    """A misspelt tier would quietly run less than was asked for."""
    with pytest.raises(ValueError, match="choose one of default, ci, long"):
        tier_of({"KEEPWARM_TIER": "longer"})


PROFILES = {"default": ("60", "False"), "ci": ("60", "True"), "long": ("2000", "False")}


@pytest.mark.parametrize("tier", PROFILES)
def test_long_tests_and_many_examples_are_for_the_long_tier(tier: str, tmp_path: Path) -> None:
    """Elsewhere long tests are deselected, not skipped. A run of pytest with our conftest and two tests shows it."""
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text(encoding="utf-8"))
    (tmp_path / "integration").mkdir()
    (tmp_path / "integration" / "test_real.py").write_text("def test_real(): pass\n")
    (tmp_path / "test_both.py").write_text(
        "import pytest\nfrom hypothesis import settings\n"
        "def test_quick(): print(settings().max_examples, settings().derandomize, settings().deadline)\n"
        "@pytest.mark.long\ndef test_slow(): pass\n"
    )
    options = [
        "-c",
        str(ROOT / "pyproject.toml"),
        "-o",
        f"pythonpath={ROOT / 'tests'}",
        "-rA",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--rootdir", str(tmp_path), *options, str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "KEEPWARM_TIER": tier},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert " ".join(PROFILES[tier]) + " None" in done.stdout
    assert ("3 passed" if tier == "long" else "2 passed, 1 deselected") in done.stdout
    assert "skipped" not in done.stdout


def test_tests_of_real_processes_are_marked() -> None:
    """``-m integration`` selects what lies in that folder, and only that."""
    paths = ["tests/integration/test_homes.py", "tests/unit/wire/test_identifiers.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "integration", "-p", "no:cacheprovider", *paths],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    listed = [line for line in done.stdout.splitlines() if "::" in line]
    assert listed, done.stdout + done.stderr
    assert all(line.startswith("tests/integration/") for line in listed)
