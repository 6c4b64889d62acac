"""Measuring real engines: counts are exact, and a fresh start gets the same prompts."""

from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from tests.bench.serving import miscounts
from vllama.bench.rig import LiveSession, Rig
from vllama.bench.workload import Workload
from vllama.bench.workloads import named
from vllama.engines import engine
from vllama.engines.engine import Endpoint
from vllama.machine import Machine
from vllama.settings import Settings
from vllama.store import names

LOAD = Workload("w", prompt_tokens=50, output_tokens=16, concurrency=4, requests=16)


async def exact(endpoint: Endpoint, load: Workload) -> None:
    session = LiveSession(endpoint)
    try:
        shown = await session.measure(load)
    finally:
        session.close()
    assert (shown.completed, shown.failed, miscounts(shown)) == (16, 0, [])
    assert shown.prompt_tokens == 16 * load.prompt_tokens
    assert shown.output_tokens == 16 * load.output_tokens
    assert shown.peak_memory_bytes is not None


@pytest.mark.llamacpp
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("kind", ["completion", "chat"])
async def test_llamacpp_is_measured_token_by_token(
    llamacpp_endpoint: Endpoint, kind: str, stream: bool
) -> None:
    await exact(llamacpp_endpoint, replace(LOAD, kind=kind, stream=stream))  # type: ignore[arg-type]


@pytest.mark.vllm
@pytest.mark.parametrize("kind", ["completion", "chat"])
async def test_vllm_is_measured_token_by_token(vllm_endpoint: Endpoint, kind: str) -> None:
    await exact(vllm_endpoint, replace(LOAD, kind=kind))  # type: ignore[arg-type]


@pytest.mark.llamacpp
async def test_the_rig_starts_measures_and_stops_an_engine(
    toy_embedder: Path, session_settings: Settings, machine: Machine
) -> None:
    real = engine("llamacpp", session_settings)
    profile = real.default(names.resolve(str(toy_embedder), session_settings), machine)
    async with Rig(real).started(profile) as session:
        shown = await session.measure(replace(named("embed")[0], requests=16))
        pids = session.endpoint.life.pids
    assert (shown.completed, shown.output_tokens) == (16, 0)
    assert shown.prompt_tokens == 16 * 100
    assert shown.requests_per_s > 0
    assert not any(psutil.pid_exists(pid) for pid in pids)
