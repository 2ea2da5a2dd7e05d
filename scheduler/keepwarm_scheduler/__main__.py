"""``python -m keepwarm_scheduler``: read the settings, run the daemon, say in words why it cannot."""

import argparse
import logging
import sys
from pathlib import Path

from keepwarm_scheduler.config import CoreConfig, SchedulerConfig, default_bind, default_state, parse_size

__all__ = ["main"]


def parser() -> argparse.ArgumentParser:
    """The command line. ``keepwarm scheduler`` is the same."""
    result = argparse.ArgumentParser(
        prog="keepwarm scheduler",
        description="Run a scheduler: it places calls on agents and keeps their leases. One per cluster.",
    )
    result.add_argument(
        "--bind",
        default=default_bind(),
        metavar="ADDRESS",
        help="ipc:// address to serve; its directory must be private to you (default: %(default)s)",
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
    if not options.bind.startswith("ipc:///"):
        sys.stderr.write(
            f"keepwarm scheduler: --bind {options.bind}: only ipc:///absolute/path is served. Addresses that other "
            f"machines can reach need keys, which this version does not have.\n"
        )
        return 2
    from keepwarm_scheduler.daemon import BindError, Daemon
    from keepwarm_scheduler.journal import JournalError

    try:
        config = SchedulerConfig(
            bind=options.bind,
            state=options.state.absolute(),
            payload_bytes_max=parse_size(options.payload_max),
            core=CoreConfig.for_local() if options.local else CoreConfig(),
        )
        daemon = Daemon(config)
    except (BindError, JournalError, ValueError) as error:
        sys.stderr.write(f"keepwarm scheduler: {error}\n")
        return 2
    except OSError as error:
        place = error.filename or options.state
        sys.stderr.write(f"keepwarm scheduler: {place} cannot be used: {error.strerror}. Choose another place.\n")
        return 2
    if not options.local:
        sys.stderr.write(
            f"Scheduler ready. Agents and programs of this user join with:\n  export KEEPWARM_ADDRESS={options.bind}\n"
        )
    daemon.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
