"""What a user's function does in a run that is recorded: it notes that it runs, and that it has run.

``execute`` is called by the function itself, in an instance, on any Python that keepwarm runs: it travels by value and
imports inside. Its file is on the disk that all hosts share.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["execute", "origin"]


def execute(file: str, call: str, work: Callable[[], object] | None = None, raises: bool = False) -> str:
    """Do the work as this call; the result, or the text of the exception, says which execution made it.

    Noted are the place, a number that hosts know themselves by, and an execution number that nothing else has. An
    execution that is killed has a beginning and no end.
    """
    import json
    import os
    import random
    import time

    execution = random.SystemRandom().getrandbits(62)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:

        def note(kind: str, *fields: object) -> None:
            os.write(descriptor, (json.dumps([time.time_ns(), kind, *fields]) + "\n").encode())

        note("run", os.stat("/proc/self/ns/net").st_ino, call, execution)  # noqa: PTH116  # cheaper to import
        if work is not None:
            work()
        note("ran", call, execution, "raised" if raises else "returned")
    finally:
        os.close(descriptor)
    if raises:
        raise ValueError(f"{call}|{execution}")
    return f"{call}|{execution}"


def origin(value: str) -> tuple[str, int]:
    """The call and the execution that made a value. Raises ``ValueError`` for one that none made."""
    call, bar, execution = value.rpartition("|")
    if not bar:
        raise ValueError(f"{value!r} was made by no execution")
    return call, int(execution)
