"""What hosts made of namespaces need from the machine they are on, and how to say that it is missing.

Without root, or where the kernel grants no network namespace, the tests are skipped: nothing can be done about that.
A program that is not installed is no reason to skip: it is an error which names the package.
"""

import functools
import os
import shutil
import subprocess

__all__ = ["PACKAGES", "require_programs", "why_not"]

PACKAGES = {
    "ip": "iproute2",
    "nft": "nftables",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "prlimit": "util-linux",
    "mount": "mount",
    "gcc": "gcc libc6-dev",
}
"""The programs that hosts and faults are made with, and the Debian packages that have them."""

_PROBE_S = 10


@functools.cache
def why_not() -> str:
    """Why there can be no hosts here at all; empty if there can. It is asked once per process."""
    if os.geteuid() != 0:
        return "needs root: hosts are network namespaces"
    probe = ["unshare", "--net", "true"]
    done = subprocess.run(probe, capture_output=True, text=True, timeout=_PROBE_S, check=False)
    return f"needs root with network namespaces: {done.stderr.strip()}" if done.returncode else ""


def require_programs(*names: str) -> None:
    """Raise ``RuntimeError`` that tells what to install if one of these programs is missing."""
    missing = sorted({PACKAGES[name] for name in names if shutil.which(name) is None})
    if missing:
        raise RuntimeError(f"hosts need programs that are not here: run 'apt-get install {' '.join(missing)}'.")
