"""`vllama doctor`: what works here, and what to do about the rest."""

import argparse
import json
import shutil
from dataclasses import asdict, dataclass

from vllama.errors import EngineError, VllamaError
from vllama.settings import Settings

GIB = 1024**3


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. `remedy` is empty when it works."""

    subject: str
    works: bool
    detail: str
    remedy: str = ""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")


def run(args: argparse.Namespace) -> int:
    """Look at everything; 1 when no engine works here."""
    settings = Settings.from_environment()
    findings = [_hardware(), *_engines(settings), _home(settings), _port(settings)]
    if args.json:
        print(json.dumps({"format": 1, "findings": [asdict(f) for f in findings]}))
    else:
        for finding in findings:
            print(f"{'ok ' if finding.works else 'no '} {finding.subject:<10} {finding.detail}")
            if finding.remedy:
                print(f"               {finding.remedy}")
    return 0 if any(f.works for f in findings if f.subject in ENGINES) else 1


ENGINES = ("vllm", "llamacpp", "ollama")


def _hardware() -> Finding:
    from vllama.machine import detect

    machine = detect()
    gpus = ", ".join(f"{g.name} ({g.memory_bytes // GIB} GiB)" for g in machine.gpus)
    memory = f"{machine.memory_bytes // GIB} GiB, {machine.available_bytes // GIB} GiB free"
    cpu = f"{machine.cpu.name}, {machine.cpu.cores} cores, {memory}"
    return Finding("hardware", True, f"{gpus or 'no GPU'}; {cpu}; {machine.fingerprint}")


def _engines(settings: Settings) -> list[Finding]:
    from vllama.engines import engine

    findings = []
    for name in ENGINES:
        try:
            findings.append(Finding(name, True, engine(name, settings).version()))
        except EngineError as error:
            findings.append(Finding(name, False, error.message, error.remedy))
    return findings


def _home(settings: Settings) -> Finding:
    there = settings.home
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    return Finding("home", free > GIB, f"{settings.home}, {free // GIB} GiB free on its disk")


def _port(settings: Settings) -> Finding:
    from vllama.engines.process import check_port

    try:
        check_port(settings.address.host, settings.address.port)
    except VllamaError as error:
        return Finding("port", False, error.message, error.remedy)
    return Finding("port", True, f"{settings.address.url} is free")
