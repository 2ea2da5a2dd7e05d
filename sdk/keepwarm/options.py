"""The options of a function: what may be written in `@isolated(...)`, checked when it is written.

Rules:
- Every mistake is an OptionError at decoration, naming the option, its value and what is allowed. Nothing is found out
  on a node that could have been found out here.
- Related options travel in one object (Timeouts, Retry, Resources): there are ten, and none is to be added lightly.
- Durations are seconds here; `duration_us` is the one place that turns them into what the wire carries.
"""

from __future__ import annotations

import difflib
import inspect
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, Final

from keepwarm.errors import OptionError
from keepwarm.resources import Resources, checked_names, real_number, whole_number
from keepwarm_wire.fields import FOREVER_US, TEXT_LONG_MAX
from keepwarm_wire.spec import RequirementError, SpecError, canonical_spec
from keepwarm_wire.texts import TEXT_BYTES_MAX, text_bytes

__all__ = ["Options", "Resources", "Retry", "Timeouts", "duration_us"]

KEEP_ALIVE_DEFAULT_S: Final = 10.0
STARTUP_TIMEOUT_DEFAULT_S: Final = 600.0
RETRIES_MAX: Final = 1_000
PRIORITY_MIN: Final = -100
PRIORITY_MAX: Final = 100
RUNNING_PYTHON: Final = "{}.{}".format(*sys.version_info[:2])

# What people write who come from elsewhere, and too far from the right name for difflib.
_OTHER_NAMES: Final = {
    "python_version": "python",
    "packages": "requirements",
    "pip": "requirements",
    "ttl": "keep_alive",
    "idle_timeout": "keep_alive",
    "environment": "env_vars",
    "env": "env_vars",
    "setup_function": "setup",
    "run_timeout": "timeout=Timeouts(run=...)",
    "startup_timeout": "timeout=Timeouts(startup=...)",
    "max_retries": "retries",
    "cpu": "resources=Resources(cpu=...)",
    "memory": "resources=Resources(memory=...)",
    "gpu": "resources=Resources(gpu=...)",
    "labels": "resources=Resources(labels=...)",
}


def duration_us(seconds: float | None) -> int:
    """Return a duration in whole microseconds, rounded up; None, infinity and what is too long are FOREVER_US."""
    if seconds is None or seconds * 1_000_000 >= FOREVER_US:
        return FOREVER_US
    return math.ceil(seconds * 1_000_000)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """The four timeouts of a call, in seconds; None is no limit. When one runs out, the call fails with CallTimeout.

    queue: from the call until a process has it, making the environment included; default None.
    startup: for starting a process and running the function's setup in it; default 600.
    run: for the function itself, each attempt anew; default None.
    overall: from the call to its result, all attempts together; default None.

    Raises OptionError.
    """

    queue: float | None = None
    startup: float | None = STARTUP_TIMEOUT_DEFAULT_S
    run: float | None = None
    overall: float | None = None

    def __post_init__(self) -> None:
        for name in ("queue", "startup", "run", "overall"):
            value = getattr(self, name)
            if value is not None:
                seconds = _seconds(f"timeout.{name}", value, "seconds above zero, or None for no limit")
                if seconds == 0:
                    raise OptionError(f"timeout.{name}={value!r}: allowed are seconds above zero, or None for no limit")
                object.__setattr__(self, name, None if math.isinf(seconds) else seconds)


@dataclass(frozen=True, slots=True)
class Retry:
    """How often a call may run again, by what went wrong.

    lost_node: its node died or became unreachable; default 3.
    exceptions: the function raised; default 0.
    crash: the call killed its own process; default 0.
    out_of_memory: it was killed for its memory; default 0.

    Raises OptionError.
    """

    lost_node: int = 3
    exceptions: int = 0
    crash: int = 0
    out_of_memory: int = 0

    def __post_init__(self) -> None:
        for name in ("lost_node", "exceptions", "crash", "out_of_memory"):
            count = whole_number(getattr(self, name))
            if count is None or not 0 <= count <= RETRIES_MAX:
                raise OptionError(
                    f"retries.{name}={getattr(self, name)!r}: allowed are whole numbers from 0 to {RETRIES_MAX}"
                )


@dataclass(frozen=True, slots=True)
class Options:
    """All options of a function, checked and in their full form; see `isolated` for what each means.

    `Options.of(**given)` refuses unknown names with a hint; `changed(**given)` returns a copy. Raises OptionError.
    """

    requirements: Sequence[str] = ()
    python: str | None = None
    keep_alive: float = KEEP_ALIVE_DEFAULT_S
    timeout: float | Timeouts | None = None
    retries: int | Retry = field(default_factory=Retry)
    resources: Resources | Mapping[str, Any] = field(default_factory=Resources)
    env_vars: Mapping[str, str] = field(default_factory=dict, hash=False)
    setup: Callable[[], Any] | None = None
    priority: int = 0
    at_most_once: bool = False

    def __post_init__(self) -> None:
        for name, check in _CHECKS.items():
            object.__setattr__(self, name, check(getattr(self, name)))
        if self.at_most_once and self.retries not in (Retry(), Retry(lost_node=0)):
            raise OptionError(
                f"at_most_once=True with retries={self.retries}: a call that may run once is never run again; "
                "leave out one of the two"
            )
        self.spec()
        _check_size(self)

    @classmethod
    def of(cls, **given: Any) -> Options:
        """Return the options given by name, the others at their defaults."""
        _refuse_unknown(given)
        return cls(**given)

    def changed(self, **given: Any) -> Options:
        """Return these options with some replaced, all checked again."""
        _refuse_unknown(given)
        return replace(self, **given)

    def spec(self) -> bytes:
        """Return the canonical spec of the environment; its hash is what warm environments are found by."""
        try:
            return canonical_spec(self.requirements, self.python or RUNNING_PYTHON)
        except (RequirementError, SpecError) as error:
            raise OptionError(f"requirements: {error}") from error

    def differing(self) -> dict[str, Any]:
        """Return the options that are not at their defaults, for display."""
        plain = Options()
        return {
            option.name: getattr(self, option.name)
            for option in fields(self)
            if getattr(self, option.name) != getattr(plain, option.name)
        }

    @property
    def timeouts(self) -> Timeouts:
        """The four timeouts; `timeout` itself holds the same object."""
        assert isinstance(self.timeout, Timeouts)
        return self.timeout


def _refuse_unknown(given: Mapping[str, Any]) -> None:
    known = [option.name for option in fields(Options)]
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name.lower(), known, n=1) or [_OTHER_NAMES.get(name.lower(), "")]
            hint = f" Did you mean {near[0]}?" if near[0] else ""
            raise OptionError(f"unknown option {name!r}.{hint} The options are {', '.join(known)}.")


def _seconds(option: str, value: object, allowed: str) -> float:
    seconds = real_number(value)
    if seconds is not None and seconds >= 0:  # not so for NaN
        return seconds
    hint = "; write .total_seconds()" if hasattr(value, "total_seconds") else ""
    raise OptionError(f"{option}={value!r}: allowed are {allowed}{hint}")


def _requirements(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        raise OptionError(f"requirements={value!r}: this is a list of strings; write requirements=[{value!r}]")
    if isinstance(value, Mapping | bytes) or not isinstance(value, Sequence | set | frozenset):
        raise OptionError(f"requirements={value!r}: this is a list of strings, as in requirements=['requests>=2.31']")
    return tuple(value) if isinstance(value, Sequence) else tuple(sorted(value, key=str))


def _python(value: object) -> str:
    if value is None or value == RUNNING_PYTHON:
        return RUNNING_PYTHON
    if not isinstance(value, str):
        raise OptionError(f'python={value!r}: write it as text, as in python="{RUNNING_PYTHON}"')
    if not re.fullmatch(r"[0-9]+\.[0-9]+", value):
        raise OptionError(f'python={value!r}: write major and minor version only, as in python="{RUNNING_PYTHON}"')
    raise OptionError(
        f"python={value!r}: this program runs Python {RUNNING_PYTHON}, and functions travel as bytecode, which Python "
        f"{value} cannot run; leave the option out, or start this program with Python {value}"
    )


def _keep_alive(value: object) -> float:
    return _seconds("keep_alive", value, "seconds of zero or more, or math.inf")


def _timeout(value: object) -> Timeouts:
    if isinstance(value, Timeouts):
        return value
    if value is None:
        return Timeouts()
    try:
        return Timeouts(run=value)  # type: ignore[arg-type]  # it checks what it is given
    except OptionError:
        raise OptionError(
            f"timeout={value!r}: allowed are seconds above zero for the run, None for no limit, or Timeouts(...)"
        ) from None


def _retries(value: object) -> Retry:
    if isinstance(value, Retry):
        return value
    try:
        return Retry(exceptions=value)  # type: ignore[arg-type]  # it checks what it is given
    except OptionError:
        raise OptionError(
            f"retries={value!r}: allowed are whole numbers from 0 to {RETRIES_MAX} (after exceptions), or Retry(...)"
        ) from None


def _resources(value: object) -> Resources:
    if isinstance(value, Resources):
        return value
    if not isinstance(value, Mapping):
        raise OptionError(f"resources={value!r}: write Resources(cpu=2, memory='1GiB') or a mapping of its fields")
    known = [resource.name for resource in fields(Resources)]
    for name in value:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"custom amounts go in custom={{{name!r}: ...}};"
            raise OptionError(f"resources: unknown resource {name!r}; {hint} known are {', '.join(known)}")
    return Resources(**value)


def _env_vars(value: object) -> Mapping[str, str]:
    variables = checked_names("env_vars", value)
    for name, text in variables.items():
        if "=" in name or "\0" in name:
            raise OptionError(f"env_vars: the name {name!r} holds a character that names cannot hold")
        if not isinstance(text, str):
            raise OptionError(f"env_vars[{name!r}]={text!r}: values are text; write {str(text)!r}")
        if "\0" in text or len(text) > TEXT_LONG_MAX:
            raise OptionError(f"env_vars[{name!r}]: values are at most {TEXT_LONG_MAX} characters, none of them NUL")
    return MappingProxyType(variables)


def _check_size(options: Options) -> None:
    assert isinstance(options.resources, Resources)
    labels, custom = options.resources.labels, options.resources.custom
    try:
        size = text_bytes((*options.env_vars.items(), *labels.items(), *custom.items()))
    except UnicodeEncodeError as error:
        raise OptionError(f"env_vars and resources: {error.object!r} cannot be written as UTF-8") from None
    if size > TEXT_BYTES_MAX:
        raise OptionError(
            f"env_vars, resources.labels and resources.custom: together they take up {size} bytes, at most "
            f"{TEXT_BYTES_MAX} are allowed; pass what is large as an argument"
        )


def _setup(value: object) -> Callable[[], Any] | None:
    if value is None:
        return None
    if not callable(value):
        raise OptionError(f"setup={value!r}: this is a function without parameters; pass it, do not call it")
    if inspect.iscoroutinefunction(value) or inspect.isgeneratorfunction(value) or inspect.isasyncgenfunction(value):
        raise OptionError(f"setup={value!r}: this is a plain function, neither async nor a generator")
    try:
        inspect.signature(value).bind()
    except TypeError as error:
        raise OptionError(f"setup={value!r}: it is called without arguments, but: {error}") from error
    except ValueError:  # a builtin without a signature
        pass
    return value


def _priority(value: object) -> int:
    priority = whole_number(value)
    if priority is None or not PRIORITY_MIN <= priority <= PRIORITY_MAX:
        raise OptionError(
            f"priority={value!r}: allowed are whole numbers from {PRIORITY_MIN} to {PRIORITY_MAX}; higher goes first"
        )
    return priority


def _at_most_once(value: object) -> bool:
    if not isinstance(value, bool):
        raise OptionError(f"at_most_once={value!r}: allowed are True and False")
    return value


_CHECKS: Final[dict[str, Callable[[object], Any]]] = {
    "requirements": _requirements,
    "python": _python,
    "keep_alive": _keep_alive,
    "timeout": _timeout,
    "retries": _retries,
    "resources": _resources,
    "env_vars": _env_vars,
    "setup": _setup,
    "priority": _priority,
    "at_most_once": _at_most_once,
}
