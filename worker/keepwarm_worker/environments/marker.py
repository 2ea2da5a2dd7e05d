"""The `.complete` file of an environment: what it was built with, written last.

Rules:
- An environment without a readable marker that fits is not there, whatever else its directory holds.
- LAYOUT_VERSION changes whenever environments of older agents must not be used any more.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final, NamedTuple, Self

from . import disk
from .interpreters import Interpreter

LAYOUT_VERSION: Final = 1
MARKER_NAME: Final = ".complete"


class Marker(NamedTuple):
    """The content of `.complete`. Its modification time is when the environment was last used."""

    layout: int
    environment_id: str
    version: str
    interpreter: str

    @classmethod
    def of(cls, environment_id: str, interpreter: Interpreter) -> Self:
        return cls(LAYOUT_VERSION, environment_id, interpreter.version, interpreter.path)

    @classmethod
    def read(cls, directory: Path) -> Self | None:
        """The marker of the environment in `directory`; None if there is none, or not one of ours.

        Raises OSError where that cannot be known: what is out of sight for the moment must not be built over.
        """
        try:
            told = json.loads((directory / MARKER_NAME).read_bytes())
            return cls(*(told[field] for field in cls._fields))
        except (FileNotFoundError, NotADirectoryError, PermissionError, ValueError, TypeError, KeyError):
            return None

    def fits(self, environment_id: str, interpreter: Interpreter) -> bool:
        return self == Marker.of(environment_id, interpreter)

    def write(self, directory: Path) -> None:
        """Write the marker so that it survives a power cut."""
        descriptor = os.open(directory / MARKER_NAME, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(self._asdict(), file)
            file.flush()
            os.fsync(file.fileno())
        disk.flush_directory(directory)
