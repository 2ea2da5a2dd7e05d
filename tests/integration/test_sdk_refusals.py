"""What a program sees when the scheduler refuses it in the middle of its session, and how it goes on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keepwarm import isolated
from keepwarm.client import Client
from keepwarm.declaring import describe
from keepwarm.errors import SchedulerRefused, TooManyCalls
from keepwarm.pickling import dumps_arguments
from keepwarm_wire.messages import DeclareFunction, ForgetFunctions, Message, Refused
from support.model_scheduler import ModelScheduler, ModelSession
from support.tiny_scheduler import TinyScheduler
from support.waiting import until

pytestmark = pytest.mark.integration


@isolated
def echo(*args: Any) -> Any:
    return args


class Forgetful(ModelScheduler):
    """Forgets functions when it is told to, and remembers how many it ever had at once."""

    most = 0

    def handle(self, connection: bytes, message: Message) -> list[Message]:
        session = self.sessions.get(self.greeted.get(connection, b""))
        if session is not None and isinstance(message, ForgetFunctions):
            self._forget(session, message)
            return []
        answers = super().handle(connection, message)
        if session is not None and isinstance(message, DeclareFunction):
            self.most = max(self.most, len(session.functions))
        return answers

    def _forget(self, session: ModelSession, message: ForgetFunctions) -> None:
        used = {submit.function_number for submit in session.unanswered.values()}
        for number in message.function_numbers:
            session.functions.pop(number, None)
            if number in used:
                self.violations.append(f"function {number} has unanswered calls")


@pytest.fixture
def model() -> Forgetful:
    return Forgetful()


@pytest.fixture
def scheduler(tmp_path: Path, model: Forgetful) -> Iterator[TinyScheduler]:
    with TinyScheduler(tmp_path, model) as running:
        yield running
    assert model.violations == []


@pytest.fixture
def client(scheduler: TinyScheduler, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    made = Client(scheduler.address)
    monkeypatch.setattr("keepwarm.client._client", made)
    yield made
    made.close()


def test_a_refusal_in_the_middle_of_a_session_ends_every_call_and_the_next_one_is_served(
    scheduler: TinyScheduler, client: Client
) -> None:
    answer = scheduler.model.answer
    scheduler.model.answer = lambda submit, arguments: None
    futures = [client.submit(echo, dumps_arguments((number,), {})) for number in range(3)]
    until(lambda: len(scheduler.model.submits) == 3)
    scheduler.say(Refused("too_many_functions", "This client has declared too many functions."))
    for future in futures:
        with pytest.raises(SchedulerRefused, match="declared too many functions"):
            future.result(20)
    scheduler.model.answer = answer
    assert echo(4) == ((4,), {})


def test_a_refusal_that_comes_while_nobody_looks_is_no_end_either(scheduler: TinyScheduler, client: Client) -> None:
    """It is read by the next turn before anything is sent: that call has a session of its own."""
    assert echo(1) == ((1,), {})
    until(lambda: client._io_thread is not None)
    scheduler.say(Refused("too_large", "too large"))
    until(lambda: scheduler.is_quiet)
    until(lambda: client._connection.generation == 1, 20)
    assert echo(2) == ((2,), {})


def test_options_without_end_are_functions_without_end_but_not_for_the_scheduler(
    model: Forgetful, client: Client
) -> None:
    for number in range(2_600):
        assert echo.on(timeout=1000 + number / 1000)(number) == ((number,), {})
    assert 1_000 < model.most <= 2_000
    first = echo.on(timeout=1000)
    assert first(1) == ((1,), {})
    assert len(client._connection.session.functions) <= 2_000
    [session] = model.sessions.values()
    assert len(session.functions) <= 2_000


def test_forgotten_functions_stay_so_over_a_restart_of_the_scheduler(
    scheduler: TinyScheduler, model: Forgetful, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keepwarm.declaring.FUNCTIONS_KEPT", 20)
    monkeypatch.setattr("keepwarm.declaring.FORGET_BATCH", 10)
    functions = [echo.on(timeout=1000 + number) for number in range(30)]
    for function in functions:
        function(1)
    scheduler.restart()
    model.declared.clear()
    assert echo(2) == ((2,), {})
    assert [each.options for each in model.declared] == [describe(echo).options]
    assert functions[0](3) == ((3,), {})


def test_more_functions_with_unanswered_calls_than_a_scheduler_takes_are_refused_here(
    scheduler: TinyScheduler, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keepwarm.declaring.FUNCTIONS_KEPT", 5)
    monkeypatch.setattr("keepwarm.declaring.FUNCTIONS_MAX", 10)
    scheduler.model.answer = lambda submit, arguments: None
    futures = [echo.on(timeout=1000 + number).submit(number) for number in range(10)]
    with pytest.raises(TooManyCalls, match="unanswered calls of 10 functions"):
        echo.submit(1)
    until(lambda: len(scheduler.model.submits) == 10)
    scheduler.answer_held(lambda number, arguments: arguments)
    assert [future.result(20) for future in futures] == [((number,), {}) for number in range(10)]
    scheduler.model.answer = lambda submit, arguments: arguments
    assert echo(1) == ((1,), {})
