"""One hosted instance: its process, its channels, what it was given; and what it has printed."""

import errno
import os
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from keepwarm_worker.processes import FrameReader, FrameWriter, InstanceProcess

__all__ = ["OUTPUT_READ_BYTES", "Hosted", "outputs", "printer", "read_available"]

OUTPUT_READ_BYTES = 64 * 1024
DRAIN_READS_MAX = 16
"""A pipe holds 64 KiB unless someone made it 1 MiB: more than this was written after we began to read."""


@dataclass(slots=True, eq=False)
class Hosted:
    instance_id: int
    process: InstanceProcess
    reader: FrameReader
    data: FrameWriter
    control_reader: FrameReader
    control: FrameWriter
    directory: Path
    given: deque[int] = field(default_factory=deque)
    """The attempts that it was given and has not answered yet, in the order in which it runs them."""
    run_us: int = 0
    """How long its last call ran."""
    recalling: dict[int, None] = field(default_factory=dict)
    """Those of them that it was asked not to begin, until it has answered."""
    announced: int = 0
    """The last attempt whose beginning the core was told of."""
    is_killed_by_us: bool = False

    @property
    def results(self) -> Path:
        return self.directory / "results"


def printer(hosted: Hosted, read_ns: int) -> int:
    """Which of the calls that a runner has been given printed what was read then; 0 for the one that is served.

    A call begins only when everything that the one before it printed has been read. So what was there to be read
    before a call began is the other's.
    """
    given = hosted.given
    if len(given) < 2:
        return 0
    attempt, began_ns = hosted.process.board.read()
    if attempt not in given or began_ns < read_ns:
        return attempt if attempt in given else 0
    place = given.index(attempt)
    return given[place - 1] if place else 0


def outputs(hosted: Hosted) -> tuple[tuple[int, int], tuple[int, int]]:
    return (1, hosted.process.stdout_fd), (2, hosted.process.stderr_fd)


def read_available(descriptor: int) -> list[bytes]:
    """What is in a pipe now."""
    pieces: list[bytes] = []
    for _ in range(DRAIN_READS_MAX):
        try:
            data = os.read(descriptor, OUTPUT_READ_BYTES)
        except OSError as error:
            if error.errno != errno.EAGAIN:
                raise
            break
        if not data:
            break
        pieces.append(data)
    return pieces
