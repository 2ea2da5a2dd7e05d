"""Who may see, follow and stop which detached calls, and what they are told."""

from keepwarm_scheduler.core.detached_records import keeper_id
from keepwarm_scheduler.core.events import Principal
from keepwarm_wire import messages as wire
from keepwarm_wire.fields import FOREVER_US
from keepwarm_wire.messages import Status
from support.durable_driver import DetachedClient, DurableDriver, finished, session
from support.scheduler_driver import Agent


def test_a_queued_call_is_cancelled_at_once(driver: DurableDriver) -> None:
    client = session(driver)
    client.declare()
    call_id = client.spawn(b"one")
    client.attach(call_id)
    client.say(wire.CancelDetached(call_id))
    assert client.of(wire.DetachedCancelled) == [wire.DetachedCancelled(call_id, "cancelled")]
    assert client.ends(call_id)[0].status == Status.CANCELLED


def test_a_running_call_is_stopped_by_its_node(client: DetachedClient, agent: Agent) -> None:
    call_id = client.spawn(b"one")
    client.say(wire.CancelDetached(call_id))
    assert client.of(wire.DetachedCancelled)[-1].state == "stopping"
    agent.complete()
    client.say(wire.CancelDetached(call_id))
    assert client.of(wire.DetachedCancelled)[-1].state == "cancelled"


def test_a_success_that_was_recorded_first_wins(client: DetachedClient, agent: Agent) -> None:
    call_id = finished(client, agent)
    client.say(wire.CancelDetached(call_id))
    assert client.of(wire.DetachedCancelled)[-1].state == "succeeded"


def test_a_cancel_survives_the_scheduler(driver: DurableDriver, client: DetachedClient, agent: Agent) -> None:
    """The node never heard of it, and the new scheduler stops what it finds running."""
    call_id = client.spawn(b"one")
    driver.lose(wire.CancelAttempt)
    client.say(wire.CancelDetached(call_id))
    driver.reboot()
    agent.connect()
    agent.complete()
    client = session(driver)
    assert client.show(call_id).state == "cancelled"
    assert len(agent.executed) == 1


def test_calls_of_another_namespace_are_unknown(driver: DurableDriver, client: DetachedClient, agent: Agent) -> None:
    call_id = finished(client, agent)
    stranger = session(driver, "stranger", Principal("key", "client", "other"))
    stranger.attach(call_id)
    stranger.say(wire.ShowDetached(1, call_id))
    stranger.say(wire.CancelDetached(call_id))
    stranger.say(wire.ForgetDetached((call_id,)))
    assert stranger.refusals(call_id) == ["unknown"] * 3
    assert stranger.of(wire.DetachedForgotten) == [wire.DetachedForgotten(())]
    assert stranger.listed().entries == ()
    assert stranger.listed(namespace="default").entries == ()
    stranger.declare()
    assert stranger.refusals(stranger.spawn(b"one"))[-1] == "id_conflict"


def test_an_administrator_sees_every_namespace(driver: DurableDriver, client: DetachedClient, agent: Agent) -> None:
    call_id = finished(client, agent)
    admin = session(driver, "admin", Principal("key", "admin", "other"))
    assert [entry.call_id for entry in admin.listed().entries] == [call_id]
    assert admin.listed(namespace="other").entries == ()
    admin.attach(call_id)
    assert admin.ends(call_id)


def test_an_administrators_connection_may_ask_and_stop(
    driver: DurableDriver, client: DetachedClient, agent: Agent
) -> None:
    call_id = client.spawn(b"one")
    peer = driver.new_peer()
    driver.transmit(peer, wire.AdminHello(1, 1, "test"))
    for message in (
        wire.ListDetached(7, b"", "", "", 0),
        wire.ShowDetached(8, call_id),
        wire.CancelDetached(call_id),
        wire.ForgetDetached((call_id,)),
    ):
        driver.transmit(peer, message)
    answers = [message for to, message in driver.other if to == peer]
    assert [type(answer) for answer in answers[1:]] == [
        wire.DetachedListed,
        wire.DetachedShown,
        wire.DetachedCancelled,
        wire.DetachedForgotten,
    ]


def test_nobody_speaks_as_a_keeper(driver: DurableDriver, client: DetachedClient) -> None:
    """The id of a keeper's session can be computed by anybody."""
    client.spawn(b"one")
    (keeper,) = driver.cluster.book.keepers.values()
    impostor = DetachedClient(driver, keeper.session.session_id)
    impostor.hello()
    assert impostor.of(wire.Refused)
    assert not impostor.of(wire.Welcome)


def test_an_impostor_who_came_first_is_put_out(driver: DurableDriver, agent: Agent) -> None:
    impostor = DetachedClient(driver, keeper_id(b"c" * 16, "default"))
    impostor.hello()
    impostor.declare()
    impostor.submit()
    client = session(driver)
    client.declare()
    call_id = client.spawn(b"one")
    agent.complete()
    agent.complete()
    assert client.show(call_id).state == "succeeded"


def test_pages_are_newest_first_and_complete(driver: DurableDriver, client: DetachedClient, agent: Agent) -> None:
    calls = [client.spawn(b"%d" % number) for number in range(7)]
    agent.complete()
    found: list[bytes] = []
    cursor = b""
    for _ in range(10):
        page = client.listed(cursor, limit=3)
        found += [entry.call_id for entry in page.entries]
        if page.is_last:
            break
        cursor = page.entries[-1].cursor
    assert found == calls[::-1]
    done, unfinished = client.listed(state="done").entries, client.listed(state="unfinished").entries
    assert (
        {entry.state for entry in done}
        == {"succeeded"}
        == {entry.state for entry in client.listed(state="succeeded").entries}
    )
    assert {entry.call_id for entry in (*done, *unfinished)} == set(calls)
    waiting = [entry for state in ("queued", "dispatched", "running") for entry in client.listed(state=state).entries]
    assert sorted(waiting) == sorted(unfinished)


def test_an_entry_says_what_people_want_to_know(driver: DurableDriver, client: DetachedClient, agent: Agent) -> None:
    call_id = client.spawn(b"one", key="k")
    driver.advance(3)
    entry = client.show(call_id)
    assert entry._replace(cursor=b"") == wire.DetachedEntry(
        call_id, b"", "default", "module:function", "k", "test", "running", "", "a", 1, 3_000_000,
        FOREVER_US, FOREVER_US, 0,
    )  # fmt: skip
    agent.complete(result=b"12345")
    driver.advance(2)
    entry = client.show(call_id)
    assert (entry.state, entry.node, entry.result_bytes, entry.ended_us) == ("succeeded", "a", 5, 2_000_000)


def pages(client: DetachedClient, state: str, namespace: str) -> list[wire.DetachedEntry]:
    """All that is listed, in small pages."""
    found: list[wire.DetachedEntry] = []
    while True:
        page = client.listed(found[-1].cursor if found else b"", state, namespace, limit=2)
        found += page.entries
        if page.is_last:
            return found


def matches(state: str, entry: wire.DetachedEntry) -> bool:
    """Whether that is what is asked for."""
    is_done = entry.state in Status.NAMES
    return state in ("", entry.state, "done" if is_done else "unfinished")


def test_each_state_is_listed_by_itself_and_in_pages(driver: DurableDriver) -> None:
    """Of one's own namespace; an administrator has all of them, or those of one."""
    agent = driver.agent(cpu=2_000)
    mine, other = (session(driver, name, Principal(name, "client", name)) for name in ("mine", "other"))
    admin = session(driver, "admin", Principal("admin", "admin", ""))
    for client in (mine, other):
        client.declare()
        for number in range(3):
            client.spawn(b"%s ends %d" % (client.principal.namespace.encode(), number))
            agent.complete()
    for number in range(4):
        for client in (other, mine):
            call_id = client.spawn(b"%s %d" % (client.principal.namespace.encode(), number))
    mine.say(wire.CancelDetached(call_id))
    everything = list(admin.listed().entries)
    assert {entry.state for entry in everything} == {"succeeded", "cancelled", "running", "queued"}
    assert len(everything) == 14
    for client, namespace in ((mine, "mine"), (other, "other"), (admin, ""), (admin, "mine")):
        seen = [entry for entry in everything if namespace in ("", entry.namespace)]
        assert client is admin or pages(client, "", "") == seen
        for state in ("", "succeeded", "cancelled", "running", "queued", "done", "unfinished", "lost", "nonsense"):
            wanted = [entry for entry in seen if matches(state, entry)]
            assert pages(client, state, namespace) == wanted, f"{state} of {namespace}"
