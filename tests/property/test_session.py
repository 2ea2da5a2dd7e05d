"""The session against a model scheduler over a channel that loses, repeats and reorders messages, and with restarts.

Every call ends exactly once, the credit is never exceeded, nothing refers to bytes that were not handed over; and once
the channel is good again, everything ends and neither side holds anything.
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
from keepwarm.session_calls import Call
from keepwarm.session_deliveries import Completion
from keepwarm_wire import codec
from keepwarm_wire.fields import FOREVER_US
from keepwarm_wire.messages import FunctionOptions, Message, RetryLimits, Status, Submit
from support.model_scheduler import ModelScheduler

OPTIONS = FunctionOptions(1, FOREVER_US, FOREVER_US, FOREVER_US, FOREVER_US, RetryLimits(), 1000, 0, 0)
SMALL_CHUNK = 16 * 1024
LARGE = 65_536 + 3 * SMALL_CHUNK
QUIET_S = 120
CREDIT_CALLS = (1, 2, 7, 100)
CREDIT_BYTES = (40, 200, 1 << 20)

ACTIONS = (
    "call", "call", "call", "large call", "cancel", "to scheduler", "to scheduler", "to scheduler", "to client",
    "to client", "to client", "lose to scheduler", "lose to client", "repeat to scheduler", "repeat to client",
    "time", "time", "long time", "restart", "reconnect", "forget", "answer", "answer",
)  # fmt: skip
STEPS = st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 1 << 16)), max_size=120)


class World:
    """One session, one scheduler, and the messages between them."""

    def __init__(self, credit_calls: int, credit_bytes: int) -> None:
        self.now_ns = SECOND_NS
        self.session = Session(b"s" * 16, "test")
        self.model = ModelScheduler(credit_calls=credit_calls, credit_bytes=credit_bytes, beat_interval_us=200_000)
        self.model.chunk_bytes = SMALL_CHUNK
        self.model.window_bytes = 3 * SMALL_CHUNK
        self.model.answer = lambda submit, arguments: None
        self.is_answering = False
        self.to_scheduler: list[Message] = []
        self.to_client: list[Message] = []
        self.calls: list[Call] = []
        self.arguments: dict[int, bytes] = {}
        self.completions: Counter[int] = Counter()
        self.results: dict[int, bytes | None] = {}
        self.cancelled: set[int] = set()
        self.functions = [
            self.session.declare(
                name=name, version=b"v" * 32, codec="c", spec=b"", has_setup=False, options=OPTIONS, body=body
            )
            for name, body in (("small", b"body"), ("large", b"b" * LARGE))
        ]

    def step(self, action: str, choice: int) -> None:
        queue = self.to_scheduler if action.endswith("to scheduler") else self.to_client
        place = choice % len(queue) if queue else 0
        if action in ("call", "large call"):
            self.call(choice, LARGE if action == "large call" else choice % 50)
        elif action == "cancel" and self.calls:
            call = self.calls[choice % len(self.calls)]
            if self.session.cancel(self.now_ns, call):
                self.cancelled.add(id(call))
        elif action.startswith("lose") and queue:
            queue.pop(place)
        elif action.startswith("repeat") and queue:
            queue.append(queue[place])
        elif action.startswith("to ") and queue:
            self.deliver(queue, place)
        elif action.endswith("time"):
            self.now_ns += SECOND_NS * (2 if action == "long time" else 1) // 10
        elif action == "answer":
            self.answer_one(choice)
        elif action in ("restart", "reconnect", "forget"):
            self.break_connection(action)
        self.turn()

    def break_connection(self, action: str) -> None:
        self.to_scheduler.clear()
        self.to_client.clear()
        if action == "reconnect":
            self.model.greeted.clear()
            self.session.connection_lost()
            self.session.connection_made(self.now_ns)
        elif action == "forget":
            self.model.greeted.clear()
            self.model.sessions.clear()
        else:
            self.model.restart()

    def call(self, choice: int, size: int) -> None:
        number = len(self.calls)
        arguments = number.to_bytes(4, "big") + b"x" * size
        call = Call(self.functions[choice % 8 == 0], arguments, owner=number)
        self.calls.append(call)
        self.arguments[number] = arguments
        self.session.submit(call)

    def answer_one(self, choice: int) -> None:
        for session in self.model.sessions.values():
            if session.unanswered:
                numbers = sorted(session.unanswered)
                self.answer(session, numbers[choice % len(numbers)])

    def answer(self, session: object, number: int) -> None:
        assert session in self.model.sessions.values()
        [owner] = self.model.sessions.values()
        submit: Submit = owner.unanswered[number]
        arguments = submit.arguments
        data = arguments if isinstance(arguments, bytes) else owner.stored[arguments.payload_id]
        self.to_client.append(self.model.end(owner, number, data))

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
            delivery = self.session.deliveries.popleft()
            assert isinstance(delivery, Completion)
            owner = delivery.call.owner
            assert isinstance(owner, int)
            self.completions[owner] += 1
            succeeded = delivery.outcome.status == Status.SUCCEEDED
            self.results[owner] = delivery.result if succeeded else None
            if not succeeded:
                assert id(delivery.call) in self.cancelled, delivery.outcome
        assert self.model.violations == []

    def settle(self) -> None:
        """A good network from here on: deliver everything in order, let time pass, answer every call."""
        end_ns = self.now_ns + QUIET_S * SECOND_NS
        while self.now_ns < end_ns and not self.is_quiet:
            while self.to_scheduler or self.to_client:
                self.deliver(self.to_scheduler or self.to_client, 0)
                self.turn()
            for session in self.model.sessions.values():
                for number in list(session.unanswered):
                    self.answer(session, number)
            self.now_ns += SECOND_NS // 20
            self.turn()

    @property
    def is_quiet(self) -> bool:
        is_empty = self.session.held_calls == 0 and self.model.is_empty
        return is_empty and not self.to_scheduler and not self.to_client


def check(steps: Iterable[tuple[str, int]], credit_calls: int, credit_bytes: int) -> None:
    with (
        patch.object(transfers, "CHUNK_BYTES_MAX", SMALL_CHUNK),
        patch.object(transfers, "WINDOW_BYTES", 3 * SMALL_CHUNK),
    ):
        world = World(credit_calls, credit_bytes)
        for action, choice in steps:
            world.step(action, choice)
        world.settle()
    assert world.completions == Counter(range(len(world.calls)))
    assert world.is_quiet
    assert world.session.unanswered() == []
    assert (world.session.held_calls, world.session.held_bytes) == (0, 0)
    for owner, result in world.results.items():
        assert result is None or result == world.arguments[owner]


@settings(max_examples=100, deadline=None)
@given(steps=STEPS, credit_calls=st.sampled_from(CREDIT_CALLS), credit_bytes=st.sampled_from(CREDIT_BYTES))
def test_every_call_ends_once_whatever_the_network_does(
    steps: list[tuple[str, int]], credit_calls: int, credit_bytes: int
) -> None:
    """Safety on the way, and liveness once the network is good; short runs, which shrink well."""
    check(steps, credit_calls, credit_bytes)


@pytest.mark.parametrize("seed", range(60))
def test_every_call_ends_once_in_long_runs(seed: int) -> None:
    """The same in longer runs, which reach deeper."""
    chance = random.Random(seed)
    steps = [(chance.choice(ACTIONS), chance.randrange(1 << 16)) for _ in range(400)]
    check(steps, chance.choice(CREDIT_CALLS), chance.choice(CREDIT_BYTES))
