"""A real peer for the client: a ROUTER socket in a thread that speaks the protocol through ``ModelScheduler``.

Nothing of the client is replaced: frames travel through ZeroMQ. Tests script it: what it answers, which messages it
loses on their way in or out, when it restarts with another epoch.
"""

import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import zmq

from keepwarm_wire import codec
from keepwarm_wire.messages import Goodbye, Message, Outcome, PayloadChunk
from support.model_scheduler import ModelScheduler

Filter = Callable[[Message], bool]


class TinyScheduler:
    """``with TinyScheduler(directory) as scheduler: Client(scheduler.address)``."""

    def __init__(self, directory: Path, model: ModelScheduler | None = None) -> None:
        self.path = directory / "scheduler.sock"
        self.address = f"ipc://{self.path}"
        self.model = model or ModelScheduler()
        self.loses_incoming: Filter = lambda message: False
        self.loses_outgoing: Filter = lambda message: False
        self.received: list[Message] = []
        self.lock = threading.Lock()
        self._extra: list[Message] = []
        self._is_saying = False
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._thread: threading.Thread | None = None
        self._stops = threading.Event()

    def start(self) -> None:
        """Bind and serve."""
        self._stops.clear()
        self._context = zmq.Context()
        router = self._context.socket(zmq.ROUTER)
        router.setsockopt(zmq.LINGER, 0)
        router.setsockopt(zmq.MAXMSGSIZE, codec.FRAME_BYTES_MAX)
        router.bind(self.address)
        self._thread = threading.Thread(target=self._serve, args=(router,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Vanish without a word, as after kill -9."""
        self._stops.set()
        if self._thread is not None:
            self._thread.join()
        if self._context is not None:
            self._context.term()
        self._thread = self._context = None

    @property
    def is_running(self) -> bool:
        """Whether it serves."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def is_quiet(self) -> bool:
        """Whether everything that tests told it to say has been said."""
        with self.lock:
            return not self._extra and not self._is_saying

    def restart(self, *, forget: bool = True) -> None:
        """Vanish and come back with the next epoch."""
        self.stop()
        self.model.restart(forget=forget)
        self.start()

    def say(self, message: Message) -> None:
        """Send a message to every client."""
        with self.lock:
            self._extra.append(message)

    def answer_held(self, make: Callable[[int, bytes], bytes | Outcome]) -> int:
        """End every unanswered call now; ``make`` gets its number and inline arguments."""
        with self.lock:
            count = 0
            for session in self.model.sessions.values():
                for number, submit in list(session.unanswered.items()):
                    arguments = submit.arguments if isinstance(submit.arguments, bytes) else b""
                    self._extra.append(self.model.end(session, number, make(number, arguments)))
                    count += 1
            return count

    def _serve(self, router: "zmq.Socket[bytes]") -> None:
        try:
            while not self._stops.is_set():
                if router.poll(10):
                    self._serve_frames(router)
                with self.lock:
                    extra, self._extra = self._extra, []
                    self._is_saying = bool(extra)
                    connections = list(self.model.greeted)
                for connection in connections:
                    self._send(router, connection, extra)
                self._is_saying = False
        finally:
            router.close(0)

    def _serve_frames(self, router: "zmq.Socket[bytes]") -> None:
        for _ in range(256):
            try:
                connection, frame = router.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            answers: list[Message] = []
            with self.lock:
                for message in codec.decode_frame(frame):
                    if not isinstance(message, PayloadChunk):
                        self.received.append(message)
                    if not self.loses_incoming(message):
                        answers += self.model.handle(connection, message)
            self._send(router, connection, answers)

    def _send(self, router: "zmq.Socket[bytes]", connection: bytes, messages: list[Message]) -> None:
        kept = [message for message in messages if not self.loses_outgoing(message)]
        small = [message for message in kept if not isinstance(message, PayloadChunk)]
        frames = codec.encode_frames(small) if small else []
        frames += [codec.encode_frame([message]) for message in kept if isinstance(message, PayloadChunk)]
        for frame in frames:
            router.send_multipart([connection, frame])

    def say_goodbye(self) -> None:
        """Tell every client that the cluster is stopping."""
        self.say(Goodbye("stopped by the operator"))

    def __enter__(self) -> "TinyScheduler":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
