"""The functions of a session: which may be forgotten, when, and what the scheduler is told of it."""

import pytest

from keepwarm.session_calls import Function
from keepwarm.session_spawning import Spawn
from keepwarm_wire.messages import (
    ClientBeatReply,
    DeclareFunction,
    DetachedAccepted,
    ForgetFunctions,
    Message,
    PayloadOffer,
    PayloadStored,
    Progress,
    Submit,
)
from keepwarm_wire.session_messages import FORGOTTEN_MAX
from support.driven_session import Driven, success, welcome

LARGE = 65_537


@pytest.fixture
def driven() -> Driven:
    return Driven().open()


def called(driven: Driven, function: Function) -> int:
    """Call a function to its end; the call's number."""
    call = driven.call(b"1", function)
    driven.out()
    driven.get(success(call.number))
    driven.completions()
    return call.number


def told(driven: Driven) -> list[Message]:
    return [message for message in driven.out() if isinstance(message, ForgetFunctions | DeclareFunction | Submit)]


def test_the_function_idle_for_longest_is_forgotten_first(driven: Driven) -> None:
    first, second, third = driven.function, driven.declare(name="m:g"), driven.declare(name="m:h")
    for function in (second, third, first):
        called(driven, function)
    assert driven.session.functions.forget(2) == [second, third]
    assert told(driven) == [ForgetFunctions((2, 3))]
    assert [function.is_forgotten for function in (first, second, third)] == [False, True, True]
    assert list(driven.session.functions) == [first]


def test_a_scheduler_is_not_told_of_what_it_never_knew(driven: Driven) -> None:
    assert driven.session.functions.forget(1) == [driven.function]
    assert told(driven) == []


def test_numbers_are_not_used_again(driven: Driven) -> None:
    called(driven, driven.function)
    driven.session.functions.forget(1)
    assert driven.declare().number == 2


def test_a_function_with_an_unanswered_call_is_kept(driven: Driven) -> None:
    driven.call()
    driven.call()
    driven.out()
    driven.get(success(1))
    assert driven.session.functions.forget(1) == []
    driven.get(success(2))
    assert driven.session.functions.forget(1) == [driven.function]


def test_a_function_is_kept_until_its_detached_call_is_accepted(driven: Driven) -> None:
    spawn = Spawn(b"i" * 16, driven.function, b"1", owner=None)
    driven.session.detached.spawning.spawn(spawn)
    driven.out()
    assert driven.session.functions.forget(1) == []
    driven.get(DetachedAccepted(spawn.call_id, spawn.call_id, False))
    assert driven.session.functions.forget(1) == [driven.function]


def test_a_call_that_is_cancelled_before_it_is_sent_holds_nothing() -> None:
    driven = Driven()
    driven.session.cancel(driven.now_ns, driven.call())
    assert driven.session.functions.forget(1) == [driven.function]


def test_a_scheduler_that_knows_nothing_is_told_of_no_forgotten_function(driven: Driven) -> None:
    kept = driven.declare(name="m:kept")
    called(driven, driven.function)
    driven.call(b"2", kept)
    driven.out()
    driven.session.functions.forget(1)
    driven.session.connection_made(driven.now_ns)
    driven.out()
    driven.get(welcome(epoch=2))
    declared, submit = told(driven)
    assert isinstance(declared, DeclareFunction)
    assert declared.name == "m:kept"
    assert isinstance(submit, Submit)


def test_what_is_forgotten_is_said_again_over_the_next_connection(driven: Driven) -> None:
    called(driven, driven.function)
    driven.session.functions.forget(1)
    assert told(driven) == [ForgetFunctions((1,))]
    for _ in range(2):
        driven.session.connection_made(driven.now_ns)
        driven.out()
        driven.get(welcome(known=True))
        assert told(driven) == [ForgetFunctions((1,))]


def test_one_message_names_no_more_than_it_may(driven: Driven) -> None:
    for number in range(FORGOTTEN_MAX + 1):
        driven.declare(name=f"m:f{number}").was_declared = True
    driven.session.functions.forget(FORGOTTEN_MAX + 5)
    sizes = [len(message.function_numbers) for message in told(driven) if isinstance(message, ForgetFunctions)]
    assert sizes == [FORGOTTEN_MAX, 1]


def test_a_large_body_that_nobody_waits_for_any_more_is_not_sent(driven: Driven) -> None:
    call = driven.call(b"1", driven.declare(b"b" * LARGE))
    driven.session.cancel(driven.now_ns, call)
    driven.session.functions.forget(2)
    assert not driven.sent(PayloadOffer)


def test_the_end_of_an_upload_of_a_forgotten_body_changes_nothing(driven: Driven) -> None:
    large = driven.declare(b"b" * LARGE)
    spawn = Spawn(b"i" * 16, large, b"1", owner=None)
    driven.session.detached.spawning.spawn(spawn)
    [offer] = driven.sent(PayloadOffer)
    driven.session.detached.withdraw(driven.now_ns, spawn)
    driven.session.functions.forget(2)
    driven.get(PayloadStored(offer.payload_id), Progress(large.number, "a", "build", "", 1))
    assert told(driven) == []
    again = driven.declare(b"b" * LARGE)
    driven.call(b"2", again)
    assert [each.size for each in driven.sent(PayloadOffer)] == [LARGE]


def test_a_lost_declaration_is_repaired_as_before(driven: Driven) -> None:
    called(driven, driven.declare(name="m:gone"))
    driven.call()
    driven.out()
    driven.session.functions.forget(1)
    driven.get(ClientBeatReply(9, (2,)))
    assert [type(message) for message in told(driven)] == [ForgetFunctions, DeclareFunction, Submit]
