"""One workload with one system, in a process of its own that is the root of all that it starts.

    python -m benchmarks.hot_path.child WORKLOAD SYSTEM TIER FILE

It writes what it has measured to the file, as JSON. Rule: it adopts the orphans of its tree, so that daemons that
detach themselves are counted, and leaves the ending of the tree to whoever started it.
"""

import json
import sys
from pathlib import Path

from benchmarks.hot_path.choosing import make
from benchmarks.hot_path.peers import PEERS
from benchmarks.hot_path.plan import MEASURED_BY
from benchmarks.hot_path.processes import adopt_orphans, use_processors
from benchmarks.hot_path.systems import WORKERS
from benchmarks.hot_path.tiers import TIERS
from benchmarks.hot_path.workloads import Skipped


def main() -> None:
    """Measure."""
    workload, name, tier, file = sys.argv[1:]
    adopt_orphans()
    use_processors(WORKERS)
    sizes = TIERS[tier].for_peers() if name in PEERS else TIERS[tier]
    answer: dict[str, object] = {}
    with make(name) as system:
        try:
            answer["measured"] = [one._asdict() for one in MEASURED_BY[workload](system, sizes)]
        except Skipped as reason:
            answer["skipped"] = str(reason)
        Path(file).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main()
