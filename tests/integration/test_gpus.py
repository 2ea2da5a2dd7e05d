"""What functions see of the GPUs that an agent offers. Which there are is told to the agent, for here are none."""

import ast
from pathlib import Path

from support.programs import run_program, status
from support.secured import Daemon
from support.waiting import until

SEES = """
from keepwarm import Resources
def seen():
    import os
    return os.environ.get("CUDA_VISIBLE_DEVICES")
def on(gpus, keep_alive=60):
    return isolated(keep_alive=keep_alive, resources=Resources(cpu=0.1, gpu=gpus))(seen)
print([on(1)(), on(2)(), on(0)()])
on(3, keep_alive=0)()
print(on(3)())
"""


def test_each_process_sees_its_own_gpus_and_those_of_ended_ones_come_back(home: Path) -> None:
    """Three GPUs: one for the first, two for the second, none for the third; then those make room for all three."""
    daemons = [Daemon(home, "scheduler", "scheduler"), Daemon(home, "agent", "agent", "--node", "a", "--gpus", "3")]
    chosen = {"KEEPWARM_ADDRESS": f"ipc://{home}/cluster/scheduler.sock"}
    try:
        until(lambda: [row["capacity"]["gpu"] for row in _nodes(home, chosen)] == [3000])
        ended = run_program(home, SEES, chosen)
        assert ended.code == 0, ended
        first, last = ended.out.splitlines()
        assert ast.literal_eval(first) == ["0", "1,2", ""]
        assert last == "0,1,2"
        assert [row["free"]["gpu"] for row in _nodes(home, chosen)] == [0]
    finally:
        for daemon in daemons[::-1]:
            daemon.end()


def _nodes(home: Path, chosen: dict[str, str]) -> list[dict[str, dict[str, int]]]:
    if not (home / "cluster/scheduler.sock").exists():
        return []
    nodes: list[dict[str, dict[str, int]]] = status(home, chosen)["nodes"]
    return nodes
