"""``python -m keepwarm_scheduler``: read the settings, run the daemon, say in words why it cannot."""

import argparse
import logging
import os
import sys
from pathlib import Path

from keepwarm_scheduler.collector import begin, quieten
from keepwarm_scheduler.config import (
    CoreConfig,
    SchedulerConfig,
    default_bind,
    default_keys,
    default_state,
    parse_size,
)
from keepwarm_scheduler.security.unpickling import forbid_unpickling
from keepwarm_wire.addresses import is_remote, parse_address
from keepwarm_wire.key_files import KeyFileError, has_key_store

__all__ = ["DISK_FAILED", "main"]

DISK_FAILED = 5
"""The exit status of a scheduler whose disk has failed. Started again it goes on from what is on the disk."""


def parser() -> argparse.ArgumentParser:
    """The command line. ``keepwarm scheduler`` is the same."""
    result = argparse.ArgumentParser(
        prog="keepwarm scheduler",
        description="Run a scheduler: it places calls on agents and keeps their leases. One per cluster.",
    )
    result.add_argument(
        "--bind",
        action="append",
        default=[],
        metavar="ADDRESS",
        help="what to serve: host:port for other machines (0.0.0.0:7437 for all networks of this one), or ipc:///path "
        "in a directory that is private to you; may be repeated. A socket on this machine is always served "
        f"(default: {default_bind()})",
    )
    result.add_argument(
        "--keys",
        type=Path,
        default=default_keys(),
        metavar="DIR",
        help="the keys that `keepwarm init` made; needed to serve other machines (default: %(default)s)",
    )
    result.add_argument(
        "--state",
        type=Path,
        default=default_state(),
        metavar="DIR",
        help="where its state is kept (default: %(default)s)",
    )
    result.add_argument(
        "--payload-max", default="256MiB", metavar="SIZE", help="largest argument or result (default: %(default)s)"
    )
    result.add_argument("--local", action="store_true", help="stop by itself when nothing is left to do")
    result.add_argument(
        "--log-level", default="info", choices=["debug", "info", "warning", "error"], help="default: %(default)s"
    )
    return result


def main(arguments: list[str] | None = None) -> int:
    """Run a scheduler until it is stopped. Returns the exit status: 2 if it could not start."""
    try:
        options = parser().parse_args(arguments)
    except ValueError as error:
        sys.stderr.write(f"keepwarm scheduler: {error}\n")
        return 2
    logging.basicConfig(
        level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    forbid_unpickling()
    from keepwarm_scheduler.daemon import BindError, Daemon
    from keepwarm_scheduler.journal import JournalError

    try:
        keys = None if options.local or not has_key_store(options.keys) else options.keys.absolute()
        config = SchedulerConfig(
            binds=_binds(options.bind, keys, options.keys),
            keys=keys,
            state=options.state.absolute(),
            payload_bytes_max=parse_size(options.payload_max),
            core=CoreConfig.for_local() if options.local else CoreConfig(),
        )
        begin()
        daemon = Daemon(config)
    except (BindError, JournalError, KeyFileError, ValueError) as error:
        sys.stderr.write(f"keepwarm scheduler: {error}\n")
        return 2
    except OSError as error:
        place = error.filename or options.state
        sys.stderr.write(f"keepwarm scheduler: {place} cannot be used: {error.strerror}. Choose another place.\n")
        return 2
    if not options.local:
        sys.stderr.write(_welcome(config))
    quieten()
    try:
        daemon.run()
    except JournalError as error:
        sys.stderr.write(f"keepwarm scheduler: {error}\n")
        sys.stderr.flush()
        os._exit(DISK_FAILED)  # at once: nothing that was not written may be written now
    return 0


def _binds(given: list[str], keys: Path | None, key_place: Path) -> tuple[str, ...]:
    """What to serve, a socket on this machine always included. Raises ``ValueError`` for what cannot be served."""
    binds = [parse_address(address) for address in given]
    for address in binds:
        if address.startswith("ipc://") and not address.startswith("ipc:///"):
            raise ValueError(f"--bind {address}: write an absolute path, ipc:///path/to/scheduler.sock.")
        if is_remote(address) and keys is None:
            raise ValueError(
                f"--bind {address}: other machines are served with keys only, and there are none in {key_place}. "
                "Make them with `keepwarm init`, then start the scheduler again."
            )
    if not any(address.startswith("ipc://") for address in binds):
        binds.append(default_bind())
    return tuple(dict.fromkeys(binds))


def _welcome(config: SchedulerConfig) -> str:
    """What to do next, for people."""
    remote = [address for address in config.binds if is_remote(address)]
    if not remote:
        here = next(address for address in config.binds)
        return f"Scheduler ready. Agents and programs of this user join with:\n  export KEEPWARM_ADDRESS={here}\n"
    port = remote[0].rpartition(":")[2]
    return (
        f"Scheduler ready on {', '.join(remote)}. For each machine that is to join, run here\n"
        f"  keepwarm token new --role agent\nand there\n  keepwarm agent --join TOKEN --at THIS_HOST:{port}\n"
    )


if __name__ == "__main__":
    sys.exit(main())
