"""Handles of detached calls and what may be said of them, as far as no cluster is needed."""

import math
import pickle
from typing import Any

import pytest

import keepwarm
from keepwarm import DetachedCall, OptionError, UnknownCall, attach, isolated
from keepwarm.detached import parse_id, status_of
from keepwarm.detached_client import SpawnFuture, refusal_of
from keepwarm.errors import InternalError, KeyConflict, PayloadRefused, ResultExpired, SchedulerRefused, TooManyCalls
from keepwarm.session_detached import Spawn
from keepwarm_wire.fields import FOREVER_US
from keepwarm_wire.messages import DetachedEntry, DetachedRefused

ID = "0123456789abcdef" * 2


@isolated
def double(number: int) -> int:
    return 2 * number


def test_a_handle_is_its_id() -> None:
    call = attach(ID)
    assert (call.id, repr(call), call.was_known) == (ID, f"<DetachedCall {ID}>", False)
    assert call == attach(ID) == DetachedCall(bytes.fromhex(ID), "m:f")
    assert len({call, attach(ID)}) == 1
    assert call != attach("f" * 32)
    assert call != ID
    assert pickle.loads(pickle.dumps(call)) == call
    assert ID.encode() in pickle.dumps(DetachedCall(bytes.fromhex(ID), "m:f"))


@pytest.mark.parametrize("text", [ID.upper(), f" {ID}\n", "01234567-89ab-cdef-0123-456789abcdef"])
def test_ids_are_read_as_people_write_them(text: str) -> None:
    assert parse_id(text).hex() == ID


@pytest.mark.parametrize("text", ["", "1f2e3d4c-17", ID[:-1], ID + "0", "g" * 32, None, 7, bytes.fromhex(ID), "٣" * 32])
def test_what_cannot_be_an_id_is_refused_at_once(text: Any) -> None:
    with pytest.raises(UnknownCall, match="is no id of a detached call"):
        attach(text)


@pytest.mark.parametrize("key", ["", "k" * 513, 7, b"key", True])
def test_keys_are_short_texts(key: Any) -> None:
    with pytest.raises(OptionError, match=r"key=.*: this is text of 1 to 512 characters"):
        double.detached(key=key)


@pytest.mark.parametrize("seconds", [0, -1, math.nan, "60", True, b""])
def test_a_time_is_a_number_above_zero(seconds: Any) -> None:
    with pytest.raises(OptionError, match=r"result_ttl=.*: allowed are seconds above zero"):
        double.detached(result_ttl=seconds)


@pytest.mark.parametrize(
    ("seconds", "microseconds"),
    [(None, 0), (1, 1_000_000), (0.5, 500_000), (1e-9, 1), (math.inf, FOREVER_US - 1), (1e300, FOREVER_US - 1)],
)
def test_times_on_the_wire_never_mean_the_default_by_accident(seconds: float | None, microseconds: int) -> None:
    assert double.detached(result_ttl=seconds)._terms() == ("", microseconds)


def test_the_calls_of_a_batch_have_keys_of_their_own() -> None:
    batch = double.detached(key="june")
    assert [batch._terms(number).key for number in range(3)] == ["june/0", "june/1", "june/2"]
    assert (batch._terms().key, double.detached()._terms(5).key) == ("june", "")
    assert repr(batch) == f"<detached {double.name} with key 'june'>"
    with pytest.raises(OptionError, match="at most 512 characters"):
        double.detached(key="k" * 512)._terms(0)


def test_spawning_nothing_is_a_mistake() -> None:
    with pytest.raises(TypeError, match="at least one iterable"):
        double.spawn_map()


class Crowded:
    """A client of detached calls that has room for so many that are not accepted yet."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.pending = self.most = 0

    def start(self, *_: object, **__: object) -> SpawnFuture:
        if self.pending >= self.room:
            raise TooManyCalls("no room")
        self.pending += 1
        self.most = max(self.most, self.pending)
        future = SpawnFuture()
        future.spawn = Spawn(self.most.to_bytes(16, "big"), None, b"", future)  # type: ignore[arg-type]
        return future

    def await_acceptance(self, future: SpawnFuture) -> None:
        self.pending -= 1
        future._finish(lambda: future.spawn.call_id)


def test_a_batch_waits_where_its_arguments_have_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    crowded = Crowded(2)
    monkeypatch.setattr("keepwarm.detached._client", lambda: crowded)
    assert len(double.spawn_map(range(7))) == 7
    assert crowded.most == 2
    monkeypatch.setattr("keepwarm.detached._client", lambda: Crowded(0))
    with pytest.raises(TooManyCalls):
        double.spawn_map(range(7))


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("key_conflict", KeyConflict),
        ("id_conflict", InternalError),
        ("payload_lost", PayloadRefused),
        ("unknown", UnknownCall),
        ("expired", ResultExpired),
        ("results_full", SchedulerRefused),
        ("too_many", SchedulerRefused),
        ("something_new", SchedulerRefused),
    ],
)
def test_every_refusal_has_its_error_with_the_schedulers_words(code: str, kind: type[Exception]) -> None:
    error = refusal_of(DetachedRefused(bytes.fromhex(ID), code, "because of this."))
    assert type(error) is kind
    assert "because of this" in str(error)
    assert (ID in str(error)) == (code in ("unknown", "expired"))


def test_a_status_has_seconds_and_none_for_what_has_not_come() -> None:
    entry = DetachedEntry(
        bytes.fromhex(ID),
        b"",
        "default",
        "m:f",
        "k",
        "me",
        "running",
        "",
        "n1",
        2,
        1_500_000,
        FOREVER_US,
        FOREVER_US,
        0,
    )
    running = status_of(entry)
    assert (running.id, running.age_s, running.ended_s, running.left_s) == (ID, 1.5, None, None)
    assert not running.is_done
    ended = status_of(entry._replace(state="succeeded", ended_us=250_000, left_us=0))
    assert (ended.ended_s, ended.left_s, ended.is_done) == (0.25, 0.0, True)


def test_it_is_all_public() -> None:
    assert {"attach", "DetachedCall", "CallStatus", "KeyConflict", "UnknownCall", "ResultExpired"} <= set(
        keepwarm.__all__
    )
