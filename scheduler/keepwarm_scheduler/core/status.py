"""What the cluster looks like, as a JSON document for people and tools. Costs O(everything); asked for rarely."""

import json
from typing import Any

from keepwarm_scheduler.core import cordons
from keepwarm_scheduler.core.cluster import Cluster
from keepwarm_scheduler.core.explaining import call_id
from keepwarm_scheduler.core.state import Call, Instance, Node
from keepwarm_scheduler.core.transitions import CallState, InstanceState
from keepwarm_wire.fields import DOCUMENT_BYTES_MAX, FOREVER_US
from keepwarm_wire.identifiers import token_text
from keepwarm_wire.version import SOFTWARE

__all__ = ["describe", "document"]

_ROWS_MAX = 10_000


def document(cluster: Cluster) -> bytes:
    """The description as UTF-8 JSON, never larger than a message may be."""
    text = json.dumps(describe(cluster), ensure_ascii=False).encode()
    if len(text) > DOCUMENT_BYTES_MAX:
        text = json.dumps(describe(cluster, rows_max=100), ensure_ascii=False).encode()
    return text


def describe(cluster: Cluster, rows_max: int = _ROWS_MAX) -> dict[str, Any]:
    """Nodes, environments with their temperature per node, instances with their leases, calls, clients."""
    calls = [call for session in cluster.sessions.values() for call in session.calls.values()]
    unfinished = [call for call in calls if call.state is not CallState.DONE]
    return {
        "software": SOFTWARE,
        "cluster_id": cluster.cluster_id.hex(),
        "epoch": cluster.epoch,
        "uptime_s": (cluster.now_ns - cluster.started_ns) / 1e9,
        "local": cluster.config.local,
        "nodes": [_node(cluster, node) for node in cluster.nodes.values()],
        "nodes_away": {name: cordons.word(cluster, name) for name in cluster.cordons if name not in cluster.nodes},
        "environments": _environments(cluster)[:rows_max],
        "instances": [_instance(cluster, instance) for instance in list(cluster.instances.values())[:rows_max]],
        "calls": [_call(cluster, call) for call in unfinished[:rows_max]],
        "calls_unfinished": len(unfinished),
        "leases_ended_early": cluster.leases_broken,
        "clients": [
            {"label": session.label, "connected": bool(session.peer), "calls": len(session.calls)}
            for session in list(cluster.sessions.values())[:rows_max]
            if not session.is_keeper
        ],
    }


def _node(cluster: Cluster, node: Node) -> dict[str, Any]:
    silent_ns = cluster.now_ns - node.heard_ns
    return {
        "name": node.name,
        "state": node.state.value,
        "cordon": cordons.word(cluster, node.name),
        "platform": node.platform,
        "pythons": list(node.pythons),
        "labels": node.labels,
        "capacity": node.capacity,
        "free": node.free,
        "instances": len(node.instances),
        "heard_s_ago": silent_ns / 1e9,
    }


def _environments(cluster: Cluster) -> list[dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}

    def row(environment_id: str) -> dict[str, Any]:
        return rows.setdefault(
            environment_id, {"environment_id": environment_id, "python": "", "requirements": [], "nodes": {}}
        )

    for environment in cluster.environments.values():
        if environment.environment_id:
            entry = row(environment.environment_id)
            entry["python"] = environment.python
            if environment.spec:
                entry["requirements"] = json.loads(environment.spec).get("requirements", [])
    for node in cluster.nodes.values():
        for environment_id, size_bytes in node.environments.items():
            row(environment_id)["nodes"][node.name] = {"temperature": "built", "size_bytes": size_bytes}
    for instance in cluster.instances.values():
        if instance.state in (InstanceState.IDLE, InstanceState.BUSY):
            place = row(instance.pool.environment_id)["nodes"].setdefault(instance.node.name, {"size_bytes": 0})
            place["temperature"] = "warm"
    return list(rows.values())


def _instance(cluster: Cluster, instance: Instance) -> dict[str, Any]:
    remaining_us = instance.lease.remaining_us(cluster.now_ns)
    is_idle = instance.state is InstanceState.IDLE
    return {
        "instance": token_text(instance.instance_id),
        "node": instance.node.name,
        "pid": instance.process_id,
        "state": instance.state.value,
        "phase": instance.phase if instance.state is InstanceState.STARTING else "",
        "environment_id": instance.pool.environment_id,
        "lease_s": None if not is_idle else "forever" if remaining_us >= FOREVER_US else remaining_us / 1e6,
        "uses": instance.uses,
        "function": ""
        if instance.attempt is None or instance.attempt.call is None
        else instance.attempt.call.function.name,
    }


def _call(cluster: Cluster, call: Call) -> dict[str, Any]:
    return {
        "call": call_id(*call.key),
        "function": call.function.name,
        "state": call.state.value,
        "reason": call.reason if call.state is CallState.QUEUED else "",
        "node": "" if call.attempt is None else call.attempt.instance.node.name,
        "age_s": (cluster.now_ns - call.submitted_ns) / 1e9,
    }
