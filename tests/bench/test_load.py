"""The closed loop against scripted servers: exact counts, a full load, failures by kind."""

import asyncio
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from tests.bench.serving import (
    DONE,
    Call,
    completes,
    event,
    miscounts,
    ollama,
    scripted,
    usage,
    words,
)
from vllama.bench.measurement import summarize
from vllama.bench.rig import LiveSession
from vllama.bench.wire import Client
from vllama.bench.workload import Workload
from vllama.errors import EngineFailed

LOAD = Workload("w", prompt_tokens=20, output_tokens=8, concurrency=3, requests=12)
# Of one process and of three, ours and the general one.
CLIENTS = [Client(choice, workers) for choice in ("raw", "httpx") for workers in (0, 3)]


@pytest.mark.parametrize("stream", [True, False])
async def test_prompts_and_answers_have_the_length_that_was_asked_for(stream: bool) -> None:
    async with scripted(completes) as server, server.session() as session:
        shown = await session.measure(replace(LOAD, stream=stream))
    assert (shown.completed, shown.failed, miscounts(shown)) == (12, 0, [])
    assert (shown.prompt_tokens, shown.output_tokens) == (12 * 20, 12 * 8)
    assert (shown.ttft_s is not None) == stream


async def test_ollamas_own_api_is_measured_alike() -> None:
    async with scripted(ollama) as server, server.session("ollama") as session:
        shown = await session.measure(LOAD)
    assert (shown.prompt_tokens, shown.output_tokens) == (12 * 20, 12 * 8)
    assert shown.tokens_per_chunk == 1
    assert {c.path for c in server.calls} == {"/api/generate", "/metrics"}


async def test_the_load_is_whole_while_it_is_measured() -> None:
    async with scripted(completes) as server, server.session() as session:
        run = await session.observe(LOAD)
    assert server.most_in_flight == LOAD.concurrency
    measured = [s for s in run.samples if s.measured]
    assert min(s.sent_s for s in measured) >= run.start_s
    assert max(s.end_s for s in measured) <= run.end_s
    assert sum(not s.measured for s in run.samples) >= LOAD.concurrency


async def test_every_prompt_is_unique_and_the_same_again_for_the_same_seed() -> None:
    def prompts(calls: list[Call]) -> list[str]:
        return [c.body["prompt"] for c in calls if c.body.get("max_tokens") == 8]

    seen = []
    for _ in range(2):
        async with scripted(completes) as server, server.session() as session:
            await session.measure(LOAD)
            await session.measure(LOAD)
        seen.append(Counter(prompts(server.calls)))
    assert max(seen[0].values()) == 1
    assert len(seen[0] & seen[1]) >= 24


async def test_a_shared_prefix_is_shared_and_the_rest_is_not() -> None:
    async with scripted(completes) as server, server.session() as session:
        await session.measure(replace(LOAD, shared_prefix_tokens=12))
    prompts = [c.body["prompt"].split() for c in server.calls if c.body.get("max_tokens") == 8]
    measured = prompts[-12:]
    assert len({tuple(p[:12]) for p in measured}) == 1
    assert len({tuple(p[12:]) for p in measured}) == len(measured)


async def test_a_time_limit_ends_the_load() -> None:
    async with scripted(completes) as server, server.session() as session:
        shown = await session.measure(replace(LOAD, requests=None, duration_s=0.3))
    assert shown.duration_s >= 0.3
    assert shown.completed > 0


class Failing:
    """Fails one of `every` streamed requests, in the way of `kind`."""

    def __init__(self, kind: str, every: int) -> None:
        self.kind, self.every, self.count = kind, every, 0

    async def __call__(self, call: Call) -> None:
        if not call.body.get("stream"):
            return await completes(call)
        self.count += 1
        if self.count % self.every:
            return await completes(call)
        if self.kind.startswith("http-"):
            return call.whole({"error": "busy"}, int(self.kind[5:]), "retry-after: 0")
        call.head()
        call.piece(event("x "))
        await call.writer.drain()
        if self.kind == "reset":
            return call.writer.transport.abort()
        if self.kind == "timeout":
            await asyncio.Event().wait()
        if self.kind == "malformed":
            call.piece(b"data: {not json}\n\n")
        if self.kind == "server-error":
            call.piece(b'data: {"error": {"message": "out of memory"}}\n\n')
        if self.kind == "cut-short":
            call.piece(usage(words(call.body), 1))
        else:
            call.piece(DONE)
        return call.end()


@pytest.mark.parametrize(
    "kind",
    ["reset", "malformed", "server-error", "cut-short", "timeout", "http-429", "http-503"],
)
async def test_a_failure_is_named_and_never_counted_as_fast(kind: str) -> None:
    load = replace(LOAD, timeout_s=1.0 if kind == "timeout" else 60.0)
    async with scripted(Failing(kind, 3)) as server, server.session() as session:
        shown = await session.measure(load)
    assert set(shown.failures) == {kind}
    assert shown.completed + shown.failed == 12
    assert shown.failed >= 3
    assert shown.output_tokens == shown.completed * 8


@pytest.mark.parametrize("client", CLIENTS, ids=str)
async def test_a_server_that_refuses_in_the_middle_of_a_load_is_named_so(client: Client) -> None:
    count = 0

    async def dies(call: Call) -> None:
        nonlocal count
        count += bool(call.body.get("stream"))
        if count < 12:
            return await completes(call)
        server.stop_listening()
        return call.writer.transport.abort()

    async with scripted(dies) as server, server.session(client=client) as session:
        shown = await session.measure(LOAD)
    assert set(shown.failures) <= {"refused", "reset"}
    assert shown.failures["refused"] >= 2
    assert (shown.completed + shown.failed, shown.output_tokens) == (12, 8 * shown.completed)
    assert shown.completed > 0


@pytest.mark.parametrize("client", CLIENTS, ids=str)
@pytest.mark.parametrize(("status", "as_date"), [(429, False), (503, False), (503, True)])
async def test_retry_after_is_heeded_and_the_wait_is_nobodys_latency(
    status: int, as_date: bool, client: Client
) -> None:
    came = 0

    def told() -> str:
        # Whole seconds, rounded down.
        at = datetime.now(UTC) + timedelta(seconds=2.1)
        return format_datetime(at, usegmt=True) if as_date else "1"

    async def busy_once(call: Call) -> None:
        nonlocal came
        if not call.body.get("stream"):
            return await completes(call)
        came += 1
        if came == 8:
            return call.whole({"error": "busy"}, status, f"retry-after: {told()}")
        return await completes(call)

    async with scripted(busy_once) as server, server.session(client=client) as session:
        run = await session.observe(replace(LOAD, concurrency=1))
    assert summarize(run).failures == {f"http-{status}": 1}
    failed = next(i for i, s in enumerate(run.samples) if s.error is not None)
    # The next one leaves after what the server asked for, and its times count from then.
    assert run.samples[failed + 1].sent_s - run.samples[failed].end_s >= 1.0
    assert run.samples[failed + 1].sent_s - run.samples[failed + 1].scheduled_s < 0.5


async def test_usage_that_lies_makes_the_run_suspect() -> None:
    async def lies(call: Call) -> None:
        if not call.body.get("stream"):
            return await completes(call)
        call.head()
        for part in (*[event("x ")] * 8, event("", finish="length"), usage(20, 16), DONE):
            call.piece(part)
        return call.end()

    async with scripted(lies) as server, server.session() as session:
        shown = await session.measure(LOAD)
    assert miscounts(shown)


async def test_an_answer_of_free_length_is_held_against_its_chunks() -> None:
    """A call of a tool is as long as the model likes: nothing was asked, but chunks were seen."""

    async def lies(call: Call) -> None:
        if not call.body.get("stream"):
            return await completes(call)
        call.head()
        for part in (*[event("x ")] * 8, event("", finish="stop"), usage(20, 4), DONE):
            call.piece(part)
        return call.end()

    async with scripted(lies) as server, server.session() as session:
        shown = await session.measure(replace(LOAD, asks="tool"))
    assert any("8 chunks with content came, the server counted 4" in r for r in shown.suspect)


async def test_a_server_that_goes_away_is_an_engine_that_failed() -> None:
    async with scripted(completes) as server, server.session() as session:
        await session.measure(LOAD)
        gone = server.endpoint()
    session = LiveSession(gone)
    with pytest.raises(EngineFailed, match="does not answer"):
        await session.measure(LOAD)


async def test_a_connection_that_the_server_had_closed_is_tried_again() -> None:
    async def closes(call: Call) -> None:
        await completes(call)
        await call.writer.drain()
        call.writer.close()

    async with scripted(closes) as server, server.session() as session:
        shown = await session.measure(LOAD)
    assert (shown.completed, shown.failed) == (12, 0)


async def test_what_was_measured_before_a_call_off_is_kept() -> None:
    async with scripted(completes) as server, server.session() as session:
        await session.warm_up(LOAD)
        task = asyncio.create_task(session.measure(replace(LOAD, requests=100_000)))
        await server.reached(200)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert session.cut_off is not None
    assert summarize(session.cut_off).completed > 0
