"""The scheduler never unpickles: whoever may submit a call could then run code on it, and through it on every node.

No module of the scheduler imports an unpickler (an import contract checks that); this is the second lock, for what a
library might do: from ``forbid_unpickling`` on, no pickle in this process can name anything to be called.
"""

import sys

__all__ = ["UnpicklingForbiddenError", "forbid_unpickling"]


class UnpicklingForbiddenError(RuntimeError):
    """Something in this process tried to load a pickle that refers to code."""


def forbid_unpickling() -> None:
    """Have every later look-up of a pickle's class or function fail. It cannot be undone."""
    sys.addaudithook(_refuse)


def _refuse(event: str, arguments: tuple[object, ...]) -> None:
    if event == "pickle.find_class":
        raise UnpicklingForbiddenError(f"the scheduler does not unpickle: {arguments!r}")
