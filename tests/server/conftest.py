"""The house that most API tests visit: models made by its own API, real llama.cpp behind."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conftest import isolated
from tests.server.faults import Outages, Simulated
from tests.server.house import House, Small, create, serving
from vllama.machine import Machine
from vllama.server.lifecycle.catalogue import Catalogue
from vllama.server.lifecycle.launch import Launcher
from vllama.settings import Settings

TOOLS_AND_THINKING = (
    "{{- if .Tools }}TOOLS {{ range .Tools }}{{ . }}{{ end }}{{ end }}{{- range .Messages }}"
    "<|im_start|>{{ .Role }}\n{{ if .Thinking }}<think>{{ .Thinking }}</think>{{ end }}"
    '{{ .Content }}{{ range .ToolCalls }}{"name": "{{ .Function.Name }}", '
    '"arguments": {{ .Function.Arguments }}}{{ end }}<|im_end|>\n{{ end }}'
    "<|im_start|>assistant\n{{ if and .IsThinkSet .Think }}<think>{{ end }}"
)
INSERT = "{{ .Prompt }}{{ if .Suffix }}<SUF>{{ .Suffix }}<MID>{{ end }}"


@pytest.fixture(scope="session")
async def ollama_like(
    toy: Path, toy_embedder: Path, machine: Machine, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    """Models `m` (chat), `t` (tools and thinking), `f` (insert) and `e` (embeddings)."""
    settings = isolated(tmp_path_factory.mktemp("ollama-like"))
    choose = Small(Launcher(Catalogue(), settings, machine, wanted="llamacpp"))
    async with serving(choose, settings) as house, house.client() as client:
        await create(client, "m", toy / "toy-f16.gguf")
        await create(client, "t", toy / "toy-f16.gguf", TOOLS_AND_THINKING)
        await create(client, "f", toy / "toy-f16.gguf", INSERT)
        await create(client, "e", toy_embedder / "toy-f16.gguf")
        yield house


OUTAGES = pytest.StashKey[Outages]()


@pytest.fixture
def simulated(toy: Path, settings: Settings) -> Simulated:
    return Simulated(toy, settings)


@pytest.fixture
def outages(request: pytest.FixtureRequest) -> Outages:
    return request.config.stash.setdefault(OUTAGES, Outages())


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """How long service was away. No test asks it: it depends on what else the machine does."""
    found = config.stash.get(OUTAGES, Outages()).seconds
    if found:
        terminalreporter.section("service was back after")
    for fault, seconds in found.items():
        terminalreporter.line(f"{seconds:7.2f} s  {fault}")
