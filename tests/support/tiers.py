"""How thorough a run of the tests is, chosen by ``KEEPWARM_TIER``, and the Hypothesis profile of each tier.

* ``default``: for every push and every developer; new random examples at each run, failures remembered.
* ``ci``: the same examples at every run, so that an unrelated change never turns red. ``CI=true`` chooses it.
* ``long``: many more examples, and the tests marked ``long``.
"""

from collections.abc import Mapping

from hypothesis import settings

__all__ = ["TIERS", "load_profile", "tier_of"]

TIERS = ("default", "ci", "long")

EXAMPLES = 60
EXAMPLES_LONG = 2000


def tier_of(environment: Mapping[str, str]) -> str:
    """The tier that these environment variables choose. Raises ``ValueError`` for one that does not exist."""
    tier = environment.get("KEEPWARM_TIER") or (
        "ci" if environment.get("CI", "").lower() in ("true", "1") else "default"
    )
    if tier not in TIERS:
        raise ValueError(f"KEEPWARM_TIER is {tier!r}: choose one of {', '.join(TIERS)}.")
    return tier


def load_profile(tier: str) -> None:
    """Register the three Hypothesis profiles and use the one named like the tier."""
    settings.register_profile("default", deadline=None, max_examples=EXAMPLES, derandomize=False)
    settings.register_profile("ci", deadline=None, max_examples=EXAMPLES, derandomize=True, database=None)
    settings.register_profile("long", deadline=None, max_examples=EXAMPLES_LONG, derandomize=False)
    settings.load_profile(tier)
