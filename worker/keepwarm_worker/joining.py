"""Joining a cluster: the agent's own key, made here once and enrolled with a token.

The secret half never leaves this machine; the token proves the scheduler before anything is sent to it. The key is
kept in the agent's home, so that later starts need no token, and a token that is given again is not used again.
"""

import logging
import time

import zmq

from keepwarm_wire.addresses import is_remote
from keepwarm_wire.credentials import ROLE_AGENT, CredentialError, KeyPair, Token, as_name, to_z85
from keepwarm_wire.key_files import StoredKey, read_key, write_key
from keepwarm_wire.messages import Enrol, Enrolled, KeyRefused, Refused
from keepwarm_wire.version import PROTOCOL_MAX, PROTOCOL_MIN, SOFTWARE
from keepwarm_worker.config import AgentConfig
from keepwarm_worker.scheduler_link import KEY_REFUSED, SchedulerLink

__all__ = ["KEY_FILE", "JoinError", "join"]

KEY_FILE = "agent.key"
ENROL_TIMEOUT_S = 30.0
REPEAT_S = 1.0
_POLL_MS = 20

_log = logging.getLogger(__name__)


class JoinError(Exception):
    """The agent cannot join. The message says why and what to do."""


def join(config: AgentConfig) -> StoredKey | None:
    """The agent's key for its cluster; ``None`` for a socket of this machine whose scheduler asks for none.

    Raises:
        JoinError: there is no key and no token, one of them cannot be used, or the scheduler refuses or is silent.
    """
    path = config.home / KEY_FILE
    try:
        token = Token.parse(config.token) if config.token else None
        known = read_key(path) if path.exists() else None
        if known is not None and (token is None or token.server_public == known.server):
            return known
        if token is None:
            if is_remote(config.scheduler):
                raise JoinError(
                    f"{config.scheduler}: this agent has no key yet. Make a token where the scheduler runs, with "
                    "`keepwarm token new --role agent`, and start the agent with --join TOKEN."
                )
            return None
        if token.role != ROLE_AGENT:
            raise JoinError(
                f"This token is for a {token.role}: an agent needs one of `keepwarm token new --role agent`."
            )
        pair = KeyPair.from_z85(*zmq.curve_keypair())
        enrolled = _enrol(config, token, pair)
        key = StoredKey(enrolled.role, enrolled.name, pair, token.server_public)
        write_key(path, key, replace=True)
    except CredentialError as error:
        raise JoinError(str(error)) from None
    _log.info("joined the cluster as %s; the key is in %s", enrolled.name, path)
    return key


def _enrol(config: AgentConfig, token: Token, pair: KeyPair) -> Enrolled:
    secret = to_z85(token.secret).encode()
    token_key = StoredKey(ROLE_AGENT, "token", KeyPair.from_z85(zmq.curve_public(secret), secret), token.server_public)
    question = Enrol(PROTOCOL_MIN, PROTOCOL_MAX, SOFTWARE, pair.public, as_name(config.node))
    link = SchedulerLink(config.scheduler, token_key)
    end_s = time.monotonic() + ENROL_TIMEOUT_S
    say_again_s = 0.0
    try:
        while (now_s := time.monotonic()) < end_s:
            change = link.changes()
            if change.refusal:
                raise JoinError(_refused_words(config.scheduler, change.refusal))
            if now_s >= say_again_s and link.send([question]):
                say_again_s = now_s + REPEAT_S
            link.wait(_POLL_MS)
            for message in link.receive():
                if isinstance(message, Enrolled) and message.public_key == pair.public:
                    return message
                if isinstance(message, KeyRefused | Refused):
                    raise JoinError(f"The scheduler at {config.scheduler} refuses: {message.reason}")
    finally:
        link.close()
    raise JoinError(
        f"The scheduler at {config.scheduler} did not answer within {ENROL_TIMEOUT_S:g} s. Check that it runs there, "
        "and that no firewall is between."
    )


def _refused_words(address: str, refusal: str) -> str:
    if refusal == KEY_REFUSED:
        return (
            f"The scheduler at {address} does not accept this token: it was used up, has expired or was withdrawn. "
            "Ask for another: `keepwarm token new --role agent`."
        )
    return (
        f"Who answers at {address} does not prove to be the scheduler that this token is of: its keys were made anew, "
        "it has none, or it is another. Check the address, or ask for another token."
    )
