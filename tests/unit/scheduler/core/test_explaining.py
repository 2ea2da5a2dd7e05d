"""Decisions in words: what a person is told who asks why."""

import json
from typing import Any

import pytest

from keepwarm_scheduler.core import explaining
from keepwarm_scheduler.core.decisions import NUMBERS, Coldness, Reason
from keepwarm_wire import messages as wire
from support.model_agent import GIB
from support.scheduler_driver import Client, Driver, warm


def asked(driver: Driver, call: str) -> dict[str, Any]:
    """What an operator is told."""
    peer = driver.new_peer()
    driver.transmit(peer, wire.AdminHello(1, 1, "test"))
    driver.transmit(peer, wire.ExplainRequest(7, call))
    ((_, reply),) = [(to, each) for to, each in driver.other if to == peer and isinstance(each, wire.ExplainReply)]
    assert reply.request_number == 7
    document = json.loads(reply.document)
    assert isinstance(document, dict)
    return document


def own(client: Client, call: str) -> dict[str, Any]:
    """What a client is told of its own."""
    client.say(wire.ExplainRequest(1, call))
    document = json.loads(client.of(wire.ExplainReply)[-1].document)
    assert isinstance(document, dict)
    return document


def name(client: Client, number: int) -> str:
    return explaining.call_id(client.session_id, number)


def test_a_warm_call_is_told_where_it_went() -> None:
    driver = Driver()
    client, agent = warm(driver)
    call = client.submit()
    agent.complete()
    document = asked(driver, name(client, call))
    assert document["summary"].endswith("It found a ready process on a.")
    assert document["cold"] is None
    (step,) = document["steps"]
    assert (step["code"], step["node"], step["uses_before"], step["idle_copies_left"]) == ("idle", "a", 1, 0)
    assert document["phases"] == {"run": 1.0}


@pytest.mark.parametrize("acknowledged", [False, True])
def test_a_cold_call_is_told_why_before_and_after_it_is_forgotten(acknowledged: bool) -> None:
    driver = Driver()
    client, agent = warm(driver, keep_alive=1)
    driver.advance(5)
    agent.starts = False
    call = client.submit()
    driver.advance(0.2, beats=False)
    agent.started()
    agent.complete()
    if acknowledged:
        client.acknowledge(call)
    document = asked(driver, name(client, call))
    assert document["cold_code"] == "expired"
    assert "had run out 4 s before" in document["cold"]
    assert document["cold"] in document["summary"]
    codes = [step["code"] for step in document["steps"]]
    assert codes == ["start", "idle"]
    start = document["steps"][0]
    assert start["compared"] == [{"node": "a", "temperature": "built", "load_permille": 0, "instances": 0}]
    assert start["candidates"] == 1
    assert "has the environment on disk" in start["text"]


def test_a_start_names_those_it_was_preferred_to() -> None:
    driver = Driver()
    client, agent = warm(driver, keep_alive=1)
    driver.agent("b")
    driver.advance(5)
    call = client.submit()
    agent.complete()
    start = asked(driver, name(client, call))["steps"][0]
    assert [each["node"] for each in start["compared"]] == ["a", "b"]
    assert "the best of 2 nodes with room" in start["text"]
    assert "Next best: b (cold, 0 % of its cpu promised)" in start["text"]


def test_a_call_that_waits_is_told_what_for() -> None:
    driver = Driver()
    client, agent = warm(driver)
    for _ in range(5):
        client.submit()
        agent.complete()
    client.submit()
    call = client.submit()
    document = asked(driver, name(client, call))
    assert document["state"] == "queued"
    assert document["summary"] == "It waits: 1 call for 1 busy process."
    (step,) = document["steps"]
    assert step["code"] == "wait"
    assert step["expected_wait_us"] < step["cold_start_us"]
    assert "waiting for 1 busy process was expected to take 1 ms with 1 call waiting" in step["text"]


def test_a_call_without_room_is_told_so_and_who_made_room() -> None:
    driver = Driver()
    client, agent = warm(driver, memory_bytes=6 * GIB, keep_alive=600)
    call = client.submit(client.declare("module:other", memory_bytes=4 * GIB))
    assert [step["code"] for step in asked(driver, name(client, call))["steps"]] == ["no_room"]
    driver.advance(1.1)
    agent.complete()
    document = asked(driver, name(client, call))
    assert [step["code"] for step in document["steps"]] == ["no_room", "make_room", "start", "idle"]
    assert "1 idle process on a had to make room, 1 of them the last warm copy" in document["steps"][1]["text"]


def test_a_call_that_runs_says_where() -> None:
    driver = Driver()
    client, _ = warm(driver)
    assert asked(driver, name(client, client.submit()))["summary"] == "It runs on a."


def test_failures_and_further_attempts_are_told() -> None:
    driver = Driver()
    client, agent = warm(driver, retries=wire.RetryLimits(exceptions=1))
    call = client.submit()
    agent.complete(status=wire.Status.FAILED, failure=wire.Failure("user_exception", "no"))
    driver.advance(1)
    agent.complete()
    document = asked(driver, name(client, call))
    assert [step["code"] for step in document["steps"]] == ["idle", "retry", "idle"]
    assert "tried again after 500 ms" in document["steps"][1]["text"]


def test_a_lost_attempt_is_told() -> None:
    driver = Driver()
    client, agent = warm(driver)
    call = client.submit()
    agent.disconnect()
    driver.advance(2)
    driver.agent("b").complete()
    document = asked(driver, name(client, call))
    assert [step["code"] for step in document["steps"]] == ["idle", "lost", "impossible", "start", "idle"]
    assert document["steps"][2]["text"] == "no node was within reach."
    assert document["cold_code"] == "node_lost"


def test_the_beginning_of_a_session_suffices_unless_it_is_ambiguous() -> None:
    driver = Driver()
    driver.agent()
    one, other = driver.client("s1"), driver.client("s2")
    for client in (one, other):
        client.submit(client.declare())
    assert asked(driver, f"{one.session_id.hex()}-1")["call"] == name(one, 1)
    assert asked(driver, f"{one.session_id.hex()[:4]}-1")["call"] == name(one, 1)
    both = asked(driver, f"{one.session_id.hex()[:2]}-1")
    assert both["error"] == "ambiguous"
    assert name(one, 1) in both["summary"]
    assert name(other, 1) in both["summary"]


@pytest.mark.parametrize("text", ["", "7", "-", "xyz-1", "ab-", "-3", "ab-1x", "ab--1", "ab-²"])
def test_what_is_no_name_of_a_call_is_refused_in_words(text: str) -> None:
    driver = Driver()
    assert asked(driver, text)["error"] == "malformed"


def test_what_is_not_known_is_said_to_be_unknown() -> None:
    driver = Driver()
    client, _ = warm(driver)
    assert asked(driver, name(client, 99))["error"] == "unknown"
    assert own(client, "99")["error"] == "unknown"


def test_a_client_is_told_of_its_own_calls_alone() -> None:
    driver = Driver()
    client, agent = warm(driver)
    call = client.submit()
    stranger = driver.client("t")
    assert own(client, str(call))["state"] == "dispatched" or own(client, str(call))["state"] == "running"
    agent.complete()
    client.acknowledge(call)
    assert own(client, str(call))["call"] == name(client, call)
    assert own(client, name(client, call))["state"] == "done"
    assert own(stranger, name(client, call))["error"] == "unknown"
    assert own(stranger, str(call))["error"] == "unknown"
    assert own(client, "²")["error"] == "unknown"


def test_there_are_words_for_everything() -> None:
    assert set(explaining._TEXTS) == set(Reason)
    assert set(explaining._COLD) == set(Coldness)
    assert set(NUMBERS) <= set(Reason)


def test_a_waiting_call_says_what_of_however_it_waits() -> None:
    driver = Driver()
    client = driver.client()
    call = client.submit(client.declare(requirements=("requests",)))
    assert "being resolved" in asked(driver, name(client, call))["summary"]
    driver.agent(starts=True)
    impossible = client.submit(client.declare("module:g", cpu=64_000))
    assert "no node could ever run it" in asked(driver, name(client, impossible))["summary"]
    driver.agent("slow", starts=False, label_only=1000)
    slow = client.submit(client.declare("module:h", custom=(wire.Quantity("label_only", 1000),)))
    assert "1 process being started for 1 call" in asked(driver, name(client, slow))["summary"]
