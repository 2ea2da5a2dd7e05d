"""Detached calls in the journal: how each record is written, and how all of them are read back at a start.

Times on disk are wall-clock microseconds, and each is kept with the length of what it begins: what is left of that is
between nothing and all of it, whatever the clock was set to meanwhile. The core knows durations only.
"""

import sqlite3
from collections.abc import Callable
from typing import Any, NamedTuple

from keepwarm_scheduler.core.effects import (
    ForgetCall,
    ForgetDispatch,
    ForgetFunction,
    ForgetKey,
    ForgetTombstone,
    SaveAttempts,
    SaveCall,
    SaveCancel,
    SaveDispatch,
    SaveFunction,
    SaveKey,
    SaveOutcome,
)
from keepwarm_scheduler.core.events import SavedCall, SavedDetached, SavedEnd, SavedFunction, SavedKey
from keepwarm_wire.codec import ProtocolError, decode_frame, encode_frame
from keepwarm_wire.fields import FOREVER_US
from keepwarm_wire.messages import DetachedOutcome, Payload, Reference

__all__ = ["STATEMENTS", "KeptPayload", "Statement", "kept_payloads", "read_arguments", "read_detached", "read_outcome"]

Statement = tuple[str, tuple[Any, ...]]


class KeptPayload(NamedTuple):
    """Bytes beside the journal that a detached call refers to."""

    payload_id: bytes
    size: int
    sha256: bytes


# ---------------------------------------------------------------- writing


def _file_of(payload: Payload) -> tuple[bytes | None, bytes | None]:
    return (payload.payload_id, payload.sha256) if isinstance(payload, Reference) else (None, None)


def _size_of(payload: Payload) -> int:
    return payload.size if isinstance(payload, Reference) else len(payload)


def _save_function(record: SaveFunction, _: int) -> list[Statement]:
    values = (record.function_id, record.namespace, encode_frame([record.declaration]))
    return [("INSERT OR REPLACE INTO functions VALUES (?, ?, ?)", values)]


def _save_call(record: SaveCall, wall_us: int) -> list[Statement]:
    arguments = record.arguments
    values = (
        *record[:9],
        wall_us,
        *(record.queue_left_us, record.overall_left_us),
        *("", 0, 0, 0, 0, 0),
        _size_of(arguments),
        *_file_of(arguments),
    )
    insert = f"INSERT INTO calls VALUES ({_marks(21)})"  # noqa: S608 - only question marks
    statements: list[Statement] = [(insert, values)]
    if not isinstance(arguments, Reference):
        statements.append(("INSERT INTO arguments VALUES (?, ?)", (record.number, arguments)))
    return statements


def _save_attempts(record: SaveAttempts, _: int) -> list[Statement]:
    statement = (
        "UPDATE calls SET attempts = ?, lost_nodes = ?, exceptions = ?, crashes = ?, out_of_memory = ? WHERE number = ?"
    )
    return [(statement, (*record[1:], record.number))]


def _save_outcome(record: SaveOutcome, wall_us: int) -> list[Statement]:
    outcome, number = record.outcome, record.number
    values = (
        *(record.attempts, outcome.status, record.kind, record.node, wall_us, record.left_us, record.result_bytes),
        *_file_of(outcome.result),
        encode_frame([outcome]),
        number,
    )
    insert = (
        "INSERT INTO outcomes SELECT number, call_id, namespace, function, key, label, accepted_us, "
        "?, ?, ?, ?, ?, ?, ?, ?, ?, ? FROM calls WHERE number = ?"
    )
    return [
        (insert, values),
        ("DELETE FROM calls WHERE number = ?", (number,)),
        ("DELETE FROM arguments WHERE number = ?", (number,)),
    ]


def _forget_call(record: ForgetCall, wall_us: int) -> list[Statement]:
    grave = (record.call_id, record.namespace, wall_us, record.tombstone_left_us)
    return [
        ("DELETE FROM outcomes WHERE number = ?", (record.number,)),
        ("INSERT OR REPLACE INTO tombstones VALUES (?, ?, ?, ?)", grave),
    ]


def _save_key(record: SaveKey, wall_us: int) -> list[Statement]:
    values = (*record[:4], wall_us, record.left_us)
    return [("INSERT OR REPLACE INTO call_keys VALUES (?, ?, ?, ?, ?, ?)", values)]


def _save_dispatch(record: SaveDispatch, wall_us: int) -> list[Statement]:
    values = (record.session_id, record.number, wall_us, record.left_us)
    return [("INSERT OR REPLACE INTO dispatches VALUES (?, ?, ?, ?)", values)]


def _marks(width: int) -> str:
    return ", ".join("?" * width)


STATEMENTS: dict[type, Callable[[Any, int], list[Statement]]] = {
    SaveFunction: _save_function,
    ForgetFunction: lambda record, _: [("DELETE FROM functions WHERE function_id = ?", tuple(record))],
    SaveCall: _save_call,
    SaveAttempts: _save_attempts,
    SaveCancel: lambda record, _: [
        ("UPDATE calls SET cancel_reason = ? WHERE number = ?", (record.reason, record.number))
    ],
    SaveOutcome: _save_outcome,
    ForgetCall: _forget_call,
    ForgetTombstone: lambda record, _: [("DELETE FROM tombstones WHERE call_id = ?", tuple(record))],
    SaveKey: _save_key,
    ForgetKey: lambda record, _: [("DELETE FROM call_keys WHERE namespace = ? AND key = ?", tuple(record))],
    SaveDispatch: _save_dispatch,
    ForgetDispatch: lambda record, _: [("DELETE FROM dispatches WHERE session_id = ? AND number = ?", tuple(record))],
}
"""How each record is written, given the wall clock."""


# ---------------------------------------------------------------- reading


def _left(since: str, length: str) -> str:
    return f"iif({length} >= {FOREVER_US}, {FOREVER_US}, max(0, min({length}, {since} + {length} - :now)))"


_CALLS = f"""SELECT number, call_id, namespace, function_id, function, priority, key, label, result_ttl_us,
    max(0, :now - accepted_us), {_left("accepted_us", "queue_us")}, {_left("accepted_us", "overall_us")},
    cancel_reason, attempts, lost_nodes, exceptions, crashes, out_of_memory, arguments_bytes,
    payload_id, payload_sha256 FROM calls ORDER BY number"""  # noqa: S608 - the names are ours

_ENDS = f"""SELECT number, call_id, namespace, function, key, label, max(0, :now - accepted_us), attempts, status, kind,
    node, max(0, :now - ended_us), {_left("ended_us", "kept_us")}, result_bytes, ifnull(payload_id, x'')
    FROM outcomes ORDER BY number"""  # noqa: S608 - the names are ours

_KEYS = f"""SELECT namespace, key, call_id, digest, {_left("saved_us", "kept_us")}
    FROM call_keys ORDER BY saved_us, namespace, key"""  # noqa: S608 - the names are ours

_TOMBSTONES = f"""SELECT call_id, namespace, {_left("saved_us", "kept_us")}
    FROM tombstones ORDER BY saved_us, call_id"""  # noqa: S608 - the names are ours

_DISPATCHES = f"""SELECT session_id, number, {_left("saved_us", "kept_us")}
    FROM dispatches ORDER BY saved_us, session_id, number"""  # noqa: S608 - the names are ours

_FILES = """SELECT payload_id, arguments_bytes, payload_sha256 FROM calls WHERE payload_id IS NOT NULL
    UNION ALL SELECT payload_id, result_bytes, payload_sha256 FROM outcomes WHERE payload_id IS NOT NULL"""


def read_detached(database: sqlite3.Connection, wall_us: int) -> SavedDetached:
    """Everything about detached calls but their inline arguments and their outcomes.

    Raises:
        sqlite3.DatabaseError: a function is not readable.
    """
    now = {"now": wall_us}
    return SavedDetached(
        _functions(database),
        tuple([_call(row) for row in database.execute(_CALLS, now)]),
        tuple(map(SavedEnd._make, database.execute(_ENDS, now))),
        tuple(map(SavedKey._make, database.execute(_KEYS, now))),
        tuple(database.execute(_TOMBSTONES, now)),
        tuple(database.execute(_DISPATCHES, now)),
    )


def _functions(database: sqlite3.Connection) -> tuple[SavedFunction, ...]:
    rows = database.execute("SELECT function_id, namespace, declaration FROM functions ORDER BY function_id")
    try:
        return tuple([SavedFunction(row[0], row[1], decode_frame(row[2])[0]) for row in rows])
    except ProtocolError as error:
        raise sqlite3.DatabaseError(f"a function is not readable: {error}") from error


def _call(row: tuple[Any, ...]) -> SavedCall:
    payload_id = row[19]
    payload = b"" if payload_id is None else Reference(payload_id, row[18], row[20])
    return SavedCall._make((*row[:19], payload))


def kept_payloads(database: sqlite3.Connection, detached: SavedDetached) -> tuple[KeptPayload, ...]:
    """The files that detached calls refer to; one may be named more than once."""
    bodies = [function.declaration.body for function in detached.functions]
    return (
        *map(KeptPayload._make, database.execute(_FILES)),
        *[KeptPayload(*body[:3]) for body in bodies if isinstance(body, Reference)],
    )


def read_arguments(database: sqlite3.Connection, number: int) -> bytes | None:
    """The inline arguments of an unfinished call; None if it has ended."""
    row = database.execute("SELECT data FROM arguments WHERE number = ?", (number,)).fetchone()
    return None if row is None else bytes(row[0])


def read_outcome(database: sqlite3.Connection, number: int) -> DetachedOutcome | None:
    """The outcome of a finished call; None if it has expired.

    Raises:
        sqlite3.DatabaseError: it is not readable.
    """
    row = database.execute("SELECT outcome FROM outcomes WHERE number = ?", (number,)).fetchone()
    if row is None:
        return None
    try:
        messages = decode_frame(bytes(row[0]))
    except ProtocolError as error:
        raise sqlite3.DatabaseError(f"the outcome of call {number} is not readable: {error}") from error
    outcome = messages[0] if len(messages) == 1 else None
    if not isinstance(outcome, DetachedOutcome):
        raise sqlite3.DatabaseError(f"the outcome of call {number} is something else")
    return outcome
