"""Only the current attempt's outcome is recorded, and a recorded outcome never changes."""

from collections.abc import Iterator

from support.simulation.history import History

__all__ = ["check"]


def check(history: History) -> Iterator[str]:
    """What the scheduler recorded and what it told."""
    for _, _, _, _, number, attempt, current, is_recovered in history.of("recorded"):
        if attempt != current and not is_recovered:
            yield f"call {number} was ended by attempt {attempt:#x} while {current:#x} was current"
    told: dict[tuple[int, bytes, int, int], str] = {}
    for _, _, epoch, session, life, number, what in history.of("outcome"):
        before = told.setdefault((epoch, session, life, number), what)
        if before != what:
            yield f"call {number} was told two outcomes in epoch {epoch}: {before} and {what}"
