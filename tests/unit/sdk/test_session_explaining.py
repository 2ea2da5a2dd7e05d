"""Asking the scheduler about a call: the session's part."""

from keepwarm.session import Session
from keepwarm.session_calls import Call, Function
from keepwarm.session_deliveries import Explained
from keepwarm_wire.messages import ExplainReply, ExplainRequest, FunctionOptions, RetryLimits, Submit, Welcome


def open_session() -> tuple[Session, Call]:
    """A session that has sent one call."""
    session = Session(b"s" * 16, "test")
    session.connection_made(0)
    session.take_outgoing(0)
    session.handle(0, Welcome(1, b"c" * 16, 1, False, 10, 1000, 1_000_000))
    options = FunctionOptions(0, 0, 0, 0, 0, RetryLimits(), 0, 0, 0)
    function = Function(1, "m:f", b"v" * 32, "cp311", b"{}", False, options, b"body")
    session._sending.add_function(function)
    call = Call(function, b"", None)
    session.submit(call)
    session.tick(0)
    assert [each.call_number for each in session.take_outgoing(0) if isinstance(each, Submit)] == [1]
    return session, call


def test_a_question_is_asked_by_number_and_its_answer_goes_to_who_asked() -> None:
    session, call = open_session()
    first, second = session.explain(call, "one"), session.explain(call, "other")
    assert session.next_deadline() == 0
    asked = [each for each in session.take_outgoing(0) if isinstance(each, ExplainRequest)]
    assert asked == [ExplainRequest(first, "1"), ExplainRequest(second, "1")]
    session.handle(1, ExplainReply(second, b"{}"))
    assert list(session.deliveries) == [Explained("other", b"{}")]


def test_an_answer_that_nobody_waits_for_is_ignored() -> None:
    session, call = open_session()
    number = session.explain(call, "one")
    session.handle(1, ExplainReply(number, b"{}"))
    session.handle(1, ExplainReply(number, b"{}"))
    forgotten = session.explain(call, "late")
    session.explaining.answer(forgotten)
    session.handle(1, ExplainReply(forgotten, b"{}"))
    session.handle(1, ExplainReply(99, b"{}"))
    assert list(session.deliveries) == [Explained("one", b"{}")]
