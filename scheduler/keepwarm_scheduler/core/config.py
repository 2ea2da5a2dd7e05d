"""What the core's decisions depend on besides its events: frozen, given once, each value with its unit and default."""

from dataclasses import dataclass

__all__ = ["CoreConfig", "MILLISECOND_NS", "SECOND_NS"]

SECOND_NS = 1_000_000_000
MILLISECOND_NS = 1_000_000


@dataclass(frozen=True, slots=True)
class CoreConfig:
    """What the core's decisions depend on besides its events."""

    local: bool = False
    """A local cluster: it stops itself when nothing is left to do."""
    tick_ns: int = 100 * MILLISECOND_NS
    """Resolution of leases: an instance ends at most one tick after its deadline."""
    beat_interval_ns: int = 2 * SECOND_NS
    suspect_beats: int = 3
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
    undeclared_memory_bytes: int = 256 * 1024 * 1024
    start_attempts_max: int = 3
    crashes_max: int = 3
    expiries_per_turn_max: int = 1_000

    @classmethod
    def for_local(cls) -> "CoreConfig":
        """The settings of a local cluster. An agent whose connection broke has died: what it had keeps nobody here."""
        return cls(local=True, node_forgotten_ns=5 * SECOND_NS)
