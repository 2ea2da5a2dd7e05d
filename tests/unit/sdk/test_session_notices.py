"""What a session makes of notices, and of priorities."""

from keepwarm.session_calls import Call
from keepwarm_wire.messages import DeclareFunction, LeaseBroken, Submit
from support.driven_session import Driven, success, welcome

BROKEN = LeaseBroken(7, "n0", "0123456789ab", ("m:f",), 0, "killed: timeout of m:g", 9_000_000, 0)


def test_a_notice_is_delivered_as_it_is() -> None:
    driven = Driven().open()
    driven.get(BROKEN)
    assert list(driven.session.deliveries) == [BROKEN]


def test_a_call_is_told_of_the_last_notice_before_it_that_concerned_its_function() -> None:
    driven = Driven().open()
    other = driven.declare(name="m:other")
    calls = []
    for notice in (None, BROKEN, BROKEN._replace(functions=("m:x",)), BROKEN._replace(instance_id=8)):
        if notice is not None:
            driven.get(notice)
        calls.append(driven.call())
        driven.out()
    stranger = driven.call(function=other)
    driven.out()
    told = [driven.session.explaining.broken_before(call) for call in (*calls, stranger)]
    assert told == [None, BROKEN, BROKEN, BROKEN._replace(instance_id=8), None]


def test_priorities_travel_and_what_is_held_goes_by_them() -> None:
    driven = Driven().open(welcome(calls=1))
    driven.call(b"first")
    driven.out()
    for priority in (0, -1, 7, 7):
        driven.session.submit(Call(driven.function, b"x", None, priority=priority))
    sent = []
    for number in range(1, 5):
        driven.get(success(number))
        sent += [message for message in driven.out() if isinstance(message, Submit)]
    assert [(message.call_number, message.priority) for message in sent] == [(2, 7), (3, 7), (4, 0), (5, -1)]


def test_calls_of_other_priorities_are_of_the_same_function() -> None:
    """A function is declared once, whatever the priorities of its calls."""
    driven = Driven().open()
    for priority in (0, 5):
        driven.session.submit(Call(driven.function, b"x", None, priority=priority))
    assert len(driven.sent(DeclareFunction)) == 1
