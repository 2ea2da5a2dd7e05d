"""The invariants' check: it must be able to fail."""

import pytest

from keepwarm_worker.core.state import check_invariants
from support.agent_core import welcomed


def test_a_working_agent_is_consistent() -> None:
    driver = welcomed()
    driver.ready()
    driver.running()
    check_invariants(driver.core.state)


def test_an_attempt_without_its_instance_is_noticed() -> None:
    driver = welcomed()
    driver.ready()
    driver.running()
    driver.core.state.instances[1].attempt = 0
    with pytest.raises(AssertionError):
        check_invariants(driver.core.state)


def test_more_builds_than_allowed_are_noticed() -> None:
    driver = welcomed()
    driver.start()
    driver.core.state.working = 3
    with pytest.raises(AssertionError):
        check_invariants(driver.core.state)


def test_a_payload_that_nobody_holds_is_noticed() -> None:
    from keepwarm_wire.messages import Reference
    from keepwarm_worker.core.state import PayloadFile

    driver = welcomed()
    driver.core.state.payloads[b"x" * 16] = PayloadFile(Reference(b"x" * 16, 1, b"d" * 32))
    with pytest.raises(AssertionError):
        check_invariants(driver.core.state)
