"""The doctor says what works here, and what to do about the rest."""

import json
import socket
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from vllama.cli import doctor, main
from vllama.cli.doctor import Finding, examine
from vllama.engines import install
from vllama.engines.process import free_port
from vllama.errors import EngineMissing
from vllama.machine import Cpu, Gpu, Machine
from vllama.settings import Address, Settings

GIB = 1024**3
CPU = Machine((), Cpu("Test CPU", 4, 4), 16 * GIB, 8 * GIB)
H100 = Gpu(0, "H100", "u", 80 * GIB, 79 * GIB)


@pytest.fixture
def here(settings: Settings) -> Settings:
    """A settings whose port is free."""
    return replace(settings, address=Address("http", "127.0.0.1", free_port()))


def findings(settings: Settings, machine: Machine) -> Mapping[str, Finding]:
    return {f.subject: f for f in examine(settings, machine)}


def test_it_looks_at_all_that_vllama_stands_on(here: Settings) -> None:
    assert list(findings(here, CPU)) == [
        "hardware", "driver", "memory", "vllm", "llamacpp", "ollama", "home", "hub", "port",
    ]  # fmt: skip


def test_whatever_does_not_work_has_a_remedy(here: Settings, tmp_path: Path) -> None:
    poor = replace(CPU, available_bytes=GIB // 2)
    broken = replace(here, hub_offline=False, hub_endpoint=f"http://127.0.0.1:{free_port()}",
                     llama_server=tmp_path / "absent")  # fmt: skip
    found = findings(broken, poor)
    wrong = {name for name, finding in found.items() if not finding.works}
    assert {"memory", "llamacpp", "hub"} <= wrong
    assert all(found[name].remedy for name in wrong)


def test_a_busy_port_is_named_with_its_holder(here: Settings) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        address = Address("http", "127.0.0.1", holder.getsockname()[1])
        finding = findings(replace(here, address=address), CPU)["port"]
    assert not finding.works
    assert "in use by" in finding.detail


def test_a_gpu_that_others_use_is_no_ground_to_measure_on(here: Settings) -> None:
    busy = replace(CPU, gpus=(replace(H100, free_bytes=10 * GIB),))
    finding = findings(here, busy)["memory"]
    assert not finding.works
    assert "GPU 0 is in use" in finding.detail


def test_builds_for_the_cpu_are_pointed_out_beside_a_gpu(
    here: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    class There:
        def version(self) -> str:
            return "xllamacpp 1"

    monkeypatch.setattr("vllama.engines.engine", lambda *_: There())
    assert "on PATH" in findings(here, replace(CPU, gpus=(H100,)))["llamacpp"].remedy
    assert findings(here, CPU)["llamacpp"].remedy == ""
    newer = replace(CPU, cpu=replace(CPU.cpu, features=frozenset({"avx512f"})))
    assert "AVX-512" in findings(here, newer)["llamacpp"].remedy


@pytest.mark.parametrize(
    ("system", "hints"),
    [
        ("Linux", ("vllama[vllm]", "vllama[llamacpp]")),
        ("Darwin", ("vllm-metal", "brew install llama.cpp")),
        ("Windows", ("WSL", "winget install llama.cpp")),
    ],
)
def test_missing_engines_come_with_hints_for_the_platform(
    here: Settings, monkeypatch: pytest.MonkeyPatch, system: str, hints: tuple[str, str]
) -> None:
    class Missing:
        def __init__(self, name: str) -> None:
            self.name = name

        def version(self) -> str:
            raise EngineMissing(f"{self.name} is missing", install.hint(self.name))

    monkeypatch.setattr("platform.system", lambda: system)
    monkeypatch.setattr("vllama.engines.engine", lambda name, _: Missing(name))
    found = findings(here, replace(CPU, system=system))
    assert hints[0] in found["vllm"].remedy
    assert hints[1] in found["llamacpp"].remedy
    assert "only needed to compare" in found["ollama"].remedy


def test_it_fails_when_no_engine_works_and_prints_one_json_document(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def only(works: bool) -> None:
        found = [Finding("llamacpp", works, "x"), Finding("ollama", True, "x")]
        monkeypatch.setattr(doctor, "examine", lambda *_: found)

    only(False)
    assert main(["doctor", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["format"] == 1
    assert document["findings"][0] == {
        "subject": "llamacpp", "works": False, "detail": "x", "remedy": "",
    }  # fmt: skip
    only(True)
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out.startswith("ok  llamacpp")
