"""The field types of messages: what a field may hold, stated once, in its annotation.

``messages.py`` annotates each field with one of these; ``codec.py`` reads the limits from the annotation and
checks every field of every decoded message. Every limit that bounds memory is a named constant here.
"""

from typing import Annotated, NamedTuple

__all__ = [
    "Amount",
    "Bounds",
    "Chunk",
    "Count",
    "Digest",
    "Document",
    "Duration",
    "FOREVER_US",
    "Id",
    "Inline",
    "Long",
    "Many",
    "Name",
    "Priority",
    "Sentence",
    "Small",
]


class Bounds(NamedTuple):
    """Inclusive limits: of the value for integers, of the length for bytes, text and tuples."""

    low: int
    high: int


FOREVER_US = 1 << 53
"""A duration meaning *no end*: ``keep_alive=inf``, no timeout. About 285 years; larger values saturate to it."""

INLINE_BYTES_MAX = 64 * 1024
CHUNK_BYTES_MAX = 1024 * 1024
DOCUMENT_BYTES_MAX = 16 * 1024 * 1024
TEXT_LONG_MAX = 64 * 1024
COLLECTION_MAX = 100_000

Count = Annotated[int, Bounds(0, (1 << 63) - 1)]
"""A number that only grows: call, command, beat, token, size in bytes."""
Small = Annotated[int, Bounds(0, (1 << 31) - 1)]
"""A number with a modest range: ports, process ids, protocol versions, codes."""
Priority = Annotated[int, Bounds(-100, 100)]
Amount = Annotated[int, Bounds(0, 1 << 50)]
"""A resource amount in thousandths (cpu, gpu, custom) or bytes (memory)."""
Duration = Annotated[int, Bounds(0, FOREVER_US)]
"""Microseconds. The wire carries durations, never timestamps: clocks of two machines are never compared."""
Id = Annotated[bytes, Bounds(16, 16)]
Digest = Annotated[bytes, Bounds(32, 32)]
Name = Annotated[str, Bounds(0, 512)]
Sentence = Annotated[str, Bounds(0, 8192)]
Long = Annotated[str, Bounds(0, TEXT_LONG_MAX)]
Inline = Annotated[bytes, Bounds(0, INLINE_BYTES_MAX)]
Chunk = Annotated[bytes, Bounds(0, CHUNK_BYTES_MAX)]
Document = Annotated[bytes, Bounds(0, DOCUMENT_BYTES_MAX)]
Many = Bounds(0, COLLECTION_MAX)
