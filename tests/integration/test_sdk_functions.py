"""More functions than a scheduler takes of one client, on a real cluster; and functions inside functions."""

from pathlib import Path
from typing import Any

import pytest

from support.programs import logs_of, run_program

pytestmark = pytest.mark.integration


def value_of(home: Path, text: str) -> Any:
    """Run a program; the JSON of its last line. It says nothing on stderr."""
    ended = run_program(home, text)
    assert (ended.code, ended.err) == (0, ""), (ended, logs_of(home))
    return ended.value


def test_more_functions_than_a_scheduler_takes_of_one_client(shared_home: Path) -> None:
    """Each set of options is a function of its own; those not called for longest are forgotten, on both sides."""
    text = """
    from collections import deque
    from keepwarm.client import get_client
    @isolated(keep_alive=60)
    def same(number): return number
    pending, wrong = deque(), 0
    for number in range(10_500):
        pending.append((number, same.on(keep_alive=60, timeout=1000 + number / 1000).submit(number)))
        if len(pending) == 200:
            expected, future = pending.popleft()
            wrong += future.result() != expected
    wrong += sum(future.result() != expected for expected, future in pending)
    again = same.on(keep_alive=60, timeout=1000)(7)
    print(json.dumps([wrong, again, get_client()._connection.generation]))
    """
    assert value_of(shared_home, text) == [0, 7, 0]


def test_functions_inside_functions(shared_home: Path) -> None:
    """In real processes: async ones with and without a loop, ``local``, and what there is no cluster for."""
    text = """
    import asyncio
    @isolated
    async def later(number):
        await asyncio.sleep(0)
        return number + 1
    @isolated(setup=lambda: 10)
    async def with_setup(ten, number):
        return ten + number
    @isolated
    def plain(number):
        return later(number), with_setup(number), later.local(number)
    @isolated
    async def in_a_loop(number):
        return later(number), with_setup(number), plain.local(number)
    @isolated
    def submits(number):
        return plain.submit(number)
    try:
        submits(1)
    except RuntimeError as error:
        said = str(error)
    print(json.dumps([plain(1), in_a_loop(1), said]))
    """
    plain, in_a_loop, said = value_of(shared_home, text)
    assert plain == [2, 11, 2]
    assert in_a_loop == [2, 11, [2, 11, 2]]
    assert said.startswith("inside another function's process __main__:plain is the plain function: call it directly")
