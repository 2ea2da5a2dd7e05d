"""The scheduler's direct socket, on a real process: last words, nonsense, half a frame, and where there is none."""

import itertools
import json
import os
import resource
import select
import socket as sockets
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import zmq

from keepwarm_wire.codec import decode_frame, encode_frame
from keepwarm_wire.messages import (
    AdminHello,
    ClientHello,
    Goodbye,
    Received,
    Refused,
    StatusReply,
    StatusRequest,
    Welcome,
)
from keepwarm_wire.streams import FrameSplitter, direct_path, framed
from support.programs import environment_of, roles, run_command, run_program
from support.raw_peers import LocalScheduler
from support.waiting import until

MUCH = 20_000
"""Messages that take the scheduler much longer than its slice for one connection."""


@pytest.fixture
def scheduler(home: Path) -> Iterator[LocalScheduler]:
    started = LocalScheduler(home)
    until(Path(direct_path(started.address)).exists)
    yield started
    started.stop()


class DirectPeer:
    """A plain socket that writes frames."""

    def __init__(self, address: str) -> None:
        self.socket = sockets.socket(sockets.AF_UNIX)
        self.socket.settimeout(10)
        until(lambda: self.socket.connect_ex(direct_path(address)) == 0)
        self._splitter = FrameSplitter()

    def say(self, *messages: Any) -> None:
        self.socket.sendall(framed(encode_frame(messages)))

    def hear(self, kind: type[Any]) -> Any:
        while data := self.socket.recv(1 << 16):
            for frame in self._splitter.feed(data):
                for message in decode_frame(frame):
                    if type(message) is kind:
                        return message
        raise AssertionError(f"no {kind.__name__} came")

    def described(self) -> dict[str, Any]:
        self.say(AdminHello(1, 1, "test"), StatusRequest(1))
        document: dict[str, Any] = json.loads(self.hear(StatusReply).document)
        return document

    def clients(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.described()["clients"]
        return found

    def __enter__(self) -> "DirectPeer":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def test_a_goodbye_is_heard_however_much_was_said_before_it(scheduler: LocalScheduler) -> None:
    """Who says a lot and leaves is not taken for one who vanished: its session would be kept for a while."""
    with DirectPeer(scheduler.address) as admin, DirectPeer(scheduler.address) as talker:
        talker.say(ClientHello(1, 1, "test", b"t" * 16, "talker", 0))
        talker.hear(Welcome)
        talker.say(*(Received((number,)) for number in range(1, MUCH)))
        talker.say(Goodbye("done"))
        talker.socket.close()
        until(lambda: admin.clients() == [], limit_s=10)


def test_nor_through_zeromq(scheduler: LocalScheduler) -> None:
    """Which tells of the end of a connection before all that came of it has been handled."""
    with DirectPeer(scheduler.address) as admin:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        talker = context.socket(zmq.DEALER)
        talker.connect(scheduler.address)
        talker.send(encode_frame([ClientHello(1, 1, "test", b"z" * 16, "talker", 0)]))
        assert any(type(message) is Welcome for message in decode_frame(talker.recv()))
        talker.send(encode_frame([Received((number,)) for number in range(1, MUCH)]))
        talker.send(encode_frame([Goodbye("done")]))
        talker.close(5_000)
        context.term()
        until(lambda: admin.clients() == [], limit_s=10)


def test_nor_in_many_small_frames_through_zeromq(scheduler: LocalScheduler) -> None:
    """Of which only some are read in a turn."""
    with DirectPeer(scheduler.address) as admin:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        for number in range(10):
            talker = context.socket(zmq.DEALER)
            talker.connect(scheduler.address)
            talker.send(encode_frame([ClientHello(1, 1, "test", bytes([number]) * 16, "talker", 0)]))
            assert talker.poll(10_000)
            for one in range(1, 90):
                talker.send(encode_frame([Received((one,))]))
            talker.send(encode_frame([Goodbye("done")]))
            talker.close(5_000)
        context.term()
        until(lambda: admin.clients() == [], limit_s=10)


def test_who_vanishes_is_known_to_be_gone_at_once(scheduler: LocalScheduler) -> None:
    with DirectPeer(scheduler.address) as admin:
        with DirectPeer(scheduler.address) as client:
            client.say(ClientHello(1, 1, "test", b"v" * 16, "brief", 0))
            client.hear(Welcome)
            assert [each["connected"] for each in admin.clients()] == [True]
        until(lambda: not admin.clients(), limit_s=5)  # it had nothing that would have to be kept


def test_nonsense_is_refused_in_words_and_too_much_of_it_ends_the_connection(scheduler: LocalScheduler) -> None:
    with DirectPeer(scheduler.address) as honest, DirectPeer(scheduler.address) as hostile:
        hostile.socket.sendall(framed(b"\xc1"))
        assert hostile.hear(Refused).code == "protocol"
        hostile.socket.sendall(b"\xff" * 64)  # a frame of four gigabytes is on its way
        assert hostile.socket.recv(1000) == b""
        assert honest.clients() == []


def test_half_a_frame_keeps_nobody_waiting(scheduler: LocalScheduler) -> None:
    with DirectPeer(scheduler.address) as slow, DirectPeer(scheduler.address) as other:
        whole = framed(encode_frame([ClientHello(1, 1, "test", b"s" * 16, "slow", 0)]))
        slow.socket.sendall(whole[:-3])
        began_s = time.monotonic()
        assert other.clients() == []
        assert time.monotonic() - began_s < 5
        slow.socket.sendall(whole[-3:])
        assert slow.hear(Welcome).known is False


def test_hundreds_of_silent_connections_cost_the_others_nothing(scheduler: LocalScheduler) -> None:
    with DirectPeer(scheduler.address) as honest:
        silent = [DirectPeer(scheduler.address) for _ in range(300)]
        assert honest.clients() == []
        for each in silent:
            each.socket.close()
        assert honest.clients() == []


def zeromq_threads(process_id: int) -> int:
    """How many threads of ZeroMQ a process has."""
    names = [(task / "comm").read_text() for task in Path(f"/proc/{process_id}/task").iterdir()]
    return sum(name.startswith("ZMQ") for name in names)


CALL = """
@isolated(keep_alive=60)
def same(value):
    return value

print(same(7))
"""


@contextmanager
def served_by_an_agent(scheduler: LocalScheduler, home: Path) -> "Iterator[subprocess.Popen[bytes]]":
    agent = subprocess.Popen(
        [sys.executable, "-m", "keepwarm", "agent", "--at", scheduler.address, "--node", "a"],
        env=environment_of(home),
        stderr=subprocess.DEVNULL,
    )
    yield agent
    agent.terminate()
    assert agent.wait(20) == 0


def test_the_local_agent_needs_no_zeromq_however_often_its_cluster_is_stopped(home: Path) -> None:
    """The files that a stopped cluster leaves behind lead nobody astray."""
    for _ in range(3):
        assert run_program(home, CALL).out == "7\n"
        (agent,) = roles(home)["agent"]
        assert zeromq_threads(agent) == 0
        assert run_command(home, "stop").code == 0


def test_an_agent_comes_back_directly_to_a_scheduler_that_was_restarted(scheduler: LocalScheduler, home: Path) -> None:
    with served_by_an_agent(scheduler, home) as agent:
        with DirectPeer(scheduler.address) as admin:
            until(lambda: [node["state"] for node in admin.described()["nodes"]] == ["alive"])
        assert scheduler.stop() == 0
        time.sleep(0.5)  # it looks for another one every tenth of a second
        scheduler.start()
        with DirectPeer(scheduler.address) as admin:
            until(lambda: [node["state"] for node in admin.described()["nodes"]] == ["alive"])
        assert zeromq_threads(agent.pid) == 0


def test_where_its_path_would_be_too_long_all_goes_through_zeromq(home: Path) -> None:
    longer = home / ("x" * (104 - len(str(home)) - len("//s/scheduler.sock")))
    longer.mkdir()
    scheduler = LocalScheduler(longer)
    assert direct_path(scheduler.address) == ""
    with served_by_an_agent(scheduler, home) as agent:
        ended = run_program(home, CALL, {"KEEPWARM_ADDRESS": scheduler.address})
        assert (ended.code, ended.out) == (0, "7\n"), ended
        assert zeromq_threads(agent.pid) > 0
    scheduler.stop()


def test_a_signals_handler_may_make_calls_while_a_call_is_waited_for(home: Path) -> None:
    text = """
    @isolated(keep_alive=60)
    def slow(seconds):
        time.sleep(seconds)
        return seconds
    slow(0)
    signal.signal(signal.SIGALRM, lambda *_: print("handler", slow(0.05), flush=True))
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    print("program", slow(1.5))
    """
    ended = run_program(home, "import signal\n" + textwrap.dedent(text))
    assert (ended.code, ended.out, ended.err) == (0, "handler 0.05\nprogram 1.5\n", "")
    run_command(home, "stop")


def test_a_scheduler_that_dies_does_not_kill_programs_by_sigpipe(home: Path) -> None:
    """Many command line programs set that signal to its default."""
    text = """
    import signal, subprocess, sys
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    @isolated(keep_alive=60)
    def same(value):
        return value
    same(0)
    for turn in range(5):
        subprocess.run(["pkill", "-KILL", "-f", "keepwarm_scheduler.*" + os.environ["KEEPWARM_HOME"]], check=True)
        time.sleep(turn * 0.02)
        print(same(turn), flush=True)
    """
    ended = run_program(home, textwrap.dedent(text))
    assert (ended.code, ended.out) == (0, "0\n1\n2\n3\n4\n"), ended
    run_command(home, "stop")


def test_who_found_no_descriptor_left_is_let_in_when_there_are_some_again(scheduler: LocalScheduler) -> None:
    """Nobody has to leave for that; meanwhile it costs nothing to be full."""
    pid = scheduler.process.pid
    with DirectPeer(scheduler.address) as known, DirectPeer(scheduler.address) as other:
        assert known.clients() == other.clients() == []
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        used = {int(each.name) for each in Path(f"/proc/{pid}/fd").iterdir()}
        lowest_free = next(number for number in itertools.count() if number not in used)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (lowest_free, limits[1]))
        with DirectPeer(scheduler.address) as late:
            late.say(AdminHello(1, 1, "test"))
            before_s = sum(psutil.Process(pid).cpu_times()[:2])
            assert select.select([late.socket], [], [], 2.5)[0] == []
            assert sum(psutil.Process(pid).cpu_times()[:2]) - before_s < 0.5
            assert known.clients() == []
            resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
            late.hear(Welcome)


def test_with_keys_there_is_no_direct_socket(home: Path) -> None:
    """Its permissions are all that it has for authentication: with keys each connection has to prove one."""
    environment = os.environ | {"KEEPWARM_HOME": str(home)}
    subprocess.run([sys.executable, "-m", "keepwarm", "init"], check=True, capture_output=True, env=environment)
    left_over = Path(direct_path(f"ipc://{home}/s/scheduler.sock"))
    left_over.parent.mkdir(mode=0o700)
    with sockets.socket(sockets.AF_UNIX) as dead:
        dead.bind(str(left_over))
    scheduler = LocalScheduler(home, "--keys", str(home / "cluster" / "keys"))
    until(Path(scheduler.address.removeprefix("ipc://")).exists)
    assert not Path(direct_path(scheduler.address)).exists()
    scheduler.stop()
