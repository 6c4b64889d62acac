"""`vllama bench` as a user runs it."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.bench.serving import Answer, Call, completes, ollama, scripted
from vllama.engines.engine import Endpoint
from vllama.settings import Settings

SMALL = ("--requests", "12", "--prompt-tokens", "20", "--output-tokens", "8")


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "vllama", "bench", *words]


async def bench(*words: str) -> tuple[int, Any, str]:
    """The exit code, the document on stdout, and what people see."""
    import asyncio

    process = await asyncio.create_subprocess_exec(
        *command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), 100)
    return process.returncode or 0, json.loads(out) if out else None, err.decode()


def serving_ollama(counts: Answer = ollama) -> Answer:
    async def answer(call: Call) -> None:
        if call.path == "/api/version":
            return call.whole({"version": "0.32.0"})
        if call.path == "/api/tags":
            return call.whole({"models": [{"name": "m", "model": "m"}]})
        if call.path == "/api/show":
            return call.whole({"details": {"quantization_level": "Q8_0"}})
        if call.path.startswith("/v1/"):
            return call.whole({}, 404)
        return await counts(call)

    return answer


async def serving_openai(call: Call) -> None:
    if call.path == "/v1/models":
        return call.whole({"data": [{"id": "m"}]})
    if call.path.startswith("/api/"):
        return call.whole({}, 404)
    return await completes(call)


async def test_a_url_is_measured_and_told_in_the_contracts_keys() -> None:
    async with scripted(serving_openai) as server:
        code, document, said = await bench(
            "--url", server.url, "--concurrency", "1,3", *SMALL, "--json"
        )
    assert code == 0
    assert document["format"] == 1
    assert document["targets"][0]["url"] == server.url
    first = document["results"][0]
    assert first["workload"]["concurrency"] == 1
    assert first["measurement"]["completed"] == 12
    assert {"mean", "p50", "p95", "p99"} == set(first["measurement"]["ttft_s"])
    assert [b["block"] for b in first["blocks"]] == [0, 1, 2]
    assert first["blocks"][0]["metrics"]["output_tokens_per_s"] > 0
    assert "TTFT  from the request's bytes" in said


async def test_ollama_gets_the_same_prompts_and_a_verdict() -> None:
    async with scripted(serving_openai) as ours, scripted(serving_ollama()) as theirs:
        code, document, said = await bench(
            "--url",
            ours.url,
            "--vs-ollama",
            theirs.url,
            "--workload",
            "sequential",
            *SMALL,
            "--json",
        )
    assert code == 0, said
    assert {c["baseline"] for c in document["comparisons"]} == {"ollama"}
    assert {c["verdict"] for c in document["comparisons"]} <= {
        "faster", "slower", "same", "undecided",
    }  # fmt: skip
    prompts = [{c.body["prompt"] for c in s.calls if c.body.get("stream")} for s in (ours, theirs)]
    assert prompts[0] == prompts[1]


async def test_other_token_counts_are_no_comparison() -> None:
    async def short(call: Call) -> None:
        if "options" in call.body and call.body.get("stream"):
            call.body["options"]["num_predict"] = 4
        await ollama(call)

    async with scripted(serving_openai) as ours, scripted(serving_ollama(short)) as theirs:
        code, document, said = await bench(
            "--url",
            ours.url,
            "--vs-ollama",
            theirs.url,
            "--workload",
            "sequential",
            *SMALL,
            "--json",
        )
    assert code == 0
    assert [c["verdict"] for c in document["comparisons"]] == ["undecided"]
    assert "no comparison: not the same work: 4.0 against 8.0 output tokens" in said
    assert "suspect" in said


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ((), "what shall be measured"),
        (("--url", "nowhere"), "is no URL"),
        (("m", "--requests", "0"), "no whole number above 0"),
        (("--url", "http://127.0.0.1:1", "--profile", "best"), "launched here"),
        (("--url", "http://127.0.0.1:1", "--workload", "huge"), "no workload is called"),
        (("--url", "http://127.0.0.1:1", "--duration", "soon"), "--duration"),
    ],
)
async def test_what_makes_no_sense_is_refused_with_a_reason(
    words: tuple[str, ...], reason: str
) -> None:
    code, document, said = await bench(*words)
    assert (code, document) == (2, None)
    assert reason in said


async def test_a_server_that_is_not_there_is_said_to_be_so() -> None:
    code, document, said = await bench("--url", "http://127.0.0.1:1")
    assert (code, document) == (1, None)
    assert "Traceback" not in said


async def test_an_interrupt_keeps_what_was_measured() -> None:
    import asyncio

    async with scripted(serving_openai) as server:
        process = await asyncio.create_subprocess_exec(
            *command("--url", server.url, "--workload", "concurrent-5", "--requests", "900000",
                     "--json"),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        await server.reached(600)
        process.send_signal(signal.SIGINT)
        out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 130, err.decode()
    document = json.loads(out)
    assert document["interrupted"]
    assert document["results"][0]["measurement"]["completed"] > 0


@pytest.mark.llamacpp
async def test_out_writes_what_a_baseline_reads(
    llamacpp_endpoint: Endpoint, tmp_path: Path
) -> None:
    url, out = llamacpp_endpoint.base_url, tmp_path / "base.json"
    words = ("--url", url, "--workload", "sequential", "--requests", "12")
    code, _, said = await bench(*words, "--out", str(out))
    assert code == 0, said
    code, document, said = await bench(
        *words, "--baseline", str(out), "--max-regression", "90%", "--json"
    )
    assert code == 0, said
    assert document["gate"]["verdict"] in ("pass", "undecided")


async def test_what_is_aimed_at_and_what_is_not_alike_is_printed() -> None:
    load = ("--workload", "concurrent-5-short-nostream", "--requests", "30")
    async with scripted(serving_openai) as ours, scripted(serving_ollama()) as theirs:
        code, document, said = await bench(
            "--url", ours.url, "--vs-ollama", theirs.url, *load, "--json"
        )
    assert code == 0, said
    assert [r["workload"]["concurrency"] for r in document["results"][:2]] == [1, 1]
    assert [(a["workload"], a["aimed"]) for a in document["aims"]] == [
        ("concurrent-5-short-nostream", 2.0)
    ]
    assert "aim  concurrent-5-short-nostream: 2x; measured " in said
    assert "not alike: weights: not known here, Q8_0 there" in said


async def test_ollama_is_given_the_very_file_that_is_measured(
    toy: Path, session_settings: Settings
) -> None:
    import asyncio

    from vllama.bench.contest import Target
    from vllama.cli import bench_ollama
    from vllama.engines.attached import Attached
    from vllama.profile import Profile

    seen: list[str] = []

    async def answer(call: Call) -> None:
        seen.append(call.path)
        if call.path.startswith("/api/blobs/"):
            return call.empty(404 if call.method == "HEAD" else 201)
        return call.whole({"status": "success"})

    async with scripted(answer) as server:
        first = Target("best", Attached(server.url), Profile("best", "llamacpp", str(toy)))
        name = await asyncio.to_thread(bench_ollama.bring, server.url, first, session_settings)
    assert name.startswith("vllama-bench-")
    assert seen[-1] == "/api/create"
    assert len([path for path in seen if path.startswith("/api/blobs/sha256:")]) == 2
