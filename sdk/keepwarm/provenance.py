"""Whose module is it: the user's (travels by value), installed (is imported there), or keepwarm's own (never travels).

Rules: a module is judged by where its top-level package lies. The standard library and site-packages are installed;
what lies elsewhere, an editable install included, exists on this machine only and is the user's. A compiled extension
cannot travel by value and counts as installed. Never: imports anything it is asked about.
"""

from __future__ import annotations

import sys
import sysconfig
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType

__all__ = ["is_own_module", "is_user_module"]

_OWN = frozenset({"keepwarm", "keepwarm_wire", "keepwarm_scheduler", "keepwarm_worker"})
_SCRIPT = frozenset({"__main__", "__mp_main__"})
_INSTALL_FOLDERS = frozenset({"site-packages", "dist-packages"})

_judged: dict[str, bool] = {}  # top-level name -> is the user's; modules do not move while a program runs


def is_own_module(name: str) -> bool:
    """Return whether a module is part of keepwarm, which is not installed where functions run."""
    return name.partition(".")[0] in _OWN


def is_user_module(name: str) -> bool:
    """Return whether a module, by its full name, exists only on this machine and so must travel by value."""
    if name in _SCRIPT:
        return True
    top = name.partition(".")[0]
    verdict = _judged.get(top)
    if verdict is None:
        module = sys.modules.get(top)
        if not isinstance(module, ModuleType):
            return False
        verdict = _judged[top] = top not in _OWN and _lies_with_the_user(top, module)
    return verdict and not _is_compiled(sys.modules.get(name))


def _lies_with_the_user(top: str, module: ModuleType) -> bool:
    path = _path_of(module)
    if path is None:  # built in, frozen, or made by hand
        return top not in sys.stdlib_module_names
    if not path.exists():  # in a zip file
        return False
    path = path.resolve()
    return _INSTALL_FOLDERS.isdisjoint(path.parts) and not any(map(path.is_relative_to, _library_folders()))


def _path_of(module: ModuleType) -> Path | None:
    file = getattr(module, "__file__", None)
    if isinstance(file, str):
        return Path(file)
    # A namespace package has no file, but folders.
    return next((Path(folder) for folder in getattr(module, "__path__", ()) if isinstance(folder, str)), None)


@cache
def _library_folders() -> tuple[Path, ...]:
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    return tuple({Path(sysconfig.get_path(name)).resolve(): None for name in names})


def _is_compiled(module: ModuleType | None) -> bool:
    file = getattr(module, "__file__", None)
    return isinstance(file, str) and file.endswith(tuple(EXTENSION_SUFFIXES))
