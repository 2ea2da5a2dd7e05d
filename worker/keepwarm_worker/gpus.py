"""The GPUs of this machine, found without any of them being touched.

``probe`` asks its sources in turn and takes the first answer: NVML, if the package ``nvidia-ml-py`` is installed; the
files that the driver keeps under ``/proc``; the program ``nvidia-smi``. Rules: a source that is not there, or fails, or
takes long, has no answer, and that is no error; what CUDA_VISIBLE_DEVICES of the agent's own environment hides (Slurm
and others set it) is not offered; no GPU is offered twice.
"""

import importlib
import logging
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["SOURCES", "VISIBLE", "Gpu", "from_nvml", "from_proc", "from_smi", "offered", "probe", "visible"]

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""The variable that tells CUDA which GPUs there are, by index or by the beginning of their UUID."""

PROC_ROOT = Path("/proc/driver/nvidia/gpus")
_SMI = "nvidia-smi"
_SMI_ARGUMENTS = ("--query-gpu=index,uuid,memory.total,name", "--format=csv,noheader,nounits")
_SMI_TIMEOUT_S = 10
_MIB = 1 << 20

_log = logging.getLogger(__name__)


class Gpu(NamedTuple):
    """One GPU. ``number`` counts from 0 along the bus; ``memory_bytes`` is 0 where the source does not say."""

    number: int
    uuid: str
    model: str = ""
    memory_bytes: int = 0


Source = Callable[[], Sequence[Gpu] | None]
"""None: it cannot tell. Empty: there are none."""


def probe(sources: Iterable[Source]) -> tuple[Gpu, ...]:
    """What the first source says that can tell; nothing if none can.

    >>> probe([lambda: None, lambda: [Gpu(0, "GPU-1")]])
    (Gpu(number=0, uuid='GPU-1', model='', memory_bytes=0),)
    """
    for source in sources:
        found = source()
        if found is not None:
            return tuple(sorted(found))
    return ()


def visible(found: Sequence[Gpu], setting: str | None) -> tuple[str, ...]:
    """The names under which the found GPUs are handed out, in order; of those only that ``CUDA_VISIBLE_DEVICES`` shows.

    As CUDA does: the list ends at the first entry that means no GPU. A part of one (``MIG-...``) counts as one.

    >>> visible([Gpu(0, "GPU-a1"), Gpu(1, "GPU-b2")], None), visible([Gpu(0, "GPU-a1"), Gpu(1, "GPU-b2")], "1,7,0")
    (('GPU-a1', 'GPU-b2'), ('GPU-b2',))
    """
    names = [gpu.uuid or str(gpu.number) for gpu in found]
    if setting is None:
        return tuple(names)
    chosen: dict[str, None] = {}
    for entry in (each.strip() for each in setting.split(",")):
        matching = [
            name
            for gpu, name in zip(found, names, strict=True)
            if str(gpu.number) == entry or (entry.startswith("GPU-") and gpu.uuid.startswith(entry))
        ] or [entry] * entry.startswith("MIG-")
        if len(matching) != 1 or matching[0] in chosen:
            break
        chosen[matching[0]] = None
    return tuple(chosen)


def offered(configured: int | None, found: Sequence[Gpu], setting: str | None) -> tuple[str, ...]:
    """What the node offers: what is visible, or so many of them as were configured, found or not.

    >>> offered(2, [], None)
    ('0', '1')
    """
    names = visible(found, setting)
    if configured is None:
        return names
    if not found and setting:
        names = tuple(dict.fromkeys(each.strip() for each in setting.split(",") if each.strip()))
    if configured <= len(names):
        return names[:configured]
    if names:
        _log.warning("--gpus %d: only %d are there; offering these", configured, len(names))
        return names
    return tuple(str(index) for index in range(configured))


# ---------------------------------------------------------------- sources


def from_nvml(load: Callable[[], Any] = lambda: importlib.import_module("pynvml")) -> list[Gpu] | None:
    """NVIDIA's own library. None where its Python package, or the library, is not there."""
    try:
        nvml = load()
        nvml.nvmlInit()
    except Exception as error:
        _log.debug("NVML: %s", error)
        return None
    try:
        return [_nvml_gpu(nvml, index) for index in range(nvml.nvmlDeviceGetCount())]
    except Exception as error:
        _log.warning("NVML cannot tell which GPUs there are: %s", error)
        return None
    finally:
        nvml.nvmlShutdown()


def _nvml_gpu(nvml: Any, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    uuid, model = nvml.nvmlDeviceGetUUID(handle), nvml.nvmlDeviceGetName(handle)
    memory_bytes = int(nvml.nvmlDeviceGetMemoryInfo(handle).total)
    return Gpu(index, _text(uuid), _text(model), memory_bytes)


def _text(value: str | bytes) -> str:
    """Older releases of the package answer in bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def from_proc(root: Path = PROC_ROOT) -> list[Gpu] | None:
    """The driver's files, one directory for each place on the bus. None where the driver is not loaded."""
    try:
        places = sorted(root.iterdir())
    except OSError:
        return None
    gpus: list[Gpu] = []
    for place in places:
        fields = _fields(place / "information")
        uuid = fields.get("GPU UUID", "")
        if not uuid.startswith("GPU-") or "?" in uuid:
            return None  # the driver has not looked at it yet, and does not know its name
        gpus.append(Gpu(len(gpus), uuid, fields.get("Model", "")))
    return gpus


def _fields(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def run_smi() -> str | None:
    """What ``nvidia-smi`` prints; None where it is not there, fails or hangs, as it does when the driver is ill."""
    program = shutil.which(_SMI)
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, *_SMI_ARGUMENTS], capture_output=True, text=True, timeout=_SMI_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError) as error:
        _log.warning("%s: %s", _SMI, error)
        return None
    return done.stdout


def from_smi(run: Callable[[], str | None] = run_smi) -> list[Gpu] | None:
    """The program of the driver. None where it is not there, or says something that is not a list of GPUs."""
    text = run()
    if text is None:
        return None
    gpus: list[Gpu] = []
    for line in filter(str.strip, text.splitlines()):
        words = [word.strip() for word in line.split(",", 3)]
        if len(words) < 4 or not words[0].isdecimal() or not words[1].startswith("GPU-"):
            return None
        memory_mib = int(words[2]) if words[2].isdecimal() else 0
        gpus.append(Gpu(int(words[0]), words[1], words[3], memory_mib * _MIB))
    return gpus


SOURCES: tuple[Source, ...] = (from_nvml, from_proc, from_smi)


def environment(devices: Sequence[str] | None) -> dict[str, str]:
    """What an instance's environment says of its GPUs. On a node that offers none, nothing is said.

    >>> environment(()), environment(("GPU-a1", "GPU-b2"))["CUDA_VISIBLE_DEVICES"]
    ({'CUDA_VISIBLE_DEVICES': ''}, 'GPU-a1,GPU-b2')
    """
    if devices is None:
        return {}
    return {VISIBLE: ",".join(devices)} | ({"CUDA_DEVICE_ORDER": "PCI_BUS_ID"} if devices else {})
