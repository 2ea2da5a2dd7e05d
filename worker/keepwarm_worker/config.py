"""The agent's settings: every flag and every environment variable, read in this one place.

A flag wins over its variable, a variable over the default. Nothing else in the agent reads ``os.environ``, apart from
what is passed on to uv and to instances.
"""

import os
import re
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from keepwarm_wire.addresses import parse_address

__all__ = ["AgentConfig", "ConfigError", "parse_command_line", "parse_size"]

HOME_BYTES_MAX = 512
STORE_BYTES_DEFAULT = 50 * 1024**3
LOG_LEVELS = ("debug", "info", "warning", "error")

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE | re.ASCII)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*=.*", re.ASCII)
_DIRECTORY_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,200}", re.ASCII)
_EPILOG = """\
Each option can also be given by a variable: KEEPWARM_SCHEDULER (or KEEPWARM_ADDRESS), KEEPWARM_NODE_HOME,
KEEPWARM_NODE, KEEPWARM_CPU, KEEPWARM_MEMORY, KEEPWARM_GPUS, KEEPWARM_STORE_SIZE, KEEPWARM_LOG_LEVEL, KEEPWARM_TOKEN.
The package index of the node is KEEPWARM_INDEX_URL.

examples:
  keepwarm agent --node a --cpu 2 --label zone=a
  keepwarm agent --join TOKEN --at head.example:7437
"""


class ConfigError(ValueError):
    """A setting that cannot be used. The message names it and says what to write instead."""


class AgentConfig(NamedTuple):
    """What an agent is told at its start. ``cpu_permille``, ``memory_bytes``, ``gpus``: None for *what is there*."""

    scheduler: str
    home: Path
    node: str
    pythons: tuple[str, ...] = ()
    cpu_permille: int | None = None
    memory_bytes: int | None = None
    gpus: int | None = None
    visible_gpus: str | None = None
    """CUDA_VISIBLE_DEVICES as the agent was started with it: other GPUs are not its to offer."""
    labels: tuple[tuple[str, str], ...] = ()
    store_bytes: int = STORE_BYTES_DEFAULT
    log_level: str = "info"
    token: str = ""
    """What to join the cluster with, where the home holds no key yet. A secret: not to be logged."""
    local: bool = False
    """Part of a local cluster: it leaves when its scheduler is gone for good."""


def parse_size(text: str) -> int:
    """Bytes from ``512M``, ``16GiB`` or ``1000``; ``MB`` counts 1000s, ``M`` and ``MiB`` 1024s.

    >>> parse_size("1.5G")
    1610612736
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"{text!r} is no size; write it like 512M, 16GiB or 1000000.")
    number, unit, binary = match.groups()
    decimal = text.strip()[-1:] in "bB" and not binary
    return int(float(number) * (1000 if decimal else 1024) ** _POWERS[unit.lower()])


def parse_command_line(arguments: Sequence[str], environment: Mapping[str, str]) -> AgentConfig:
    """The agent's settings. Raises ``ConfigError``; ``--help`` and unknown flags end the process, as argparse does."""
    given = _parser().parse_args(arguments)

    def setting(flag: str, variable: str) -> str | None:
        value: str | None = getattr(given, flag)
        return value if value is not None else environment.get(variable) or None

    node = setting("node", "KEEPWARM_NODE") or os.uname().nodename
    cpu, memory = setting("cpu", "KEEPWARM_CPU"), setting("memory", "KEEPWARM_MEMORY")
    gpus = setting("gpus", "KEEPWARM_GPUS")
    store = setting("store_size", "KEEPWARM_STORE_SIZE")
    return AgentConfig(
        scheduler=_scheduler(given.at or setting("scheduler", "KEEPWARM_SCHEDULER"), environment),
        home=_home(setting("home", "KEEPWARM_NODE_HOME"), node, environment),
        node=node,
        pythons=tuple(given.python),
        cpu_permille=None if cpu is None else _cpu_permille(cpu),
        memory_bytes=None if memory is None else parse_size(memory),
        gpus=None if gpus is None else _gpus(gpus),
        visible_gpus=environment.get("CUDA_VISIBLE_DEVICES"),
        labels=tuple(_label(text) for text in given.label),
        store_bytes=STORE_BYTES_DEFAULT if store is None else parse_size(store),
        log_level=_log_level(given, environment),
        token=_token(given.join or environment.get("KEEPWARM_TOKEN", "")),
        local=given.local,
    )


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="keepwarm agent",
        description="The agent of one machine: builds environments and runs functions in them, as the scheduler says.",
        epilog=_EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("--at", metavar="HOST:PORT", help="where the scheduler listens, on this or another machine")
    parser.add_argument(
        "--join",
        metavar="TOKEN",
        help="join the cluster with a token; @FILE reads it from a file, - from standard input. Needed once: "
        "later starts use the key that is kept in the agent's home",
    )
    parser.add_argument(
        "--scheduler", metavar="ADDRESS", help="the same as --at; ipc:///path for a socket on this machine (default)"
    )
    parser.add_argument(
        "--home",
        metavar="DIR",
        help="the agent's own directory: environments, caches (default: nodes/NAME under KEEPWARM_HOME or ~/.keepwarm)",
    )
    parser.add_argument("--node", metavar="NAME", help="name of this node (default: the host name)")
    parser.add_argument(
        "--python",
        metavar="PATH",
        action="append",
        default=[],
        help="a Python interpreter to offer besides those found; may be repeated",
    )
    parser.add_argument("--cpu", metavar="N", help="cores to offer, such as 4 or 0.5 (default: those usable here)")
    parser.add_argument("--memory", metavar="SIZE", help="memory to offer, such as 16G (default: what is here)")
    parser.add_argument(
        "--gpus", metavar="N", help="GPUs to offer, the first N; 0 for none (default: those that are visible here)"
    )
    parser.add_argument("--store-size", metavar="SIZE", help="disk that idle environments may take (default: 50G)")
    parser.add_argument(
        "--label",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="a label that functions may ask for; may be repeated",
    )
    parser.add_argument("--local", action="store_true", help="leave when the scheduler is gone and nothing is left")
    parser.add_argument("--log-level", choices=LOG_LEVELS, help="how much is logged to stderr (default: info)")
    return parser


def _scheduler(given: str | None, environment: Mapping[str, str]) -> str:
    default = f"ipc://{_keepwarm_home(environment) / 'cluster' / 'scheduler.sock'}"
    address = given or environment.get("KEEPWARM_ADDRESS") or default
    try:
        return parse_address(address)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _token(given: str) -> str:
    """The token itself, wherever it is kept. A file or standard input keep it out of the list of processes."""
    try:
        if given == "-":
            return sys.stdin.readline().strip()
        return Path(given[1:]).read_text().strip() if given.startswith("@") else given.strip()
    except (OSError, ValueError) as error:
        raise ConfigError(f"--join {given}: the token cannot be read: {error}") from None


def _keepwarm_home(environment: Mapping[str, str]) -> Path:
    try:
        return Path(environment.get("KEEPWARM_HOME") or "~/.keepwarm").expanduser().absolute()
    except RuntimeError:
        raise ConfigError("This user has no home directory: set KEEPWARM_HOME to a directory of its own.") from None


def _home(given: str | None, node: str, environment: Mapping[str, str]) -> Path:
    if given:
        return Path(given).expanduser().absolute()
    if not _DIRECTORY_NAME.fullmatch(node):
        raise ConfigError(
            f"--node {node} cannot name a directory: say with --home DIR where the agent keeps its files."
        )
    return _keepwarm_home(environment) / "nodes" / node


def _cpu_permille(text: str) -> int:
    try:
        cores = float(text)
    except ValueError:
        cores = -1.0
    if not 0 < cores <= 100_000:
        raise ConfigError(f"--cpu {text}: write a number of cores above 0, such as 4 or 0.5.")
    return max(1, round(cores * 1000))


def _gpus(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,3}", text.strip(), re.ASCII):
        raise ConfigError(f"--gpus {text}: write how many, such as 0 or 4.")
    return int(text)


def _label(text: str) -> tuple[str, str]:
    if not _LABEL.fullmatch(text):
        raise ConfigError(f"--label {text}: write it as KEY=VALUE, such as zone=a.")
    key, _, value = text.partition("=")
    return key, value


def _log_level(given: Namespace, environment: Mapping[str, str]) -> str:
    level: str = given.log_level or environment.get("KEEPWARM_LOG_LEVEL", "info").lower()
    if level not in LOG_LEVELS:
        raise ConfigError(f"KEEPWARM_LOG_LEVEL={level}: choose one of {', '.join(LOG_LEVELS)}.")
    return level
