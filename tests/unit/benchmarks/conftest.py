"""Makes the benchmarks importable: they are no installed package, and are run from the root of the repository."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))
