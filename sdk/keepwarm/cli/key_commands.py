"""Commands about keys: making a cluster's, inviting machines and people with tokens, logging in, revoking.

A token is printed alone on standard output, so that a script can take it; what to do with it goes to standard error.
"""

import json
import re
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from keepwarm.cli.screen import screen
from keepwarm.errors import OptionError

__all__ = ["keys_app", "register", "token_app"]

keys_app = typer.Typer(help="The keys and tokens of a cluster: list, revoke, rotate.", no_args_is_help=True)
token_app = typer.Typer(help="Tokens, with which machines and people join a cluster.", no_args_is_help=True)

_DURATION = re.compile(r"(?P<number>[0-9]+(\.[0-9]+)?)(?P<unit>[smhd]?)")
_UNIT_S = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}

AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        envvar="KEEPWARM_ADDRESS",
        show_envvar=True,
        help="Address of the cluster; without it, that of the scheduler on this machine.",
        metavar="ADDRESS",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(init)
    app.command()(login)
    app.add_typer(token_app, name="token")
    app.add_typer(keys_app, name="keys")


def init() -> None:
    """Make the keys of a cluster on this machine, where its scheduler will run. Keys that are there stay."""
    from keepwarm import logins
    from keepwarm.enrolment import new_key_pair
    from keepwarm_wire.credentials import CredentialError, fingerprint
    from keepwarm_wire.key_files import has_key_store, make_key_store

    directory = logins.key_store()
    were_there = has_key_store(directory)
    logins.cluster_home().mkdir(mode=0o700, exist_ok=True)
    try:
        made = make_key_store(directory, new_key_pair(), new_key_pair())
    except CredentialError as error:
        raise OptionError(str(error)) from None
    typer.echo(f"{'The keys are there already' if were_there else 'Keys made'}: {directory}")
    typer.echo(f"Fingerprint of the scheduler: {fingerprint(made.server.public)}")
    typer.echo("Next: keepwarm scheduler --bind 0.0.0.0:7437    and then, on this machine,")
    typer.echo("      keepwarm token new --role agent           once for each machine that is to join")


@token_app.command("new")
def token_new(
    role: Annotated[str, typer.Option(help="What whoever joins with it may be: agent, client or admin.")],
    ttl: Annotated[str, typer.Option(help="How long it can be used: 90s, 15m, 1h, 7d.")] = "1h",
    uses: Annotated[int, typer.Option(help="How often it can be used.", min=1)] = 1,
    namespace: Annotated[str, typer.Option(help="The namespace of a client (default: default).")] = "",
    name: Annotated[str, typer.Option(help="What the token is called in lists.")] = "",
    address: AddressOption = None,
) -> None:
    """Make a join token and print it: a secret, to be given to one machine or person."""
    from keepwarm import logins
    from keepwarm.admin import AdminClient

    if role not in ("agent", "client", "admin"):
        raise OptionError(f"--role {role}: choose agent, client or admin.")
    lifetime_s = parse_duration_s(ttl)
    with AdminClient(address or logins.cluster_socket()) as admin:
        token, made = admin.new_token(role, namespace=namespace, name=name, uses=uses, lifetime_s=lifetime_s)
    typer.echo(token.text())
    how = "keepwarm agent --join TOKEN --at HOST:7437" if role == "agent" else "keepwarm login TOKEN --at HOST:7437"
    times = "once" if made.uses == 1 else f"{made.uses} times"
    typer.echo(
        f"Good {times}, for {made.lifetime_us / 6e7:.0f} minutes. Whoever has it may join as {made.role}"
        f"{f' in namespace {made.namespace}' if made.namespace else ''}:\n  {how}",
        err=True,
    )


def login(
    token: Annotated[str, typer.Argument(help="What `keepwarm token new --role client` printed.", metavar="TOKEN")],
    at: Annotated[str, typer.Option("--at", help="Where the scheduler is: host:port.", metavar="ADDRESS")],
    name: Annotated[str, typer.Option(help="What this key is called in lists (default: user@host).")] = "",
) -> None:
    """Let this user's programs use a cluster: enrols a key of their own, kept under the home directory."""
    from keepwarm import logins
    from keepwarm.enrolment import log_in

    key, enrolled = log_in(token, at, name)
    addresses = ",".join(logins.parse(at))
    where = f" in namespace {enrolled.namespace}" if enrolled.namespace else ""
    typer.echo(f"Logged in as {key.name} ({enrolled.role}{where}). Programs use the cluster with:")
    typer.echo(f"  export KEEPWARM_ADDRESS={addresses}")


@keys_app.command("list")
def keys_list(
    address: AddressOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Show every key and token that the scheduler knows, and what became of it."""
    from keepwarm import logins
    from keepwarm.admin import AdminClient
    from keepwarm_wire.credentials import fingerprint
    from keepwarm_wire.fields import FOREVER_US

    with AdminClient(address or logins.cluster_socket()) as admin:
        entries = admin.keys()
    rows = [
        {
            "fingerprint": fingerprint(entry.public_key),
            "kind": "token" if entry.is_token else "key",
            "name": entry.name,
            "role": entry.role,
            "namespace": entry.namespace,
            "state": entry.state,
            "origin": entry.origin,
            "age_s": entry.age_us / 1e6,
            "unseen_s": None if entry.unseen_us >= FOREVER_US else entry.unseen_us / 1e6,
            "uses_left": entry.uses_left if entry.is_token else None,
            "left_s": entry.left_us / 1e6 if entry.is_token else None,
        }
        for entry in sorted(entries, key=lambda entry: (entry.is_token, -entry.age_us))
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    table = Table("name", "kind", "role", "namespace", "state", "made", "last seen", box=None)
    table.add_column("fingerprint", no_wrap=True, min_width=24)
    for row in rows:
        is_open = row["kind"] == "token" and row["state"] == "live"
        state = f"{row['state']}, {row['uses_left']} left" if is_open else str(row["state"])
        unseen = "never" if row["unseen_s"] is None else _ago(row["unseen_s"])
        table.add_row(
            *(Text(str(row[name])) for name in ("name", "kind", "role", "namespace")),
            Text(state),
            _ago(row["age_s"]),
            "" if row["kind"] == "token" else unseen,
            str(row["fingerprint"]),
        )
    screen().print(table)


@keys_app.command("revoke")
def keys_revoke(
    key: Annotated[str, typer.Argument(help="Its name or fingerprint, as `keys list` shows them.", metavar="KEY")],
    address: AddressOption = None,
) -> None:
    """Let a key or token in no more. Its connections end at once; a node's calls are run elsewhere."""
    from keepwarm import logins
    from keepwarm.admin import AdminClient

    with AdminClient(address or logins.cluster_socket()) as admin:
        revoked = admin.revoke(key)
    typer.echo(f"Revoked: {'token' if revoked.is_token else 'key'} {revoked.name}.")


@keys_app.command("rotate")
def keys_rotate(
    address: AddressOption = None,
    server: Annotated[bool, typer.Option("--server", help="The scheduler's own key, on its machine.")] = False,
) -> None:
    """Put a new key in the place of this user's, or of the scheduler's."""
    from keepwarm import logins
    from keepwarm.admin import AdminClient
    from keepwarm.enrolment import new_key_pair
    from keepwarm_wire.credentials import CredentialError, fingerprint
    from keepwarm_wire.key_files import replace_server_key, write_key

    pair = new_key_pair()
    try:
        if server:
            replace_server_key(logins.key_store(), pair)
            typer.echo(f"The scheduler's new key: {fingerprint(pair.public)}. It counts from its next start; then")
            typer.echo("every token is void, and every agent and user has to join again with a new one.")
            return
        addresses = logins.parse(address or logins.cluster_socket())
        with AdminClient(addresses[0]) as admin:
            admin.rotate(pair.public)
        path, old = logins.key_file(addresses)
        write_key(path, old._replace(pair=pair), replace=True)
    except CredentialError as error:
        raise OptionError(str(error)) from None
    typer.echo(f"The key in {path} is new: {fingerprint(pair.public)}. The old one is let in no more.")


def parse_duration_s(text: str) -> float:
    """Seconds from ``90s``, ``15m``, ``1h`` or ``7d``. Raises ``OptionError``.

    >>> parse_duration_s("1.5h")
    5400.0
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None or not float(match["number"]):
        raise OptionError(f"--ttl {text}: write it like 90s, 15m, 1h or 7d.")
    return float(match["number"]) * _UNIT_S[match["unit"]]


def _ago(seconds: float | object) -> str:
    assert isinstance(seconds, float | int)
    for unit, length_s in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length_s:
            return f"{seconds / length_s:.0f} {unit} ago"
    return "now" if seconds < 1 else f"{seconds:.0f} s ago"
