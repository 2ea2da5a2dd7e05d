"""Faults of processes and of what they live on: standing still, and being killed for their memory.

SIGKILL has no undo; a program is started anew by who started it. ``Program.kill`` and ``Host.power_off`` do it.
"""

import contextlib
import os
import signal

from support.hosts.faults.fault import Fault
from support.hosts.host import Host

__all__ = ["freeze_host", "pause"]


def pause(*process_ids: int) -> Fault:
    """SIGSTOP: they stand still, with connections open; undone by SIGCONT. One that has ended is no error."""
    _send(process_ids, signal.SIGSTOP)
    return Fault(f"paused {process_ids}", lambda: _send(process_ids, signal.SIGCONT))


def freeze_host(host: Host) -> Fault:
    """Stop every process of a host, as when a virtual machine is suspended; those that start later are not stopped."""
    process_ids: list[int] = []
    while newcomers := set(host.processes()) - set(process_ids):
        process_ids += sorted(newcomers)
        _send(tuple(newcomers), signal.SIGSTOP)
    return Fault(f"{host.name} is frozen", lambda: _send(tuple(process_ids), signal.SIGCONT))


def _send(process_ids: tuple[int, ...], number: int) -> None:
    for process_id in process_ids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process_id, number)
