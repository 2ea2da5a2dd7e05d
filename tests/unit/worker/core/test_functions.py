"""Functions and payloads on a node: fetched once, kept while needed, asked for when missing."""

from keepwarm_wire import messages as wire
from keepwarm_worker.core import effects, events
from support.agent_core import BODY, CONFIG, VERSION, Driver, welcomed

BIG = wire.Reference(b"a" * 16, 1_000_000, b"d" * 32)
USER_ERROR = wire.Failure("user_exception", "boom", "Traceback")


def _ready() -> Driver:
    driver = welcomed()
    driver.ready()
    driver.receive(BODY)
    return driver


def test_arguments_by_reference_are_fetched_before_the_call_and_dropped_after() -> None:
    driver = _ready()
    driver.dispatch(arguments=BIG)
    assert driver.out == [effects.FetchPayload(BIG)]
    driver.feed(events.PayloadFetched(BIG.payload_id))
    assert driver.done(effects.StartCall)[0].arguments == BIG
    driver.feed(events.RunnerStarted(1, 10, False))
    driver.result()
    assert driver.done(effects.DropPayload) == [effects.DropPayload(BIG.payload_id)]


def test_arguments_that_cannot_be_had_fail_the_call() -> None:
    driver = _ready()
    driver.dispatch(arguments=BIG)
    driver.feed(events.PayloadMissing(BIG.payload_id, wire.Failure("payload_unknown", "gone")))
    (done,) = driver.said(wire.AttemptDone)
    assert done.failure == wire.Failure("payload_unknown", "gone")
    assert not driver.core.state.payloads


def test_a_scheduler_that_holds_the_bytes_no_more_gets_the_call_back() -> None:
    """It was started anew: nothing has run here, and the client will hand the bytes over again."""
    driver = _ready()
    driver.dispatch(arguments=BIG)
    driver.feed(events.PayloadMissing(BIG.payload_id, wire.Failure("payload_refused", "it is not here")))
    assert [refused.attempt for refused in driver.said(wire.AttemptRefused)] == [10]
    assert not driver.said(wire.AttemptDone)
    assert not driver.core.state.attempts


def test_a_large_body_is_fetched_once_and_kept() -> None:
    driver = welcomed()
    driver.ready()
    driver.dispatch()
    driver.receive(BODY._replace(body=BIG))
    assert driver.done(effects.FetchPayload)
    driver.feed(events.PayloadFetched(BIG.payload_id))
    assert driver.done(effects.LoadFunction)[0].body == BIG
    driver.feed(events.RunnerStarted(1, 10, True))
    driver.result()
    assert not driver.done(effects.DropPayload)


def test_the_longest_unused_function_is_forgotten_over_the_limit() -> None:
    driver = welcomed(CONFIG._replace(function_bytes_max=10))
    driver.ready()
    for letter in (b"a", b"b"):
        driver.receive(BODY._replace(version=letter * 32, body=b"12345"))
    driver.dispatch(version=b"a" * 32)
    driver.receive(BODY._replace(version=b"c" * 32, body=b"12345"))
    assert list(driver.core.state.functions) == [b"a" * 32, b"c" * 32]


def test_a_function_that_is_still_missing_is_asked_for_with_every_beat() -> None:
    driver = welcomed()
    driver.ready()
    driver.dispatch()
    assert driver.said(wire.NeedFunction) == [wire.NeedFunction(VERSION)]
    driver.wait(1)
    assert driver.said(wire.NeedFunction) == [wire.NeedFunction(VERSION)]
    driver.receive(BODY)
    assert driver.done(effects.StartCall)
    driver.wait(1)
    assert not driver.said(wire.NeedFunction)
