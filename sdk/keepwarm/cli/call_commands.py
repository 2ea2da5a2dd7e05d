"""Commands about detached calls: list, show, cancel, result, forget.

They speak as a client of the namespace, not as an operator. Rule: a result is unpickled here, in the process of the
user who asked for it, and by ``result`` only.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from keepwarm.cli.screen import screen
from keepwarm.detached import CallStatus, parse_id, status_of
from keepwarm.errors import ClusterUnreachable, KeepwarmError, OptionError, RemoteError, RemoteTraceback

if TYPE_CHECKING:
    from keepwarm.detached_client import DetachedClient

__all__ = ["calls_app", "register"]

calls_app = typer.Typer(
    help="Detached calls of this user's namespace: list, show, cancel, result, forget.", no_args_is_help=True
)

LIST_DEFAULT = 50
PAGE = 500
_STATES = (
    "unfinished", "done", "queued", "dispatched", "running", "succeeded", "failed", "cancelled", "timed out", "lost",
    "poisoned",
)  # fmt: skip
_STYLES = {"succeeded": "green", "queued": "yellow", "dispatched": "cyan", "running": "cyan", "cancelled": "dim"}

AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        envvar="KEEPWARM_ADDRESS",
        show_envvar=True,
        help="Address of the cluster; without it, the local one.",
        metavar="ADDRESS",
    ),
]
CallArgument = Annotated[str, typer.Argument(help="The call's id: 32 hexadecimal digits.", metavar="CALL")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.add_typer(calls_app, name="calls")


@calls_app.command("list")
def calls_list(
    state: Annotated[str, typer.Option(help=f"Only these: {', '.join(_STATES)}.", metavar="STATE")] = "",
    limit: Annotated[int, typer.Option(help="At most so many, the newest.", min=1)] = LIST_DEFAULT,
    namespace: Annotated[str, typer.Option(help="Only this namespace; administrators see all of them.")] = "",
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the newest detached calls: what became of them, and how long their results are kept."""
    if state and state not in _STATES:
        raise OptionError(f"--state {state}: choose one of {', '.join(_STATES)}.")
    with _client(address) as client:
        found, is_all = _newest(client, state, namespace, limit)
    if as_json:
        typer.echo(json.dumps([asdict(status) for status in found], indent=2, ensure_ascii=False))
        return
    if not found:
        typer.echo("No such call." if state or namespace else "No detached call is known here.")
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("call", no_wrap=True, min_width=32)
    for column in ("function", "state", "node", "age", "kept for", "key"):
        table.add_column(column, overflow="fold")
    for status in found:
        kept = "" if status.left_s is None else _length(status.left_s)
        row = (status.id, status.function, _state(status), status.node, _length(status.age_s), kept, status.key)
        table.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row))
    screen().print(table)
    if not is_all:
        typer.echo(f"... and older ones: --limit {limit * 2} shows more.", err=True)


@calls_app.command("show")
def calls_show(call: CallArgument, address: AddressOption = None, as_json: JsonOption = False) -> None:
    """Show what is known of one call, without its result."""
    with _client(address) as client:
        status = status_of(client.show(parse_id(call)))
    if as_json:
        typer.echo(json.dumps(asdict(status), indent=2, ensure_ascii=False))
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in _described(status):
        table.add_row(Text(name, style="dim"), value if isinstance(value, Text) else Text(value))
    screen().print(table)


@calls_app.command("cancel")
def calls_cancel(call: CallArgument, address: AddressOption = None) -> None:
    """Stop a call, queued or running. Exit status 1 if it had ended already."""
    with _client(address) as client:
        state = client.cancel(parse_id(call))
    if state not in ("stopping", "cancelled"):
        typer.echo(f"keepwarm: it had ended already: {state}.", err=True)
        raise typer.Exit(1)
    typer.echo("Stopping." if state == "stopping" else "Cancelled.")


@calls_app.command("forget")
def calls_forget(call: CallArgument, address: AddressOption = None) -> None:
    """Drop a call's result before its time. Exit status 1 if the call is unfinished: cancel it first."""
    with _client(address) as client:
        is_gone = client.forget(parse_id(call))
    if not is_gone:
        typer.echo(f"keepwarm: it is unfinished. `keepwarm calls cancel {call}` stops it.", err=True)
        raise typer.Exit(1)
    typer.echo("Forgotten.")


@calls_app.command("result")
def calls_result(
    call: CallArgument,
    timeout: Annotated[
        float | None, typer.Option(help="Seconds to wait for it (default: without limit).", min=0.0)
    ] = None,
    address: AddressOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON; it has to be plain data.")] = False,
) -> None:
    """Wait for a call and print what it returned.

    The result is a pickle, made by the function's process: unpickling can run any code, here, as you. Use this only on
    calls of people whom you trust as much as those who write your own programs. What the result needs has to be
    importable here; --json is for plain data. What the function raised is printed with its traceback, exit status 1.
    """
    call_id = parse_id(call)
    with _client(address) as client:
        future = client.future(call_id)
        try:
            value = future.result(timeout)
        except KeepwarmError as error:
            if not isinstance(error, RemoteError):
                raise
            _print_failure(error)  # it stands for what the function raised
            raise typer.Exit(1) from None
        except Exception as error:
            if future.done():
                _print_failure(error)
            else:
                typer.echo(f"keepwarm: it has not ended after {timeout:g} s; it goes on.", err=True)
            raise typer.Exit(1) from None
    if not as_json:
        typer.echo(repr(value))
        return
    try:
        typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
    except (TypeError, ValueError) as error:
        raise OptionError(f"--json: the result is no plain data: {error}.") from None


@contextmanager
def _client(address: str | None) -> Iterator["DetachedClient"]:
    """A client of the cluster. The local one is started if it has stopped, for its calls are on disk."""
    from keepwarm import local
    from keepwarm.client import Client

    if not address and local.find() is None and not local.has_state():
        raise ClusterUnreachable("no cluster has run here yet: the first call of a program starts one.")
    client = Client(address or None)
    try:
        yield client.detached
    finally:
        client.close()


def _newest(client: "DetachedClient", state: str, namespace: str, limit: int) -> tuple[list[CallStatus], bool]:
    """The newest calls, page by page, and whether these are all."""
    found: list[CallStatus] = []
    after = b""
    while True:
        wanted = min(limit - len(found), PAGE)
        entries, is_last = client.page(after=after, state=state, namespace=namespace, limit=wanted)
        found += [status_of(entry) for entry in entries]
        if is_last or not entries or len(found) >= limit:
            return found, is_last
        after = entries[-1].cursor


def _described(status: CallStatus) -> Iterator[tuple[str, str | Text]]:
    yield "call", status.id
    yield "function", status.function
    yield "state", _state(status)
    optional = {"key": status.key, "made by": status.label, "namespace": status.namespace, "node": status.node}
    yield from ((name, value) for name, value in optional.items() if value)
    yield "attempts", str(status.attempts)
    yield "accepted", f"{_length(status.age_s)} ago"
    if status.ended_s is not None and status.left_s is not None:
        yield "ended", f"{_length(status.ended_s)} ago"
        yield "result", f"{status.result_bytes} bytes, kept for {_length(status.left_s)}"


def _state(status: CallStatus) -> Text:
    told = f"{status.state}: {status.reason}" if status.reason else status.state
    return Text(told, style=_STYLES.get(status.state, "red"))


def _print_failure(error: BaseException) -> None:
    cause: Any = error.__cause__
    if isinstance(cause, RemoteTraceback):
        typer.echo(cause.text.rstrip(), err=True)
    typer.echo(f"keepwarm: the call failed: {type(error).__name__}: {error}", err=True)
    for note in getattr(error, "__notes__", ()):
        typer.echo(f"  {note}", err=True)


def _length(seconds: float) -> str:
    for unit, length_s in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length_s:
            return f"{seconds / length_s:.0f} {unit}"
    return f"{seconds:.1f} s"
