"""The dry run, of the real vLLM: one helper for all, as it imports vLLM once."""

from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from tests.conftest import installed
from vllama.engines.vllm import Vllm
from vllama.engines.vllm_dry_run import DryRun
from vllama.machine import Machine
from vllama.profile import Scalar
from vllama.settings import Settings
from vllama.store import names

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
async def dry(toy: Path, session_settings: Settings, machine: Machine) -> AsyncIterator[DryRun]:
    engine = installed("vllm", session_settings)
    assert isinstance(engine, Vllm)
    profile = engine.default(names.resolve(str(toy), session_settings), machine)
    async with DryRun(engine, profile) as helper:
        yield helper


async def test_it_fills_in_what_a_candidate_leaves_open(dry: DryRun) -> None:
    verdict = await dry.check({"max_model_len": 2048, "max_num_seqs": 16})
    assert not verdict.reason
    assert verdict.effective["max_num_seqs"] == 16
    assert verdict.effective["max_num_batched_tokens"] == 2048
    assert verdict.effective["dtype"] == "float16"
    assert verdict.effective["enable_prefix_caching"] is True


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"max_num_seqs": 8, "max_num_batched_tokens": 4}, "less than max_num_seqs=8"),
        ({"max_model_len": 100_000}, "more than the 8192 tokens"),
        ({"gpu_memory_utilization": 1.5}, "gpu_memory_utilization: input should be less"),
        ({"tensor_parallel_size": 3}, "must be divisible"),
        ({"dtype": "float12"}, "float12"),
        ({"kv_cache_memory_bytes": "1.5G"}, "1.5g"),
        ({"max_num_sequins": 4}, "max_num_seqs"),
    ],
)
async def test_it_says_why_a_candidate_would_not_start(
    dry: DryRun, options: dict[str, Scalar], reason: str
) -> None:
    verdict = await dry.check(options)
    assert reason in verdict.reason
    assert not verdict.effective


async def test_every_option_that_is_accepted_is_one_that_vllm_has(
    dry: DryRun, session_settings: Settings
) -> None:
    accepts = installed("vllm", session_settings).accepts()
    verdict = await dry.check({"max_num_seqs": 1})
    known = {"max_num_seqs", "max_num_batched_tokens", "enable_prefix_caching", "block_size",
             "stream_interval", "async_scheduling", "tensor_parallel_size"}  # fmt: skip
    assert known <= accepts & set(verdict.effective)


async def test_a_helper_that_was_killed_is_started_again(dry: DryRun) -> None:
    await dry.check({})
    starts = dry.starts
    for child in psutil.Process().children(recursive=True):
        if "vllama_dry_run.py" in " ".join(child.cmdline()[:2]):
            child.kill()
    lost = await dry.check({})
    found = await dry.check({}) if not lost.effective else lost
    assert found.effective
    assert dry.starts == starts + 1
