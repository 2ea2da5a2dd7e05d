"""Break the cores on purpose and see who notices: ``PYTHONPATH=tests python -m mutants [NAME ...]``, ``--random N``."""

import argparse
import sys

from mutants.hunting import UNMUTATED, hunt_all, table_of
from mutants.operators import hunt_random
from mutants.table import MUTANTS


def main() -> int:
    """Run all named mutants, or those whose names contain a word; 1 if one survives."""
    parser = argparse.ArgumentParser(prog="python -m mutants", description=__doc__)
    parser.add_argument("words", nargs="*", help="only mutants whose names contain one of these")
    parser.add_argument("--random", type=int, default=0, metavar="N", help="N random mutants instead")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    if chosen.random:
        verdicts = hunt_random(chosen.seed, chosen.random)
    else:
        mutants = {
            name: mutant
            for name, mutant in MUTANTS.items()
            if not chosen.words or any(word in name for word in chosen.words)
        }
        verdicts = hunt_all(mutants)
    print(table_of(verdicts))
    survivors = [each for each in verdicts if not each.is_killed and each.name != UNMUTATED]
    broken = [each for each in verdicts if each.name == UNMUTATED and each.outcome != "survived"]
    print(f"{len(verdicts)} runs, {len(survivors)} mutants not killed")
    return 1 if survivors or broken else 0


if __name__ == "__main__":
    sys.exit(main())
