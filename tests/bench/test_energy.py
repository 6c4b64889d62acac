"""Energy as a card counts it, on a made-up NVML: its real one is not everywhere."""

import os
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from tests.bench.serving import completes, scripted
from vllama.bench import energy
from vllama.bench.rig import LiveSession
from vllama.bench.workload import Workload
from vllama.errors import EngineFailed

LOAD = Workload("w", 20, 4, concurrency=2, requests=8)


class NvmlError(Exception):
    """As NVML's own."""


class FakeNvml:
    """Two cards; this process computes on the second. A reading adds 30 J to its counter."""

    NVMLError = NvmlError

    def __init__(self, *, cards: bool = True, counts: bool = True) -> None:
        self.cards, self.counts, self.millijoules, self.open = cards, counts, 5_000, 0

    def nvmlInit(self) -> None:  # noqa: N802 - NVML's names
        if not self.cards:
            raise NvmlError("no driver")
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetUUID(self, card: int) -> str:  # noqa: N802
        return f"GPU-{card}"

    def nvmlDeviceGetComputeRunningProcesses(self, card: int) -> list[SimpleNamespace]:  # noqa: N802
        pid = os.getpid() if card else 1
        return [SimpleNamespace(pid=pid, usedGpuMemory=1)]

    def nvmlDeviceGetTotalEnergyConsumption(self, card: int) -> int:  # noqa: N802
        assert card == 1, "somebody else's card"
        if not self.counts:
            raise NvmlError("not supported")
        self.millijoules += 30_000
        return self.millijoules


class Here:
    """An engine's life that is this process."""

    pids = (os.getpid(),)

    async def ended(self) -> EngineFailed:
        import asyncio

        await asyncio.Event().wait()
        raise AssertionError


async def measured(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    async with scripted(completes) as server:
        endpoint = replace(server.endpoint(), life=Here())
        session = LiveSession(endpoint)
        try:
            run = await session.observe(LOAD)
        finally:
            session.close()
    assert nvml.open == 0
    tokens = sum(s.output_tokens for s in run.samples)
    found = dict(run.counters)
    if "energy_j" in found:
        assert found["energy_j_per_output_token"] == pytest.approx(30 / tokens)
    return found


async def test_the_energy_of_a_load_is_that_of_the_engines_own_card(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert (await measured(FakeNvml(), monkeypatch))["energy_j"] == pytest.approx(30)


@pytest.mark.parametrize("nvml", [FakeNvml(cards=False), FakeNvml(counts=False)])
async def test_without_a_card_that_counts_there_is_no_figure(
    nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "energy_j" not in await measured(nvml, monkeypatch)


def test_a_server_whose_processes_are_not_known_is_not_asked_about() -> None:
    assert energy.counted(()) == {}
