"""Golden frames: bytes that some release has sent, and what they said. Append only.

A golden file is a JSON array of objects ``tag``, ``name``, ``hex`` (a frame of one message) and ``decoded`` (the
message's repr at the time). Entries are never edited or removed: they are what older peers go on sending.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from keepwarm_wire import messages as wire_messages
from keepwarm_wire.codec import encode_frame
from keepwarm_wire.messages import TAGS

__all__ = ["Golden", "as_line", "meaning_of", "read_golden"]


class Golden(NamedTuple):
    """One entry of a golden file."""

    tag: int
    name: str
    hex: str
    decoded: str


def read_golden(path: Path) -> list[Golden]:
    """The entries of a golden file, in the order in which they were appended."""
    return [Golden(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))]


def as_line(message: Any) -> str:
    """The line that records a message in a golden file, without the comma between entries."""
    tag = next(tag for tag, cls in TAGS.items() if cls is type(message))
    return json.dumps(Golden(tag, type(message).__name__, encode_frame([message]).hex(), repr(message))._asdict())


def meaning_of(entry: Golden) -> Any:
    """The message that an entry's repr describes to today's classes.

    Fields appended since the entry was written take their defaults; a field that was removed, renamed or moved, or
    appended without a default, raises ``TypeError`` here: that is an incompatible change of the protocol.
    """
    names = {name: value for name, value in vars(wire_messages).items() if hasattr(value, "_fields")}
    return eval(entry.decoded, {"__builtins__": {}}, names)  # a file of this repository, written by as_line
