"""What tests of detached calls begin with: a scheduler with a journal, a node, a client with a function."""

from collections.abc import Iterator

import pytest

from support.durable_driver import DetachedClient, DurableDriver, session
from support.scheduler_driver import Agent


@pytest.fixture
def driver() -> Iterator[DurableDriver]:
    driver = DurableDriver()
    yield driver
    driver.close()


@pytest.fixture
def agent(driver: DurableDriver) -> Agent:
    return driver.agent()


@pytest.fixture
def client(driver: DurableDriver, agent: Agent) -> DetachedClient:
    client = session(driver)
    client.declare()
    return client
