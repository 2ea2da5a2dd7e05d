"""Hostile bytes: seeded mutations of real frames, and frames whose claims are larger than they are.

A mutation takes a random generator and a frame and gives other bytes. Everything is a function of the seed, so a
failure is repeated by the seed and the number that the failing test prints.
"""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack

from keepwarm_wire.codec import encode_frame
from keepwarm_wire.messages import TAGS
from support.golden import read_golden
from support.wire_values import example

__all__ = ["CLAIMS", "Mutation", "corpus", "mutate"]

Mutation = Callable[[random.Random, bytes], bytes]

HEADERS = tuple(range(0x80, 0xA8)) + tuple(range(0xC0, 0x100))
"""First bytes of MessagePack values: small maps, arrays and texts, then everything with a type of its own."""

GOLDEN = Path(__file__).parents[1] / "unit" / "wire" / "golden"

FOREIGN: tuple[Any, ...] = (
    None,
    True,
    0,
    1,
    -1,
    (1 << 31) - 1,
    1 << 31,
    (1 << 53) + 1,
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 1,
    -(1 << 63),
    1.5,
    float("nan"),
    float("inf"),
    "",
    "\0",
    "x" * 513,
    "\u202e",
    b"",
    b"x" * 16,
    b"x" * 32,
    b"x" * 65_537,
    [],
    [[]],
    [None] * 40,
    {},
    {"a": 1},
)
"""Values that are put in the place of others: of every type, and at and beyond the limits of fields."""

INTRUDERS = (
    b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00",  # NaN
    b"\xca\x7f\x80\x00\x00",  # infinity, single precision
    b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff",  # the largest unsigned integer: beyond 63 bits
    b"\xd3\x80\x00\x00\x00\x00\x00\x00\x00",  # the smallest signed integer
    b"\xd6\xff\x00\x00\x00\x01",  # a timestamp of 32 bits
    b"\xd7\xff\xff\xff\xff\xff\xff\xff\xff\xff",  # a timestamp of 64 bits, nanoseconds out of range
    b"\xc7\x0c\xff" + b"\xff" * 12,  # a timestamp of 96 bits
    b"\xc7\x00\xff",  # a timestamp of no bits
    b"\xc7\x00\x0c",  # an extension type of length 0
    b"\xc9\xff\xff\xff\xff\x01",  # an extension type that claims 4 GiB
    b"\xc1",  # the byte that MessagePack never uses
    b"\xa2\xc3\x28",  # text that is not UTF-8
    b"\xa3\xed\xa0\x80",  # a lone surrogate
    b"\x81\x93\x01\x02\x03\xc0",  # a map with an array as its key
    b"\x81\x80\x80",  # a map with a map as its key
    b"\x81\xc0\xc0",  # a map with nil as its key
    b"\x81\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00\xc0",  # a map with NaN as its key
    b"\x82\xa1a\x01\xa1a\x02",  # a map with a key twice
    b"\xc2",
    b"\xc3",
    b"\xc0",
    b"\x90",
    b"\x80",
    b"\xa0",
)


def _flip_bits(rng: random.Random, frame: bytes) -> bytes:
    changed = bytearray(frame)
    for _ in range(rng.randrange(1, 4)):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _truncate(rng: random.Random, frame: bytes) -> bytes:
    return frame[: rng.randrange(len(frame))]


def _drop(rng: random.Random, frame: bytes) -> bytes:
    start = rng.randrange(len(frame))
    return frame[:start] + frame[start + rng.randrange(1, 9) :]


def _repeat(rng: random.Random, frame: bytes) -> bytes:
    start = rng.randrange(len(frame))
    end = start + rng.randrange(1, 33)
    return frame[:end] + frame[start:end] * rng.randrange(1, 4) + frame[end:]


def _change_header(rng: random.Random, frame: bytes) -> bytes:
    """Turn some byte into the header of another type or length: often a length prefix, sometimes content."""
    at = rng.randrange(len(frame))
    return frame[:at] + bytes([rng.choice(HEADERS)]) + frame[at + 1 :]


def _intrude(rng: random.Random, frame: bytes) -> bytes:
    at = rng.randrange(len(frame))
    return frame[:at] + rng.choice(INTRUDERS) + frame[at + rng.randrange(3) :]


def _garbage(rng: random.Random, frame: bytes) -> bytes:
    return rng.randbytes(rng.randrange(len(frame) + 1))


def _append(rng: random.Random, frame: bytes) -> bytes:
    return frame + rng.randbytes(rng.randrange(1, 9))


def _nest(rng: random.Random, frame: bytes) -> bytes:
    return bytes([rng.choice((0x91, 0x81, 0x92))]) * rng.randrange(1, 40) + frame


def _splice(rng: random.Random, frame: bytes) -> bytes:
    other = rng.choice(_CORPUS)
    return frame[: rng.randrange(len(frame) + 1)] + other[rng.randrange(len(other)) :]


def _exchange(rng: random.Random, frame: bytes) -> bytes:
    """Well-formed all the way down: one value somewhere in a message becomes another, or is left out."""
    del frame  # taken from the rows instead, which are unpacked already
    rows: Any = rng.choice(_ROWS)
    path: list[tuple[Any, int]] = []
    while type(rows) is list and rows and (not path or rng.random() < 0.8):
        path.append((rows, rng.randrange(len(rows))))
        rows = rows[path[-1][1]]
    value: Any = rng.choice(FOREIGN)
    for level, (inside, at) in enumerate(reversed(path)):
        is_left_out = level == 0 and rng.random() < 0.1
        value = [*inside[:at], *([] if is_left_out else [value]), *inside[at + 1 :]]
    return bytes(msgpack.packb(value))


def corpus() -> list[bytes]:
    """Real frames: the golden ones, each message alone with two fillings, and a few frames of several messages."""
    golden = [bytes.fromhex(entry.hex) for file in sorted(GOLDEN.glob("*.json")) for entry in read_golden(file)]
    kinds = list(TAGS.values())
    alone = [encode_frame([example(cls, seed)]) for cls in kinds for seed in (0, 1)]
    together = [encode_frame([example(cls, 2) for cls in kinds[at : at + 5]]) for at in range(0, len(kinds), 5)]
    return list(dict.fromkeys(golden + alone + together))


_CORPUS = corpus()
_ROWS = [msgpack.unpackb(frame) for frame in _CORPUS]

MUTATIONS: tuple[Mutation, ...] = (
    _flip_bits,
    _flip_bits,
    _truncate,
    _drop,
    _repeat,
    _change_header,
    _change_header,
    _intrude,
    _intrude,
    _garbage,
    _append,
    _nest,
    _splice,
    _exchange,
    _exchange,
    _exchange,
)


def mutate(rng: random.Random) -> bytes:
    """One hostile frame: a real one, changed once or twice."""
    frame = rng.choice(MUTATIONS)(rng, rng.choice(_CORPUS))
    if frame and rng.random() < 0.3:
        frame = rng.choice(MUTATIONS)(rng, frame)
    return frame


def _claim(header: bytes, length: int) -> bytes:
    return header + length.to_bytes(4, "big")


MANY = (1 << 32) - 1

CLAIMS: dict[str, bytes] = {
    "an array of 2**32-1 messages": _claim(b"\xdd", MANY),
    "an array of a million in a megabyte that lacks them": _claim(b"\xdd", 1_000_000) + b"\x90" * 999_999,
    "a message of 2**32-1 fields": b"\x91" + _claim(b"\xdd", MANY),
    "a map of 2**32-1 pairs": b"\x91\x92\x0c" + _claim(b"\xdf", MANY),
    "text of 4 GiB": b"\x91\x92\x0c" + _claim(b"\xdb", MANY),
    "bytes of 4 GiB": b"\x91\x92\x0c" + _claim(b"\xc6", MANY),
    "bytes of 4 GiB, a megabyte sent": b"\x91\x92\x0c" + _claim(b"\xc6", MANY) + bytes(1_000_000),
    "an extension of 4 GiB": b"\x91\x92\x0c" + _claim(b"\xc9", MANY) + b"\x01",
    "an extension of a megabyte, sent": b"\x91\x92\x0c" + _claim(b"\xc9", 1_000_000) + b"\x01" + bytes(1_000_000),
    "a million nested arrays": b"\x91" * 1_000_000,
    "a million nested arrays, closed": b"\x91" * 1_000_000 + b"\x90",
    "a million nested maps": b"\x81" * 1_000_000,
    "nested maps with keys": b"\x81\xa1k" * 300_000,
    "a hundred nested arrays, each claiming the frame's length": _claim(b"\xdd", 60_000) * 100 + b"\xc0" * 60_000,
}
"""Frames that say they hold more than they do, or nest without end: refused, and cheaply."""
