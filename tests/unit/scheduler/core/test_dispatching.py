"""Pools at work: who serves a call, and what happens to leases and bookings meanwhile."""

from keepwarm_wire import messages as wire
from support.scheduler_driver import Driver, warm


def test_a_second_call_is_served_by_the_same_instance() -> None:
    driver = Driver()
    client, agent = warm(driver)
    call = client.submit()
    agent.complete()
    first, second = driver.of(wire.Dispatch)
    assert first.instance_id == second.instance_id
    assert len(driver.of(wire.StartInstance)) == 1
    report = client.outcome(call).report
    assert report is not None
    assert report.temperature == "ready"


def test_a_first_call_is_cold_and_says_so() -> None:
    driver = Driver()
    agent, client = driver.agent(starts=False), driver.client()
    client.declare()
    call = client.submit()
    driver.advance(1, beats=False)
    agent.started()
    agent.complete()
    report = client.outcome(call).report
    assert report is not None
    assert report.temperature == "built"
    assert report.node == "a"
    assert dict(report.phases) == {"waiting": 999_000, "start": 1_000, "run": 1_000}


def test_functions_with_equal_needs_share_an_instance() -> None:
    driver = Driver()
    client, agent = warm(driver)
    other = client.declare("module:other")
    client.submit(other)
    agent.complete()
    assert len({dispatch.instance_id for dispatch in driver.of(wire.Dispatch)}) == 1


def test_functions_with_other_options_of_the_process_do_not_share_one() -> None:
    driver = Driver()
    client, _ = warm(driver)
    for changes in (
        {"env_vars": (wire.Pair("NAME", "value"),)},
        {"memory_bytes": 1 << 30},
        {"cpu": 500},
        {"requirements": ("requests",)},
    ):
        client.submit(client.declare("module:function", **changes))
    assert len({dispatch.instance_id for dispatch in driver.of(wire.Dispatch)}) == 5


def test_a_second_call_goes_to_the_warm_node() -> None:
    driver = Driver()
    for name in ("a", "b", "c"):
        driver.agent(name)
    client = driver.client()
    client.declare()
    client.submit()
    (busy,) = [agent for agent in driver.agents.values() if agent.attempts]
    busy.complete()
    client.submit()
    assert len(busy.executed) == 1
    assert len(busy.attempts) == 1


def test_the_instance_used_last_serves_first() -> None:
    driver = Driver()
    agent, client = driver.agent(), driver.client()
    client.declare()
    for _ in range(3):
        client.submit()
    used = [dispatch.attempt for dispatch in driver.of(wire.Dispatch)]
    for token in (used[1], used[0], used[2]):
        agent.complete(token)
    instances = {dispatch.attempt: dispatch.instance_id for dispatch in driver.of(wire.Dispatch)}
    client.submit()
    assert driver.of(wire.Dispatch)[-1].instance_id == instances[used[2]]
    client.submit()
    assert driver.of(wire.Dispatch)[-1].instance_id == instances[used[0]]


def test_idle_instances_are_parked_while_the_cpu_of_their_node_is_used_up() -> None:
    driver = Driver()
    agent, client = driver.agent(cpu=1000), driver.client()
    first, second = client.declare("module:a"), client.declare("module:b", memory_bytes=1 << 30)
    client.submit(first)
    client.submit(second)
    assert len(agent.attempts) == 1
    assert [instance.is_parked for instance in driver.instances] == [False, True]
    agent.complete()
    assert len(agent.attempts) == 1
    assert len(agent.executed) == 1
    assert not driver.node().parked
    agent.complete()
    assert client.status(1) == client.status(2) == "succeeded"


def test_parked_instances_serve_the_call_that_came_first() -> None:
    driver = Driver()
    agent, client = driver.agent(cpu=1000), driver.client()
    functions = [client.declare(f"module:f{n}", memory_bytes=(256 + n) << 20) for n in range(3)]
    for function in functions:
        client.submit(function)
        driver.advance(0.1, beats=False)
    order = []
    while agent.attempts:
        order += [agent.attempts[token].call_number for token in agent.attempts]
        agent.complete()
    assert order == [1, 2, 3]


def test_a_parked_instance_expires_like_any_other() -> None:
    driver = Driver()
    agent, client = driver.agent(cpu=1000), driver.client()
    client.declare("module:a"), client.declare("module:b", memory_bytes=1 << 30, keep_alive=1)
    client.submit(1)
    call = client.submit(2)
    client.cancel(call)
    driver.advance(1.2)
    assert [ending.cause for ending in agent.endings] == ["expired"]


def test_custom_resources_are_booked_by_calls() -> None:
    driver = Driver()
    agent, client = driver.agent(license=1000), driver.client()
    client.declare(custom=(wire.Quantity("license", 1000),))
    client.submit()
    client.submit()
    assert len(agent.attempts) == 1
    agent.complete()
    agent.complete()
    assert client.status(2) == "succeeded"
    assert driver.node().free["license"] == 1000


def test_calls_wait_in_the_order_in_which_they_came() -> None:
    driver = Driver()
    agent, client = driver.agent(cpu=1000), driver.client()
    client.declare()
    for _ in range(4):
        client.submit()
    while agent.attempts:
        agent.complete()
    assert [dispatch.call_number for dispatch in driver.of(wire.Dispatch)] == [1, 2, 3, 4]


def test_a_functions_bytes_are_sent_to_a_node_once() -> None:
    driver = Driver()
    client, agent = warm(driver)
    client.submit()
    agent.complete()
    assert len(driver.of(wire.FunctionBody)) == 1


def test_an_instance_that_serves_a_call_has_no_deadline() -> None:
    driver = Driver()
    client, agent = warm(driver, keep_alive=1)
    client.submit()
    driver.advance(600)
    assert agent.attempts
    assert not agent.endings
    agent.complete()
    assert client.status(2) == "succeeded"


def test_keep_alive_0_serves_one_call_and_is_released() -> None:
    driver = Driver()
    agent, client = driver.agent(), driver.client()
    client.declare(keep_alive=0)
    client.submit()
    agent.complete()
    client.submit()
    agent.complete()
    assert [ending.cause for ending in agent.endings] == ["released", "released"]
    assert len(driver.of(wire.StartInstance)) == 2
    assert not driver.instances


def test_keep_alive_0_is_never_shared_between_functions() -> None:
    driver = Driver()
    agent, client = driver.agent(), driver.client()
    one, other = client.declare("module:one", keep_alive=0), client.declare("module:other", keep_alive=0)
    client.submit(one)
    client.submit(other)
    assert len({dispatch.instance_id for dispatch in agent.attempts.values()}) == 2


def test_a_private_instance_that_nobody_needs_any_more_is_released() -> None:
    driver = Driver()
    agent, client = driver.agent(starts=False), driver.client()
    client.declare(keep_alive=0)
    client.cancel(client.submit())
    agent.started()
    assert [ending.cause for ending in agent.endings] == ["released"]


def test_a_lost_dispatch_is_repaired_by_the_next_beat_and_restarts_no_lease() -> None:
    driver = Driver()
    client, agent = warm(driver)
    deadline_ns = driver.instances[0].lease.deadline_ns
    driver.advance(1, beats=False)
    driver.lose(wire.Dispatch)
    client.submit()
    assert not agent.attempts
    driver.advance(2)
    agent.beats()
    assert driver.instances[0].lease.deadline_ns == deadline_ns
    assert len(agent.attempts) == 1
    agent.complete()
    assert client.status(2) == "succeeded"


def test_the_more_urgent_call_goes_first_and_equal_ones_in_order() -> None:
    driver = Driver()
    agent, client = driver.agent(cpu=1000), driver.client()
    client.declare()
    for priority in (0, 0, 100, -100, 100):
        client.submit(priority=priority)
    while agent.attempts:
        agent.complete()
    assert [dispatch.call_number for dispatch in driver.of(wire.Dispatch)] == [1, 3, 5, 2, 4]


def test_clients_take_turns_however_many_calls_each_has_waiting() -> None:
    driver = Driver()
    agent = driver.agent(cpu=1000)
    clients = [driver.client(name) for name in ("s", "t")]
    for client, count in zip(clients, (6, 2), strict=True):
        client.declare()
        for _ in range(count):
            client.submit()
    while agent.attempts:
        agent.complete()
    served = [dispatch.session_id[:1] for dispatch in driver.of(wire.Dispatch)]
    assert served == [b"s", b"s", b"t", b"s", b"t", b"s", b"s", b"s"]


def test_pools_of_several_clients_take_turns_on_a_node() -> None:
    driver = Driver()
    agent = driver.agent(cpu=1000)
    clients = [driver.client(name) for name in ("s", "t")]
    for client in clients:
        client.declare(env_vars=(wire.Pair("WHO", client.session_id.decode()),))
        client.submit()
        agent.complete()
    for _ in range(4):
        clients[0].submit()
    clients[1].submit()
    while agent.attempts:
        agent.complete()
    served = [dispatch.session_id[:1] for dispatch in driver.of(wire.Dispatch)[2:]]
    assert served == [b"s", b"t", b"s", b"s", b"s"]


def test_a_parked_instance_that_nothing_waits_for_is_idle_again_when_cpu_is_free() -> None:
    driver = Driver()
    agent, client = driver.agent(cpu=1000), driver.client()
    first, second = client.declare("module:a"), client.declare("module:b", memory_bytes=1 << 30)
    client.submit(first)
    client.cancel(client.submit(second))
    assert driver.node().parked == {} or [each.is_parked for each in driver.instances] == [False, True]
    agent.complete()
    assert not driver.node().parked
    call = client.submit(second)
    assert len(agent.attempts) == 1
    agent.complete()
    assert client.status(call) == "succeeded"


def test_a_cancelled_call_does_not_stay_in_the_queue() -> None:
    driver = Driver()
    driver.agent(cpu=1000)
    client = driver.client()
    client.declare()
    calls = [client.submit() for _ in range(5)]
    for call in calls[1:]:
        client.cancel(call)
    assert list(driver.pool().queue) == []
    assert driver.pool().queue.footprint() == (0, 0)
