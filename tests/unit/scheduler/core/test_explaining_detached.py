"""Why a detached call ran where it ran: by its own id, while it waits or runs and after its end."""

import json

from keepwarm_scheduler.core.explaining import explain
from support.durable_driver import DetachedClient, DurableDriver, finished
from support.scheduler_driver import Agent


def test_one_that_runs_and_one_that_has_ended(driver: DurableDriver, client: DetachedClient, agent: Agent) -> None:
    call_id = client.spawn(b"one")
    running = json.loads(explain(driver.cluster, call_id.hex()))
    assert (running["call"], running["state"]) == (call_id.hex(), "running")
    assert running["summary"] == f"It runs on {running['steps'][-1]['node']}."
    agent.complete()
    ended = json.loads(explain(driver.cluster, call_id.hex().upper()))
    assert (ended["call"], ended["state"], ended["status"]) == (call_id.hex(), "done", "succeeded")
    assert [step["code"] for step in ended["steps"]][-2:] == ["start", "idle"]


def test_one_of_an_earlier_scheduler_and_one_that_never_was(
    driver: DurableDriver, client: DetachedClient, agent: Agent
) -> None:
    call_id = finished(client, agent)
    driver.restart()
    for name in (call_id.hex(), "0" * 32):
        document = json.loads(explain(driver.cluster, name))
        assert document["error"] == "unknown"
        assert "ended before this scheduler started" in document["summary"]


def test_a_part_of_an_id_is_no_name(driver: DurableDriver) -> None:
    document = json.loads(explain(driver.cluster, "0" * 31))
    assert document["error"] == "malformed"
    assert "32 digits" in document["summary"]
