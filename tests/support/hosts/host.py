"""One host: an address, a home, and programs that see only its network.

What a test may do to a host beyond starting programs is in the modules of faults. A host made of a network namespace
shares the machine's disks and process numbers with all others; its home is its own by agreement.
"""

import contextlib
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from support.hosts.memory import MemoryGroup
from support.hosts.mounts import mount_small_disk, new_clock
from support.hosts.namespaces import entered, is_in, kill_all_in, path_of, port_of, processes_in
from support.hosts.program import Program
from support.programs import environment_of
from support.waiting import until

__all__ = ["Host"]

_HOME_BYTES_MAX = 40
"""A unix socket's path holds about 100 bytes: short homes leave room for the names inside."""

_CONNECT_S = 2.0
_INSTANCE = b"KEEPWARM_INSTANCE="


class Host:
    """Made by ``Hosts``.

    * ``name``, and ``number`` in the order of ``Hosts``;
    * ``address``: the address under which the others reach it;
    * ``namespace``: its network namespace; ``place``, the same as a number that any process in it can find out:
      ``os.stat("/proc/self/ns/net").st_ino``;
    * ``hub`` and ``port``: the namespace and the name of the other end of its cable;
    * ``home``: its ``KEEPWARM_HOME``, which ``run`` sets.
    """

    def __init__(self, name: str, number: int, address: str, namespace: str, hub: str, folder: Path) -> None:
        self.name = name
        self.number = number
        self.address = address
        self.namespace = namespace
        self.hub = hub
        self.port = port_of(number - 1)
        self.place = path_of(namespace).stat().st_ino
        self.home = folder / str(number)
        self.home.mkdir(mode=0o700)
        assert len(os.fsencode(self.home)) <= _HOME_BYTES_MAX, self.home
        self._folder = folder
        self._programs: list[Program] = []
        self._groups: list[MemoryGroup] = []
        self._memory: MemoryGroup | None = None
        self._clock: Path | None = None
        self._clocks = 0

    # ------------------------------------------------------------ programs

    def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        name: str = "",
        memory: MemoryGroup | None = None,
    ) -> Program:
        """Start a program here.

        It gets this process's variables, without those that name a cluster, with ``env`` and the host's own home. What
        it says goes to files named after it. ``memory`` is a limit of its own; else the host's holds, if it has one.
        """
        enter = ["nsenter", "--no-fork", f"--net={path_of(self.namespace)}"]
        if self._clock is not None:
            enter.append(f"--time={self._clock}")
        limit = memory or self._memory
        command = [*(limit.command() if limit else ()), *enter, "--", *argv]
        logs = self._folder / "logs" / f"{self.name}.{len(self._programs)}.{name or Path(argv[0]).name}"
        program = Program(logs.name, command, environment_of(self.home, env), cwd or self.home, logs)
        self._programs.append(program)
        until(lambda: self._has_entered(program))
        return program

    def _has_entered(self, program: Program) -> bool:
        """Whether a program is on this host for good, or has already ended: from then on it is found there."""
        try:
            return is_in(program.pid, self.namespace)
        except OSError:
            return not program.is_running

    @property
    def programs(self) -> tuple[Program, ...]:
        """All that ``run`` has started, the ended ones too."""
        return tuple(self._programs)

    def processes(self) -> list[int]:
        """The ids of all processes on this host, also those that programs started and detached."""
        return processes_in([self.namespace])

    def instances(self) -> list[int]:
        """The processes on this host in which functions run."""
        found = []
        for process_id in self.processes():
            with contextlib.suppress(OSError):  # it has just ended
                if _INSTANCE in Path(f"/proc/{process_id}/environ").read_bytes():
                    found.append(process_id)
        return found

    def power_off(self) -> None:
        """Kill every process at once and wait until they are gone. What is on disk stays; ``run`` works as before."""
        kill_all_in([self.namespace])
        for program in self._programs:
            program.kill()

    # ------------------------------------------------------------ network

    def open_socket(self, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
        """An IPv4 socket of this host, for the test's own process to use."""
        with entered(self.namespace):
            return socket.socket(socket.AF_INET, kind)

    def listen(self, port: int = 0) -> socket.socket:
        """A listening TCP socket on all addresses of this host."""
        listener = self.open_socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("0.0.0.0", port))
        listener.listen(128)
        return listener

    def connect(self, address: str, port: int, limit_s: float = _CONNECT_S) -> socket.socket:
        """A TCP connection from this host. Raises ``OSError``, which a timeout is too."""
        connection = self.open_socket()
        try:
            connection.settimeout(limit_s)
            connection.connect((address, port))
        except BaseException:
            connection.close()
            raise
        return connection

    def wait_for_port(self, port: int, limit_s: float = 20) -> None:
        """Wait until something listens here on that port, on whatever address."""

        def listens() -> bool:
            try:
                self.connect(self.address, port).close()
            except OSError:
                return False
            return True

        until(listens, limit_s)

    # ------------------------------------------------------------ what a host may have of its own

    def use_small_disk(self, size_bytes: int) -> None:
        """Let the home be a disk of that size, from now on; it must still be empty."""
        assert not any(self.home.iterdir()), f"{self.home} is in use"
        mount_small_disk(self.home, size_bytes)

    def set_clock(self, offset_s: float) -> None:
        """Set the monotonic clock off by so much, for programs started from now on; 0 is the machine's own.

        As after a reboot the clock of running processes does not change.
        """
        self._clocks += 1
        self._clock = None
        if offset_s:
            self._clock = self._folder / f"clock.{self.number}.{self._clocks}"
            new_clock(self._clock, offset_s)

    def limit_memory(self, limit_bytes: int) -> MemoryGroup:
        """Limit all programs together that are started from now on."""
        self._memory = self.new_memory_group(limit_bytes)
        return self._memory

    def new_memory_group(self, limit_bytes: int) -> MemoryGroup:
        """A limit for single programs, to be given to ``run``."""
        group = MemoryGroup(f"{self.namespace}.{len(self._groups)}", limit_bytes)
        self._groups.append(group)
        return group
