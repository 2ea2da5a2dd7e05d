"""The keys and join tokens that the scheduler knows, and what may become of them. Pure: wall time is an argument.

Rules:

* A key's role and namespace are those of the token that it was enrolled with. No message can change them.
* A public key is known once: as a key, a token or the scheduler's own. A revoked key does not come back.
* A name belongs to at most one live key, so that people and logs can say who did something. A revoked key's is free.
* A token is good ``uses`` times, until it expires, with the scheduler's key that it names.
* Repeating a request that was done is answered like the first time, for the answer may have been lost. Only a
  rotation is not: the old key is refused from then on, and its owner finds out by trying the new one.
* Every method that changes something returns a ``Change``; its records have to be on disk before anybody is told.

Wall time outlives restarts, but may be wrong: a clock that stands before a token's creation finds it not yet good, and
a lifetime is bounded, so a clock that was set back lengthens a token by no more than its lifetime.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from keepwarm_scheduler.core.events import Principal
from keepwarm_scheduler.security.records import ForgetCredential, KeyRecord, Record, TokenRecord
from keepwarm_wire.credentials import (
    DEFAULT_NAMESPACE,
    ROLE_ADMIN,
    ROLE_CLIENT,
    ROLE_TOKEN,
    ROLES,
    CredentialError,
    check_name,
    check_public_key,
    fingerprint,
    from_z85,
    is_fingerprint,
    to_z85,
)

__all__ = [
    "Accepted",
    "Change",
    "KEYS_MAX",
    "LIFETIME_S_MAX",
    "LIFETIME_S_MIN",
    "RefusalError",
    "Registry",
    "Rejected",
    "TOKENS_MAX",
    "TOKEN_USES_MAX",
]

KEYS_MAX = 20_000
"""Keys that are kept, revoked ones included."""
REVOKED_KEYS_KEPT_MAX = 5_000
"""Beyond it the keys revoked longest ago are forgotten. They are refused as before, as keys that nobody knows."""
TOKENS_MAX = 1_000

TOKEN_USES_MAX = 1_000
LIFETIME_S_MIN = 60
LIFETIME_S_MAX = 30 * 24 * 3600
CLOCK_SLACK_S = 300
"""How far the clock may have been set back since a token was made."""
TOKEN_KEPT_S = 7 * 24 * 3600
"""How long a token that is over is remembered, so that whoever still tries it is told why."""
SEEN_STEP_S = 3600
"""How exactly it is kept when a key last connected: finer would be a write to disk with every connection."""


class RefusalError(Exception):
    """What was asked is not done. ``code`` is for programs, the message for people."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Accepted(NamedTuple):
    """This key may connect, as this principal; ``name`` is for the logs."""

    principal: Principal
    name: str


class Rejected(NamedTuple):
    """This key may not connect. ``reason`` is for the scheduler's log; the peer is not told."""

    code: str
    reason: str


class Change(NamedTuple):
    """What a method has done: the key or token concerned, what to write, and whose connections are over.

    ``ended`` holds keys as ``Principal.key`` does.
    """

    subject: KeyRecord | TokenRecord
    records: tuple[Record, ...] = ()
    ended: tuple[str, ...] = ()


class Registry:
    """The keys and tokens of a cluster, in memory.

    Args:
        server_key: the scheduler's own public key.
        keys: as read from disk.
        tokens: as read from disk.
    """

    def __init__(self, server_key: bytes, keys: Iterable[KeyRecord] = (), tokens: Iterable[TokenRecord] = ()) -> None:
        self.server_key = check_public_key(server_key)
        self._keys = {record.public_key: record for record in keys}
        self._tokens = {record.public_key: record for record in tokens}
        self._live_names = {record.name: record for record in self._keys.values() if not record.revoked_s}
        self._principals: dict[str, Principal] = {}
        for record in self._everything():
            self._know(record)

    # ------------------------------------------------------------ who is it

    def authenticate(self, public_key: bytes, wall_now_s: int) -> Accepted | Rejected:
        """Decide about a new connection, by the key that it has proved to hold."""
        key = self._keys.get(public_key)
        token = self._tokens.get(public_key)
        if key is not None and key.revoked_s:
            return Rejected("revoked", f"revoked key {key.name} ({fingerprint(public_key)})")
        if token is not None:
            state = self._state_of_token(token, wall_now_s)
            if state != "live":
                clock = ": the clock stands before its creation" if state == "early" else ""
                return Rejected(state, f"{state} token {token.name}{clock}")
        record = key or token
        if record is None:
            return Rejected("unknown", f"unknown key {fingerprint(public_key)}")
        return Accepted(self._principals[to_z85(public_key)], record.name)

    def principal_of(self, user_id: str) -> Principal | None:
        """Whose message this is, by the ``User-Id`` that ZeroMQ attaches to it; None for a key that is let in no more.

        A connection made with a token that is spent by now is still known, to be answered in words.
        """
        return self._principals.get(user_id)

    def name_of(self, principal: Principal) -> str:
        """What people call the key or token of a principal, its fingerprint if it is not known any more."""
        try:
            public_key = from_z85(principal.key)
        except CredentialError:
            return principal.key
        record = self._keys.get(public_key) or self._tokens.get(public_key)
        return fingerprint(public_key) if record is None else record.name

    def seen(self, principal: Principal, wall_now_s: int) -> tuple[Record, ...]:
        """Note that a key has connected. What is returned may be written whenever something else is."""
        key = self._keys.get(from_z85(principal.key))
        if key is None or abs(wall_now_s - key.last_seen_s) < SEEN_STEP_S:
            return ()
        return (self._put_key(key._replace(last_seen_s=wall_now_s)),)

    # ------------------------------------------------------------ what may become of them

    def adopt_admin(self, public_key: bytes, wall_now_s: int) -> Change:
        """Know the administrator's key that lies beside the scheduler's own. One that was revoked stays revoked."""
        known = self._keys.get(public_key)
        if known is not None:
            return Change(known)
        self._require_unknown(public_key)
        name = "admin" if "admin" not in self._live_names else f"admin-{fingerprint(public_key)[:4]}"
        record = self._put_key(KeyRecord(public_key, ROLE_ADMIN, "", name, wall_now_s, origin="keepwarm init"))
        return Change(record, (record,))

    def new_token(self, wanted: TokenRecord, lifetime_s: int, wall_now_s: int) -> Change:
        """Make a token of which only key, role, namespace, name and uses are given. An empty name is made up.

        The lifetime is brought between ``LIFETIME_S_MIN`` and ``LIFETIME_S_MAX``.

        Raises:
            RefusalError: *bad_request*, *key_in_use*, *name_taken* or *too_many_tokens*.
        """
        name = wanted.name or f"token-{fingerprint(wanted.public_key)[:4]}"
        token = self._checked_token(wanted._replace(name=name, uses_left=wanted.uses, server_key=self.server_key))
        known = self._tokens.get(token.public_key)
        if known is not None and known[:5] == token[:5]:
            return Change(known)
        self._require_unknown(token.public_key)
        live = [other for other in self._tokens.values() if self._is_in_use(other, wall_now_s)]
        if any(other.name == name for other in live):
            raise RefusalError("name_taken", f"There is a token {name} already. Choose another name, or revoke it.")
        if len(live) >= TOKENS_MAX:
            raise RefusalError("too_many_tokens", f"There are {TOKENS_MAX} tokens. Revoke some, or wait for their end.")
        forgotten = (*self.prune(wall_now_s), *self._make_room_for_a_token(wall_now_s))
        lifetime_s = min(max(lifetime_s, LIFETIME_S_MIN), LIFETIME_S_MAX)
        token = self._put_token(token._replace(created_s=wall_now_s, expires_s=wall_now_s + lifetime_s))
        return Change(token, (*forgotten, token))

    def enrol(self, token_key: bytes, public_key: bytes, name: str, wall_now_s: int) -> Change:
        """Know a new peer's key, and burn one use of the token that its connection was made with.

        Raises:
            RefusalError: *bad_request*, *token_over*, *key_in_use*, *name_taken* or *too_many_keys*.
        """
        token = self._tokens.get(token_key)
        known = self._keys.get(public_key)
        if known is not None and known.made_by == token_key and not known.revoked_s:
            return Change(known)
        state = "unknown" if token is None else self._state_of_token(token, wall_now_s)
        if token is None or state != "live":
            raise RefusalError("token_over", f"This token is {state}. Ask for another: `keepwarm token new`.")
        name = self._free_name(name or token.name)
        self._require_unknown(public_key)
        if len(self._keys) >= KEYS_MAX:
            raise RefusalError("too_many_keys", f"The scheduler knows {KEYS_MAX} keys. Revoke those not in use.")
        key = KeyRecord(
            public_key, token.role, token.namespace, name, wall_now_s, made_by=token_key, origin=f"token {token.name}"
        )
        self._put_key(key)
        return Change(key, (key, self._put_token(token._replace(uses_left=token.uses_left - 1))))

    def rotate(self, old_key: bytes, new_key: bytes, wall_now_s: int) -> Change:
        """Put a new key in the place of one that its owner still holds. The old one is revoked.

        Raises:
            RefusalError: *bad_request*, *key_in_use*, *unknown_key* or *too_many_keys*.
        """
        old = self._keys.get(old_key)
        if old is None or old.revoked_s:
            raise RefusalError("unknown_key", "Only a key that is let in can be rotated.")
        self._require_unknown(new_key)
        if len(self._keys) >= KEYS_MAX:
            raise RefusalError("too_many_keys", f"The scheduler knows {KEYS_MAX} keys. Revoke those not in use.")
        gone = self._put_key(old._replace(revoked_s=max(1, wall_now_s), successor=new_key))
        new = KeyRecord(new_key, old.role, old.namespace, old.name, wall_now_s, wall_now_s, made_by=old_key)
        new = self._put_key(new._replace(origin=f"key {fingerprint(old_key)}"))
        return Change(new, (gone, new, *self._forget_oldest_revoked()), (to_z85(old_key),))

    def revoke(self, which: str, wall_now_s: int) -> Change:
        """Let a key or token in no more, by fingerprint or by the name of a live one.

        Raises:
            RefusalError: *unknown_key*, *ambiguous*, or *last_admin*, which would leave nobody to undo it.
        """
        record = self._find(which, wall_now_s)
        if record.revoked_s:
            return Change(record)
        ended = (to_z85(record.public_key),)
        if isinstance(record, TokenRecord):
            token = self._put_token(record._replace(revoked_s=max(1, wall_now_s)))
            return Change(token, (token,), ended)
        live_admins = [key for key in self._live_names.values() if key.role == ROLE_ADMIN]
        if live_admins == [record]:
            raise RefusalError(
                "last_admin", f"{record.name} is the only key of an administrator. Enrol another one first."
            )
        key = self._put_key(record._replace(revoked_s=max(1, wall_now_s)))
        return Change(key, (key, *self._forget_oldest_revoked()), ended)

    def prune(self, wall_now_s: int) -> tuple[Record, ...]:
        """Forget tokens that were over long ago, and those that name an earlier key of the scheduler."""
        over = [
            token.public_key
            for token in self._tokens.values()
            if token.server_key != self.server_key or wall_now_s >= token.expires_s + TOKEN_KEPT_S
        ]
        return tuple(self._forget(public_key) for public_key in over)

    # ------------------------------------------------------------ what there is

    def listed(self, wall_now_s: int, after: bytes = b"") -> Iterator[tuple[KeyRecord | TokenRecord, str]]:
        """Keys and tokens with a public key above ``after``, in its order, each with its state."""
        found = [record for record in self._everything() if record.public_key > after]
        for record in sorted(found, key=lambda record: record.public_key):
            if isinstance(record, TokenRecord):
                yield record, self._state_of_token(record, wall_now_s)
            else:
                yield record, "rotated" if record.successor else "revoked" if record.revoked_s else "live"

    # ------------------------------------------------------------ inside

    def _everything(self) -> list[KeyRecord | TokenRecord]:
        return [*self._keys.values(), *self._tokens.values()]

    def _state_of_token(self, token: TokenRecord, wall_now_s: int) -> str:
        if token.revoked_s:
            return "withdrawn"
        if not token.uses_left:
            return "spent"
        if wall_now_s < token.created_s - CLOCK_SLACK_S:
            return "early"
        return "live" if wall_now_s < token.expires_s and token.server_key == self.server_key else "expired"

    def _is_in_use(self, record: KeyRecord | TokenRecord, wall_now_s: int) -> bool:
        if isinstance(record, TokenRecord):
            return self._state_of_token(record, wall_now_s) == "live"
        return not record.revoked_s

    def _find(self, which: str, wall_now_s: int) -> KeyRecord | TokenRecord:
        if is_fingerprint(which):
            found = [record for record in self._everything() if fingerprint(record.public_key) == which]
        else:
            named = [record for record in self._everything() if record.name == which]
            # The name of something that is over means it only if nothing live has it: to revoke it again is harmless.
            found = [record for record in named if self._is_in_use(record, wall_now_s)] or named[-1:]
        if len(found) > 1:
            prints = " and ".join(fingerprint(record.public_key) for record in found)
            raise RefusalError("ambiguous", f"Several are called {which}: name one by its fingerprint, {prints}.")
        if not found:
            raise RefusalError("unknown_key", f"No key or token is called {which!a}. `keepwarm keys list` shows them.")
        return found[0]

    def _checked_token(self, token: TokenRecord) -> TokenRecord:
        """A token with the namespace that its role has."""
        try:
            check_name(token.name, "name of a token")
            namespace = token.namespace
            if token.role == ROLE_CLIENT:
                namespace = check_name(namespace or DEFAULT_NAMESPACE, "namespace")
        except CredentialError as error:
            raise RefusalError("bad_request", str(error)) from None
        if token.role not in ROLES:
            raise RefusalError("bad_request", f"{token.role!a} is no role: a token is for {', '.join(ROLES)}.")
        if token.role != ROLE_CLIENT and namespace:
            raise RefusalError("bad_request", f"The key of an {token.role} serves all namespaces: leave it out.")
        if not 1 <= token.uses <= TOKEN_USES_MAX:
            raise RefusalError("bad_request", f"A token is good 1 to {TOKEN_USES_MAX} times, not {token.uses}.")
        return token._replace(namespace=namespace)

    def _free_name(self, name: str) -> str:
        try:
            check_name(name)
        except CredentialError as error:
            raise RefusalError("bad_request", str(error)) from None
        if name in self._live_names:
            raise RefusalError(
                "name_taken",
                f"{name} has a key already. Choose another name, or revoke it: `keepwarm keys revoke {name}`.",
            )
        return name

    def _require_unknown(self, public_key: bytes) -> None:
        try:
            check_public_key(public_key)
        except CredentialError as error:
            raise RefusalError("bad_request", str(error)) from None
        if public_key in self._keys or public_key in self._tokens or public_key == self.server_key:
            raise RefusalError("key_in_use", "This public key is known already, or was revoked. Make a new key pair.")

    def _know(self, record: KeyRecord | TokenRecord) -> None:
        """Say whose messages those of this key are."""
        user_id = to_z85(record.public_key)
        if record.revoked_s:
            self._principals.pop(user_id, None)
        elif isinstance(record, TokenRecord):
            self._principals[user_id] = Principal(user_id, ROLE_TOKEN, record.namespace)
        else:
            # An administrator's own programs run in the default namespace; an agent is in none.
            namespace = DEFAULT_NAMESPACE if record.role == ROLE_ADMIN else record.namespace
            self._principals[user_id] = Principal(user_id, record.role, namespace)

    def _put_key(self, record: KeyRecord) -> KeyRecord:
        self._keys[record.public_key] = record
        if not record.revoked_s:
            self._live_names[record.name] = record
        elif self._live_names.get(record.name, record).public_key == record.public_key:
            self._live_names.pop(record.name, None)
        self._know(record)
        return record

    def _put_token(self, record: TokenRecord) -> TokenRecord:
        self._tokens[record.public_key] = record
        self._know(record)
        return record

    def _forget(self, public_key: bytes) -> ForgetCredential:
        self._keys.pop(public_key, None)
        self._tokens.pop(public_key, None)
        self._principals.pop(to_z85(public_key), None)
        return ForgetCredential(public_key)

    def _make_room_for_a_token(self, wall_now_s: int) -> tuple[Record, ...]:
        """Forget tokens that are over, those first that would have expired first."""
        over = [token for token in self._tokens.values() if not self._is_in_use(token, wall_now_s)]
        over.sort(key=lambda token: (token.expires_s, token.public_key))
        return tuple(self._forget(token.public_key) for token in over[: max(0, len(self._tokens) - TOKENS_MAX + 1)])

    def _forget_oldest_revoked(self) -> tuple[Record, ...]:
        revoked = sorted((key.revoked_s, key.public_key) for key in self._keys.values() if key.revoked_s)
        return tuple(self._forget(public_key) for _, public_key in revoked[: -REVOKED_KEYS_KEPT_MAX or None])
