"""Whatever the hardware answers, or refuses to answer, this computer is described."""

import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vllama import cli, hardware
from vllama.hardware import amd, apple, detect, nvidia, processor
from vllama.hardware.processor import Memory
from vllama.machine import GIB, Gpu, Machine, Process
from vllama.settings import Settings

MEMORY = Memory(128 * GIB, 100 * GIB)


class NvmlError(Exception):
    pass


class FakeNvml:
    """NVML as a driver would offer it: two linked H100s, the first of them busy."""

    NVML_CLOCK_MEM = 2
    NVML_P2P_CAPS_INDEX_NVLINK = 5
    NVML_P2P_STATUS_OK = 0
    nvmlClocksEventReasonSwPowerCap = 0x4  # noqa: N815
    nvmlClocksThrottleReasonHwThermalSlowdown = 0x40  # noqa: N815

    def __init__(self, **answers: Any) -> None:
        self.answers: dict[str, Any] = {
            "nvmlInit": None,
            "nvmlShutdown": None,
            "nvmlSystemGetDriverVersion": "580.95.05",
            "nvmlSystemGetCudaDriverVersion_v2": 13000,
            "nvmlSystemGetProcessName": lambda pid: f"/usr/bin/python{pid}",
            "nvmlDeviceGetCount": 2,
            "nvmlDeviceGetHandleByIndex": lambda i: i,
            "nvmlDeviceGetName": b"NVIDIA H100 80GB HBM3",
            "nvmlDeviceGetUUID": lambda h: f"GPU-aa{h}",
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=80 * GIB, free=79 * GIB),
            "nvmlDeviceGetCudaComputeCapability": (9, 0),
            "nvmlDeviceGetMaxClockInfo": 2619,
            "nvmlDeviceGetMemoryBusWidth": 5120,
            "nvmlDeviceGetEnforcedPowerLimit": 700_000,
            "nvmlDeviceGetPowerUsage": 120_000,
            "nvmlDeviceGetTemperature": 41,
            "nvmlDeviceGetUtilizationRates": lambda h: SimpleNamespace(gpu=0 if h else 97),
            "nvmlDeviceGetCurrentClocksEventReasons": lambda h: 0 if h else 0x44,
            "nvmlDeviceGetComputeRunningProcesses": lambda h: (
                [] if h else [SimpleNamespace(pid=7, usedGpuMemory=GIB)]
            ),
            "nvmlDeviceGetGraphicsRunningProcesses": [],
            "nvmlDeviceGetMaxPcieLinkGeneration": 5,
            "nvmlDeviceGetCurrPcieLinkWidth": 16,
            "nvmlDeviceGetNumaNodeId": 0,
            "nvmlDeviceGetP2PStatus": 0,
            "nvmlDeviceGetMigMode": (0, 0),
            **answers,
        }

    def __getattr__(self, name: str) -> Any:
        if name not in self.answers:
            raise AttributeError(name)
        answer = self.answers[name]

        def ask(*args: Any) -> Any:
            if isinstance(answer, Exception):
                raise answer
            return answer(*args) if callable(answer) else answer

        return ask


def ask_nvidia(monkeypatch: pytest.MonkeyPatch, **answers: Any) -> tuple[Gpu, ...]:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(**answers))
    return nvidia.ask(MEMORY)[0]


def test_a_real_machine_is_described() -> None:
    machine = detect()
    assert 1 <= machine.cpu.cores <= 4096
    assert 0 < machine.available_bytes <= machine.memory_bytes
    assert machine.cpu.name
    assert machine.fingerprint == detect().fingerprint


def test_nvidia_cards_tell_all_that_speed_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    busy, idle = ask_nvidia(monkeypatch)
    assert busy.name == "NVIDIA H100 80GB HBM3"
    assert busy.memory_bandwidth_bytes_per_s == pytest.approx(3.35e12, rel=0.01)
    assert busy.compute_capability == (9, 0)
    assert (busy.links, idle.links) == ((1,), (0,))
    assert (busy.power_limit_w, busy.pcie) == (700, "5.0 x16")
    assert busy.throttled == ("power", "heat")
    assert busy.processes == (Process(7, "python7", GIB),)
    assert (busy.is_busy, idle.is_busy) == (True, False)


def test_the_driver_and_its_cuda_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
    assert nvidia.ask(MEMORY)[1:] == ("580.95.05", "13.0")


NOT_SUPPORTED = NvmlError("Not Supported")
OPTIONAL = sorted(
    name
    for name in FakeNvml().answers
    if name not in {"nvmlInit", "nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex"}
)


@pytest.mark.parametrize("name", OPTIONAL)
def test_any_question_may_stay_unanswered(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert len(ask_nvidia(monkeypatch, **{name: NOT_SUPPORTED})) == 2


@pytest.mark.parametrize("name", OPTIONAL)
def test_any_function_may_be_missing(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    fake = FakeNvml()
    del fake.answers[name]
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    assert len(nvidia.ask(MEMORY)[0]) == 2


def test_no_driver_is_no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask_nvidia(monkeypatch, nvmlInit=NvmlError("Library Not Found")) == ()
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert nvidia.ask(MEMORY) == ((), "", "")


def test_a_card_that_has_fallen_off_the_bus_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def handle(index: int) -> int:
        if index == 0:
            raise NvmlError("GPU is lost")
        return index

    found = ask_nvidia(monkeypatch, nvmlDeviceGetHandleByIndex=handle)
    assert [g.index for g in found] == [1]


def test_a_chip_that_shares_memory_has_the_computers(monkeypatch: pytest.MonkeyPatch) -> None:
    (gpu,) = ask_nvidia(monkeypatch, nvmlDeviceGetCount=1, nvmlDeviceGetMemoryInfo=NOT_SUPPORTED)
    assert gpu.shares_memory
    assert (gpu.memory_bytes, gpu.free_bytes) == (MEMORY.total_bytes, MEMORY.available_bytes)


def test_mig_slices_stand_in_for_their_card(monkeypatch: pytest.MonkeyPatch) -> None:
    def part(handle: int, number: int) -> str:
        if number > 1:
            raise NvmlError("Not Found")
        return f"{handle}/{number}"

    def memory(handle: int | str) -> SimpleNamespace:
        size = 80 if isinstance(handle, int) else 20
        return SimpleNamespace(total=size * GIB, free=size * GIB)

    found = ask_nvidia(
        monkeypatch,
        nvmlDeviceGetCount=1,
        nvmlDeviceGetMigMode=(1, 1),
        nvmlDeviceGetMaxMigDeviceCount=7,
        nvmlDeviceGetMigDeviceHandleByIndex=part,
        nvmlDeviceGetMemoryInfo=memory,
        nvmlDeviceGetUUID=lambda h: f"MIG-{h}",
    )
    assert [g.uuid for g in found] == ["MIG-0/0", "MIG-0/1"]
    assert all(g.is_slice and g.memory_bytes == 20 * GIB for g in found)
    assert found[0].memory_bandwidth_bytes_per_s == pytest.approx(3.35e12 / 4, rel=0.01)


def two_cards() -> Machine:
    cards = tuple(Gpu(i, "H100", f"GPU-aa{i}", GIB, GIB) for i in range(2))
    return replace(detect(), gpus=cards)


@pytest.mark.parametrize(
    ("environment", "left"),
    [
        ({}, [0, 1]),
        ({"CUDA_VISIBLE_DEVICES": "1"}, [1]),
        ({"CUDA_VISIBLE_DEVICES": "1,0"}, [1, 0]),
        ({"CUDA_VISIBLE_DEVICES": "GPU-aa1"}, [1]),
        ({"CUDA_VISIBLE_DEVICES": "0,9,1"}, [0]),
        ({"CUDA_VISIBLE_DEVICES": ""}, []),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, []),
        ({"CUDA_VISIBLE_DEVICES": "1,1,0"}, [1]),
        ({"CUDA_VISIBLE_DEVICES": "GPU-aa"}, []),
        ({"HIP_VISIBLE_DEVICES": "1"}, [0, 1]),
    ],
)
def test_hidden_cards_do_not_count(environment: dict[str, str], left: list[int]) -> None:
    assert [g.index for g in two_cards().visible_to(environment).gpus] == left


@pytest.mark.parametrize(
    ("environment", "left"),
    [
        ({}, [0, 1, 2]),
        ({"HIP_VISIBLE_DEVICES": "1"}, [1]),
        ({"CUDA_VISIBLE_DEVICES": "2"}, [2]),
        ({"HIP_VISIBLE_DEVICES": "1", "CUDA_VISIBLE_DEVICES": "2"}, [1]),
        ({"ROCR_VISIBLE_DEVICES": "1,2"}, [1, 2]),
        ({"ROCR_VISIBLE_DEVICES": "1,2", "HIP_VISIBLE_DEVICES": "1"}, [2]),
    ],
)
def test_rocm_counts_among_what_its_runtime_has_left(
    environment: dict[str, str], left: list[int]
) -> None:
    cards = tuple(Gpu(i, "MI300X", f"a{i}", GIB, GIB, vendor="amd") for i in range(3))
    machine = replace(detect(), gpus=cards)
    assert [g.index for g in machine.visible_to(environment).gpus] == left


def test_a_slice_is_visible_by_its_uuid_or_by_its_place() -> None:
    slices = tuple(
        Gpu(0, "H100 MIG", uuid, GIB, GIB, is_slice=True) for uuid in ("MIG-a1", "MIG-b2")
    )
    machine = replace(detect(), gpus=slices)
    for words in ("MIG-b2", "MIG-b", "1"):
        assert machine.visible_to({"CUDA_VISIBLE_DEVICES": words}).gpus == slices[1:]


def test_every_command_sees_only_the_visible_cards(
    monkeypatch: pytest.MonkeyPatch, toy: Path, settings: Settings,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
    for name, value in settings.environment.items():
        monkeypatch.setenv(name, value)

    def told(*words: str) -> str:
        cli.main(words)
        return capsys.readouterr().out

    commands = (
        ("plan", str(toy), "--json"),
        ("tune", str(toy), "--dry-run", "--json", "--engine", "llamacpp"),
        ("doctor", "--json"),
    )
    for card, seen in (("0,1", "2x-nvidia-h100"), ("GPU-aa1", "1x-nvidia-h100"), ("", "cpu-")):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", card)
        for command in commands:
            out = told(*command)
            assert seen in out, (command, out)
    assert "2 more GPU(s) are hidden" in told("doctor", "--json")


def test_nobody_asks_for_cards_that_may_be_hidden() -> None:
    """The doctor says that there are some; an actor of Ray sees the whole host."""
    root = Path(hardware.__file__).parent.parent
    asking = {p.name for p in root.rglob("*.py") if re.search(r"\bdetect\(", p.read_text())}
    assert asking == {"__init__.py", "doctor.py", "ray_bench.py"}


def test_amd_cards_are_asked_through_their_library(monkeypatch: pytest.MonkeyPatch) -> None:
    smi = SimpleNamespace(
        amdsmi_init=lambda: None,
        amdsmi_shut_down=lambda: None,
        amdsmi_get_processor_handles=lambda: ["a"],
        amdsmi_get_gpu_vram_usage=lambda _: {"vram_total": 196592, "vram_used": 592},
        amdsmi_get_gpu_asic_info=lambda _: {"market_name": "AMD Instinct MI300X"},
        amdsmi_get_gpu_device_uuid=lambda _: "uuid",
    )
    monkeypatch.setitem(sys.modules, "amdsmi", smi)
    (gpu,) = amd.ask(Path("/nowhere"))
    assert (gpu.vendor, gpu.name) == ("amd", "AMD Instinct MI300X")
    assert gpu.free_bytes == 196000 * 1024**2


def test_amd_cards_are_found_without_their_library(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "amdsmi", None)
    for card, size in (("card0", GIB // 2), ("card1", 24 * GIB)):
        device = tmp_path / "sys/class/drm" / card / "device"
        device.mkdir(parents=True)
        (device / "vendor").write_text("0x1002\n")
        (device / "mem_info_vram_total").write_text(f"{size}\n")
        (device / "mem_info_vram_used").write_text(f"{GIB}\n")
    (gpu,) = amd.ask(tmp_path)
    assert (gpu.memory_bytes, gpu.free_bytes) == (24 * GIB, 23 * GIB)


def test_apple_silicon_has_a_share_of_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"hw.memsize": str(64 * GIB), "machdep.cpu.brand_string": "Apple M2 Max"}
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    monkeypatch.setattr(
        "subprocess.run",
        lambda command, **_: SimpleNamespace(returncode=0, stdout=told[command[-1]]),
    )
    (gpu,) = apple.ask(Memory(64 * GIB, 60 * GIB))
    assert (gpu.name, gpu.vendor) == ("Apple M2 Max", "apple")
    assert gpu.memory_bytes == 48 * GIB
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert apple.ask(MEMORY) == ()


def test_a_container_has_what_its_limits_leave(tmp_path: Path) -> None:
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text(str(2 * GIB))
    (group / "memory.current").write_text(str(GIB))
    (group / "memory.stat").write_text(f"anon 5\ninactive_file {GIB // 2}\n")
    (group / "cpu.max").write_text("100000 100000")
    found = processor.memory(tmp_path)
    assert found == Memory(2 * GIB, GIB + GIB // 2)
    assert processor.ask(tmp_path).cores == 1


@pytest.mark.parametrize("limit", ["max", "", "9223372036854771712"])
def test_a_limit_beyond_the_memory_is_none(tmp_path: Path, limit: str) -> None:
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text(limit)
    assert processor.memory(tmp_path).total_bytes == processor.memory(Path("/none")).total_bytes


def test_processors_tell_their_instructions_and_nodes(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(
        "model name\t: Intel(R) Xeon(R) Platinum\nflags\t\t: fpu avx2 amx_bf16 avx512f\n"
    )
    for node in ("node0", "node1"):
        (tmp_path / "sys/devices/system/node" / node).mkdir(parents=True)
    told = tmp_path / "sys/devices/system/node/node0/meminfo"
    told.write_text("Node 0 MemTotal:       11364568 kB\nNode 0 MemFree:  5345460 kB\n")
    cpu = processor.ask(tmp_path)
    assert cpu.name == "Intel(R) Xeon(R) Platinum"
    assert cpu.features == {"avx2", "amx_bf16", "avx512f"}
    assert cpu.numa_nodes == 2
    assert cpu.node_bytes == 11364568 * 1024


def test_an_empty_root_is_described_all_the_same(tmp_path: Path) -> None:
    machine = hardware.detect(tmp_path)
    assert machine.cpu.cores >= 1
    assert machine.cpu.numa_nodes == 1
    assert machine.cpu.node_bytes == 0
