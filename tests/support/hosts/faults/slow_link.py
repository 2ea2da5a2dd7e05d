"""A slow, narrow or broken link: a TCP proxy in the test's own process, whose sockets belong to a host.

Kernels without netem can neither delay nor corrupt packets; here it is done to the bytes of each connection, both
ways alike unless a fault names a direction. A program is told the proxy's address in place of the real one.
"""

import asyncio
import contextlib
import random
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from types import TracebackType

from support.hosts.faults.fault import Fault
from support.hosts.host import Host

__all__ = ["Direction", "SlowLink"]

_CHUNK_BYTES = 16 * 1024
_CHUNKS_MAX = 1024
"""Under way in one direction of a connection; then the sender has to wait."""

_STOP_S = 10
_DAMAGE = 0x55
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Direction(Enum):
    """Which way bytes go: from who connected to whom it is connected to, or back."""

    FORTH = "forth"
    BACK = "back"


@dataclass(slots=True)
class _Conditions:
    """What the link does to bytes at present."""

    delay_s: float = 0.0
    bytes_per_s: float = 0.0
    is_frozen: bool = False
    is_black_hole: bool = False
    is_cut: bool = False
    damages_greetings: bool = False


class SlowLink:
    """A proxy that listens on ``host`` and passes everything on to ``target``, an address and a port.

    >>> with SlowLink(agent, (scheduler.address, 7437)) as link, link.delay(0.05):
    ...     ...  # programs on the agent's host connect to ("127.0.0.1", link.port)

    ``connections`` counts those that were tried. Each fault is undone by itself; of two of the same kind the later one
    counts until it is undone.
    """

    def __init__(self, host: Host, target: tuple[str, int], port: int = 0) -> None:
        self.passed_bytes = {Direction.FORTH: 0, Direction.BACK: 0}
        self.flipped_bits = 0
        self.connections = 0
        self._host = host
        self._target = target
        self._listener = host.listen(port)
        self.port: int = self._listener.getsockname()[1]
        self._conditions = _Conditions()
        self._flips = {Direction.FORTH: 0, Direction.BACK: 0}
        self._connections: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thawed = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name=f"slow link on {host.name}", daemon=True)

    def __enter__(self) -> "SlowLink":
        self._thawed.set()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._server.cancel)
        self._thread.join(_STOP_S)
        assert not self._thread.is_alive(), "the slow link does not end"

    # ------------------------------------------------------------ faults

    def delay(self, delay_s: float) -> Fault:
        """Let every byte arrive so much later, each way."""
        return self._change(f"delayed by {delay_s} s", delay_s=delay_s)

    def narrow(self, bytes_per_s: float) -> Fault:
        """Let no more bytes pass each way in each connection."""
        return self._change(f"{bytes_per_s:.0f} bytes/s", bytes_per_s=bytes_per_s)

    def freeze(self) -> Fault:
        """Hold back everything, as a partition does; when it is undone all arrives, in order. Connections stay open."""
        return self._change("frozen", is_frozen=True)

    def swallow(self) -> Fault:
        """A black hole: what is sent is received by nobody, for good. Connections stay open."""
        return self._change("a black hole", is_black_hole=True)

    def cut(self) -> Fault:
        """Reset all connections, and every new one until it is undone."""
        fault = self._change("cut", is_cut=True)
        self._call(self._reset_all)
        return fault

    def damage_greetings(self) -> Fault:
        """Let the first byte of every new connection arrive damaged, at who connected."""
        return self._change("damaging greetings", damages_greetings=True)

    def flip_bit(self, direction: Direction) -> None:
        """Flip one bit, chosen at random, of what passes next in that direction."""
        self._call(lambda: self._flips.update({direction: self._flips[direction] + 1}))

    def _change(self, name: str, **conditions: float | bool) -> Fault:
        before = {field: getattr(self._conditions, field) for field in conditions}

        def set_all(values: dict[str, float | bool]) -> None:
            for field, value in values.items():
                setattr(self._conditions, field, value)
            (self._thawed.clear if self._conditions.is_frozen else self._thawed.set)()

        self._call(lambda: set_all(conditions))
        return Fault(f"the link is {name}", lambda: self._call(lambda: set_all(before)))

    def _call(self, function: Callable[[], None]) -> None:
        """Do it in the proxy's thread, and wait until it is done."""
        done = threading.Event()

        def do() -> None:
            function()
            done.set()

        self._loop.call_soon_threadsafe(do)
        assert done.wait(_STOP_S), "the slow link does not answer"

    # ------------------------------------------------------------ the proxy's thread

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._server = self._loop.create_task(self._serve())
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._server)
        self._reset_all()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()
        self._listener.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._accept, sock=self._listener, limit=_CHUNK_BYTES)
        async with server:
            await server.serve_forever()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(asyncio.CancelledError):  # the link is being closed
            await self._relay(reader, writer)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        onward: asyncio.StreamWriter | None = None
        try:
            if self._conditions.is_cut:
                return
            far_reader, onward = await self._connect()
            self._connections.add(onward)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(Direction.FORTH, reader, onward))
                both.create_task(self._pump(Direction.BACK, far_reader, writer))
        except* OSError:
            pass  # one side has gone: so does the other
        finally:
            for end in (writer, onward):
                self._reset(end)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        onward = self._host.open_socket()
        onward.setblocking(False)
        try:
            await self._loop.sock_connect(onward, self._target)
        except BaseException:
            onward.close()
            raise
        return await asyncio.open_connection(sock=onward, limit=_CHUNK_BYTES)

    def _reset_all(self) -> None:
        for writer in tuple(self._connections):
            self._reset(writer)

    def _reset(self, writer: asyncio.StreamWriter | None) -> None:
        """End a connection; one that has not been ended properly is reset."""
        if writer is not None:
            self._connections.discard(writer)
            if not writer.transport.is_closing():
                stream = writer.get_extra_info("socket")
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
                writer.transport.abort()

    # ------------------------------------------------------------ one direction of one connection

    async def _pump(self, way: Direction, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_CHUNKS_MAX)
        async with asyncio.TaskGroup() as both:
            both.create_task(self._depart(reader, under_way))
            both.create_task(self._arrive(way, under_way, writer))

    async def _depart(self, reader: asyncio.StreamReader, under_way: asyncio.Queue[tuple[float, bytes]]) -> None:
        free_s = 0.0
        while True:
            data = await reader.read(_CHUNK_BYTES)
            conditions, now_s = self._conditions, time.monotonic()
            needs_s = len(data) / conditions.bytes_per_s if conditions.bytes_per_s else 0.0
            free_s = max(free_s, now_s) + needs_s
            await under_way.put((free_s + conditions.delay_s, data))
            if not data:
                return

    async def _arrive(
        self, way: Direction, under_way: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter
    ) -> None:
        is_first = True
        while True:
            due_s, data = await under_way.get()
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            await self._thawed.wait()
            if not data:
                writer.write_eof()
                return
            if self._conditions.is_black_hole:
                continue
            if is_first and way is Direction.BACK and self._conditions.damages_greetings:
                data = bytes([data[0] ^ _DAMAGE]) + data[1:]
            is_first = False
            self.passed_bytes[way] += len(data)
            writer.write(self._flipped(way, data))
            await writer.drain()

    def _flipped(self, way: Direction, data: bytes) -> bytes:
        """The data, with a bit flipped if one is due."""
        if not self._flips[way]:
            return data
        self._flips[way] -= 1
        self.flipped_bits += 1
        bit = random.randrange(8 * len(data))
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        return bytes(changed)
