"""Who imports whom: the contracts of ``.importlinter`` hold, and each of them notices a violation.

The runner's rule is wider than a contract can say (it may import nothing of ours outside itself and nothing that is
not in the standard library), so it is checked here on the import graph.
"""

import configparser
import os
import shutil
import subprocess
import sys
from pathlib import Path

import grimp
import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

ROOT = Path(__file__).parents[1]
SOURCES = {
    "keepwarm": ROOT / "sdk",
    "keepwarm_wire": ROOT / "sdk",
    "keepwarm_scheduler": ROOT / "scheduler",
    "keepwarm_worker": ROOT / "worker",
}
RUNNER = "keepwarm_worker.runner"

RUNNER_LIBRARY = sys.stdlib_module_names - {"graphlib", "tomllib", "zoneinfo"}
"""The standard library without what came after Python 3.8, the oldest that the runner runs on."""

PLANTS = {
    "layers": [
        ("keepwarm_wire/planted.py", "import keepwarm_scheduler", "keepwarm_wire is not allowed to import"),
        ("keepwarm/planted.py", "import keepwarm_worker", "keepwarm is not allowed to import keepwarm_worker"),
        ("keepwarm_worker/planted.py", "import keepwarm", "keepwarm_worker is not allowed to import keepwarm"),
        (
            "keepwarm_scheduler/planted.py",
            "def later() -> None:\n    from keepwarm_worker import core",
            "keepwarm_scheduler is not allowed to import keepwarm_worker",
        ),
    ],
    "pure-cores": [
        ("keepwarm_scheduler/core/planted.py", "{each}", "keepwarm_scheduler.core is not allowed to import {each}"),
        ("keepwarm_worker/core/planted.py", "{each}", "keepwarm_worker.core is not allowed to import {each}"),
    ],
    "opaque-payloads": [
        ("keepwarm_scheduler/planted_too.py", "{each}", "keepwarm_scheduler is not allowed to import {each}"),
    ],
    "silent-wire": [
        ("keepwarm_wire/planted_too.py", "{each}", "keepwarm_wire is not allowed to import {each}"),
    ],
    "lonely-runner": [
        ("keepwarm_worker/runner/planted.py", "{each}", "keepwarm_worker.runner is not allowed to import {each}"),
    ],
}
"""Per contract: a file, what is planted in it, and what the report must say. ``{each}`` is every forbidden module."""


def contracts() -> dict[str, list[str]]:
    """The contracts of ``.importlinter`` by id, each with its forbidden modules."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / ".importlinter")
    prefix = "importlinter:contract:"
    sections = {name.removeprefix(prefix): parser[name] for name in parser.sections() if name.startswith(prefix)}
    return {name: section.get("forbidden_modules", "").split() for name, section in sections.items()}


def runner_offences(graph: grimp.ImportGraph) -> list[str]:
    """What modules of the runner import besides the standard library and one another."""
    return sorted(
        f"{module} imports {imported}"
        for module in {RUNNER, *graph.find_descendants(RUNNER)}
        for imported in graph.find_modules_directly_imported_by(module)
        if imported.partition(".")[0] not in RUNNER_LIBRARY
        and imported != RUNNER
        and not imported.startswith(f"{RUNNER}.")
    )


def test_every_contract_is_kept(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The source tree as it is; the report is shown when a contract is broken."""
    monkeypatch.chdir(ROOT)
    status = lint_imports(config_filename=str(ROOT / ".importlinter"), no_cache=True)
    assert status == EXIT_STATUS_SUCCESS, capsys.readouterr().out


def test_the_runner_imports_only_the_standard_library_and_itself() -> None:
    """It is copied into environments that hold a user's packages and nothing of ours."""
    graph = grimp.build_graph(*SOURCES, include_external_packages=True, cache_dir=None)
    assert runner_offences(graph) == []


def test_every_contract_notices_what_it_forbids(tmp_path: Path) -> None:
    """In a copy of the tree with a violation of each contract planted, each is reported, module by module."""
    shutil.copy(ROOT / ".importlinter", tmp_path)
    for package, source in SOURCES.items():
        shutil.copytree(source / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    forbidden = contracts()
    assert PLANTS.keys() == forbidden.keys(), "each contract has its plant"
    expected = []
    for contract, plants in PLANTS.items():
        for file, text, report in plants:
            imports = "\n".join(f"import {module}" for module in forbidden[contract])
            (tmp_path / file).write_text(text.format(each=imports) + "\n", encoding="utf-8")
            expected += [report.format(each=module) for module in forbidden[contract] or [""]]
    output = _lint_copy(tmp_path)
    missed = [report for report in expected if report not in output]
    assert not missed, f"not noticed: {missed}\n{output}"
    assert f"{len(PLANTS)} broken" in output


def _lint_copy(folder: Path) -> str:
    """The report on a copy of the tree. A process of its own: this one has imported the real packages."""
    program = (
        "import sys, grimp; from importlinter.cli import lint_imports\n"
        "assert grimp.build_graph('keepwarm_wire', cache_dir=None) and lint_imports(no_cache=True) == 1\n"
        "import importlib.util; print(importlib.util.find_spec('keepwarm_wire').origin)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "500"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert str(folder) in done.stdout, "the copy was linted, not the installed packages"
    return " ".join(done.stdout.split())


def test_the_runner_check_notices_what_it_forbids() -> None:
    """Anything else of ours, and anything that would have to be installed; the runner's own modules are fine."""
    graph = grimp.ImportGraph()
    for module in (RUNNER, f"{RUNNER}.loop", f"{RUNNER}.pipes", "keepwarm_worker", "keepwarm_worker.daemon"):
        graph.add_module(module)
    for external in ("os", "requests", "keepwarm_wire", "tomllib"):
        graph.add_module(external, is_squashed=True)
    for imported in (f"{RUNNER}.pipes", "os", "requests", "keepwarm_wire", "keepwarm_worker.daemon", "tomllib"):
        graph.add_import(importer=f"{RUNNER}.loop", imported=imported)
    assert runner_offences(graph) == [
        f"{RUNNER}.loop imports {name}" for name in ("keepwarm_wire", "keepwarm_worker.daemon", "requests", "tomllib")
    ]
