"""Modules with edits in them: what a mutated process imports instead of the files."""

import importlib.machinery
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from types import CodeType, ModuleType

from mutants.table import Edit

__all__ = ["StaleEditError", "edited", "import_instead", "source_of"]


class StaleEditError(Exception):
    """An edit that does not fit its module any more: the table is to be brought up to date."""


def source_of(module: str) -> str:
    """The text of a module, which is not imported for it (its packages are)."""
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert isinstance(spec.loader, importlib.machinery.SourceFileLoader)
    return spec.loader.get_data(spec.loader.path).decode()


def edited(edits: Sequence[Edit]) -> dict[str, str]:
    """The sources of the modules that these edits change. Raises ``StaleEditError``."""
    sources: dict[str, str] = {}
    for edit in edits:
        text = sources.get(edit.module) or source_of(edit.module)
        if text.count(edit.old) != 1:
            raise StaleEditError(f"{edit.module} has {text.count(edit.old)} times: {edit.old!r}")
        sources[edit.module] = text.replace(edit.old, edit.new)
        compile(sources[edit.module], edit.module, "exec")
    return sources


class _Edited(importlib.machinery.SourceFileLoader):
    """Loads a text in the place of its file, and keeps no bytecode of it."""

    def __init__(self, module: str, path: str, text: str) -> None:
        super().__init__(module, path)
        self._text = text

    def get_code(self, fullname: str) -> CodeType:
        code = compile(self._text, self.path, "exec", dont_inherit=True)
        assert isinstance(code, CodeType)
        return code


class _Finder:
    def __init__(self, sources: Mapping[str, str]) -> None:
        self._sources = sources

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self._sources:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        assert spec is not None
        assert spec.origin is not None
        spec.loader = _Edited(fullname, spec.origin, self._sources[fullname])
        return spec


def import_instead(sources: Mapping[str, str]) -> None:
    """From now on these modules have these texts. None of them may have been imported before."""
    early = [module for module in sources if module in sys.modules]
    assert not early, f"already imported: {early}"
    sys.meta_path.insert(0, _Finder(sources))
