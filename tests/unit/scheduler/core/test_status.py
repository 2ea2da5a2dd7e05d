"""The description of the cluster."""

import json
from typing import Any

from keepwarm_scheduler.core.status import describe, document
from support.scheduler_driver import Driver, warm


def describes(driver: Driver) -> dict[str, Any]:
    text = json.loads(document(driver.cluster))
    assert isinstance(text, dict)
    return text


def test_an_empty_cluster_can_be_described() -> None:
    described = describes(Driver())
    assert described["nodes"] == described["calls"] == described["instances"] == []


def test_a_warm_instance_is_described_with_what_is_left_of_its_lease() -> None:
    driver = Driver()
    warm(driver, keep_alive=10, requirements=("requests",))
    driver.advance(4)
    described = describes(driver)
    (instance,) = described["instances"]
    assert instance["state"] == "idle"
    assert instance["lease_s"] == 6.0
    assert instance["uses"] == 1
    (environment,) = described["environments"]
    assert environment["requirements"] == ["requests"]
    assert environment["nodes"]["a"]["temperature"] == "warm"
    (client,) = described["clients"]
    assert client == {"label": "test", "connected": True, "calls": 0}


def test_an_endless_lease_is_forever() -> None:
    driver = Driver()
    warm(driver, keep_alive=None)
    assert describes(driver)["instances"][0]["lease_s"] == "forever"


def test_calls_are_described_with_where_they_are_and_why_they_wait() -> None:
    driver = Driver()
    driver.agent(cpu=1000)
    client = driver.client()
    client.declare()
    client.submit()
    client.submit()
    described = describes(driver)
    assert [(call["state"], call["reason"], call["node"]) for call in described["calls"]] == [
        ("running", "", "a"),
        ("queued", "capacity", ""),
    ]
    assert described["calls_unfinished"] == 2
    assert described["instances"][0]["function"] == "module:function"


def test_nodes_are_alive_suspect_or_lost() -> None:
    driver = Driver()
    agent = driver.agent()
    assert describes(driver)["nodes"][0]["state"] == "alive"
    agent.disconnect()
    assert describes(driver)["nodes"][0]["state"] == "suspect"
    driver.advance(2)
    assert describes(driver)["nodes"][0]["state"] == "lost"


def test_rows_are_limited() -> None:
    driver = Driver()
    for n in range(5):
        driver.client(f"s{n}")
    assert len(describe(driver.cluster, rows_max=2)["clients"]) == 2
