"""Which of the node's GPUs each instance may use, from its start until its process has been reaped.

Amounts are thousandths of a GPU. Rules: an instance that asks for one or more has whole GPUs to itself, as many as it
asks for, rounded up; one that asks for less shares a GPU with others like it, of those that have room the fullest, so
that whole ones stay free; no GPU is ever promised beyond its thousand; what was taken comes back once, whole.
"""

from collections.abc import Sequence

__all__ = ["Devices"]

_WHOLE = 1000


class Devices:
    """The GPUs of a node, by the names under which CUDA knows them, in their order.

    >>> devices = Devices(["0", "1"])
    >>> devices.take(1, 500), devices.take(2, 500), devices.take(3, 1000), devices.take(4, 1)
    (('0',), ('0',), ('1',), None)
    >>> devices.give_back(3)
    >>> devices.take(4, 1)
    ('1',)
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._free = dict.fromkeys(self.names, _WHOLE)
        self._taken: dict[int, tuple[tuple[str, ...], int]] = {}

    def take(self, instance_id: int, amount: int) -> tuple[str, ...] | None:
        """Give an instance its GPUs; None if there are not enough free ones. Asking again gives the same."""
        if instance_id in self._taken:
            return self._taken[instance_id][0]
        if amount <= 0:
            return ()
        if amount < _WHOLE:
            fitting = [name for name in self.names if self._free[name] >= amount]
            names = tuple(sorted(fitting, key=self._free.__getitem__)[:1])
            each, count = amount, 1
        else:
            each, count = _WHOLE, -(-amount // _WHOLE)
            names = tuple([name for name in self.names if self._free[name] == _WHOLE][:count])
        if len(names) < count:
            return None
        for name in names:
            self._free[name] -= each
        self._taken[instance_id] = (names, each)
        return names

    def give_back(self, instance_id: int) -> None:
        """The instance is gone. Harmless for one that has none."""
        names, each = self._taken.pop(instance_id, ((), 0))
        for name in names:
            self._free[name] += each

    def of(self, instance_id: int) -> tuple[str, ...]:
        """The GPUs of an instance."""
        return self._taken.get(instance_id, ((), 0))[0]

    @property
    def free(self) -> dict[str, int]:
        """What is free of each, in thousandths."""
        return dict(self._free)

    @property
    def holders(self) -> tuple[int, ...]:
        """The instances that have any."""
        return tuple(self._taken)
