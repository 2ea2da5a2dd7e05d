"""Joining with keys on real processes: two commands to join, and everybody without the right key stays outside."""

import contextlib
import json
import socket
from collections.abc import Iterator

import pytest
import zmq

from keepwarm_wire.codec import decode_frame, encode_frame
from keepwarm_wire.messages import ClientBeat, ClientHello, Refused, Welcome
from support.programs import run_command
from support.secured import SecuredCluster, secured_cluster
from support.siege.target import Target
from support.waiting import until

ADD = """
@isolated(keep_alive=60)
def add(a, b):
    return os.getpid(), a + b
print(json.dumps([add(1, 2), add(3, 4)]))
"""


@pytest.fixture
def cluster(no_process_left: None) -> Iterator[SecuredCluster]:
    with secured_cluster() as made:
        yield made


def key_states(cluster: SecuredCluster) -> dict[str, str]:
    ended = cluster.admin("keys", "list", "--json")
    assert ended.code == 0, ended
    states: dict[str, str] = {}
    for entry in json.loads(ended.out):  # a name may have been an earlier key's: the one that is let in counts
        if states.get(entry["name"]) != "live":
            states[entry["name"]] = entry["state"]
    return states


def test_a_machine_and_a_user_join_with_two_commands_each_and_calls_run(cluster: SecuredCluster) -> None:
    cluster.agent("near")
    user = cluster.user("--namespace", "team-a", name="ann")
    cold, warm = cluster.run(user, ADD).value
    assert cold[0] == warm[0]
    assert (cold[1], warm[1]) == (3, 7)
    states = key_states(cluster)
    assert states["near"] == states["ann"] == "live"
    assert sorted(states.values()).count("spent") == 2


def test_without_keys_no_network_is_served(cluster: SecuredCluster) -> None:
    ended = run_command(cluster.new_home(), "scheduler", "--bind", "127.0.0.1:1")
    assert ended.code == 2
    assert "keepwarm init" in ended.err


def test_without_a_login_a_program_is_told_what_to_do(cluster: SecuredCluster) -> None:
    ended = cluster.run(cluster.new_home(), ADD)
    assert ended.code != 0
    assert "keepwarm login TOKEN" in ended.err


def test_a_token_is_good_once_and_both_sides_say_so(cluster: SecuredCluster) -> None:
    token = cluster.token("client")
    first = run_command(cluster.new_home(), "login", token, "--at", cluster.at, "--name", "one")
    second = run_command(cluster.new_home(), "login", token, "--at", cluster.at, "--name", "two")
    assert (first.code, second.code) == (0, 1)
    assert "used up, has expired or was withdrawn" in second.err
    cluster.scheduler.until_says("turned away: spent token")


def test_an_agent_needs_an_agents_token_and_a_user_a_users(cluster: SecuredCluster) -> None:
    agent = cluster.start_agent("n1", token=cluster.token("client"))
    assert agent.until_ended() == 4
    assert "This token is for a client" in agent.text()
    ended = run_command(cluster.new_home(), "login", cluster.token("agent"), "--at", cluster.at)
    assert ended.code == 2
    assert "keepwarm agent --join" in ended.err


def test_an_agent_without_a_token_and_key_is_told_what_to_do(cluster: SecuredCluster) -> None:
    agent = cluster.start_agent("n1")
    assert agent.until_ended() == 4
    assert "keepwarm token new --role agent" in agent.text()


def test_an_agent_comes_back_with_its_key_and_needs_no_token(cluster: SecuredCluster) -> None:
    home, token = cluster.new_home(), cluster.token("agent")
    cluster.agent("n1", token=token, home=home).end()
    cluster.agent("n1", token="", home=home).end()
    cluster.agent("n1", token=token, home=home).end()  # as a supervisor's command line stays what it was


def test_a_revoked_agent_is_outside_and_its_calls_run_elsewhere(cluster: SecuredCluster) -> None:
    home = cluster.new_home()
    agent = cluster.agent("bad", home=home)
    assert cluster.admin("keys", "revoke", "bad").code == 0
    agent.until_says("revoked")
    document = json.loads(cluster.admin("status", "--json", "--address", f"tcp://{cluster.at}").out)
    until(lambda: all(node["state"] != "alive" for node in document["nodes"]) or not document["nodes"], 1)
    cluster.agent("good")
    assert cluster.run(cluster.user(), ADD).code == 0
    agent.end()
    again = cluster.start_agent("bad", home=home)
    again.until_says("does not accept this agent's key")


def test_the_doctor_tells_who_one_is_and_what_is_wrong(cluster: SecuredCluster) -> None:
    at = f"tcp://{cluster.at}"
    nobody_there = cluster.admin("doctor", "--address", at)
    assert nobody_there.code == 1
    assert "No agent has joined" in nobody_there.out
    cluster.agent("near")
    well = cluster.admin("doctor", "--address", at)
    assert well.code == 0, well
    assert "key: admin, admin" in well.out
    user = cluster.user(name="ann")
    assert "key: ann, client" in run_command(user, "doctor", "--address", at).out
    stranger = run_command(cluster.new_home(), "doctor", "--address", at)
    assert stranger.code == 1
    assert "keepwarm login TOKEN" in stranger.out
    cluster.scheduler.kill()
    away = run_command(user, "doctor", "--address", at)
    assert away.code == 1
    assert "nobody answers" in away.out


def test_a_revoked_user_is_told_so(cluster: SecuredCluster) -> None:
    cluster.agent("near")
    user = cluster.user(name="ann")
    assert cluster.run(user, ADD).code == 0
    assert cluster.admin("keys", "revoke", "ann").code == 0
    ended = cluster.run(user, ADD)
    assert ended.code != 0
    assert "does not accept this user's key" in ended.err
    cluster.scheduler.until_says("revoked key ann")


def test_a_revoked_key_that_goes_on_is_hung_up_on(cluster: SecuredCluster) -> None:
    """It is told a few times first; its new connections end at the gate."""
    user = cluster.user(name="ann")
    host, port = cluster.at.split(":")
    target = Target(host, int(port), next((user / "logins").iterdir()))
    with zmq.Context() as context, target.dealer(context) as dealer:
        monitor = dealer.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        dealer.send(encode_frame([ClientHello(1, 1, "test", b"c" * 16, "test", 0)]))
        assert dealer.poll(10_000)
        assert [type(message) for message in decode_frame(dealer.recv())] == [Welcome]
        assert cluster.admin("keys", "revoke", "ann").code == 0
        told = 0
        while not monitor.poll(0):
            dealer.send(encode_frame([ClientBeat(1, 0)]))
            while dealer.poll(20):
                told += sum(type(message) is Refused for message in decode_frame(dealer.recv()))
            assert told < 50, "it is told without end"
        cluster.scheduler.until_says("revoked key ann")
        dealer.disable_monitor()
        monitor.close(0)
    assert told >= 10


def test_a_token_of_another_cluster_does_not_open_this_one(cluster: SecuredCluster) -> None:
    with secured_cluster() as other:
        ended = run_command(cluster.new_home(), "login", other.token("client"), "--at", cluster.at)
    assert ended.code == 1
    assert "does not prove to be the scheduler" in ended.err


def test_a_node_cannot_take_anothers_name(cluster: SecuredCluster) -> None:
    home = cluster.new_home()
    cluster.agent("one", home=home).end()
    (home / "nodes" / "two").mkdir(parents=True, mode=0o700)
    (home / "nodes" / "one" / "agent.key").rename(home / "nodes" / "two" / "agent.key")
    impostor = cluster.start_agent("two", home=home)
    impostor.until_says("This key is that of node one, not of two")


def test_keys_rotate(cluster: SecuredCluster) -> None:
    cluster.agent("near")
    user = cluster.user(name="ann")
    rotated = run_command(user, "keys", "rotate", "--address", f"tcp://{cluster.at}")
    assert rotated.code == 0, rotated
    assert cluster.run(user, ADD).code == 0
    assert cluster.admin("keys", "rotate").code == 0
    assert key_states(cluster)["ann"] == "live"


def test_who_speaks_without_a_key_is_not_heard(cluster: SecuredCluster) -> None:
    """Not by a plain socket, and not by a client that leaves encryption out."""
    host, port = cluster.at.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert b"HTTP" not in plain.recv(100)
    import zmq

    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.LINGER, 0)
    monitor = dealer.get_monitor_socket(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL)
    dealer.connect(f"tcp://{cluster.at}")
    try:
        assert monitor.poll(10_000)
    finally:
        dealer.disable_monitor()
        monitor.close(0)
        monitor.close()
        dealer.close()
        context.term()


def test_keys_that_others_could_read_are_refused(cluster: SecuredCluster) -> None:
    user = cluster.user()
    key = next((user / "logins").iterdir())
    key.chmod(0o644)
    ended = cluster.run(user, ADD)
    assert ended.code != 0
    assert "can be read or changed by other users" in ended.err
    cluster.scheduler.end()
    (cluster.home / "cluster" / "keys" / "server.key").chmod(0o640)
    refused = cluster.admin("scheduler", "--bind", cluster.at)
    assert refused.code == 2
    assert "chmod 600" in refused.err


def test_a_backup_brings_back_who_may_come_in(cluster: SecuredCluster) -> None:
    cluster.agent("near")
    user = cluster.user(name="ann")
    backup = cluster.home / "copy"
    assert cluster.admin("backup", str(backup)).code == 0
    refused = cluster.admin("restore", str(backup), "--replace")
    assert refused.code == 1
    assert "Stop it first" in refused.err
    late = cluster.user(name="late")
    cluster.scheduler.kill()
    assert cluster.admin("restore", str(backup), "--replace").code == 0
    cluster.start_scheduler()
    assert key_states(cluster)["ann"] == "live"
    assert cluster.run(user, ADD).code == 0
    assert "does not accept this user's key" in cluster.run(late, ADD).err


def test_keys_and_tokens_survive_a_killed_scheduler(cluster: SecuredCluster) -> None:
    agent, user, token = cluster.agent("near"), cluster.user(), cluster.token("client")
    cluster.scheduler.kill()
    cluster.start_scheduler()
    assert cluster.run(user, ADD).code == 0
    assert run_command(cluster.new_home(), "login", token, "--at", cluster.at, "--name", "late").code == 0
    assert agent.process.poll() is None
