"""What a call needs of a node: cpu, memory, GPUs, custom amounts, and labels.

Rules: amounts are integer thousandths (cpu, custom) or bytes (memory) from here on, so that sums are exact. Everything
is checked when the object is made; a wrong value is an OptionError that names option, value and what is allowed.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from keepwarm.errors import OptionError

__all__ = ["Resources", "checked_names", "parse_size", "real_number", "thousandths", "whole_number"]

AMOUNT_MAX: Final = 1 << 50  # what the wire can carry: bytes, or thousandths
GPUS_MAX: Final = 1024
_UNITS: Final = {"": 1, "B": 1} | {
    f"{prefix}{suffix}": base ** (power + 1)
    for suffix, base in (("B", 1000), ("iB", 1024))
    for power, prefix in enumerate("KMGT")
}
_SIZE: Final = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*", re.ASCII)
_SPELLINGS: Final = {unit.lower(): factor for unit, factor in _UNITS.items()}


def whole_number(value: Any) -> int | None:
    """Return a whole number of any integer type, or None; True and False are none."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def real_number(value: Any) -> float | None:
    """Return a number of any real type as a float, huge ones as infinity, or None; text, True and False are none."""
    if isinstance(value, bool | str | bytes) or not hasattr(type(value), "__float__"):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def parse_size(option: str, value: object) -> int:
    """Return a size in bytes: a whole number of bytes, or text such as "512MiB" or "2 GB" (KB is 1000, KiB 1024).

    Raises OptionError, also for zero and below, and for more than a pebibyte.
    """
    size = whole_number(value)
    if isinstance(value, str):
        match = _SIZE.fullmatch(value)
        factor = _SPELLINGS.get(match.group(2).lower()) if match else None
        if match and factor:
            whole, _, fraction = match.group(1).partition(".")
            size = int(whole) * factor + int(fraction or 0) * factor // 10 ** len(fraction)
    if size is None or not 0 < size <= AMOUNT_MAX:
        raise OptionError(f'{option}={value!r}: a size is bytes above zero, or text like "512MiB" or "2GB"')
    return size


def thousandths(option: str, value: object) -> int:
    """Return an amount of zero or more in thousandths, rounded up; raise OptionError for anything else."""
    amount = real_number(value)
    if amount is not None and 0 <= amount <= AMOUNT_MAX // 1000:
        return math.ceil(round(amount * 1000, 6))
    raise OptionError(f"{option}={value!r}: an amount is a number of zero or more, counted in thousandths")


def checked_names(option: str, value: object) -> dict[str, Any]:
    """Return a mapping with non-empty text keys as a new dict, keys sorted; raise OptionError for anything else."""
    if not isinstance(value, Mapping):
        raise OptionError(f"{option}={value!r}: this is a mapping, as in {option}={{'name': ...}}")
    for name in value:
        if not isinstance(name, str) or not name or len(name) > 512:
            raise OptionError(f"{option}: the name {name!r} is not text of 1 to 512 characters")
    return {name: value[name] for name in sorted(value)}


@dataclass(frozen=True, slots=True)
class Resources:
    """What one call needs.

    cpu: cores while a call runs, in steps of a thousandth; default 1.0. 0 is allowed, for calls that only wait.
    memory: what its process needs, as "512MiB" or in bytes, booked on the node while it lives; default 256 MiB.
    gpu: whole GPUs, held as long as the process lives; default 0.
    custom: amounts of whatever nodes say they have, as {"license": 1}.
    labels: what the node's labels must be, as {"zone": "a"}.

    >>> Resources(cpu=0.5, memory="2GiB").memory_bytes
    2147483648

    Raises OptionError.
    """

    cpu: float = 1.0
    memory: str | int | None = None
    gpu: int = 0
    custom: Mapping[str, float] = field(default_factory=dict, hash=False)
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        thousandths("resources.cpu", self.cpu)
        if self.memory is not None:
            parse_size("resources.memory", self.memory)
        gpus = whole_number(self.gpu)
        if gpus is None or not 0 <= gpus <= GPUS_MAX:
            raise OptionError(f"resources.gpu={self.gpu!r}: GPUs are counted whole, from 0 to {GPUS_MAX}")
        custom = checked_names("resources.custom", self.custom)
        for name, amount in custom.items():
            thousandths(f"resources.custom[{name!r}]", amount)
            if name in ("cpu", "memory", "gpu"):
                raise OptionError(f"resources.custom[{name!r}]: this one has a field of its own, resources.{name}")
        labels = checked_names("resources.labels", self.labels)
        for name, label in labels.items():
            if not isinstance(label, str):
                raise OptionError(f"resources.labels[{name!r}]={label!r}: a label is text; write {str(label)!r}")
        object.__setattr__(self, "custom", MappingProxyType(custom))
        object.__setattr__(self, "labels", MappingProxyType(labels))

    @property
    def cpu_thousandths(self) -> int:
        """Cores in thousandths."""
        return thousandths("resources.cpu", self.cpu)

    @property
    def memory_bytes(self) -> int:
        """The memory limit in bytes; 0 when none was declared."""
        return 0 if self.memory is None else parse_size("resources.memory", self.memory)

    @property
    def gpu_thousandths(self) -> int:
        """GPUs in thousandths, as the wire counts them."""
        return int(self.gpu) * 1000

    @property
    def custom_thousandths(self) -> dict[str, int]:
        """Custom amounts in thousandths."""
        return {name: thousandths(name, amount) for name, amount in self.custom.items()}
