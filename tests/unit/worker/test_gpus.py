"""Which GPUs an agent finds and offers, with sources that answer as the real ones do."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from keepwarm_worker import gpus
from keepwarm_worker.gpus import Gpu

UUIDS = ("GPU-5a2f1c34-77de-0ce8-1f6b-3f1c2f5f9a01", "GPU-9b10de44-1c2d-4e5f-8a9b-0c1d2e3f4a5b")
TWO = [Gpu(0, UUIDS[0], "NVIDIA H200", 150_754_820_096), Gpu(1, UUIDS[1], "NVIDIA H200", 150_754_820_096)]

INFORMATION = """\
Model: \t\t NVIDIA H200
IRQ:   \t\t 143
GPU UUID: \t {uuid}
Video BIOS: \t 96.00.a5.00.01
Bus Type: \t PCIe
DMA Size: \t 52 bits
DMA Mask: \t 0xfffffffffffff
Bus Location: \t 0000:{bus}:00.0
Device Minor: \t 0
GPU Firmware: \t 550.90.07
GPU Excluded:\t No
"""


class Nvml(SimpleNamespace):
    """The calls of ``pynvml`` that are used, with what it returns."""

    def __init__(self, count: int = 2, *, in_bytes: bool = False, broken: str = "") -> None:
        super().__init__()
        self.count, self.in_bytes, self.broken, self.is_open = count, in_bytes, broken, False

    def _answer(self, name: str, value: Any) -> Any:
        if name == self.broken:
            raise RuntimeError("NVML Shared Library Not Found")
        return value.encode() if self.in_bytes and isinstance(value, str) else value

    def nvmlInit(self) -> None:
        self._answer("init", None)
        self.is_open = True

    def nvmlShutdown(self) -> None:
        self.is_open = False

    def nvmlDeviceGetCount(self) -> int:
        return int(self._answer("count", self.count))

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetUUID(self, handle: int) -> str | bytes:
        return self._answer("uuid", UUIDS[handle])  # type: ignore[no-any-return]

    def nvmlDeviceGetName(self, _handle: int) -> str | bytes:
        return self._answer("name", "NVIDIA H200")  # type: ignore[no-any-return]

    def nvmlDeviceGetMemoryInfo(self, _handle: int) -> SimpleNamespace:
        return SimpleNamespace(total=150_754_820_096, free=150_000_000_000, used=754_820_096)


@pytest.mark.parametrize("in_bytes", [False, True])
def test_nvml_tells_all_of_them_and_is_closed_again(in_bytes: bool) -> None:
    nvml = Nvml(in_bytes=in_bytes)
    assert gpus.from_nvml(lambda: nvml) == TWO
    assert not nvml.is_open


@pytest.mark.parametrize("broken", ["init", "count", "uuid"])
def test_nvml_that_fails_cannot_tell(broken: str) -> None:
    nvml = Nvml(broken=broken)
    assert gpus.from_nvml(lambda: nvml) is None
    assert not nvml.is_open


def test_a_package_that_is_not_installed_cannot_tell() -> None:
    def load() -> Any:
        raise ModuleNotFoundError("No module named 'pynvml'")

    assert gpus.from_nvml(load) is None


def _place(root: Path, bus: str, uuid: str) -> None:
    (root / f"0000:{bus}:00.0").mkdir(parents=True)
    (root / f"0000:{bus}:00.0" / "information").write_text(INFORMATION.format(uuid=uuid, bus=bus))


def test_the_drivers_files_are_read_in_the_order_of_the_bus(tmp_path: Path) -> None:
    _place(tmp_path, "b1", UUIDS[1])
    _place(tmp_path, "0f", UUIDS[0])
    assert gpus.from_proc(tmp_path) == [Gpu(0, UUIDS[0], "NVIDIA H200"), Gpu(1, UUIDS[1], "NVIDIA H200")]


def test_without_a_driver_its_files_cannot_tell_and_without_gpus_there_are_none(tmp_path: Path) -> None:
    assert gpus.from_proc(tmp_path / "missing") is None
    assert gpus.from_proc(tmp_path) == []


def test_a_gpu_that_the_driver_has_not_looked_at_has_no_name_yet(tmp_path: Path) -> None:
    _place(tmp_path, "0f", "GPU-????????-????-????-????-????????????")
    assert gpus.from_proc(tmp_path) is None


def test_nvidia_smi_is_understood() -> None:
    said = f"0, {UUIDS[0]}, 143771, NVIDIA H200\n1, {UUIDS[1]}, [N/A], NVIDIA H200, special\n"
    assert gpus.from_smi(lambda: said) == [
        Gpu(0, UUIDS[0], "NVIDIA H200", 143_771 << 20),
        Gpu(1, UUIDS[1], "NVIDIA H200, special", 0),
    ]


@pytest.mark.parametrize(
    "said", [None, "No devices were found\n", "NVIDIA-SMI has failed because it couldn't communicate with the driver"]
)
def test_nvidia_smi_that_is_missing_or_ill_cannot_tell(said: str | None) -> None:
    assert gpus.from_smi(lambda: said) is None


def test_the_first_source_that_can_tell_is_believed() -> None:
    assert gpus.probe([lambda: None, list, lambda: TWO]) == ()
    assert gpus.probe([lambda: None, lambda: TWO[::-1]]) == tuple(TWO)
    assert gpus.probe([]) == ()


@pytest.mark.parametrize(
    ("setting", "names"),
    [
        (None, UUIDS),
        ("", ()),
        ("1", UUIDS[1:]),
        ("1,0", UUIDS[::-1]),
        ("0, 1", UUIDS),
        (UUIDS[1], UUIDS[1:]),
        ("GPU-9b10", UUIDS[1:]),
        ("0,7,1", UUIDS[:1]),
        ("-1,0", ()),
        ("0,0", UUIDS[:1]),
        ("NoDevFiles", ()),
        ("MIG-1234,MIG-5678", ("MIG-1234", "MIG-5678")),
    ],
)
def test_what_the_agents_own_environment_hides_is_not_offered(setting: str | None, names: tuple[str, ...]) -> None:
    assert gpus.visible(TWO, setting) == names


@pytest.mark.parametrize(
    ("configured", "found", "setting", "names"),
    [
        (None, TWO, None, UUIDS),
        (1, TWO, None, UUIDS[:1]),
        (1, TWO, "1", UUIDS[1:]),
        (0, TWO, None, ()),
        (None, [], None, ()),
        (2, [], None, ("0", "1")),
        (2, [], "4,6,7", ("4", "6")),
    ],
)
def test_as_many_are_offered_as_were_configured(
    configured: int | None, found: list[Gpu], setting: str | None, names: tuple[str, ...]
) -> None:
    assert gpus.offered(configured, found, setting) == names


def test_more_than_there_are_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert gpus.offered(8, TWO, None) == UUIDS
    assert "only 2 are there" in caplog.text


def test_an_instance_is_told_of_its_gpus_and_of_no_others() -> None:
    assert gpus.environment(UUIDS[:1]) == {"CUDA_VISIBLE_DEVICES": UUIDS[0], "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert gpus.environment(()) == {"CUDA_VISIBLE_DEVICES": ""}
    assert gpus.environment(None) == {}
