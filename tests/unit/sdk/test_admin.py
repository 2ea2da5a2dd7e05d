"""The operator's questions, against a real peer that knows administration only."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from keepwarm.admin import AdminClient
from keepwarm.errors import ClusterUnreachable, InternalError, ProtocolMismatch
from keepwarm_wire import codec
from keepwarm_wire.messages import (
    AdminHello,
    ExplainReply,
    ExplainRequest,
    Goodbye,
    Message,
    Refused,
    StatusReply,
    StatusRequest,
    StopCluster,
    StopRefused,
    Welcome,
)

WELCOME = Welcome(1, b"c" * 16, 1, False, 1, 1, 1_000_000)
Answers = Callable[[Message], list[Message]]
Serve = Callable[[Answers], str]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts a peer that answers each message with what a function returns for it."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    stops = threading.Event()
    threads: list[threading.Thread] = []
    address = f"ipc://{tmp_path}/s.sock"

    def run(router: "zmq.Socket[bytes]", answers: Answers) -> None:
        while not stops.is_set():
            if router.poll(10):
                connection, frame = router.recv_multipart()
                for message in codec.decode_frame(frame):
                    router.send_multipart([connection, codec.encode_frame(answers(message))])
        router.close(0)

    def started(answers: Answers) -> str:
        router = context.socket(zmq.ROUTER)
        router.bind(address)
        threads.append(threading.Thread(target=run, args=(router, answers)))
        threads[-1].start()
        return address

    yield started
    stops.set()
    for thread in threads:
        thread.join()
    context.term()


def replying(answer: Message) -> Answers:
    return lambda message: [WELCOME] if isinstance(message, AdminHello) else [answer]


def test_status_is_a_document(serve: Serve) -> None:
    asked: list[Message] = []

    def answers(message: Message) -> list[Message]:
        asked.append(message)
        return replying(StatusReply(1, b'{"nodes": []}'))(message)

    with AdminClient(serve(answers)) as admin:
        assert admin.status() == {"nodes": []}
    assert [type(message) for message in asked] == [AdminHello, StatusRequest]


@pytest.mark.parametrize("document", [b"nonsense", b"[]", b"\xff"])
def test_a_status_that_is_no_document_is_a_bug_in_words(serve: Serve, document: bytes) -> None:
    with AdminClient(serve(replying(StatusReply(1, document)))) as admin, pytest.raises(InternalError):
        admin.status()


def test_an_explanation_is_a_document(serve: Serve) -> None:
    asked: list[Message] = []

    def answers(message: Message) -> list[Message]:
        asked.append(message)
        return replying(ExplainReply(1, b'{"call": "ab-1"}'))(message)

    with AdminClient(serve(answers)) as admin:
        assert admin.explain("ab-1" + "0" * 1000) == {"call": "ab-1"}
    assert asked[-1] == ExplainRequest(1, ("ab-1" + "0" * 1000)[:512])


def test_stop_says_when_it_stops_and_when_calls_prevent_it(serve: Serve) -> None:
    def answers(message: Message) -> list[Message]:
        if isinstance(message, StopCluster):
            return [Goodbye("stopped") if message.force else StopRefused(3)]
        return [WELCOME]

    with AdminClient(serve(answers)) as admin:
        assert admin.stop(force=False) == 3
        assert admin.stop(force=True) is None


def test_no_scheduler_is_an_error_after_the_time(tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/nobody.sock"
    with (
        AdminClient(address, timeout_s=0.1) as admin,
        pytest.raises(ClusterUnreachable, match=r"nobody\.sock did not answer within 0\.1 s"),
    ):
        admin.status()


def test_a_refusal_is_an_error_in_words(serve: Serve) -> None:
    refusing = serve(lambda message: [Refused("version", "too old")])
    with AdminClient(refusing) as admin, pytest.raises(ProtocolMismatch, match="too old"):
        admin.status()


def test_a_scheduler_that_forgot_the_hello_gets_it_again(serve: Serve) -> None:
    forgets = [True]

    def answers(message: Message) -> list[Message]:
        if isinstance(message, StatusRequest) and forgets.pop() is True:
            forgets.append(False)
            return [Refused("hello_first", "")]
        forgets.append(False)
        return replying(StatusReply(1, b"{}"))(message)

    with AdminClient(serve(answers)) as admin:
        assert admin.status() == {}
