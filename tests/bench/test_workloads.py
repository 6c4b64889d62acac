"""Loads by name and from files, and what each of them really sends."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.bench.serving import Call, completes, scripted
from vllama.bench.workload import Workload
from vllama.bench.workloads import builtin, closed, named
from vllama.errors import UsageError


def test_the_matrix_is_all_loads_of_the_mission() -> None:
    loads = named("matrix")
    assert len(loads) == len({w.name for w in loads}) == 20
    assert {w.concurrency for w in loads} == {1, 5, 10, 50, 100}
    assert {(w.prompt_tokens, w.stream) for w in loads} == {
        (50, True), (500, True), (50, False), (500, False),
    }  # fmt: skip


@pytest.mark.parametrize("name", list(builtin()))
def test_every_built_in_load_is_found_by_its_name(name: str) -> None:
    assert [w.name for w in named(name)] == [name]


def test_a_ladder_keeps_all_but_the_number_in_flight() -> None:
    load = closed(20, named("concurrent-10-long-nostream")[0])
    assert (load.name, load.concurrency, load.stream) == ("concurrent-20-long-nostream", 20, False)


def test_a_file_describes_loads(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"prompt_tokens": 30, "output_tokens": 5, "slo": [["ttft", 0.5]]}))
    assert named(str(path)) == (Workload("mine", 30, 5, slo=(("ttft", 0.5),)),)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "is no workload"),
        ('{"prompt_tokens": "many", "output_tokens": 1}', "prompt_tokens"),
        ('{"prompt_tokens": 0, "output_tokens": 1}', "at least one prompt token"),
        ('{"prompt_tokens": 9, "output_tokens": 1, "shared_prefix_tokens": 9}', "nothing of the"),
        ('{"prompt_tokens": 9, "output_tokens": 1, "slo": [["luck", 1]]}', "no limit is called"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "mine.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=reason):
        named(str(path))


def test_an_unknown_name_is_refused_with_those_there_are() -> None:
    with pytest.raises(UsageError, match=r"(?s)no workload is called 'fast'.*sequential, .*rag"):
        named("fast")


@pytest.mark.parametrize(
    "line",
    [
        {
            "conversations": [
                {"from": "human", "value": "hello there"},
                {"from": "gpt", "value": "hi"},
            ]
        },
        {
            "messages": [
                {"role": "system"},
                {"role": "user", "content": "hello there"},
            ]
        },
        {"prompt": "hello there"},
        "hello there",
    ],
)
async def test_prompts_come_from_a_file_as_they_are(tmp_path: Path, line: Any) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps(line) + "\n\n")
    load = replace(named(str(path))[0], requests=4, concurrency=2, output_tokens=3)
    async with scripted(completes) as server, server.session() as session:
        shown = await session.measure(load)
    asked = [c.body for c in server.calls if c.body.get("max_tokens") == 3]
    assert {b["messages"][-1]["content"] for b in asked} == {"hello there"}
    assert (shown.completed, shown.failed) == (4, 0)


def test_a_file_without_prompts_is_refused_by_the_line(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('"fine"\n{"answer": 1}\n')
    with pytest.raises(UsageError, match="line 2: no prompt"):
        named(str(path))


async def measured(load: Workload) -> tuple[Any, list[dict[str, Any]]]:
    load = replace(load, requests=24, output_tokens=8)
    async with scripted(completes) as server, server.session() as session:
        shown = await session.measure(load)
    bodies = [c.body for c in server.calls if c.body.get("stream") and "max_tokens" in c.body]
    return shown, bodies


async def test_a_chat_goes_on_for_its_turns_with_what_was_said_before() -> None:
    _, bodies = await measured(replace(named("chat")[0], concurrency=2))
    lengths = {len(b["messages"]) for b in bodies}
    assert lengths == {1, 3, 5}
    longest = next(b for b in bodies if len(b["messages"]) == 5)
    assert [m["role"] for m in longest["messages"]] == ["user", "assistant"] * 2 + ["user"]


async def test_mixed_lengths_are_spread_and_each_is_exact() -> None:
    shown, bodies = await measured(named("mixed")[0])
    lengths = {len(b["prompt"].split()) for b in bodies}
    assert min(lengths) < 200
    assert max(lengths) > 400
    assert not [s for s in shown.suspect if "tokens" in s]


async def test_tools_and_json_are_asked_for() -> None:
    _, tools = await measured(named("tools")[0])
    assert all(b["tools"][0]["function"]["name"] == "weather" for b in tools)
    _, formats = await measured(named("json")[0])
    assert all(b["response_format"]["type"] == "json_schema" for b in formats)
    assert not any("ignore_eos" in b for b in (*tools, *formats))


async def test_hanging_up_is_neither_a_failure_nor_a_fast_answer() -> None:
    shown, _ = await measured(named("cancelled")[0])
    assert shown.cancelled > 0
    assert shown.failed == 0
    assert shown.completed + shown.cancelled == 24


async def test_a_limit_on_the_time_of_a_request_is_kept() -> None:
    async def never(call: Call) -> None:
        if call.body.get("stream"):
            import asyncio

            await asyncio.Event().wait()
        await completes(call)

    from vllama.errors import EngineFailed

    load = Workload("w", 10, 4, 2, requests=2, timeout_s=0.2)
    async with scripted(never) as server, server.session() as session:
        with pytest.raises(EngineFailed, match="timeout"):
            await session.measure(load)
