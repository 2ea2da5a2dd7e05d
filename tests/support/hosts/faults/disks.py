"""Faults of disks: full, slow, and unable to promise that what was written is there.

A disk is filled only where it is a small one of the host's own (``Host.use_small_disk``). ``FsyncShim`` is a library
of a few lines, compiled when a test needs it, that a program is started with; files then switch the faults on.
"""

import errno
import os
import subprocess
from pathlib import Path

from support.hosts.faults.fault import Fault
from support.hosts.host import Host
from support.hosts.requirements import require_programs

__all__ = ["FsyncShim", "fill_disk"]

_BALLAST = "ballast"
_BLOCK = bytes(64 * 1024)
_COMPILE_S = 60

_SOURCE = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

static void wait_as_told(void) {
    unsigned microseconds = 0;
    FILE *file = fopen(SLOWNESS, "r");
    if (!file) return;
    if (fscanf(file, "%u", &microseconds) == 1) usleep(microseconds);
    fclose(file);
}

#define FAILING(name)                                                          \\
    int name(int descriptor) {                                                 \\
        static int (*real)(int);                                               \\
        wait_as_told();                                                        \\
        if (access(SWITCH, F_OK) == 0) { errno = EIO; return -1; }             \\
        if (!real) real = (int (*)(int)) dlsym(RTLD_NEXT, #name);              \\
        return real(descriptor);                                               \\
    }

FAILING(fsync)
FAILING(fdatasync)
"""


def fill_disk(host: Host, spared_bytes: int = 0) -> Fault:
    """Write to the host's small disk until it is full, but for so many bytes; undone, the room is there again."""
    assert os.path.ismount(host.home), f"{host.name} has no disk of its own: give it one with use_small_disk"
    ballast = host.home / _BALLAST
    with ballast.open("ab", buffering=0) as file:
        while _write(file.fileno(), _BLOCK):
            pass
        if spared_bytes:
            file.truncate(max(0, file.tell() - spared_bytes))
    return Fault(f"the disk of {host.name} is full", lambda: ballast.unlink(missing_ok=True))


def _write(descriptor: int, data: bytes) -> int:
    """How much could be written; 0 where the disk is full."""
    try:
        return os.write(descriptor, data)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return 0


class FsyncShim:
    """fsync and fdatasync that fail with EIO, or take long, while that is on, in programs started with ``variables``.

    Programs that call the kernel without the C library are not reached. ``folder`` must exist and be the test's own.
    """

    def __init__(self, folder: Path) -> None:
        require_programs("gcc")
        self._switch, self._slowness = folder / "fsync-fails", folder / "fsync-is-slow"
        library, source = folder / "fsync-shim.so", folder / "fsync-shim.c"
        source.write_text(_SOURCE)
        defines = (f'-DSWITCH="{self._switch}"', f'-DSLOWNESS="{self._slowness}"')
        command = ["gcc", "-shared", "-fPIC", "-O1", *defines, "-o", str(library), str(source), "-ldl"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMPILE_S, check=False)
        if done.returncode:
            raise RuntimeError(f"the fsync shim does not compile: {done.stderr.strip()}")
        self.variables = {"LD_PRELOAD": str(library)}

    def fail(self) -> Fault:
        """From now on no sync succeeds."""
        self._switch.touch()
        return Fault("fsync fails", lambda: self._switch.unlink(missing_ok=True))

    def slow(self, delay_s: float) -> Fault:
        """From now on each sync takes so much longer."""
        draft = self._slowness.with_suffix(".draft")
        draft.write_text(str(int(delay_s * 1e6)))
        draft.rename(self._slowness)
        return Fault("fsync is slow", lambda: self._slowness.unlink(missing_ok=True))
