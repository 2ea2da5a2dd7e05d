"""Addresses: what people write, what ZeroMQ gets, and what is refused in words."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepwarm_wire.addresses import ADDRESSES_MAX, is_remote, parse_address, parse_addresses


@pytest.mark.parametrize(
    ("written", "parsed"),
    [
        ("ipc:///run/keepwarm/scheduler.sock", "ipc:///run/keepwarm/scheduler.sock"),
        ("tcp://10.0.0.1:7437", "tcp://10.0.0.1:7437"),
        ("head:9000", "tcp://head:9000"),
        (" head ", "tcp://head:7437"),
        ("[::1]:80", "tcp://[::1]:80"),
        ("[fe80::1%eth0]", "tcp://[fe80::1%eth0]:7437"),
    ],
)
def test_an_address_is_what_people_write(written: str, parsed: str) -> None:
    assert parse_address(written) == parsed
    assert is_remote(parsed) == parsed.startswith("tcp")


@pytest.mark.parametrize(
    "written", ["", "ipc://", "http://head", "head:0", "head:65536", "head:x", "a b", "tcp://", "::1"]
)
def test_what_is_no_address_is_refused_with_what_one_looks_like(written: str) -> None:
    with pytest.raises(ValueError, match=r"tcp://host:port|ipc:///path"):
        parse_address(written)


@given(st.text())
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert parse_address(parse_address(text)) == parse_address(text)


def test_a_list_keeps_its_order_and_drops_repetitions() -> None:
    assert parse_addresses("b,a:7437,b:7437,") == ("tcp://b:7437", "tcp://a:7437")


@pytest.mark.parametrize("written", ["", " , ", ",".join(f"h{number}" for number in range(ADDRESSES_MAX + 1))])
def test_a_list_has_to_hold_some_addresses_and_not_too_many(written: str) -> None:
    with pytest.raises(ValueError, match="addresses"):
        parse_addresses(written)
