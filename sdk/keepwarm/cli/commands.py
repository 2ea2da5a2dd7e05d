"""The command line: what there is to say to a cluster, and how it answers.

Rules: a mistake of the user's gets one sentence and exit status 2, a cluster that cannot be reached or refuses gets one
sentence and exit status 1, never a traceback of ours. Tables are for terminals, ``--json`` is for programs.
"""

import json
import os
import sys
from importlib.metadata import version
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from keepwarm.cli import call_commands, key_commands, node_commands
from keepwarm.cli.becoming import DAEMONS, become
from keepwarm.cli.screen import screen
from keepwarm.errors import KeepwarmError, OptionError

__all__ = ["app", "main"]

app = typer.Typer(
    help="Run Python functions on a cluster, each in its own environment, kept warm as long as its keep_alive says.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

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

key_commands.register(app)
node_commands.register(app)
call_commands.register(app)

_BACKUP_S = 600.0
"""A scheduler does nothing else while it copies its state; a large one takes a while."""

_STOP_WAIT_S = 10.0
"""How long ``stop`` waits for a local cluster's processes to end; agents give their instances up to three seconds."""

_DAEMON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def main() -> None:
    """Run the command line. Errors of keepwarm become one sentence."""
    try:
        app()
    except KeepwarmError as error:
        Console(stderr=True).print(f"[red]keepwarm:[/red] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(2 if isinstance(error, OptionError) else 1)
    except BrokenPipeError:
        sys.exit(1)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"keepwarm {version('keepwarm')}")
        raise typer.Exit


@app.callback()
def _options(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options before the command."""


@app.command(context_settings=_DAEMON)
def scheduler(context: typer.Context) -> None:
    """Run a scheduler in the foreground (`keepwarm scheduler --help` for its options)."""
    become(DAEMONS["scheduler"], context.args)


@app.command(context_settings=_DAEMON)
def agent(context: typer.Context) -> None:
    """Run a node's agent in the foreground (`keepwarm agent --help` for its options)."""
    become(DAEMONS["agent"], context.args)


@app.command(context_settings=_DAEMON)
def simulate(context: typer.Context) -> None:
    """Replay a trace of invocations: what would each keep_alive cost (`keepwarm simulate --help`)?"""
    become("keepwarm_scheduler.simulate", context.args)


@app.command()
def demo() -> None:
    """Run two functions, cold and warm, and watch the lease count down (about 20 seconds)."""
    become("keepwarm.cli.demo", [])


@app.command()
def status(
    address: AddressOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Show nodes, environments and where they are warm, instances with what is left of their leases, calls."""
    from keepwarm.admin import AdminClient

    found = _address(address)
    if found is None:
        if as_json:
            typer.echo("null")
        else:
            typer.echo("No cluster is running here. The first call of a program starts one.")
        raise typer.Exit(1)
    with AdminClient(found) as admin:
        document = admin.status()
    if as_json:
        typer.echo(json.dumps(document, indent=2, ensure_ascii=False))
        return
    from keepwarm.cli.status_view import render

    screen().print(render(document, found))


@app.command()
def explain(
    call: Annotated[str, typer.Argument(help="A call's id, as status and errors show it.", metavar="CALL")],
    address: AddressOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Say why a call ran where it ran, and why it was cold, or what it still waits for."""
    from keepwarm.admin import AdminClient

    found = _address(address)
    if found is None:
        typer.echo("keepwarm: no cluster is running here, and what one did is forgotten when it stops.", err=True)
        raise typer.Exit(1)
    with AdminClient(found) as admin:
        document = admin.explain(call)
    if as_json:
        typer.echo(json.dumps(document, indent=2, ensure_ascii=False))
    elif "error" in document:
        typer.echo(f"keepwarm: {document['summary']}", err=True)
    else:
        from keepwarm.cli.explain_view import render

        screen().print(render(document), highlight=False)
    if "error" in document:
        raise typer.Exit(2 if document["error"] == "malformed" else 1)


@app.command()
def stop(
    address: AddressOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Stop although calls are unfinished; they are cancelled.")
    ] = False,
) -> None:
    """Stop a cluster: the scheduler, its agents and their instances."""
    from keepwarm import local
    from keepwarm.admin import AdminClient

    found = _address(address)
    if found is None:
        typer.echo("No cluster is running here.")
        return
    with AdminClient(found) as admin:
        unfinished = admin.stop(force=force)
    if unfinished:
        calls = "1 call is" if unfinished == 1 else f"{unfinished} calls are"
        typer.echo(f"keepwarm: not stopped: {calls} unfinished. Wait for them, or use --force.", err=True)
        raise typer.Exit(1)
    if address is None and not local.await_end(_STOP_WAIT_S):
        typer.echo(f"keepwarm: told to stop, but still ending after {_STOP_WAIT_S:.0f} s; its logs say why.", err=True)
        raise typer.Exit(1)
    typer.echo("Stopped.")


@app.command()
def backup(
    directory: Annotated[str, typer.Argument(help="A new directory on the scheduler's machine.", metavar="DIR")],
    address: AddressOption = None,
) -> None:
    """Copy the scheduler's state while it runs: keys, locks, detached calls. `keepwarm restore` puts it back."""
    from keepwarm.admin import AdminClient

    found = _address(address)
    if found is None:
        typer.echo("keepwarm: no cluster is running here, so there is nothing to ask for a copy.", err=True)
        raise typer.Exit(1)
    with AdminClient(found, timeout_s=_BACKUP_S) as admin:
        done = admin.back_up(os.path.abspath(directory))  # noqa: PTH100  # may be another machine's
    typer.echo(f"Backed up to {directory}: {done.size_bytes:,} bytes in {done.duration_us / 1e6:.2f} s.")


@app.command(context_settings=_DAEMON)
def restore(context: typer.Context) -> None:
    """Put a backup in the place of a stopped scheduler's state (`keepwarm restore --help`)."""
    become("keepwarm_scheduler.backups", context.args)


@app.command()
def doctor(address: AddressOption = None) -> None:
    """Check this machine and the cluster, and say what to do about what is wrong."""
    from keepwarm.cli.doctor import examine

    if not examine(Console(), _address_quietly(address)):
        raise typer.Exit(1)


def _address(given: str | None) -> str | None:
    """The address that was given, else that of the local cluster, or of a scheduler started here by hand, if one runs.

    Starts nothing.
    """
    if given:
        return given
    from keepwarm import local, logins

    return local.find() or (logins.cluster_socket() if logins.is_serving_here() else None)


def _address_quietly(given: str | None) -> str | None:
    try:
        return _address(given)
    except KeepwarmError:
        return None
