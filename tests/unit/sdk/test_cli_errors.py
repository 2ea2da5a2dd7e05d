"""What the command line says of errors: every letter of them, and the right exit status."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import typer
from rich.console import Console

from keepwarm.cli import call_commands, commands, demo, node_commands
from keepwarm.cli.status_view import render
from keepwarm.errors import ClusterUnreachable, FailureContext, OptionError, RemoteError
from keepwarm.failures import rebuild_failure
from keepwarm.futures import Future
from keepwarm_wire.messages import NodeChanged

ODD = "names like [red] and [/bold] and [node-1\\"


def raising(error: BaseException) -> Callable[[], None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize(("error", "status"), [(ClusterUnreachable(ODD), 1), (OptionError(ODD), 2)])
def test_an_error_is_printed_as_it_is(
    error: Exception, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(commands, "app", raising(error))
    with pytest.raises(SystemExit) as ended:
        commands.main()
    assert ended.value.code == status
    assert capsys.readouterr().err.startswith(f"keepwarm: {ODD}")


@pytest.mark.parametrize(("error", "status"), [(ClusterUnreachable(ODD), 1), (OptionError(ODD), 2)])
def test_the_demo_does_the_same(
    error: Exception, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "_call", raising(error))
    assert demo.main() == status
    assert capsys.readouterr().err.startswith(f"keepwarm demo: {ODD}")


def test_a_node_may_have_any_name(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    standing = NodeChanged(1, ODD, "drained", "alive", 0, 0, 0)

    class Admin:
        def __enter__(self) -> "Admin":
            return self

        def __exit__(self, *_: object) -> None: ...

        def order_node(self, *_: object, **__: object) -> NodeChanged:
            return standing._replace(state="draining")

        def node(self, _: str) -> NodeChanged:
            return standing

    monkeypatch.setattr(node_commands, "_admin", lambda address: Admin())
    monkeypatch.setattr(node_commands, "POLL_S", 0)
    node_commands.drain(ODD)
    assert ODD in capsys.readouterr().out


def test_a_status_shows_what_others_have_named() -> None:
    call = {
        "call": "1-[i]",
        "function": "[f]",
        "state": "queued",
        "reason": "no node has [gpu]",
        "node": "",
        "age_s": 1,
    }
    environment = {"environment_id": "ab", "python": "[3]", "requirements": ["a[b]"], "nodes": {}}
    instance: dict[str, Any] = {
        "instance": "i[1]", "node": "[n]", "pid": 1, "state": "idle", "phase": "", "environment_id": "ab",
        "lease_s": 1.0, "uses": 1, "function": "[f]",
    }  # fmt: skip
    document = {
        "local": True, "uptime_s": 4.0, "epoch": 1, "nodes": [], "environments": [environment],
        "instances": [instance], "calls": [call], "calls_unfinished": 1,
    }  # fmt: skip
    text = io.StringIO()
    Console(width=160, file=text).print(render(document, "ipc://here"))
    for shown in ("1-[i]", "queued: no node has [gpu]", "[3]", "i[1]", "a[b]"):
        assert shown in text.getvalue()


def test_the_traceback_of_what_cannot_be_rebuilt_here_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    traceback = "Traceback (most recent call last):\n  there\nlib.Odd: [not] here"
    error = rebuild_failure("user_exception", "lib.Odd: [not] here", traceback, b"", FailureContext("m:f"))
    assert isinstance(error, RemoteError)
    future: Future[Any] = Future()
    future._fail(error)

    class Detached:
        def future(self, call_id: bytes) -> Future[Any]:
            return future

    @contextmanager
    def client(address: str | None) -> Iterator[Detached]:
        yield Detached()

    monkeypatch.setattr(call_commands, "_client", client)
    with pytest.raises(typer.Exit) as ended:
        call_commands.calls_result("0" * 32)
    assert ended.value.exit_code == 1
    said = capsys.readouterr().err
    assert said.startswith(traceback)
    assert "keepwarm: the call failed: RemoteError: " in said
    assert "function m:f" in said
