"""Faults of the network between hosts: packets that do not arrive, or are answered with a reset.

They strike where packets arrive, so that a sender notices nothing but silence. Each fault is an nftables table of its
own in the receiver's namespace: faults add up, and undoing one leaves the others alone.
"""

import itertools
import subprocess

from support.hosts.faults.fault import Fault
from support.hosts.host import Host
from support.hosts.namespaces import BRIDGE, CARD
from support.hosts.requirements import require_programs

__all__ = ["cut_off", "deafen", "link_down", "lose_packets", "mute", "partition", "reset_connections"]

_LIMIT_S = 20
_MILLIONTHS = 1_000_000
_numbers = itertools.count(1)

_NOT_A_RESET = "tcp flags & rst == 0"
"""A reset is not answered with a reset, or the one who is to be reset would never hear of it."""


def mute(host: Host, towards: Host) -> Fault:
    """A one-way partition: what ``host`` sends to the other is lost, what the other sends arrives."""
    return _receiving(f"{host.name} is mute towards {towards.name}", {towards: f"ip saddr {host.address} drop"})


def deafen(host: Host, towards: Host) -> Fault:
    """A one-way partition: what ``host`` sends to the other arrives, what the other sends to it is lost."""
    return _receiving(f"{host.name} is deaf towards {towards.name}", {host: f"ip saddr {towards.address} drop"})


def partition(a: Host, b: Host) -> Fault:
    """Nothing passes between two hosts, in either direction. Others reach both."""
    rules = {a: f"ip saddr {b.address} drop", b: f"ip saddr {a.address} drop"}
    return _receiving(f"{a.name} and {b.name} are partitioned", rules)


def cut_off(host: Host) -> Fault:
    """Nothing passes between a host and any other, as if its cable were pulled out elsewhere: its own link is up."""
    _run("ip", "-n", host.hub, "link", "set", host.port, "nomaster")
    return Fault(
        f"{host.name} is cut off", lambda: _run("ip", "-n", host.hub, "link", "set", host.port, "master", BRIDGE)
    )


def lose_packets(sender: Host, receiver: Host, share: float) -> Fault:
    """Of what the one sends to the other each packet is lost with this probability, by the kernel's own dice."""
    assert 0 <= share < 1, "for all of them there is `mute`"
    rule = f"ip saddr {sender.address} numgen random mod {_MILLIONTHS} < {round(share * _MILLIONTHS)} drop"
    return _receiving(f"{share:.0%} from {sender.name} to {receiver.name} are lost", {receiver: rule})


def reset_connections(a: Host, b: Host) -> Fault:
    """Every TCP packet between two hosts is answered with a reset: old connections break when used, no new ones."""
    rules = {
        receiver: f"ip saddr {sender.address} meta l4proto tcp {_NOT_A_RESET} reject with tcp reset"
        for sender, receiver in ((a, b), (b, a))
    }
    return _receiving(f"connections between {a.name} and {b.name} are reset", rules)


def link_down(host: Host) -> Fault:
    """The host's card is switched off: its own programs get errors, the others silence."""
    _run("ip", "-n", host.namespace, "link", "set", CARD, "down")
    return Fault(
        f"the link of {host.name} is down", lambda: _run("ip", "-n", host.namespace, "link", "set", CARD, "up")
    )


def _receiving(name: str, rules: dict[Host, str]) -> Fault:
    """A rule for what arrives, by receiver; all are undone together."""
    tables = {host: _table(host, rule) for host, rule in rules.items()}

    def undo() -> None:
        for host, table in tables.items():
            _delete(host, table)

    return Fault(name, undo)


def _table(host: Host, rule: str) -> str:
    """Add a table with one rule; its name. The whole text takes effect at once, or not at all."""
    name = f"fault{next(_numbers)}"
    chain = f"type filter hook input priority filter; policy accept;\n{rule}\n"
    _nft(host, f"table ip {name} {{\nchain arrivals {{\n{chain}}}\n}}\n")
    return name


def _delete(host: Host, table: str) -> None:
    _nft(host, f"delete table ip {table}\n")


def _nft(host: Host, text: str) -> None:
    require_programs("nft")
    _run("ip", "netns", "exec", host.namespace, "nft", "-f", "-", text=text)


def _run(*command: str, text: str = "") -> None:
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=_LIMIT_S, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.strip()}\n{text}")
