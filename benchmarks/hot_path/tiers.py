"""How much of each workload is run: in full, to be quoted, or quickly, to notice on every push that it has broken."""

from typing import NamedTuple

__all__ = ["PEERS_SHARE", "TIERS", "Sizes"]

PEERS_SHARE = 10
"""Peers do a tenth of the calls: some of them are a hundred times slower."""


class Sizes(NamedTuple):
    """Counts of calls, unless the name says otherwise."""

    repetitions: int
    settle_s: float
    """Before each stretch that is measured: what start and warm-up have left to do is over then."""

    warm_up: int
    round_trips: int
    calls: int
    millisecond: int
    clients: tuple[int, ...]
    idle_s: float
    growth: int
    queued: int
    environments: tuple[int, ...]
    in_turn: tuple[int, ...]
    fair_queue: int
    fair_calls: int

    def for_peers(self) -> "Sizes":
        """The same for systems that are slower by far."""
        counts = ("round_trips", "calls", "millisecond", "growth", "queued")
        return self._replace(**{name: max(1, getattr(self, name) // PEERS_SHARE) for name in counts})


TIERS = {
    "full": Sizes(
        repetitions=3,
        settle_s=1.0,
        warm_up=500,
        round_trips=3_000,
        calls=20_000,
        millisecond=10_000,
        clients=(1, 4, 16),
        idle_s=20.0,
        growth=100_000,
        queued=100_000,
        environments=(1, 10, 50),
        in_turn=(2, 3, 10),
        fair_queue=100_000,
        fair_calls=1_000,
    ),
    "quick": Sizes(
        repetitions=3,
        settle_s=0.1,
        warm_up=50,
        round_trips=200,
        calls=1_000,
        millisecond=200,
        clients=(1, 2),
        idle_s=0.5,
        growth=1_000,
        queued=2_000,
        environments=(1, 3),
        in_turn=(3,),
        fair_queue=1_000,
        fair_calls=30,
    ),
    "baseline": Sizes(
        repetitions=1,
        settle_s=0.05,
        warm_up=500,
        round_trips=150,
        calls=1_000,
        millisecond=0,
        clients=(),
        idle_s=0.0,
        growth=20_000,
        queued=0,
        environments=(),
        in_turn=(),
        fair_queue=0,
        fair_calls=0,
    ),
}
"""``baseline`` is for ``baseline.json`` and for memory: its stretches are short, and the cheapest of many counts."""

TIERS["baseline, lent"] = TIERS["baseline"]._replace(settle_s=0.1, round_trips=600, calls=4_000)
"""For calls that cost a fifth of the others'. Each stretch begins when the last loan is over, and must get another."""
