"""A driver for the agent's core in tests: commands by keyword, effects by type, invariants after every event."""

from typing import Any, TypeVar

from keepwarm_wire import messages as wire
from keepwarm_wire.fields import FOREVER_US
from keepwarm_worker.core import effects, events
from keepwarm_worker.core.machine import AgentCore
from keepwarm_worker.core.state import CoreConfig, check_invariants

HELLO = wire.AgentHello(1, 1, "keepwarm test", "node", b"i" * 16, "linux-x86_64-glibc", ("3.11",), (), (), 0)
CONFIG = CoreConfig(HELLO)
SECOND = 1_000_000_000
BEAT_US = 1_000_000
ENVIRONMENT = "e" * 64
VERSION = b"v" * 32
BODY = wire.FunctionBody(VERSION, "module:function", "cloudpickle:cp311", False, b"body")

T = TypeVar("T")


class Driver:
    """One core and its time. ``out`` holds the effects of the latest event, ``log`` those of all."""

    def __init__(self, config: CoreConfig = CONFIG) -> None:
        self.core = AgentCore(config)
        self.now_ns = 0
        self.command = 0
        self.out: list[effects.Effect] = []
        self.log: list[effects.Effect] = []

    def feed(self, event: events.Event) -> list[effects.Effect]:
        self.out = self.core.handle(self.now_ns, event)
        self.log += self.out
        check_invariants(self.core.state)
        return self.out

    def wait(self, seconds: float) -> list[effects.Effect]:
        """Let time pass, waking the core at each of its deadlines; all the effects of that time."""
        until_ns = self.now_ns + int(seconds * SECOND)
        gathered: list[effects.Effect] = []
        while (due := self.core.next_deadline()) is not None and due <= until_ns:
            self.now_ns = max(due, self.now_ns)
            gathered += self.feed(events.Tick())
        self.now_ns = until_ns
        self.out = gathered
        return gathered

    def receive(self, message: wire.Message) -> list[effects.Effect]:
        return self.feed(events.Received(message))

    def welcome(self, epoch: int = 1, known: bool = False) -> list[effects.Effect]:
        if epoch != self.core.state.link.epoch:
            self.command = 0
        return self.receive(wire.Welcome(1, b"c" * 16, epoch, known, 0, 0, BEAT_US))

    def next_command(self) -> int:
        self.command += 1
        return self.command

    def start(self, instance_id: int = 1, **changes: Any) -> list[effects.Effect]:
        command = wire.StartInstance(
            0, instance_id, b"p" * 32, ENVIRONMENT, "3.11", b"lock", (), 0, 0, FOREVER_US, 10_000_000
        )
        return self.receive(command._replace(command=self.next_command(), **changes))

    def ready(self, instance_id: int = 1, **changes: Any) -> list[effects.Effect]:
        """Start an instance whose environment is on disk, and let its runner say hello."""
        self.feed(events.EnvironmentsOnDisk((wire.EnvironmentState(ENVIRONMENT, 5),)))
        self.start(instance_id, **changes)
        return self.feed(events.RunnerHello(instance_id, 1000 + instance_id))

    def dispatch(self, attempt: int = 10, instance_id: int = 1, **changes: Any) -> list[effects.Effect]:
        command = wire.Dispatch(
            0, instance_id, attempt, b"s" * 16, attempt, VERSION, 10_000_000, FOREVER_US, FOREVER_US, b"arguments"
        )
        return self.receive(command._replace(command=self.next_command(), **changes))

    def running(self, attempt: int = 10, instance_id: int = 1, **changes: Any) -> list[effects.Effect]:
        """Dispatch an attempt and let the runner say that it runs it."""
        if VERSION not in self.core.state.functions:
            self.receive(BODY)
        self.dispatch(attempt, instance_id, **changes)
        return self.feed(events.RunnerStarted(instance_id, attempt, False))

    def result(
        self, attempt: int = 10, instance_id: int = 1, result: Any = b"result", failure: wire.Failure | None = None
    ) -> list[effects.Effect]:
        return self.feed(events.RunnerResult(instance_id, attempt, result, failure, 1, 2))

    def stop(self, instance_id: int = 1, sequence: int = 0, cause: str = "expired") -> list[effects.Effect]:
        return self.receive(wire.StopInstance(self.next_command(), instance_id, sequence, cause))

    def exited(self, instance_id: int = 1, exit_code: int | None = 0, signal_name: str = "") -> list[effects.Effect]:
        return self.feed(events.ProcessExited(instance_id, exit_code, signal_name, ""))

    def said(self, kind: type[T]) -> list[T]:
        """The messages of a type in the effects of the latest event."""
        return [
            each.message
            for each in self.out
            if isinstance(each, effects.SendMessage) and isinstance(each.message, kind)
        ]

    def done(self, kind: type[T]) -> list[T]:
        """The effects of a type of the latest event."""
        return [each for each in self.out if isinstance(each, kind)]


def welcomed(config: CoreConfig = CONFIG) -> Driver:
    """An agent that the scheduler has taken in."""
    driver = Driver(config)
    driver.feed(events.Tick())
    driver.welcome()
    return driver
