"""What tests of the client share."""

import pytest

from support.loopback import LoopbackClient


@pytest.fixture
def loopback(monkeypatch: pytest.MonkeyPatch) -> LoopbackClient:
    """A client in place of the network, whose calls run in this process."""
    made = LoopbackClient()
    monkeypatch.setattr("keepwarm.function.current_client", lambda: made)
    return made
