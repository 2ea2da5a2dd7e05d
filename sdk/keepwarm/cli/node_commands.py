"""Commands about single nodes: cordon, drain, uncordon.

An order is the scheduler's from the moment it is answered: the command that waits for a drain only watches it.
"""

import json
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.status import Status

from keepwarm.cli.key_commands import AddressOption, parse_duration_s
from keepwarm.errors import ClusterUnreachable, OptionError

if TYPE_CHECKING:
    from keepwarm.admin import AdminClient
    from keepwarm_wire.messages import NodeChanged

__all__ = ["parse_wait_s", "register", "told", "watch"]

POLL_S = 0.5

NodeArgument = Annotated[str, typer.Argument(help="The node's name, as status shows it.", metavar="NODE")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(cordon)
    app.command()(drain)
    app.command()(uncordon)


def cordon(node: NodeArgument, address: AddressOption = None, as_json: JsonOption = False) -> None:
    """Send nothing new to a node: no call, no start. What runs goes on, leases run out; `uncordon` undoes it."""
    with _admin(address) as admin:
        _print(admin.order_node(node, "cordon"), as_json)


def uncordon(node: NodeArgument, address: AddressOption = None, as_json: JsonOption = False) -> None:
    """Use a node again that was cordoned or drained."""
    with _admin(address) as admin:
        _print(admin.order_node(node, "uncordon"), as_json)


def drain(
    node: NodeArgument,
    max_wait: Annotated[
        str, typer.Option("--max-wait", help="How long leases are waited for: 90s, 10m, 1h; 0 for not at all.")
    ] = "10m",
    stop: Annotated[bool, typer.Option("--stop", help="End the agent too, once nothing is left there.")] = False,
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Empty a node, and wait for that: calls finish, leases run out, what is idle then is ended.

    Ctrl-C ends the wait, not the drain.
    """
    max_wait_s = parse_wait_s(max_wait)
    with _admin(address) as admin:
        now = admin.order_node(node, "drain", max_wait_s=max_wait_s, stop=stop)
        console = Console(stderr=True)
        try:
            with console.status(escape(told(now))) as line:
                now = watch(admin, now, stop=stop, show=lambda one: _show(line, one))
        except KeyboardInterrupt:
            typer.echo(
                f"Not waiting any more; the drain of {node} goes on. `keepwarm drain {node}` waits for it again, "
                f"`keepwarm uncordon {node}` calls it off.",
                err=True,
            )
            raise typer.Exit(130) from None
    _print(now, as_json)
    if now.state in ("open", "cordoned"):
        typer.echo(f"keepwarm: somebody has called the drain of {node} off: it is {now.state}.", err=True)
        raise typer.Exit(1)


def watch(
    admin: "AdminClient",
    now: "NodeChanged",
    *,
    stop: bool,
    show: Callable[["NodeChanged"], None] = lambda _: None,
    pause: Callable[[float], object] | None = None,
) -> "NodeChanged":
    """Ask until a node is drained, and has left if it was to; or until it is not being drained any more.

    A scheduler that is away for a while, such as during its restart, is waited for.
    """
    pause = pause or threading.Event().wait
    while now.state == "draining" or (stop and now.state == "drained" and now.reach != "absent"):
        pause(POLL_S)
        try:
            now = admin.node(now.node)
        except ClusterUnreachable:
            continue
        show(now)
    return now


def parse_wait_s(text: str) -> float:
    """Seconds from ``90s``, ``10m``, ``1h``, ``0`` or ``forever``. Raises ``OptionError``.

    >>> parse_wait_s("0"), parse_wait_s("10m"), parse_wait_s("forever")
    (0.0, 600.0, inf)
    """
    if text.strip() in ("forever", "inf"):
        return float("inf")
    if text.strip() in ("0", "0s"):
        return 0.0
    try:
        return parse_duration_s(text)
    except OptionError:
        raise OptionError(f"--max-wait {text}: write it like 0, 90s, 10m, 1h or forever.") from None


def told(now: "NodeChanged") -> str:
    """How a node stands, in one sentence.

    >>> from keepwarm_wire.messages import NodeChanged
    >>> told(NodeChanged(1, "a", "draining", "alive", 1, 3, 125_000_000))
    'a is draining: 1 call runs, 3 processes are left; leases are waited for 125 s more'
    """
    from keepwarm_wire.fields import FOREVER_US

    word = {"open": "in use"}.get(now.state, now.state)
    reach = {"alive": "", "absent": " (it is not here)"}.get(now.reach, f" ({now.reach})")
    if now.state not in ("draining", "cordoned"):
        return f"{now.node} is {word}{reach}"
    calls = "1 call runs" if now.calls == 1 else f"{now.calls} calls run"
    left = "1 process is left" if now.instances == 1 else f"{now.instances} processes are left"
    wait = f"; leases are waited for {now.left_us / 1e6:.0f} s more" if 0 < now.left_us < FOREVER_US else ""
    return f"{now.node} is {word}{reach}: {calls}, {left}{wait}"


def _show(line: Status, now: "NodeChanged") -> None:
    line.update(escape(told(now)))


def _admin(address: str | None) -> "AdminClient":
    from keepwarm import local, logins
    from keepwarm.admin import AdminClient

    return AdminClient(address or local.find() or logins.cluster_socket())


def _document(now: "NodeChanged") -> dict[str, Any]:
    from keepwarm_wire.fields import FOREVER_US

    left_s = None if now.left_us >= FOREVER_US else now.left_us / 1e6
    numbers = {"calls": now.calls, "instances": now.instances, "left_s": left_s}
    return {"node": now.node, "state": now.state, "reach": now.reach, **numbers}


def _print(now: "NodeChanged", as_json: bool) -> None:
    typer.echo(json.dumps(_document(now), ensure_ascii=False) if as_json else f"{told(now)}.")
