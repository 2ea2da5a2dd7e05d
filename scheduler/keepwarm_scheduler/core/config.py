"""What the core's decisions depend on besides its events: frozen, given once, each value with its unit and default."""

from dataclasses import dataclass

__all__ = ["CoreConfig", "MILLISECOND_NS", "SECOND_NS"]

SECOND_NS = 1_000_000_000
MILLISECOND_NS = 1_000_000
HOUR_US = 3_600_000_000


@dataclass(frozen=True, slots=True)
class CoreConfig:
    """What the core's decisions depend on besides its events."""

    local: bool = False
    """A local cluster: it stops itself when nothing is left to do."""
    tick_ns: int = 100 * MILLISECOND_NS
    """Resolution of leases: an instance ends at most one tick after its deadline."""
    beat_interval_ns: int = 2 * SECOND_NS
    beats_per_second_max: int = 200
    """Of all peers together: beyond 400 of them they beat less often than every ``beat_interval_ns``."""
    suspect_beats: int = 3
    """A node that has missed so many beats is given nothing new."""
    node_lost_ns: int = 30 * SECOND_NS
    """A node unheard for so long is lost: its calls are placed again."""
    reconnect_grace_ns: int = 1 * SECOND_NS
    """A node whose connection broke has this long to come back before it is lost."""
    node_forgotten_ns: int = 900 * SECOND_NS
    session_lost_ns: int = 30 * SECOND_NS
    recovery_grace_ns: int = 10 * SECOND_NS
    """After a restart, calls sent again wait so long for nodes that may be running them."""
    infeasible_ns: int = 5 * SECOND_NS
    """A call that no node could ever run fails after this."""
    no_nodes_ns: int = 60 * SECOND_NS
    """A call in a cluster without any node fails after this."""
    patience_ns: int = 1 * SECOND_NS
    """A call that waited so long may end an idle instance of another pool."""
    cancel_grace_us: int = 2_000_000
    local_linger_ns: int = 1 * SECOND_NS
    local_first_client_ns: int = 30 * SECOND_NS
    credit_calls: int = 10_000
    credit_bytes: int = 64 * 1024 * 1024
    functions_per_session_max: int = 10_000
    sessions_max: int = 10_000
    sessions_per_key_max: int = 2_000
    """So that one user's programs leave room for the others'. On a private socket there are no others."""
    node_memory_floor_bytes: int = 128 * 1024 * 1024
    """A node that measures less memory than this to be free ends idle instances, one with each beat."""
    undeclared_memory_bytes: int = 256 * 1024 * 1024
    start_attempts_max: int = 3
    crashes_max: int = 3
    expiries_per_turn_max: int = 1_000
    result_ttl_us: int = 24 * HOUR_US
    """How long the outcome of a detached call is kept when its submit does not say."""
    result_ttl_max_us: int = 30 * 24 * HOUR_US
    detached_bytes_max: int = 4 << 30
    """Arguments and results of detached calls on disk; beyond this no more calls are accepted."""
    detached_calls_max: int = 1_000_000
    """The same for their number, finished ones with unexpired results included."""
    key_retention_ns: int = 24 * HOUR_US * 1_000
    tombstone_ns: int = 7 * 24 * HOUR_US * 1_000
    tombstones_max: int = 100_000
    doubt_ns: int = 24 * HOUR_US * 1_000
    """For so long it is remembered that a call may have run that must not run twice."""
    detached_infeasible_ns: int = 600 * SECOND_NS
    """A detached call that no node could ever run fails after this; without any node it waits."""

    @classmethod
    def for_local(cls) -> "CoreConfig":
        """The settings of a local cluster. An agent whose connection broke has died: what it had keeps nobody here."""
        return cls(local=True, node_forgotten_ns=5 * SECOND_NS)
