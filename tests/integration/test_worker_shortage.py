"""A real agent that is out of something, or was killed in the middle of something."""

import resource
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from keepwarm_wire import messages as wire
from keepwarm_wire.spec import canonical_spec, spec_key
from support.agent_peer import MINOR, AgentPeer, agent_and_peer, descendants, is_alive, returned, start_agent

GUARDIAN = "keepwarm-guard"


def wait_until(condition: Callable[[], bool], patience_s: float = 30.0) -> None:
    """Fail if a condition does not come true in time."""
    deadline_s = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline_s, "not so in time"
        time.sleep(0.02)


@pytest.fixture
def silent_index(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package index that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("KEEPWARM_INDEX_URL", f"http://127.0.0.1:{server.getsockname()[1]}/simple")
        yield


def begin_lock(peer: AgentPeer, agent: psutil.Popen) -> psutil.Process:
    """Have the agent make a lock; the uv that does."""
    spec = canonical_spec(("iniconfig",), MINOR)
    peer.send(wire.MakeLock(peer.command(), spec_key(spec), spec))
    found: list[psutil.Process] = []

    def is_found() -> bool:
        peer.pump(0)
        found[:] = [child for child in descendants(agent.pid) if child.name() == "uv"]
        return bool(found)

    wait_until(is_found)
    return found[0]


def test_a_killed_agent_leaves_no_build_behind(home: Path, silent_index: None) -> None:
    """It would go on for minutes, in a directory that the next agent deletes under it."""
    with agent_and_peer(home) as (peer, agent):
        uv = begin_lock(peer, agent)
        agent.kill()
        agent.wait()
        wait_until(lambda: not is_alive(uv.pid), 5)


def test_the_next_agent_ends_the_builds_of_one_that_was_killed_with_its_guardian(
    home: Path, silent_index: None
) -> None:
    with agent_and_peer(home) as (peer, agent):
        uv = begin_lock(peer, agent)
        guardian = next(child for child in descendants(agent.pid) if child.name() == GUARDIAN)
        guardian.kill()
        agent.kill()
        agent.wait()
        assert is_alive(uv.pid)
        second = start_agent(home, peer.address)
        try:
            wait_until(lambda: not is_alive(uv.pid), 10)
        finally:
            second.send_signal(signal.SIGTERM)
            second.wait(20)


def test_an_agent_out_of_descriptors_refuses_processes_and_goes_on(home: Path) -> None:
    """What it has goes on too; with descriptors again there is room for more."""
    with agent_and_peer(home) as (peer, agent):
        first = peer.ready()
        limit = resource.prlimit(agent.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(agent.pid, resource.RLIMIT_NOFILE, (psutil.Process(agent.pid).num_fds() + 12, limit[1]))
        while not peer.all(wire.InstanceEnded):
            peer.start()
            peer.wait_for((wire.InstanceReady, wire.InstanceEnded))
            peer.pump(0.2)
        refused = peer.last(wire.InstanceEnded)
        assert refused.retryable
        assert refused.failure
        assert "Too many open files" in refused.failure.message + refused.failure.detail
        for _ in range(10):
            peer.next(wire.AgentBeat)  # each of them measures
        assert returned(peer.call(first, peer.declare(lambda: 7)), peer) == 7
        resource.prlimit(agent.pid, resource.RLIMIT_NOFILE, limit)
        assert returned(peer.call(peer.ready(), peer.declare(lambda: 8)), peer) == 8


def test_functions_have_the_limit_of_open_files_that_the_agent_was_started_with(home: Path) -> None:
    """And may raise it, as anywhere else; the agent has all that it may have."""

    def limits() -> tuple[int, int]:
        import resource

        return resource.getrlimit(resource.RLIMIT_NOFILE)

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 1000), hard))
    try:
        with agent_and_peer(home) as (peer, agent):
            assert resource.prlimit(agent.pid, resource.RLIMIT_NOFILE) == (hard, hard)
            told = returned(peer.call(peer.ready(), peer.declare(limits)), peer)
            assert tuple(told) == (min(soft, 1000), hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_an_agent_that_is_told_to_leave_hands_its_results_over_first(home: Path) -> None:
    def large() -> bytes:
        return b"x" * 50_000_000

    with agent_and_peer(home) as (peer, agent):
        instance_id = peer.ready()
        attempt = peer.dispatch(instance_id, peer.declare(large))
        peer.wait_for(wire.PayloadOffer)
        agent.terminate()
        assert returned(peer.outcome(attempt), peer) == b"x" * 50_000_000
        peer.wait_for(wire.Goodbye)
        assert agent.wait(10) == 0


def test_thousands_of_files_that_a_function_leaves_do_not_hold_up_the_beats(home: Path) -> None:
    """They are deleted beside what the agent does."""

    def litter() -> None:
        from pathlib import Path

        for folder in range(10):
            Path(f"folder-{folder}").mkdir()
            for file in range(300):
                Path(f"folder-{folder}/{file}").touch()

    with agent_and_peer(home) as (peer, _agent):
        instance_id = peer.ready()
        done = peer.call(instance_id, peer.declare(litter))
        peer.send(wire.StopInstance(peer.command(), instance_id, done.sequence, "expired"))
        peer.wait_for(wire.InstanceEnded)
        spool = home / "node" / "spool"
        assert not (spool / f"instance-{instance_id}").exists()
        wait_until(lambda: not list((spool / "trash").iterdir()))
