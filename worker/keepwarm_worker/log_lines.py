"""What the agent logs of its dealings with the scheduler: one line per event of interest, with the ids behind it.

Rules: values of environment variables, arguments, results and outputs are never logged; what happens per call is logged
at debug level only.
"""

import logging
from collections.abc import Callable
from typing import Any

from keepwarm_wire import messages as wire
from keepwarm_wire.identifiers import token_text

__all__ = ["log_message"]

_log = logging.getLogger("keepwarm_worker.agent")


def _failure_text(failure: wire.Failure | None) -> str:
    return "" if failure is None else f" [{failure.kind}] {failure.message}"


_LINES: dict[type[Any], tuple[int, Callable[[Any], str]]] = {
    wire.Welcome: (logging.INFO, lambda m: f"welcomed by the scheduler: epoch {m.epoch}, known {m.known}"),
    wire.Refused: (logging.WARNING, lambda m: f"refused by the scheduler: [{m.code}] {m.reason}"),
    wire.Goodbye: (logging.INFO, lambda m: f"goodbye: {m.reason}"),
    wire.AgentHello: (logging.DEBUG, lambda m: f"hello as node {m.node}"),
    wire.MakeLock: (logging.INFO, lambda m: f"command {m.command}: make lock {m.spec_key.hex()[:16]}"),
    wire.StartInstance: (
        logging.INFO,
        lambda m: f"command {m.command}: start instance {token_text(m.instance_id)} in {m.environment_id[:16]}",
    ),
    wire.StopInstance: (
        logging.INFO,
        lambda m: f"command {m.command}: stop instance {token_text(m.instance_id)} at {m.sequence}: {m.cause}",
    ),
    wire.CancelAttempt: (logging.INFO, lambda m: f"command {m.command}: cancel attempt {token_text(m.attempt)}"),
    wire.Dispatch: (
        logging.DEBUG,
        lambda m: f"command {m.command}: attempt {token_text(m.attempt)} on instance {token_text(m.instance_id)}",
    ),
    wire.LockMade: (logging.INFO, lambda m: f"lock {m.spec_key.hex()[:16]} made in {m.duration_us // 1000} ms"),
    wire.LockFailed: (
        logging.WARNING,
        lambda m: f"lock {m.spec_key.hex()[:16]} failed{_failure_text(m.failure)}",
    ),
    wire.InstanceReady: (
        logging.INFO,
        lambda m: f"instance {token_text(m.instance_id)} ready: process {m.process_id}, start {m.start_us // 1000} ms",
    ),
    wire.InstanceBusy: (logging.INFO, lambda m: f"instance {token_text(m.instance_id)} not stopped: it was used since"),
    wire.InstanceEnded: (
        logging.INFO,
        lambda m: f"instance {token_text(m.instance_id)} ended: {m.cause}{_failure_text(m.failure)}",
    ),
    wire.AttemptDone: (
        logging.DEBUG,
        lambda m: f"attempt {token_text(m.attempt)} {wire.Status.NAMES[m.status]}{_failure_text(m.failure)}",
    ),
    wire.AttemptRefused: (
        logging.WARNING,
        lambda m: f"attempt {token_text(m.attempt)} refused: instance {token_text(m.instance_id)} is {m.reason}",
    ),
    wire.NeedFunction: (logging.DEBUG, lambda m: f"need function {m.version.hex()[:16]}"),
}


def log_message(message: wire.Message) -> None:
    """Log a message received or sent, if it is of interest."""
    line = _LINES.get(type(message))
    if line is not None and _log.isEnabledFor(line[0]):
        _log.log(line[0], "%s", line[1](message))
