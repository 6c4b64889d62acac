"""`vllama doctor`: what works here, and what to do about the rest."""

import argparse
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from vllama.errors import EngineError, VllamaError
from vllama.machine import Machine
from vllama.settings import Settings

GIB = 1024**3
ENGINES = ("vllm", "llamacpp", "ollama")
SERVING = ("vllm", "llamacpp")
ASK_S = 3.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. `remedy` is what to do about it, or what would be better."""

    subject: str
    works: bool
    detail: str
    remedy: str = ""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")


def run(args: argparse.Namespace) -> int:
    """Look at everything; 1 when no engine works here."""
    from vllama.hardware import detect

    findings = list(examine(Settings.from_environment(), detect()))
    if args.json:
        print(json.dumps({"format": 1, "findings": [asdict(f) for f in findings]}))
    else:
        for finding in findings:
            print(f"{'ok ' if finding.works else 'no '} {finding.subject:<10} {finding.detail}")
            if finding.remedy:
                print(f"               {finding.remedy}")
    return 0 if any(f.works for f in findings if f.subject in SERVING) else 1


def examine(settings: Settings, machine: Machine) -> Iterator[Finding]:
    """Everything that vllama stands on, one after the other."""
    whole, machine = machine, machine.visible_to(settings.environment)
    yield _hardware(machine, hidden=len(whole.gpus) - len(machine.gpus))
    yield _driver(whole)
    yield _memory(machine)
    for name in ENGINES:
        yield _engine(name, settings, machine)
    yield _home(settings)
    yield _hub(settings)
    yield _port(settings)


def _hardware(machine: Machine, hidden: int) -> Finding:
    gpus = ", ".join(f"{g.name} ({g.memory_bytes // GIB} GiB)" for g in machine.gpus)
    cpu = f"{machine.cpu.name}, {machine.cpu.cores} cores"
    remedy = (
        f"{hidden} more GPU(s) are hidden by CUDA_VISIBLE_DEVICES or its like." if hidden else ""
    )
    detail = f"{gpus or 'no GPU'}; {cpu}; {machine.fingerprint}"
    return Finding("hardware", True, detail, remedy)


def _driver(machine: Machine) -> Finding:
    if machine.gpus:
        return Finding("driver", True, machine.driver or "there, its version is not told")
    if machine.system == "Darwin":
        return Finding("driver", True, "Metal is part of macOS")
    if Path("/proc/driver/nvidia").exists() or Path("/dev/nvidia0").exists():
        return Finding(
            "driver", False, "an NVIDIA driver is loaded, but does not answer",
            "See what nvidia-smi says; in a container, start it with --gpus all.",
        )  # fmt: skip
    if Path("/dev/kfd").exists():
        return Finding(
            "driver", False, "an AMD GPU's driver is loaded, but its tools do not answer",
            "Install ROCm with amd-smi; in a container, pass /dev/kfd and /dev/dri.",
        )  # fmt: skip
    return Finding("driver", True, "none for a GPU: engines compute on the CPU")


def _memory(machine: Machine) -> Finding:
    free, total = machine.available_bytes, machine.memory_bytes
    detail = f"{free / GIB:.1f} GiB free of {total / GIB:.1f}"
    detail += "".join(
        f"; GPU {g.index}: {g.free_bytes / GIB:.1f} GiB free of {g.memory_bytes / GIB:.1f}"
        for g in machine.gpus
    )
    taken = [g for g in machine.gpus if g.free_bytes < 0.5 * g.memory_bytes]
    if taken:
        who = ", ".join(str(g.index) for g in taken)
        remedy = "Stop what uses it before tuning: measurements beside it are worthless."
        return Finding("memory", False, f"{detail}; GPU {who} is in use", remedy)
    if free < 2 * GIB:
        return Finding("memory", False, detail, "Free some: engines need 2 GiB and more.")
    return Finding("memory", True, detail)


def _engine(name: str, settings: Settings, machine: Machine) -> Finding:
    from vllama.engines import engine

    try:
        version = engine(name, settings).version()
    except EngineError as error:
        purpose = " It is only needed to compare with." if name == "ollama" else ""
        return Finding(name, False, error.message, error.remedy + purpose)
    return Finding(name, True, version, _better(name, version, settings, machine))


def _better(name: str, version: str, settings: Settings, machine: Machine) -> str:
    """A remark on an engine that works, but not as well as it could."""
    vendor = machine.gpus[0].vendor if machine.gpus else ""
    if name == "vllm" and vendor in ("nvidia", "amd"):
        from vllama.engines import vllm_installed

        if vllm_installed.find(settings.vllm_python).is_cpu:
            build = "pip install 'vllama[vllm]'" if vendor == "nvidia" else "vLLM's ROCm build"
            return f"This build computes on the CPU. For the GPU install {build}."
    if name == "llamacpp" and version.startswith("xllamacpp") and machine.system != "Darwin":
        if vendor:
            return "This wheel computes on the CPU. Put a llama-server built for the GPU on PATH."
        if machine.cpu.features & {"avx512f", "amx_bf16"}:
            return "This wheel uses AVX2 only; a llama-server built here would use AVX-512."
    return ""


def _home(settings: Settings) -> Finding:
    there = settings.home
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    detail = f"{settings.home}, {free / GIB:.1f} GiB free on its disk"
    if not os.access(there, os.W_OK):
        return Finding("home", False, f"{detail}, not writable", "Set VLLAMA_HOME elsewhere.")
    if free < GIB:
        return Finding("home", False, detail, "Free some space, or set VLLAMA_HOME elsewhere.")
    return Finding("home", True, detail)


def _hub(settings: Settings) -> Finding:
    import httpx

    if settings.hub_offline:
        return Finding("hub", True, "offline, as HF_HUB_OFFLINE says")
    token = "with a token" if settings.hub_token else "without a token"
    try:
        httpx.head(settings.hub_endpoint, timeout=ASK_S, follow_redirects=True)
    except httpx.HTTPError as error:
        return Finding(
            "hub", False, f"{settings.hub_endpoint} does not answer ({type(error).__name__})",
            "Models that are here still work. Set HF_ENDPOINT to a mirror, or HF_HUB_OFFLINE=1.",
        )  # fmt: skip
    return Finding("hub", True, f"{settings.hub_endpoint} answers, {token}")


def _port(settings: Settings) -> Finding:
    from vllama.engines.process import check_port

    try:
        check_port(settings.address.host, settings.address.port)
    except VllamaError as error:
        return Finding("port", False, error.message, error.remedy)
    return Finding("port", True, f"{settings.address.url} is free")
