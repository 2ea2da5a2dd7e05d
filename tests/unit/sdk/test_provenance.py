"""Whose module it is: the script's and project's, installed, or keepwarm's own."""

from __future__ import annotations

import importlib
import importlib.machinery
import sys
from pathlib import Path
from types import ModuleType

import pytest

from keepwarm import provenance
from keepwarm.provenance import is_own_module, is_user_module


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judge anew."""
    monkeypatch.setattr(provenance, "_judged", {})


@pytest.mark.parametrize("name", ["__main__", "__mp_main__", __name__])
def test_script_and_tests_are_the_users(name: str) -> None:
    """The script travels by value even when it is not in sys.modules under that name."""
    assert is_user_module(name)


@pytest.mark.parametrize(
    "name", ["builtins", "sys", "json", "json.decoder", "os.path", "_thread", "pytest", "_pytest.raises", "cloudpickle"]
)
def test_installed(name: str) -> None:
    """Built in, standard library, site-packages: all are there under their names."""
    importlib.import_module(name)
    assert not is_user_module(name)


@pytest.mark.parametrize("name", ["keepwarm", "keepwarm.options", "keepwarm_wire.spec"])
def test_own(name: str) -> None:
    """keepwarm is never the user's, not even as an editable install."""
    assert is_own_module(name)
    assert not is_user_module(name)
    assert not is_own_module(f"my_{name}")


def test_a_project_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packages, modules and namespace packages that lie elsewhere are the user's, whatever their names."""
    (tmp_path / "kwnames").mkdir()
    (tmp_path / "kwnames" / "part.py").touch()
    (tmp_path / "kwalone.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("kwnames.part", "kwalone"):
        importlib.import_module(name)
        assert is_user_module(name)
    assert is_user_module("kwnames")
    for name in ("kwnames.part", "kwnames", "kwalone"):
        del sys.modules[name]


def test_a_module_with_a_library_name_is_the_users_by_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Someone's own `code.py` shadows the library's; that one travels."""
    fake = ModuleType("code")
    fake.__file__ = str(tmp_path / "code.py")
    (tmp_path / "code.py").touch()
    monkeypatch.setitem(sys.modules, "code", fake)
    assert is_user_module("code")


def test_site_packages_by_folder_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Site-packages of another environment on the path count as installed too."""
    path = tmp_path / "lib" / "site-packages" / "kwlib.py"
    path.parent.mkdir(parents=True)
    path.touch()
    module = ModuleType("kwlib")
    module.__file__ = str(path)
    monkeypatch.setitem(sys.modules, "kwlib", module)
    assert not is_user_module("kwlib")


def test_modules_without_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """One made by hand is the user's; one inside a zip file, or not imported at all, is left to its name."""
    monkeypatch.setitem(sys.modules, "kwmade", ModuleType("kwmade"))
    assert is_user_module("kwmade")
    zipped = ModuleType("kwzipped")
    zipped.__file__ = "/nowhere/lib.zip/kwzipped.py"
    monkeypatch.setitem(sys.modules, "kwzipped", zipped)
    assert not is_user_module("kwzipped")
    assert not is_user_module("kwabsent")


def test_compiled_extensions_cannot_travel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's extension module goes by name, for there is no other way."""
    module = ModuleType("kwfast")
    module.__file__ = str(tmp_path / f"kwfast{importlib.machinery.EXTENSION_SUFFIXES[0]}")
    Path(module.__file__).touch()
    monkeypatch.setitem(sys.modules, "kwfast", module)
    assert not is_user_module("kwfast")
