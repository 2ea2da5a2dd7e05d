"""The detached half of a session over a channel that loses, repeats and reorders messages, with restarts.

Every call is accepted once however often it was said, every outcome reaches who awaits it once and is the call's own,
nothing refers to bytes that were not handed over; and once the channel is good again, nothing is waited for any more.
"""

import random
from collections import Counter
from collections.abc import Iterable
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keepwarm import transfers
from keepwarm.session import SECOND_NS, Session
from keepwarm.session_detached import Spawn, Told
from keepwarm_wire import codec
from keepwarm_wire.fields import FOREVER_US, INLINE_BYTES_MAX
from keepwarm_wire.messages import (
    CancelDetached,
    DetachedOutcome,
    FunctionOptions,
    Message,
    RetryLimits,
)
from support.model_detached import Keeping

OPTIONS = FunctionOptions(1, FOREVER_US, FOREVER_US, FOREVER_US, FOREVER_US, RetryLimits(), 1000, 0, 0)
SMALL_CHUNK = 16 * 1024
LARGE = INLINE_BYTES_MAX + 3 * SMALL_CHUNK
QUIET_S = 200
ACTIONS = (
    "spawn", "spawn", "large spawn", "follow", "follow", "unfollow", "cancel", "to scheduler", "to scheduler",
    "to scheduler", "to client", "to client", "to client", "lose to scheduler", "lose to client",
    "repeat to scheduler", "repeat to client", "time", "time", "long time", "restart", "reconnect", "end call",
)  # fmt: skip
STEPS = st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 1 << 16)), max_size=120)


class World:
    """One session, one scheduler, and the messages between them."""

    def __init__(self) -> None:
        self.now_ns = SECOND_NS
        self.session = Session(b"s" * 16, "test")
        self.model = Keeping()
        self.model.chunk_bytes, self.model.window_bytes = SMALL_CHUNK, 3 * SMALL_CHUNK
        self.to_scheduler: list[Message] = []
        self.to_client: list[Message] = []
        self.spawns: list[Spawn] = []
        self.waits: dict[str, bytes] = {}
        self.left: set[str] = set()
        self.answers: Counter[str] = Counter()
        self.functions = [
            self.session.declare(
                name=name, version=b"v" * 32, codec="c", spec=b"", has_setup=False, options=OPTIONS, body=body
            )
            for name, body in (("small", b"body"), ("large", b"b" * LARGE))
        ]

    def step(self, action: str, choice: int) -> None:
        queue = self.to_scheduler if action.endswith("to scheduler") else self.to_client
        place = choice % len(queue) if queue else 0
        if action in ("spawn", "large spawn"):
            self.spawn(choice, LARGE if action == "large spawn" else choice % 50)
        elif action in ("follow", "unfollow", "cancel") and self.spawns:
            self.wish(action, choice)
        elif action.startswith("lose") and queue:
            queue.pop(place)
        elif action.startswith("repeat") and queue:
            queue.append(queue[place])
        elif action.startswith("to ") and queue:
            self.deliver(queue, place)
        elif action.endswith("time"):
            self.now_ns += SECOND_NS * (2 if action == "long time" else 1) // 10
        elif action == "end call":
            self.end_call(choice)
        elif action in ("restart", "reconnect"):
            self.break_connection(action)
        self.turn()

    def spawn(self, choice: int, size: int) -> None:
        call_id = len(self.spawns).to_bytes(16, "big")
        arguments = call_id + b"x" * size
        spawn = Spawn(call_id, self.functions[choice % 8 == 0], arguments, owner=f"spawn {len(self.spawns)}")
        self.spawns.append(spawn)
        self.waits[f"spawn {len(self.spawns) - 1}"] = call_id
        self.session.detached.spawning.spawn(spawn)

    def wish(self, action: str, choice: int) -> None:
        call_id = self.spawns[choice % len(self.spawns)].call_id
        owner = f"{action} {len(self.waits)}"
        followers = [name for name in self.waits if name.startswith("follow") and name not in self.left]
        if action == "cancel":
            self.session.detached.ask(("cancel", call_id), CancelDetached(call_id), owner)
        elif action == "follow":
            self.session.detached.follow(call_id, owner)
        elif followers:
            name = followers[choice % len(followers)]
            if not self.answers[name]:
                self.left.add(name)
                self.session.detached.unfollow(self.now_ns, self.waits[name], name)
        if action != "unfollow":
            self.waits[owner] = call_id

    def end_call(self, choice: int) -> None:
        running = [call_id for call_id in self.model.accepted if call_id not in self.model.ended]
        if running:
            call_id = running[choice % len(running)]
            self.model.ended[call_id] = self.model.arguments[call_id]
            for session in self.model.sessions.values():
                if call_id in self.model.watched:
                    self.to_client.append(self.model.outcome(session, call_id))

    def break_connection(self, action: str) -> None:
        self.to_scheduler.clear()
        self.to_client.clear()
        if action == "reconnect":
            self.model.greeted.clear()
            self.session.connection_lost()
            self.session.connection_made(self.now_ns)
        else:
            self.model.restart()
            self.model.watched.clear()

    def deliver(self, queue: list[Message], place: int) -> None:
        [message] = codec.decode_frame(codec.encode_frame([queue.pop(place)]))
        if queue is self.to_client:
            self.session.handle(self.now_ns, message)
        else:
            self.to_client += self.model.handle(b"connection", message)

    def turn(self) -> None:
        self.session.tick(self.now_ns)
        self.to_scheduler += self.session.take_outgoing(self.now_ns)
        while self.session.deliveries:
            told = self.session.deliveries.popleft()
            assert isinstance(told, Told)
            assert isinstance(told.owner, str)
            self.answers[told.owner] += 1
            assert self.answers[told.owner] == 1
            assert told.owner not in self.left
            assert told.message.call_id == self.waits[told.owner]
            if isinstance(told.message, DetachedOutcome):
                assert told.result == self.model.arguments[told.message.call_id]
        assert self.model.violations == []

    def settle(self) -> None:
        """A good network from here on, and every call ends."""
        end_ns = self.now_ns + QUIET_S * SECOND_NS
        while self.now_ns < end_ns and (self.session.waiting or self.to_scheduler or self.to_client):
            while self.to_scheduler or self.to_client:
                self.deliver(self.to_scheduler or self.to_client, 0)
                self.turn()
            self.end_call(0)
            self.now_ns += SECOND_NS // 20
            self.turn()


def check(steps: Iterable[tuple[str, int]]) -> None:
    with (
        patch.object(transfers, "CHUNK_BYTES_MAX", SMALL_CHUNK),
        patch.object(transfers, "WINDOW_BYTES", 3 * SMALL_CHUNK),
        patch("keepwarm.session_spawning.WINDOW_CALLS", 3),
    ):
        world = World()
        for action, choice in steps:
            world.step(action, choice)
        world.settle()
    assert world.session.waiting == 0
    assert world.session.detached.spawning.held_bytes == 0
    assert set(world.answers) == set(world.waits) - world.left
    assert world.model.accepted == Counter(spawn.call_id for spawn in world.spawns)


@settings(max_examples=150, deadline=None)
@given(steps=STEPS)
def test_every_answer_comes_once_whatever_the_network_does(steps: list[tuple[str, int]]) -> None:
    """Safety on the way, and liveness once the network is good; short runs, which shrink well."""
    check(steps)


@pytest.mark.parametrize("seed", range(60))
def test_every_answer_comes_once_in_long_runs(seed: int) -> None:
    """The same in longer runs, which reach deeper."""
    chance = random.Random(seed)
    check([(chance.choice(ACTIONS), chance.randrange(1 << 16)) for _ in range(400)])
