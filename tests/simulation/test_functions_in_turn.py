"""A program that calls more functions in turn than there are processors: what is lent to one keeps no other waiting."""

import hashlib
from random import Random

import pytest

from keepwarm import loans
from keepwarm_scheduler.core import lending
from keepwarm_wire.fields import FOREVER_US
from keepwarm_wire.messages import FunctionOptions, RetryLimits
from support.simulation.client_host import ClientHost
from support.simulation.clock import MILLISECOND, SECOND
from support.simulation.cluster import Cluster
from support.simulation.faults import Scenario
from support.simulation.network import CALM
from support.simulation.workload import SPECS, Declared, Planned, Work

CALLS, WARM_UP = 600, 30
RUN_NS = MILLISECOND // 10
NEAR = CALM._replace(delay_max_ns=MILLISECOND // 5)
OPTIONS = FunctionOptions(
    60_000_000, FOREVER_US, FOREVER_US, FOREVER_US, FOREVER_US, RetryLimits(), 1000, 64 << 20, 0
)  # fmt: skip


def _declared(number: int) -> Declared:
    """In one of three environments, so that neighbours share none."""
    name = f"app:in turn {number}"
    version = hashlib.sha256(name.encode()).digest()
    return Declared(name, version, SPECS[number % len(SPECS)], False, False, OPTIONS)


def times_of_calls(functions: int, *, lent: bool) -> list[float]:
    """How long each call took in milliseconds, after some to warm up, where each begins as the one before ends."""
    scenario = Scenario(NEAR, agents=1, clients=0, duration_ns=60 * SECOND, lent_every=1)
    cluster = Cluster(scenario, "in turn", 0, checked=False, is_encoding=False)
    uids = [f"call {number}" for number in range(CALLS)]
    planned = [
        Planned(MILLISECOND, number % functions, Work(uid, "ok", RUN_NS), 0, uids[number - 1] if number else "")
        for number, uid in enumerate(uids)
    ]
    client = ClientHost(
        "c0", cluster._new_clock(), cluster.network, cluster.history, cluster.tally, Random(1),
        [_declared(number) for number in range(functions)], planned,
    )  # fmt: skip
    cluster.clients.append(client)
    if lent:
        client.desk.open(cluster.doors)
    cluster.run()
    cluster.close()
    begins, ends = ({entry[3]: entry[0] for entry in cluster.history.of(kind)} for kind in ("submit", "end"))
    return [(ends[uid] - begins[uid]) / MILLISECOND for uid in uids[WARM_UP:]]


@pytest.mark.parametrize("functions", [1, 2, 3, 5])
def test_calls_in_turn_take_no_longer_for_being_lent(functions: int) -> None:
    """Two processors have two loans at a time: that of a function which is not called just then was kept for 50 ms."""
    submitted, lent = times_of_calls(functions, lent=False), times_of_calls(functions, lent=True)
    assert sum(lent) <= sum(submitted)
    assert max(lent) <= 2 * max(submitted)


def test_it_would_be_noticed_if_they_did(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when nothing is called back for a loan of the same program, and every loan counts as of use."""
    monkeypatch.setattr(lending, "_call_back_when_idle", lambda *_: None)
    monkeypatch.setattr(lending._Held, "has_more", lambda _held, _loan, _call: False)
    monkeypatch.setattr(loans, "USEFUL_CALLS", 0)
    submitted, lent = times_of_calls(3, lent=False), times_of_calls(3, lent=True)
    assert sum(lent) > sum(submitted)
    assert max(lent) > 2 * max(submitted)
