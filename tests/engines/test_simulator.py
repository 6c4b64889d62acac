"""The simulator keeps its times and counts, and breaks exactly as it is told."""

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.engines.contract import EngineContract, Subject
from vllama.engines.engine import Endpoint
from vllama.engines.simulator import Simulator
from vllama.engines.simulator_world import SMALL
from vllama.errors import EngineFailed
from vllama.profile import Profile, Scalar
from vllama.settings import Settings

HELLO = [{"role": "user", "content": "hello there"}]


@pytest.fixture
def simulator(settings: Settings) -> Simulator:
    return Simulator(settings)


def profile(**options: Scalar) -> Profile:
    return Profile("test", "simulator", "toy", options)


class TestSimulator(EngineContract):
    """What every engine must do."""

    @pytest.fixture
    def subject(self, simulator: Simulator, settings: Settings) -> Subject:
        return Subject(simulator, profile(max_num_seqs=4), settings)


@asynccontextmanager
async def running(
    simulator: Simulator, **options: Scalar
) -> AsyncIterator[tuple[httpx.AsyncClient, Endpoint]]:
    async with (
        simulator.start(profile(**options)) as endpoint,
        httpx.AsyncClient(base_url=endpoint.base_url, trust_env=False, timeout=30) as client,
    ):
        yield client, endpoint


async def complete(client: httpx.AsyncClient, tokens: int = 8, **rest: object) -> httpx.Response:
    body = {"model": "toy", "prompt": [5] * 32, "max_tokens": tokens, "ignore_eos": True, **rest}
    return await client.post("/v1/completions", json=body)


async def events(
    client: httpx.AsyncClient, path: str, body: Mapping[str, object]
) -> list[tuple[float, str]]:
    """The lines of a stream with the time of each."""
    found = []
    async with client.stream("POST", path, json={"stream": True, **body}) as answer:
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                found.append((time.monotonic(), line.removeprefix("data: ")))
    return found


async def streamed(client: httpx.AsyncClient, tokens: int, **rest: object) -> list[Any]:
    body = {
        "model": "toy", "prompt": [5] * 32, "max_tokens": tokens, "ignore_eos": True,
        "stream_options": {"include_usage": True}, **rest,
    }  # fmt: skip
    return [json.loads(e) for _, e in await events(client, "/v1/completions", body) if e[0] == "{"]


async def test_each_token_is_one_word_and_usage_is_exact(simulator: Simulator) -> None:
    async with running(simulator) as (client, _):
        answer = (await complete(client, 20)).json()
        assert len(answer["choices"][0]["text"].split()) == 20
        assert answer["usage"]["prompt_tokens"] == 32
        assert answer["usage"]["completion_tokens"] == 20
        chunks = await streamed(client, 20)
        assert sum(len(c["choices"]) for c in chunks) == 20
        assert chunks[-1]["usage"]["completion_tokens"] == 20
        asked = {"model": "toy", "messages": HELLO}
        counted = await client.post("/tokenize", json=asked)
        chat = (await client.post("/v1/chat/completions", json=asked)).json()
        assert chat["usage"]["prompt_tokens"] == counted.json()["count"]


async def test_tokens_come_when_the_step_model_says(simulator: Simulator) -> None:
    """Their spacing, over so many tokens that one late wake-up does not count."""
    limits = SMALL.limits({})
    expected_s = SMALL.step_s(limits, 0, 1, 132, 0, 1) * 4
    async with running(simulator, time_scale=4.0) as (client, _):
        body = {"model": "toy", "prompt": [5] * 32, "max_tokens": 200, "ignore_eos": True}
        times = [at for at, _ in await events(client, "/v1/completions", body)][:200]
    gaps = sorted(later - earlier for earlier, later in itertools.pairwise(times))
    # On average never early; a busy machine may be late, but not with most of them.
    assert (times[-1] - times[0]) / 199 > 0.97 * expected_s
    assert gaps[len(gaps) // 2] == pytest.approx(expected_s, rel=0.2)


async def test_requests_share_their_steps_up_to_the_limit_of_sequences(
    simulator: Simulator,
) -> None:
    durations = []
    for seqs in (1, 8):
        options = {"max_num_seqs": seqs, "max_num_batched_tokens": 2048, "time_scale": 2.0}
        async with running(simulator, **options) as (client, _):
            began = time.monotonic()
            await asyncio.gather(*(complete(client, 40) for _ in range(8)))
            durations.append(time.monotonic() - began)
    assert durations[0] > 3 * durations[1]


async def test_a_known_prefix_is_counted_as_cached_until_it_is_reset(
    simulator: Simulator,
) -> None:
    async def cached(client: httpx.AsyncClient) -> Any:
        return (await complete(client)).json()["usage"]["prompt_tokens_details"]["cached_tokens"]

    async with running(simulator) as (client, _):
        assert [await cached(client), await cached(client)] == [0, 31]
        assert (await client.post("/reset_prefix_cache")).json() == {"success": True}
        assert await cached(client) == 0
    async with running(simulator, enable_prefix_caching=False) as (client, _):
        assert [await cached(client), await cached(client)] == [0, 0]


async def test_metrics_count_what_was_done(simulator: Simulator) -> None:
    async with running(simulator) as (client, endpoint):
        await complete(client, 10)
        metrics = (await client.get("/metrics")).text
        assert 'vllm:prompt_tokens_total{engine="0",model_name="toy"} 32' in metrics
        assert 'vllm:generation_tokens_total{engine="0",model_name="toy"} 10' in metrics
        assert endpoint.facts["kv_cache_tokens"] == SMALL.limits({}).kv_cache_tokens


async def test_bad_requests_are_refused_as_vllm_does(simulator: Simulator) -> None:
    async with running(simulator, max_model_len=64) as (client, _):
        assert (await complete(client, 0)).status_code == 400
        assert (await complete(client, model="other")).status_code == 404
        long = await complete(client, prompt=[1] * 65)
        assert long.status_code == 400
        assert "maximum context length is 64 tokens" in long.json()["error"]["message"]


async def test_a_client_that_leaves_frees_its_place(simulator: Simulator) -> None:
    async with running(simulator, time_scale=20.0, max_num_seqs=1) as (client, _):
        body = {"model": "toy", "prompt": "x", "max_tokens": 5000, "ignore_eos": True,
                "stream": True}  # fmt: skip
        async with client.stream("POST", "/v1/completions", json=body) as answer:
            await anext(answer.aiter_lines())
        assert (await complete(client, 2)).status_code == 200


async def test_the_ollama_surface_counts_and_times_as_ollama(simulator: Simulator) -> None:
    async with running(simulator, api="ollama") as (client, endpoint):
        assert endpoint.api == "ollama"
        body = {"model": "toy", "messages": HELLO, "options": {"num_predict": 5}}
        lines = (await client.post("/api/chat", json=body)).text.splitlines()
        last = json.loads(lines[-1])
        assert len(lines) == 6
        assert (last["done"], last["done_reason"], last["eval_count"]) == (True, "length", 5)
        assert last["eval_duration"] > 0
        whole = await client.post(
            "/api/generate", json={"model": "toy:latest", "prompt": "why", "stream": False}
        )
        assert whole.json()["done_reason"] == "stop"
        loaded = await client.post("/api/generate", json={"model": "toy"})
        assert loaded.json()["done_reason"] == "load"
        assert (await client.post("/api/chat", json={"model": "absent"})).status_code == 404


async def test_a_script_answers_with_reasoning_and_tool_calls(
    simulator: Simulator, tmp_path: Path
) -> None:
    script = tmp_path / "script.json"
    call = {"name": "weather", "arguments": {"city": "Paris"}, "id": "call_1"}
    script.write_text(json.dumps([
        {"match": "weather", "reasoning": "I must look.", "tool_calls": [call]},
        {"match": "teapot", "status": 418, "error": {"error": "I am one"}},
        {"match": "", "content": "Just so."},
    ]))  # fmt: skip

    def asked(text: str) -> dict[str, object]:
        return {"model": "toy", "messages": [{"role": "user", "content": text}]}

    async with running(simulator, script=str(script)) as (client, _):
        path = "/v1/chat/completions"
        choice = (await client.post(path, json=asked("the weather?"))).json()["choices"][0]
        assert choice["finish_reason"] == "tool_calls"
        assert choice["message"]["reasoning"] == "I must look."
        function = choice["message"]["tool_calls"][0]["function"]
        assert (function["name"], json.loads(function["arguments"])) == (
            "weather", {"city": "Paris"},
        )  # fmt: skip
        lines = [json.loads(e) for _, e in await events(client, path, asked("the weather?"))
                 if e[0] == "{"]  # fmt: skip
        arguments = "".join(
            part["function"].get("arguments", "")
            for line in lines
            for part in line["choices"][0]["delta"].get("tool_calls", [])
        )
        assert json.loads(arguments) == {"city": "Paris"}
        assert (await client.post(path, json=asked("teapot"))).status_code == 418
        plain = (await client.post(path, json=asked("else"))).json()
        assert plain["choices"][0]["message"]["content"] == "Just so."


@pytest.mark.parametrize(
    ("options", "kind", "phase"),
    [
        ({"fault_out_of_memory": "load"}, "out_of_memory", "load"),
        ({"fault_out_of_memory": "profile"}, "out_of_memory", "profile"),
        ({"fault_out_of_memory": "graph"}, "out_of_memory", "graph"),
        ({"gpu_memory_utilization": 0.1}, "out_of_memory", "profile"),
        ({"gpu_memory_utilization": 0.999}, "out_of_memory", "graph"),
        ({"max_num_seqs": 512, "max_num_batched_tokens": 256}, "bad_option", "parse"),
        ({"fault_start": "exit"}, "crash", "load"),
        ({"fault_start": "exit0"}, "crash", "load"),
        ({"nonsense": 1}, "bad_option", "parse"),
    ],
)
async def test_a_start_fails_in_the_phase_and_the_way_it_is_told(
    simulator: Simulator, options: dict[str, Scalar], kind: str, phase: str
) -> None:
    with pytest.raises(EngineFailed) as failed:
        async with simulator.start(profile(**options)):
            pass
    assert (failed.value.kind, failed.value.phase) == (kind, phase)


async def test_a_silent_start_times_out_and_a_slow_one_that_talks_does_not(
    tmp_path: Path, settings: Settings
) -> None:
    from dataclasses import replace

    impatient = Simulator(replace(settings, load_timeout_s=2.0))
    with pytest.raises(EngineFailed) as failed:
        async with impatient.start(profile(fault_start="hang")):
            pass
    assert failed.value.kind == "timeout"
    async with impatient.start(profile(fault_start_s=2.5)) as endpoint:
        assert endpoint.start_s > 2.5


async def test_it_crashes_after_as_many_requests_or_tokens_as_told(simulator: Simulator) -> None:
    for fault in ({"fault_crash_after": 2}, {"fault_crash_after_tokens": 20}):
        async with running(simulator, **fault) as (client, endpoint):
            await complete(client)
            await complete(client)
            with pytest.raises(httpx.HTTPError):
                await complete(client)
            failed = await asyncio.wait_for(endpoint.life.ended(), 30)
            assert (failed.kind, failed.phase) == ("crash", "run")


async def test_running_out_of_memory_at_the_first_request_is_told(simulator: Simulator) -> None:
    async with running(simulator, fault_out_of_memory="run") as (client, endpoint):
        with pytest.raises(httpx.HTTPError):
            await complete(client)
        failed = await asyncio.wait_for(endpoint.life.ended(), 30)
        assert (failed.kind, failed.phase) == ("out_of_memory", "run")


async def test_it_hangs_after_as_many_requests_or_tokens_as_told(simulator: Simulator) -> None:
    for fault in ({"fault_hang_after": 1}, {"fault_hang_after_tokens": 8}):
        async with running(simulator, **fault) as (client, endpoint):
            await complete(client)
            with pytest.raises(httpx.ReadTimeout):
                await client.post(
                    "/v1/completions", json={"model": "toy", "prompt": "x"}, timeout=0.5
                )
            assert (await client.get("/health")).status_code == 200
            assert endpoint.life.pids


async def test_it_refuses_with_retry_after_as_told(simulator: Simulator) -> None:
    options: dict[str, Scalar] = {
        "fault_status": 429, "fault_status_first": 2, "fault_retry_after": "1",
    }  # fmt: skip
    async with running(simulator, **options) as (client, _):
        answers = [await complete(client) for _ in range(3)]
        assert [a.status_code for a in answers] == [429, 429, 200]
        assert answers[0].headers["retry-after"] == "1"
    async with running(simulator, fault_status=503, fault_status_every=2) as (client, _):
        assert [(await complete(client)).status_code for _ in range(4)] == [200, 503, 200, 503]


async def test_streams_are_broken_as_told(simulator: Simulator) -> None:
    async with running(simulator, fault_malformed_chunk=3) as (client, _):
        with pytest.raises(json.JSONDecodeError):
            await streamed(client, 6)
    async with running(simulator, fault_cut_after=3) as (client, _):
        with pytest.raises(httpx.RemoteProtocolError):
            await streamed(client, 6)
    async with running(simulator, fault_chunk_tokens=4, fault_empty_chunks=True) as (client, _):
        texts = [c["choices"][0]["text"] for c in await streamed(client, 8) if c["choices"]]
        assert [len(t.split()) for t in texts] == [0, 4, 0, 4]


@pytest.mark.parametrize(
    ("fault", "counted"), [("missing", None), ("double", 12), ("off_by_one", 7)]
)
async def test_usage_is_wrong_as_told(
    simulator: Simulator, fault: str, counted: int | None
) -> None:
    async with running(simulator, fault_usage=fault) as (client, _):
        usage = (await streamed(client, 6))[-1].get("usage")
        assert (usage and usage["completion_tokens"]) == counted


async def test_nothing_is_left_of_one_that_will_not_go(simulator: Simulator) -> None:
    async with running(simulator, fault_ignore_sigterm=True, fault_orphan=True) as (_, endpoint):
        processes = []
        for pid in endpoint.life.pids:
            with contextlib.suppress(psutil.NoSuchProcess):
                processes.append(psutil.Process(pid))
        assert len(processes) >= 4  # two guards, the server, its grandchild
    assert [p for p in processes if p.is_running()] == []


async def test_noise_and_drift_change_the_times(simulator: Simulator) -> None:
    async def gaps(**options: Scalar) -> list[float]:
        async with running(simulator, time_scale=3.0, **options) as (client, _):
            body = {"model": "toy", "prompt": "x", "max_tokens": 60, "ignore_eos": True}
            times = [at for at, _ in await events(client, "/v1/completions", body)]
            return sorted(b - a for a, b in itertools.pairwise(times))

    even, noisy = await gaps(), await gaps(fault_noise=1.0)
    assert noisy[50] / noisy[10] > even[50] / even[10]
    drifting = await gaps(fault_drift_per_hour=36_000.0)
    assert drifting[30] > 1.5 * even[30]
