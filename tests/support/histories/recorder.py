"""What the programs of a run with real processes note down: one file per program, one JSON array per line.

A line is ``[instant in ns, kind, ...]``, as an entry of the simulation's history; all files together are the history
of a run. The kinds and their fields are the methods below. The instant is the wall clock of the machine that all hosts
are made on: monotonic clocks of hosts may differ. Each line is on its way to the file in one write, so that a program
that is killed leaves whole lines, or at worst a last one that is cut off and does not count.

Programs of clients import this module; it imports nothing but the standard library.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

__all__ = ["SUFFIX", "ClientRecorder", "Recorder"]

SUFFIX = ".history"


class Recorder:
    """Appends entries to the file of one program. Safe to use from several threads."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self._descriptor = os.open(folder / f"{name}{SUFFIX}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def add(self, kind: str, *fields: Any) -> None:
        """Note that something happens now: text, numbers and booleans only."""
        os.write(self._descriptor, f"{json.dumps([time.time_ns(), kind, *fields])}\n".encode())

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    # ------------------------------------------------------------ what the test itself notes

    def host(self, name: str, place: int) -> None:
        """A host and the number by which executions know it."""
        self.add("host", name, place)

    def fault(self, kind: str, host: str) -> None:
        """Something goes wrong there from now on; noted before it strikes."""
        self.add("fault", kind, host)

    def healed(self, kind: str, host: str) -> None:
        """It no longer does; noted after it was undone."""
        self.add("healed", kind, host)

    def client_gone(self, client: str) -> None:
        """A client was killed, and will not ask for its outcomes."""
        self.add("client gone", client)

    def waited(self) -> None:
        """The bound on waiting for outcomes is over: what is answered from now on is too late."""
        self.add("waited")

    def left(self, where: str, what: str, count: int) -> None:
        """So many things were there in the end that should have been gone."""
        self.add("left", where, what, count)


class ClientRecorder(Recorder):
    """What one client asks for and is told. A call's name is unique in the run: ``client.number``."""

    def submit(self, call: str, *, at_most_once: bool = False) -> None:
        """A call is about to be handed to the SDK."""
        self.add("submit", self.name, call, at_most_once)

    def accepted(self, call: str) -> None:
        """The cluster has promised not to lose it, whatever becomes of this client."""
        self.add("accepted", self.name, call)

    def cancel(self, call: str) -> None:
        """It is about to be cancelled."""
        self.add("cancel", self.name, call)

    def cancelled(self, call: str) -> None:
        """The cluster has confirmed that: nothing of it starts from now on."""
        self.add("cancel confirmed", self.name, call)

    def returned(self, call: str, value: object) -> None:
        """This client was told that it returned."""
        self.add("end", self.name, call, "returned", str(value))

    def failed(self, call: str, error: BaseException) -> None:
        """This client was told of an exception: the user's own, or by its class one of keepwarm's."""
        how = type(error).__name__ if type(error).__module__.partition(".")[0] == "keepwarm" else "raised"
        self.add("end", self.name, call, how, str(error))
