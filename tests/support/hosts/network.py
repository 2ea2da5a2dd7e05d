"""A few hosts in one network, made of network namespaces on this machine, and gone afterwards without a trace.

Rules: the machine's own network is never touched; two runs at the same time do not meet; what a run that was killed
has left behind is removed when the next one begins.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from support.hosts.host import Host
from support.hosts.memory import group_folder, groups_that_exist, remove_folder
from support.hosts.mounts import unmount_all
from support.hosts.namespaces import alone, join, kill_all, path_of, processes_below, remove
from support.hosts.owned_names import OwnedName, new_name
from support.hosts.requirements import require_programs

__all__ = ["HOSTS_MAX", "Hosts", "remove_leftovers"]

HOSTS_MAX = 250
_PARENT = Path("/tmp")  # not the system's choice: its paths may be long


class Hosts:
    """Hosts with these names, which can all reach one another.

    >>> with Hosts("scheduler", "agent") as hosts:
    ...     listener = hosts["scheduler"].listen(7000)
    ...     connection = hosts["agent"].connect(hosts["scheduler"].address, 7000)

    Leaving it ends every process on every host. If it is left by an exception, what the programs said becomes a note
    of that exception.
    """

    def __init__(self, *names: str) -> None:
        assert 0 < len(set(names)) == len(names) <= HOSTS_MAX, names
        self._names = names
        self._owned = new_name()
        self._hosts: dict[str, Host] = {}

    @property
    def folder(self) -> Path:
        """A folder on the disk that all hosts share; short, and deleted afterwards."""
        return _PARENT / str(self._owned)

    def __enter__(self) -> "Hosts":
        require_programs("ip", "nsenter", "unshare", "mount", "prlimit")
        remove_leftovers()
        try:
            self._build()
        except BaseException:
            self._remove()
            raise
        return self

    def _build(self) -> None:
        namespaces = {name: f"{self._owned}-{number}" for number, name in enumerate(self._names, 1)}
        addresses = {name: f"10.77.0.{number}" for number, name in enumerate(self._names, 1)}
        self.folder.mkdir(mode=0o700)
        (self.folder / "logs").mkdir()
        hub = f"{self._owned}-hub"
        join(hub, {namespaces[name]: f"{addresses[name]}/24" for name in self._names})
        for number, name in enumerate(self._names, 1):
            self._hosts[name] = Host(name, number, addresses[name], namespaces[name], hub, self.folder)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            error.add_note(self.said())
        self._remove()

    def __getitem__(self, name: str) -> Host:
        return self._hosts[name]

    def __iter__(self) -> Iterator[Host]:
        return iter(self._hosts.values())

    def __len__(self) -> int:
        return len(self._hosts)

    def said(self) -> str:
        """The ends of everything that the programs on all hosts wrote."""
        return "\n".join(program.said() for host in self for program in host.programs)

    def _remove(self) -> None:
        for host in self:
            host.power_off()
        _remove_everything(self._owned)
        self._hosts.clear()


def remove_leftovers() -> list[str]:
    """Remove what killed runs have left: processes, namespaces, mounts, cgroups, folders. Returns their names."""
    with alone():
        return _remove_leftovers()


def _remove_leftovers() -> list[str]:
    names = [*_names_below(_PARENT), *_names_below(path_of("")), *groups_that_exist()]
    owners = {owned for name in names if (owned := OwnedName.parse(name)) is not None and owned.is_left_over}
    for owned in sorted(owners):
        _remove_everything(owned)
    return [str(owned) for owned in sorted(owners)]


def _remove_everything(owned: OwnedName) -> None:
    remove([name for name in _names_below(path_of("")) if OwnedName.parse(name) == owned])
    folder = _PARENT / str(owned)
    kill_all(lambda: processes_below(folder))
    unmount_all(folder)
    for name in groups_that_exist():
        group = group_folder(name)
        if group is not None and OwnedName.parse(name) == owned:
            remove_folder(group)
    shutil.rmtree(folder, ignore_errors=True)


def _names_below(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()] if folder.exists() else []
