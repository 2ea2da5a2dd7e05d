"""What tests of environments share: this process's interpreter, made-up environment ids, scripts that pose as uv."""

from __future__ import annotations

import os
import platform
import select
import sys
from pathlib import Path

from keepwarm_worker.environments.interpreters import Interpreter

VERSION = platform.python_version()
MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"


def own_interpreter() -> Interpreter:
    """The interpreter that runs the tests, as an environment would use it."""
    executable = str(Path(getattr(sys, "_base_executable", None) or sys.executable).resolve())
    return Interpreter(VERSION, MINOR, executable, sys.implementation.name)


def made_up_id(number: int) -> str:
    """An environment id that stands for nothing."""
    return f"{number:064x}"


def script(path: Path, body: str) -> Path:
    """An executable shell script."""
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def ends(pid: int, timeout_s: float = 10.0) -> bool:
    """Whether the process ends within that time, or already has. A killed one takes a moment to die."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], timeout_s)[0])
    finally:
        os.close(descriptor)
