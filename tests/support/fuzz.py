"""Frames by the hundred million: mutated and decoded, in blocks that can be run again one by one.

``PYTHONPATH=tests python -m support.fuzz --frames 100000000 --processes 2`` says how far it is and ends with 1 if any
frame raised anything but ``ProtocolError``, or gave a message that cannot be sent. A block is a function of the seed
and its number, so a run that was interrupted goes on with ``--first`` and the number that its last line named.
"""

import argparse
import multiprocessing
import os
import random
import sys
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from keepwarm_wire.codec import ProtocolError, decode_frame, encode_frame
from support.mutations import mutate

__all__ = ["BLOCK", "Block", "UnexpectedError", "batter", "main"]

BLOCK = 10_000
"""Frames that share a generator."""

_PROGRESS_S = 10.0


class UnexpectedError(AssertionError):
    """A frame raised what no frame may raise. The message holds seed, block, number and bytes."""


class Block(NamedTuple):
    """What became of the frames of one block, or of several: the rest were messages."""

    number: int
    frames: int
    refused: int


def batter(seed: int, number: int) -> Block:
    """Decode the frames of one block. Raises ``UnexpectedError`` for what a frame may not do."""
    rng = random.Random(f"{seed}:{number}")
    refused = 0
    for at in range(BLOCK):
        frame = mutate(rng)
        try:
            messages = decode_frame(frame)
            if decode_frame(encode_frame(messages)) != messages:
                raise ValueError("what was decoded does not survive the journey")
        except ProtocolError:
            refused += 1
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            raise UnexpectedError(f"seed {seed}, block {number}, frame {at}: {error!r} from {frame.hex()}") from error
    return Block(number, BLOCK, refused)


def _batter(task: tuple[int, int]) -> Block | str:
    try:
        return batter(*task)
    except UnexpectedError as error:
        return str(error)


def _run(seed: int, blocks: range, processes: int) -> Iterator[Block | str]:
    tasks = ((seed, number) for number in blocks)
    if processes == 1:
        yield from map(_batter, tasks)
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap(_batter, tasks, chunksize=8)


def _arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m support.fuzz", description="Decode mutated frames.")
    parser.add_argument("--frames", type=int, default=1_000_000, help="how many; default 1,000,000")
    parser.add_argument("--first", type=int, default=0, help="the number of the first one; default 0")
    parser.add_argument("--seed", type=int, default=1, help="another seed gives other frames; default 1")
    parser.add_argument("--processes", type=int, default=1, help="default 1")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long; default never")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """The command; its exit status."""
    asked = _arguments(arguments)
    first = asked.first // BLOCK
    blocks = range(first, first + -(-asked.frames // BLOCK))
    began_s = told_s = time.monotonic()
    began_cpu_s = time.process_time()
    frames = refused = 0
    failures: list[str] = []
    for done in _run(asked.seed, blocks, asked.processes):
        if isinstance(done, str):
            failures.append(done)
            print(done, flush=True)
            continue
        frames, refused = frames + done.frames, refused + done.refused
        now_s = time.monotonic()
        if now_s - told_s >= _PROGRESS_S or done.number == blocks[-1] or now_s - began_s >= asked.seconds:
            told_s = now_s
            speed = frames / max(1e-9, now_s - began_s)
            print(
                f"seed {asked.seed}: {frames:,} frames, {refused:,} refused, {len(failures)} failures, "
                f"{speed:,.0f}/s; go on with --first {(done.number + 1) * BLOCK}",
                flush=True,
            )
        if now_s - began_s >= asked.seconds:
            break
    if asked.processes == 1:
        print(f"{frames / max(1e-9, time.process_time() - began_cpu_s):,.0f} frames per CPU second, pid {os.getpid()}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
