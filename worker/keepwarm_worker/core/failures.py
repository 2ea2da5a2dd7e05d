"""What the agent itself says went wrong: kinds, words, and the cutting of texts to what a message may hold."""

from keepwarm_wire.fields import CHUNK_BYTES_MAX, FOREVER_US, TEXT_LONG_MAX
from keepwarm_wire.messages import Failure

__all__ = [
    "CANCELLED",
    "NODE_STOPPING",
    "OUT_OF_MEMORY",
    "PROCESS_DIED",
    "PYTHON_MISMATCH",
    "RUN_TIMEOUT",
    "SENTENCE_MAX",
    "STARTUP_TIMEOUT",
    "START_FAILED",
    "failure",
    "seconds",
]

CANCELLED = "cancelled"
NODE_STOPPING = "node_stopping"
OUT_OF_MEMORY = "out_of_memory"
PROCESS_DIED = "process_died"
PYTHON_MISMATCH = "python_mismatch"
RUN_TIMEOUT = "run_timeout"
STARTUP_TIMEOUT = "startup_timeout"
START_FAILED = "start_failed"

SENTENCE_MAX = 8192


def failure(kind: str, message: str, detail: str = "", exception: bytes = b"") -> Failure:
    """A failure that fits into a message: of a long detail the end is kept, of an over-large exception nothing."""
    return Failure(
        kind,
        message[:SENTENCE_MAX],
        detail[-TEXT_LONG_MAX:],
        exception if len(exception) <= CHUNK_BYTES_MAX else b"",
    )


def seconds(duration_us: int) -> str:
    """A duration for people: ``2.5 s``."""
    return "no limit" if duration_us >= FOREVER_US else f"{duration_us / 1_000_000:g} s"
