"""A driver whose scheduler has a real journal: what is synced is on disk, and a restart reads it back.

A crash may come at any turn, before its sync: then of the turn's messages only those may have left that do not have to
wait for the disk. While the disk is slow, turns go on as in the daemon: what waits for the disk waits, ordinary
messages leave, but for commands behind commands that wait; a crash then loses all of it. Wall time is the driver's own.
The bytes of payloads are not here; that they are kept and released in the right order is checked.
"""

import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Any

from keepwarm_scheduler.core import invariants
from keepwarm_scheduler.core.effects import (
    RECORDS,
    DropPayload,
    Effect,
    KeepPayload,
    ReleasePayload,
    Send,
    SendOutcome,
    SendStored,
)
from keepwarm_scheduler.core.events import LOCAL, Event, PeerMessage, Principal
from keepwarm_scheduler.core.machine import SchedulerCore
from keepwarm_scheduler.journal import Journal
from keepwarm_scheduler.performing import ORDERED
from keepwarm_wire import messages as wire
from keepwarm_wire.codec import decode_frame, encode_frame
from support.scheduler_driver import SECOND_NS, START_NS, Agent, Client, Driver

WALL_US = 1_800_000_000_000_000


class DurableDriver(Driver):
    """One scheduler after another on one journal."""

    def __init__(self, **config: Any) -> None:
        # In memory where that is possible: what is tested here is order, not the disk.
        shared = Path("/dev/shm")
        self.directory = Path(tempfile.mkdtemp(prefix="kw-", dir=shared if shared.is_dir() else None))
        weakref.finalize(self, shutil.rmtree, self.directory, ignore_errors=True)
        self.wall_offset_us, self.now_ns = 0, START_NS
        self.journal = self._open()
        self.crashes_at_sync = False
        self.has_crashed = False
        self.is_disk_slow = False
        self._waiting: list[tuple[list[Any], list[Effect], dict[bytes, None]]] = []
        """Turns that are not on disk: what they save, what is sent then, and which payloads go."""
        self._behind: dict[bytes, None] = {}
        """Peers for whom a command waits."""
        self.kept: dict[bytes, None] = {}
        """Payloads that have to survive the process."""
        opened = self.journal.begin_epoch()
        super().__init__(epoch=opened.epoch, restored=opened.restored, **config)

    def _open(self) -> Journal:
        return Journal(self.directory, lambda: WALL_US + self.wall_offset_us + self.now_ns // 1_000)

    def close(self) -> None:
        """Remove what is on disk."""
        self.journal.close()
        shutil.rmtree(self.directory)

    def reboot(self, after_s: float = 0.0, **config: Any) -> None:
        """The scheduler is killed and another started. Nobody has said hello to it yet."""
        self.journal.close()
        self.now_ns += int(after_s * SECOND_NS)
        self.journal = self._open()
        opened = self.journal.begin_epoch()
        self.epoch = opened.epoch
        assert {payload.payload_id for payload in opened.payloads} <= set(self.kept), "the journal names what is gone"
        self.kept = {payload.payload_id: None for payload in opened.payloads}
        if config:
            self.config = type(self.config)(**config)
        self.has_crashed = self.crashes_at_sync = self.is_disk_slow = False
        self._waiting, self._behind = [], {}
        self.agents.clear()
        self.clients.clear()
        self.core = SchedulerCore(self.config, self.epoch, b"c" * 16, self.now_ns)
        self.feed(opened.restored)

    def feed(self, event: Event) -> list[Effect]:
        """One turn, performed as the daemon does. After a crash nothing happens until ``reboot``."""
        if self.has_crashed:
            return []
        effects = self.core.handle(self.now_ns, event)
        invariants.check(self.cluster)
        self.effects += effects
        records: list[Any] = [effect for effect in effects if type(effect) in RECORDS]
        if records and self.crashes_at_sync:
            self.has_crashed = True
            self._waiting, self._behind = [], {}
            self.core.next_deadline = lambda: None  # type: ignore[method-assign]
            for effect in effects:
                if isinstance(effect, Send) and not effect.after_sync:
                    self.hand_over(effect.peer, effect.message)
            return effects
        released: dict[bytes, None] = {}
        for effect in effects:
            self._move_payload(effect, released)
        if self.is_disk_slow and (records or self._waiting):
            self._waiting.append((records, [effect for effect in effects if self._waits(effect)], released))
            return effects
        if records:
            self.journal.sync(records, self.epoch)
        for effect in effects:
            self._perform(effect)
        for payload_id in released:
            del self.kept[payload_id]
        return effects

    def _waits(self, effect: Effect) -> bool:
        """Whether a message has to wait for the disk; if not, it leaves."""
        if isinstance(effect, SendOutcome):
            return True
        if not isinstance(effect, Send | SendStored):
            return False
        is_ordered = type(effect.message) in ORDERED
        if isinstance(effect, SendStored) or effect.after_sync:
            if is_ordered:
                self._behind[effect.peer] = None
            return True
        if is_ordered and effect.peer in self._behind:
            return True
        self.hand_over(effect.peer, effect.message)
        return False

    def catch_up(self) -> None:
        """The disk is fast again, and has everything."""
        self.is_disk_slow = False
        waiting, self._waiting, self._behind = self._waiting, [], {}
        for records, effects, released in waiting:
            self.journal.sync(records, self.epoch)
            for effect in effects:
                self._perform(effect)
            for payload_id in released:
                del self.kept[payload_id]
        self.settle()

    def _move_payload(self, effect: Effect, released: dict[bytes, None]) -> None:
        if isinstance(effect, KeepPayload):
            assert effect.payload_id not in self.kept or effect.payload_id in released, "kept twice"
            released.pop(effect.payload_id, None)
            self.kept[effect.payload_id] = None
        elif isinstance(effect, ReleasePayload):
            assert effect.payload_id in self.kept, "released and never kept"
            released[effect.payload_id] = None
        elif isinstance(effect, DropPayload):
            pass

    def _perform(self, effect: Effect) -> None:
        if isinstance(effect, Send):
            self.hand_over(effect.peer, effect.message)
        elif isinstance(effect, SendStored):
            arguments = self.journal.arguments(effect.message.call_number)
            if arguments is not None:
                self.hand_over(effect.peer, effect.message._replace(arguments=arguments))
        elif isinstance(effect, SendOutcome):
            outcome = self.journal.outcome(effect.number)
            if outcome is not None:
                self.hand_over(effect.peer, outcome)

    def hand_over(self, peer: bytes, message: wire.Message) -> None:
        """A message leaves the scheduler's process."""
        (decoded,) = decode_frame(encode_frame([message]))
        self._deliver(peer, decoded)


class DetachedClient(Client):
    """A session that submits detached calls. It repeats nothing by itself."""

    driver: DurableDriver
    principal: Principal = LOCAL

    def say(self, message: wire.Message) -> None:
        """Say something as who this client is."""
        for _ in range(2 if self.driver.twice else 1):
            (decoded,) = decode_frame(encode_frame([message]))
            self.driver.feed(PeerMessage(self.peer, self.principal, decoded))
        self.driver.settle()

    def spawn(
        self,
        call_id: bytes,
        function: int = 1,
        *,
        key: str = "",
        arguments: wire.Payload = b"arguments",
        ttl_s: float = 0,
        priority: int = 0,
    ) -> bytes:
        """Submit a detached call; its id in full."""
        call_id = call_id.ljust(16, b".")
        self.say(wire.SubmitDetached(call_id, function, priority, key, int(ttl_s * 1_000_000), arguments))
        return call_id

    def accepted(self, call_id: bytes) -> wire.DetachedAccepted | None:
        """The last acceptance of a submit, if there was one."""
        found = [one for one in self.of(wire.DetachedAccepted) if one.call_id == call_id]
        return found[-1] if found else None

    def refusals(self, call_id: bytes) -> list[str]:
        """The codes with which something about this call was refused."""
        return [one.code for one in self.of(wire.DetachedRefused) if one.call_id == call_id]

    def attach(self, *call_ids: bytes) -> None:
        self.say(wire.AttachDetached(call_ids))

    def ends(self, call_id: bytes) -> list[wire.DetachedOutcome]:
        """Every copy of the outcome that came; they have to be equal."""
        found = [one for one in self.of(wire.DetachedOutcome) if one.call_id == call_id]
        assert all(one == found[0] for one in found), "two outcomes of one call"
        return found

    def show(self, call_id: bytes) -> wire.DetachedEntry:
        """What is known of a call, which has to be known."""
        self.say(wire.ShowDetached(1, call_id))
        entry = self.of(wire.DetachedShown)[-1].entry
        assert isinstance(entry, wire.DetachedEntry)
        assert entry.call_id == call_id
        return entry

    def listed(self, after: bytes = b"", state: str = "", namespace: str = "", limit: int = 0) -> wire.DetachedListed:
        """A page of calls."""
        self.say(wire.ListDetached(1, after, state, namespace, limit))
        return self.of(wire.DetachedListed)[-1]


def session(driver: DurableDriver, name: str = "s", principal: Principal = LOCAL) -> DetachedClient:
    """A session, on a new connection, that has said hello."""
    client = DetachedClient(driver, name.encode().ljust(16, b"-"))
    client.principal = principal
    client.hello()
    return client


def finished(client: DetachedClient, agent: Agent, name: bytes = b"one", **how: object) -> bytes:
    """A detached call that has succeeded."""
    call_id = client.spawn(name, **how)  # type: ignore[arg-type]
    agent.complete()
    assert client.show(call_id).state == "succeeded"
    return call_id
