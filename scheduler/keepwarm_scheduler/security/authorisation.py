"""Who may send what: one row per message that the scheduler takes, with the roles that may send it. Pure.

What has no row is refused to everybody, the messages that only the scheduler sends included. The role is that of the
connection's key. What is *in* a message is checked where it is used: whose call, whose node, which namespace.
"""

from keepwarm_scheduler.core.events import LOCAL, Principal
from keepwarm_wire import messages as wire
from keepwarm_wire.credentials import ROLE_ADMIN, ROLE_AGENT, ROLE_CLIENT, ROLE_TOKEN

__all__ = ["FROM_THE_SCHEDULER", "MAY_SEND", "may_send", "refusal"]

_TOKEN = frozenset({ROLE_TOKEN})
_ADMIN = frozenset({ROLE_ADMIN})
_AGENT = frozenset({ROLE_AGENT})
_CALLERS = frozenset({ROLE_CLIENT, ROLE_ADMIN})
"""Who may call functions. An administrator may: whoever makes tokens could make themselves a client's key."""
_PEERS = frozenset({ROLE_CLIENT, ROLE_AGENT, ROLE_ADMIN})

MAY_SEND: dict[type, frozenset[str]] = {
    wire.ClientHello: _CALLERS,
    wire.DeclareFunction: _CALLERS,
    wire.Submit: _CALLERS,
    wire.Borrow: _CALLERS,
    wire.Cancel: _CALLERS,
    wire.ForgetFunctions: _CALLERS,
    wire.Received: _CALLERS,
    wire.ClientBeat: _CALLERS,
    wire.ExplainRequest: _CALLERS,
    wire.SubmitDetached: _CALLERS,
    wire.AttachDetached: _CALLERS,
    wire.ListDetached: _CALLERS,
    wire.ShowDetached: _CALLERS,
    wire.CancelDetached: _CALLERS,
    wire.ForgetDetached: _CALLERS,
    wire.AgentHello: _AGENT,
    wire.AgentBeat: _AGENT,
    wire.LockMade: _AGENT,
    wire.LockFailed: _AGENT,
    wire.LockProgress: _AGENT,
    wire.InstanceProgress: _AGENT,
    wire.InstanceReady: _AGENT,
    wire.InstanceBusy: _AGENT,
    wire.InstanceEnded: _AGENT,
    wire.AttemptStarted: _AGENT,
    wire.AttemptOutput: _AGENT,
    wire.AttemptDone: _AGENT,
    wire.AttemptRefused: _AGENT,
    wire.NeedFunction: _AGENT,
    wire.PayloadOffer: _PEERS,
    wire.PayloadCredit: _PEERS,
    wire.PayloadChunk: _PEERS,
    wire.PayloadRefused: _PEERS,
    wire.Goodbye: _PEERS,
    wire.RotateKey: _PEERS,
    wire.AdminHello: _ADMIN,
    wire.StatusRequest: _ADMIN,
    wire.StopCluster: _ADMIN,
    wire.NewToken: _ADMIN,
    wire.ListKeys: _ADMIN,
    wire.RevokeKey: _ADMIN,
    wire.BackUp: _ADMIN,
    wire.CordonNode: _ADMIN,
    wire.ShowNode: _ADMIN,
    wire.Enrol: _TOKEN,
}

FROM_THE_SCHEDULER: frozenset[type] = frozenset(
    {
        wire.Welcome,
        wire.Refused,
        wire.ClientBeatReply,
        wire.Outcome,
        wire.Progress,
        wire.Output,
        wire.LeaseBroken,
        wire.Lent,
        wire.LoanWanted,
        wire.DetachedAccepted,
        wire.DetachedRefused,
        wire.DetachedOutcome,
        wire.DetachedListed,
        wire.DetachedShown,
        wire.DetachedCancelled,
        wire.DetachedForgotten,
        wire.PayloadStored,
        wire.MakeLock,
        wire.StartInstance,
        wire.StopInstance,
        wire.Dispatch,
        wire.CancelAttempt,
        wire.RecallAttempts,
        wire.FunctionBody,
        wire.Final,
        wire.AgentBeatReply,
        wire.StatusReply,
        wire.StopRefused,
        wire.ExplainReply,
        wire.Enrolled,
        wire.TokenMade,
        wire.KeysListed,
        wire.KeyRevoked,
        wire.KeyRotated,
        wire.KeyRefused,
        wire.NodeChanged,
        wire.NodeRefused,
        wire.BackUpDone,
        wire.BackUpRefused,
    }
)
"""What nobody may send to it. With ``MAY_SEND`` this is every message there is: a new one has to be put into either."""

_NOBODY: frozenset[str] = frozenset()


def may_send(role: str, kind: type) -> bool:
    """Whether a peer in this role may send messages of this kind.

    The role of a local socket may do what every key may that is kept; tokens are of no use there.
    """
    roles = MAY_SEND.get(kind, _NOBODY)
    return role in roles or (role == LOCAL.role and bool(roles - _TOKEN))


def refusal(principal: Principal, message: wire.Message) -> wire.Refused | None:
    """None if the message may be handled, else what its sender is told."""
    kind = type(message)
    if may_send(principal.role, kind):
        return None
    roles = sorted(MAY_SEND.get(kind, _NOBODY))
    who = f"that takes the role {' or '.join(roles)}" if roles else "only the scheduler sends it"
    return wire.Refused("forbidden", f"A connection in the role {principal.role} may not send {kind.__name__}: {who}.")
