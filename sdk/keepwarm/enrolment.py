"""Joining a cluster with a token: a key pair is made here, and its public half enrolled there.

The secret half never leaves this machine, and the token proves the scheduler before anything is sent to it. Used by
``keepwarm login``; an agent does the same on its own.
"""

import contextlib
import getpass
import socket as sockets
import time

import zmq

from keepwarm import logins
from keepwarm.errors import ClusterUnreachable, OptionError, ProtocolMismatch, SchedulerRefused
from keepwarm.transport import KEY_REFUSED, Transport
from keepwarm.waking import Wakeup
from keepwarm_wire.credentials import CredentialError, KeyPair, Token, as_name, to_z85
from keepwarm_wire.key_files import StoredKey, write_key
from keepwarm_wire.messages import Enrol, Enrolled, KeyRefused, Refused
from keepwarm_wire.version import PROTOCOL_MAX, PROTOCOL_MIN, SOFTWARE

__all__ = ["default_name", "log_in", "new_key_pair"]

ENROL_TIMEOUT_S = 15.0
REPEAT_S = 1.0


def new_key_pair() -> KeyPair:
    """A new CURVE key pair."""
    return KeyPair.from_z85(*zmq.curve_keypair())


def default_name() -> str:
    """What this user's key is called unless something else is said: ``user@host``."""
    user = "user"
    with contextlib.suppress(OSError, KeyError, ImportError):
        user = getpass.getuser()
    return as_name(f"{user}@{sockets.gethostname().partition('.')[0]}")


def log_in(token_text: str, address: str, name: str = "") -> tuple[StoredKey, Enrolled]:
    """Enrol a new key with a token and keep it for this cluster, in place of an older one.

    Raises:
        OptionError: the token is damaged, or is not for a client or an administrator.
        ClusterUnreachable: the scheduler does not answer within 15 seconds.
        SchedulerRefused: it does not accept the token, or the name.
    """
    addresses = logins.parse(address)
    try:
        token = Token.parse(token_text)
    except CredentialError as error:
        raise OptionError(str(error)) from None
    if token.role == "agent":
        raise OptionError(
            f"This token is for an agent: start one with `keepwarm agent --join TOKEN --at {address}`. "
            "For programs, ask for one of `keepwarm token new --role client`."
        )
    pair = new_key_pair()
    enrolled = _enrol(token, addresses[0], pair, name or default_name())
    key = StoredKey(enrolled.role, enrolled.name, pair, token.server_public)
    try:
        for each in addresses:
            write_key(logins.key_path(each), key, replace=True)
    except CredentialError as error:
        raise OptionError(str(error)) from None
    return key, enrolled


def _enrol(token: Token, address: str, pair: KeyPair, name: str) -> Enrolled:
    question = Enrol(PROTOCOL_MIN, PROTOCOL_MAX, SOFTWARE, pair.public, name)
    wakeup = Wakeup()
    transport = Transport(address, wakeup, _key_of(token))
    end_s = time.monotonic() + ENROL_TIMEOUT_S
    say_again_s = 0.0
    try:
        while (now_s := time.monotonic()) < end_s:
            if now_s >= say_again_s and not transport.is_congested:
                say_again_s = now_s + REPEAT_S
                transport.send([question])
            arrivals = transport.receive(max(0.0, min(end_s, say_again_s) - now_s))
            if arrivals.refusal:
                raise SchedulerRefused(_refused_words(address, arrivals.refusal))
            for message in arrivals.messages:
                if isinstance(message, Enrolled) and message.public_key == pair.public:
                    return message
                if isinstance(message, KeyRefused):
                    raise SchedulerRefused(f"the scheduler at {address} refuses: {message.reason}")
                if isinstance(message, Refused):
                    kind = ProtocolMismatch if message.code in ("protocol", "version") else SchedulerRefused
                    raise kind(f"the scheduler at {address} refuses: {message.reason}")
    finally:
        transport.close(linger_s=0)
        wakeup.close()
    raise ClusterUnreachable(
        f"the scheduler at {address} did not answer within {ENROL_TIMEOUT_S:g} s. Check that it runs there, and that "
        "no firewall is between."
    )


def _key_of(token: Token) -> StoredKey:
    secret = to_z85(token.secret).encode()
    return StoredKey(token.role, "token", KeyPair.from_z85(zmq.curve_public(secret), secret), token.server_public)


def _refused_words(address: str, refusal: str) -> str:
    if refusal == KEY_REFUSED:
        return (
            f"the scheduler at {address} does not accept this token: it was used up, has expired or was withdrawn. "
            "Ask for another: `keepwarm token new`."
        )
    return (
        f"who answers at {address} does not prove to be the scheduler that this token is of: its keys were made anew, "
        "it has none, or it is another. Check the address, or ask for another token."
    )
