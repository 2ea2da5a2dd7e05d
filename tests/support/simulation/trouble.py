"""How often what a node does goes wrong, as probabilities, and what each kind is called where faults are counted."""

from dataclasses import dataclass, fields

__all__ = ["TROUBLE_KINDS", "Trouble", "kinds_of_trouble"]


@dataclass(frozen=True)
class Trouble:
    """Probabilities, each per thing that is done."""

    build: float = 0.0
    slow_build: float = 0.0
    lock: float = 0.0
    slow_lock: float = 0.0
    spawn: float = 0.0
    slow_exit: float = 0.1
    load: float = 0.0
    rude: float = 0.0
    disk: float = 0.0


TROUBLE_KINDS: dict[str, tuple[str, ...]] = {
    "build": ("build fails",),
    "slow_build": ("build is slow", "slow build is given up"),
    "lock": ("lock fails",),
    "slow_lock": ("lock is slow",),
    "spawn": ("process does not start", "process dies at its start"),
    "slow_exit": ("process does not end when asked to",),
    "load": ("process dies before it takes a call",),
    "rude": ("runner says too little",),
    "disk": ("payload cannot be stored", "result cannot be handed over"),
}
"""The faults that each of them leads to."""


def kinds_of_trouble(trouble: Trouble) -> tuple[str, ...]:
    """Every fault that may come of it."""
    return tuple(kind for each in fields(trouble) if getattr(trouble, each.name) for kind in TROUBLE_KINDS[each.name])
