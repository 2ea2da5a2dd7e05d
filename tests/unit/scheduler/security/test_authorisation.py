"""Who may send what: every message has its row, and what has none is refused to everybody."""

from typing import Any

import pytest

from keepwarm_scheduler.core import machine
from keepwarm_scheduler.core.events import LOCAL, Principal
from keepwarm_scheduler.security.answering import ABOUT_KEYS
from keepwarm_scheduler.security.authorisation import FROM_THE_SCHEDULER, MAY_SEND, may_send, refusal
from keepwarm_wire import messages as wire
from keepwarm_wire.credentials import ROLES
from keepwarm_wire.messages import TAGS
from support.wire_values import example

ALL_ROLES = (*ROLES, "token", LOCAL.role)

MATRIX = """
                    admin client agent token any
ClientHello           x     x      .     .    x
DeclareFunction       x     x      .     .    x
Submit                x     x      .     .    x
Borrow                x     x      .     .    x
Cancel                x     x      .     .    x
ForgetFunctions       x     x      .     .    x
Received              x     x      .     .    x
ClientBeat            x     x      .     .    x
ExplainRequest        x     x      .     .    x
SubmitDetached        x     x      .     .    x
AttachDetached        x     x      .     .    x
ListDetached          x     x      .     .    x
ShowDetached          x     x      .     .    x
CancelDetached        x     x      .     .    x
ForgetDetached        x     x      .     .    x
AgentHello            .     .      x     .    x
AgentBeat             .     .      x     .    x
LockMade              .     .      x     .    x
LockFailed            .     .      x     .    x
LockProgress          .     .      x     .    x
InstanceProgress      .     .      x     .    x
InstanceReady         .     .      x     .    x
InstanceBusy          .     .      x     .    x
InstanceEnded         .     .      x     .    x
AttemptStarted        .     .      x     .    x
AttemptOutput         .     .      x     .    x
AttemptDone           .     .      x     .    x
AttemptRefused        .     .      x     .    x
NeedFunction          .     .      x     .    x
PayloadOffer          x     x      x     .    x
PayloadCredit         x     x      x     .    x
PayloadChunk          x     x      x     .    x
PayloadRefused        x     x      x     .    x
Goodbye               x     x      x     .    x
RotateKey             x     x      x     .    x
AdminHello            x     .      .     .    x
StatusRequest         x     .      .     .    x
StopCluster           x     .      .     .    x
NewToken              x     .      .     .    x
ListKeys              x     .      .     .    x
RevokeKey             x     .      .     .    x
BackUp                x     .      .     .    x
CordonNode            x     .      .     .    x
ShowNode              x     .      .     .    x
Enrol                 .     .      .     x    .
"""
"""The table once more, as people read it: a right that is given by a slip of the pen is not given here too."""


def principal(role: str) -> Principal:
    return Principal("key", role, "default")


def test_every_message_has_a_row_or_comes_from_the_scheduler_alone() -> None:
    """A new message is in neither: put it into one."""
    assert set(MAY_SEND) | FROM_THE_SCHEDULER == set(TAGS.values())
    assert not set(MAY_SEND) & FROM_THE_SCHEDULER


def test_the_table_says_what_people_read() -> None:
    header, *rows = MATRIX.strip("\n").splitlines()
    roles = header.split()
    assert sorted(roles) == sorted(ALL_ROLES)
    read = {
        row.split()[0]: {role for role, mark in zip(roles, row.split()[1:], strict=True) if mark == "x"} for row in rows
    }
    assert read == {kind.__name__: {role for role in roles if may_send(role, kind)} for kind in MAY_SEND}


def test_everything_that_is_handled_has_a_row() -> None:
    """What the core and the answers about keys take cannot be refused to everybody by mistake."""
    assert {*machine._FROM_CLIENT, *machine._FROM_AGENT, *ABOUT_KEYS} <= set(MAY_SEND)


def test_handlers_of_one_role_take_what_that_role_may_send() -> None:
    for role, handlers in (("client", machine._FROM_CLIENT), ("agent", machine._FROM_AGENT)):
        assert [kind for kind in handlers if not may_send(role, kind)] == []


@pytest.mark.parametrize("role", ALL_ROLES)
@pytest.mark.parametrize("kind", sorted(FROM_THE_SCHEDULER, key=str), ids=lambda kind: kind.__name__)
def test_nobody_sends_what_the_scheduler_sends(role: str, kind: type[Any]) -> None:
    assert not may_send(role, kind)
    refused = refusal(principal(role), example(kind))
    assert refused is not None
    assert refused.code == "forbidden"
    assert kind.__name__ in refused.reason


@pytest.mark.parametrize("role", ["", "Admin", "server", "root", "admin client"])
@pytest.mark.parametrize("kind", MAY_SEND, ids=lambda kind: kind.__name__)
def test_unknown_roles_may_send_nothing(role: str, kind: type[Any]) -> None:
    assert not may_send(role, kind)


def test_what_is_no_message_may_be_sent_by_nobody() -> None:
    assert not any(may_send(role, kind) for role in ALL_ROLES for kind in (str, object, type(None)))


def test_a_token_may_enrol_and_nothing_else() -> None:
    assert [kind for kind in TAGS.values() if may_send("token", kind)] == [wire.Enrol]


def test_a_refusal_says_who_may() -> None:
    refused = refusal(principal("client"), wire.StopCluster(True))
    assert refused is not None
    assert refused.reason == ("A connection in the role client may not send StopCluster: that takes the role admin.")
    assert refusal(principal("client"), wire.Cancel(1)) is None
    assert refusal(LOCAL, wire.StopCluster(True)) is None
