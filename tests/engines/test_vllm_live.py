"""Limits of a serving vLLM, changed without a restart."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from tests.conftest import installed
from tests.engines.test_vllm import QUICK
from vllama.engines import vllm_live
from vllama.engines.engine import Endpoint
from vllama.machine import Machine
from vllama.settings import Settings
from vllama.store import names
from vllama.tuner.knobs_vllm_cpu import WORKER

CLIENTS = 8


@pytest.fixture(scope="module")
async def endpoint(
    toy: Path, session_settings: Settings, machine: Machine
) -> AsyncIterator[Endpoint]:
    engine = installed("vllm", session_settings)
    profile = engine.default(names.resolve(str(toy), session_settings), machine)
    profile = profile.with_options(**{**QUICK, "max_num_seqs": CLIENTS})
    # Two processes that wait by spinning would starve the server that is asked how many run.
    alone = replace(profile, environment={**profile.environment, WORKER: "0"})
    async with engine.start(vllm_live.live(alone)) as started:
        yield started


@pytest.mark.vllm
async def test_a_lower_limit_holds_from_the_next_step_on_and_can_be_lifted(
    endpoint: Endpoint,
) -> None:
    assert vllm_live.set_limits(endpoint, max_num_seqs=2)
    assert await most_running(endpoint) == 2
    assert vllm_live.set_limits(endpoint, max_num_seqs=CLIENTS)
    assert await most_running(endpoint) > 2
    assert vllm_live.set_limits(endpoint, max_num_seqs=10 * CLIENTS, max_num_batched_tokens=64)
    assert await most_running(endpoint) > 2


async def test_an_endpoint_that_cannot_is_left_alone(llamacpp_endpoint: Endpoint) -> None:
    assert not vllm_live.can_set_limits(llamacpp_endpoint)
    assert not vllm_live.set_limits(llamacpp_endpoint, max_num_seqs=2)


async def test_a_limit_that_does_not_exist_is_refused(llamacpp_endpoint: Endpoint) -> None:
    with pytest.raises(ValueError, match="max_num_batched_tokens"):
        vllm_live.set_limits(llamacpp_endpoint, max_sequences=2)


async def most_running(endpoint: Endpoint) -> int:
    """Requests that ran at once, at most, while `CLIENTS` were asking."""
    body = {"model": endpoint.model, "prompt": "Once", "max_tokens": 512, "ignore_eos": True}
    limits = httpx.Limits(max_connections=CLIENTS + 1)
    async with httpx.AsyncClient(
        base_url=endpoint.base_url, trust_env=False, timeout=120, limits=limits
    ) as client:
        load = asyncio.gather(*(client.post("/v1/completions", json=body) for _ in range(CLIENTS)))
        most = 0
        while not load.done():
            metrics = (await client.get("/metrics")).text
            most = max(most, running(metrics))
        assert all(r.status_code == 200 for r in await load)
    return most


def running(metrics: str) -> int:
    """`vllm:num_requests_running`, whatever its labels."""
    return sum(
        int(float(line.rpartition(" ")[2]))
        for line in metrics.splitlines()
        if line.startswith("vllm:num_requests_running{")
    )
