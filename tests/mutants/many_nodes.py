"""Mutants of what many nodes need: suspicion, cordons and drains, the pace of beats, GPUs; see ``table``."""

from mutants.mutant import Mutant, one

__all__ = ["NODES"]

_CORE = "keepwarm_scheduler.core."
_STATES, _CORDONS, _PACE = _CORE + "nodes", _CORE + "cordons", _CORE + "beat_pacing"
_DEVICES = "keepwarm_worker.core.devices"
_UNIT_STATES = "unit/scheduler/core/test_node_states.py::test_"
_UNIT_CORDONS = "unit/scheduler/core/test_cordons.py::test_"
_PACING = "property/test_beat_pacing.py"
_GPUS = "property/test_devices.py"

NODES: dict[str, Mutant] = {
    "a suspect node goes on getting calls": one(
        _STATES,
        "        change(node, NODE, NodeState.SUSPECT)\n        close_node(node)\n",
        "        change(node, NODE, NodeState.SUSPECT)\n",
        _UNIT_STATES + "a_node_silent",
    ),
    "a paused scheduler gives its nodes up unheard": one(
        _STATES,
        '        cluster.timer("node", node.name, max(lost_in_ns, cluster.config.reconnect_grace_ns))\n',
        '        cluster.timer("node", node.name, lost_in_ns)\n',
        _UNIT_STATES + "a_scheduler_that_was_paused",
    ),
    "a suspect node that speaks stays suspect": one(
        _CORE + "machine",
        "            if owner.state is NodeState.SUSPECT:\n",
        "            if owner.state is NodeState.LOST:\n",
        _UNIT_STATES,
    ),
    "an order is answered before it is on disk": one(
        _CORDONS,
        "cluster.effects.append(Send(peer, _standing(cluster, message.request_number, name), after_sync=True))",
        "cluster.effects.append(Send(peer, _standing(cluster, message.request_number, name)))",
        _UNIT_CORDONS + "an_order_is_on_disk",
    ),
    "a drain does not wait for leases": one(
        _CORDONS,
        "    is_over = cluster.now_ns >= cordon.until_ns\n",
        "    is_over = True\n",
        _UNIT_CORDONS + "leases_that_last",
    ),
    "a new agent of a cordoned node is given calls": one(
        _STATES,
        "        is_closed=hello.node in cluster.cordons,\n",
        "",
        _UNIT_CORDONS + "an_order_outlives",
    ),
    "an agent that came back is sent away again": one(
        _CORE + "machine",
        "    cordons.has_left(cluster, node.name)\n",
        "",
        _UNIT_CORDONS + "an_agent_that_left",
    ),
    "calls that a cordoned node could run fail as impossible": one(
        _CORE + "places",
        "    return (\n        is_there(node)\n        and pool.python",
        "    return (\n        is_usable(node)\n        and pool.python",
        _UNIT_CORDONS + "calls_wait_while",
    ),
    "all peers beat at once": one(_PACE, "self._free_ns = due_ns + self._gap_ns", "self._free_ns = due_ns", _PACING),
    "peers that beat uninvited put the others off for ever": one(
        _PACE, "min(self._free_ns, latest_ns)", "self._free_ns", _PACING
    ),
    "a gpu is promised twice": one(
        _DEVICES, "        for name in names:\n            self._free[name] -= each\n", "", _GPUS
    ),
    "a gpu that comes back is forgotten": one(
        _DEVICES, "        for name in names:\n            self._free[name] += each\n", "", _GPUS
    ),
}
