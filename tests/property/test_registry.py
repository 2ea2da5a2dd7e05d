"""The registry of keys under random histories: its promises hold, and what it has on disk is what it has in memory."""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from keepwarm_scheduler.security.records import ForgetCredential, KeyRecord, Record, TokenRecord
from keepwarm_scheduler.security.registry import Accepted, Change, RefusalError, Registry
from keepwarm_wire.credentials import fingerprint, to_z85

SERVER = b"S" * 32
ADMIN = b"A" * 32
PUBLIC_KEYS = st.integers(1, 12).map(lambda number: bytes([number]) * 32) | st.sampled_from([SERVER, ADMIN])
NAMES = st.sampled_from(["", "alice", "bob", "carol", "admin"])
ROLES = st.sampled_from(["admin", "client", "agent"])


class Histories(RuleBasedStateMachine):
    """Everything that may be asked of a registry, in any order, with a clock that also runs backwards."""

    @initialize()
    def begin(self) -> None:
        """As after ``keepwarm init``."""
        self.now_s = 1_700_000_000
        self.registry = Registry(SERVER)
        self.disk: dict[bytes, KeyRecord | TokenRecord] = {}
        self.revoked: set[bytes] = set()
        self.rights: dict[bytes, tuple[str, str]] = {}
        self.enrolled_with: dict[bytes, int] = {}
        self.uses: dict[bytes, int] = {}
        self.write(self.registry.adopt_admin(ADMIN, self.now_s).records)

    def write(self, records: tuple[Record, ...]) -> None:
        """What the journal does."""
        for record in records:
            if isinstance(record, ForgetCredential):
                del self.disk[record.public_key]
            else:
                self.disk[record.public_key] = record

    def do(self, method: str, *arguments: Any) -> Change | None:
        """Ask for something; None if it is refused, and then nothing has changed."""
        before = list(self.registry.listed(self.now_s))
        try:
            change: Change = getattr(self.registry, method)(*arguments, self.now_s)
        except RefusalError:
            assert list(self.registry.listed(self.now_s)) == before
            return None
        self.write(change.records)
        return change

    @rule(seconds=st.integers(0, 4_000) | st.integers(-400, 0) | st.just(20 * 24 * 3600))
    def time_passes(self, seconds: int) -> None:
        self.now_s += seconds

    @rule(key=PUBLIC_KEYS, role=ROLES, name=NAMES, uses=st.integers(0, 3), lifetime_s=st.integers(0, 5_000))
    def new_token(self, key: bytes, role: str, name: str, uses: int, lifetime_s: int) -> None:
        namespace = "team-a" if role == "client" else ""
        change = self.do("new_token", TokenRecord(key, role, namespace, name, uses, 0, 0, 0, b""), lifetime_s)
        if change is not None and change.records:
            self.uses[key] = uses
            self.enrolled_with[key] = 0

    @rule(token=PUBLIC_KEYS, key=PUBLIC_KEYS, name=NAMES)
    def enrol(self, token: bytes, key: bytes, name: str) -> None:
        was_let_in = isinstance(self.registry.authenticate(token, self.now_s), Accepted)
        change = self.do("enrol", token, key, name)
        if change is None:
            return
        record = change.subject
        if change.records:
            assert was_let_in
            self.enrolled_with[token] += 1
            assert self.enrolled_with[token] <= self.uses[token]
            self.rights[key] = (record.role, record.namespace)

    @rule(old=PUBLIC_KEYS, new=PUBLIC_KEYS)
    def rotate(self, old: bytes, new: bytes) -> None:
        if self.do("rotate", old, new) is not None:
            self.revoked.add(old)
            self.rights[new] = self.rights.get(old, ("admin", ""))

    @rule(key=PUBLIC_KEYS, name=NAMES, by_name=st.booleans())
    def revoke(self, key: bytes, name: str, by_name: bool) -> None:
        change = self.do("revoke", name if by_name else fingerprint(key))
        if change is not None:
            self.revoked.add(change.subject.public_key)

    @rule()
    def prune(self) -> None:
        self.write(self.registry.prune(self.now_s))

    @rule(key=PUBLIC_KEYS)
    def connect(self, key: bytes) -> None:
        verdict = self.registry.authenticate(key, self.now_s)
        if isinstance(verdict, Accepted):
            self.write(self.registry.seen(verdict.principal, self.now_s))

    @precondition(lambda self: self.disk)
    @rule()
    def restart(self) -> None:
        """After a kill -9 at any moment."""
        self.registry = self.from_disk()

    def from_disk(self) -> Registry:
        keys = [record for record in self.disk.values() if isinstance(record, KeyRecord)]
        tokens = [record for record in self.disk.values() if isinstance(record, TokenRecord)]
        return Registry(SERVER, keys, tokens)

    @invariant()
    def disk_and_memory_are_the_same(self) -> None:
        other = self.from_disk()
        assert list(other.listed(self.now_s)) == list(self.registry.listed(self.now_s))
        for key in (SERVER, *self.disk, *self.revoked):
            assert other.authenticate(key, self.now_s) == self.registry.authenticate(key, self.now_s)
            assert other.principal_of(to_z85(key)) == self.registry.principal_of(to_z85(key))

    @invariant()
    def revoked_keys_stay_out(self) -> None:
        known = {record.public_key: record for record, _ in self.registry.listed(self.now_s)}
        for key in self.revoked:
            record = known.get(key)
            if isinstance(record, KeyRecord) or key in self.rights:
                assert not isinstance(self.registry.authenticate(key, self.now_s), Accepted)
                assert self.registry.principal_of(to_z85(key)) is None

    @invariant()
    def names_of_live_keys_differ_and_an_administrator_is_left(self) -> None:
        live = [record for record, state in self.registry.listed(self.now_s) if state == "live"]
        names = [record.name for record in live if isinstance(record, KeyRecord)]
        assert len(names) == len(set(names))
        assert any(record.role == "admin" for record in live if isinstance(record, KeyRecord))

    @invariant()
    def rights_are_those_that_were_given(self) -> None:
        for key, (role, namespace) in self.rights.items():
            principal = self.registry.principal_of(to_z85(key))
            if principal is not None:
                assert principal.role == role
                assert principal.namespace == ("default" if role == "admin" else namespace)

    @invariant()
    def the_schedulers_key_is_nobodys(self) -> None:
        assert self.registry.principal_of(to_z85(SERVER)) is None


TestHistories = Histories.TestCase
TestHistories.settings = settings(stateful_step_count=40, deadline=None)
