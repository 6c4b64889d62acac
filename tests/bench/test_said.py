"""Counts of answers held against the server's own tokenizer: lies are found, nothing else is."""

import json
from collections.abc import Mapping
from dataclasses import replace

import pytest

from tests.bench.serving import DONE, Answer, Call, completes, event, miscounts, scripted, usage
from vllama.bench.said import Said, doubt, said
from vllama.bench.transcript import Transcript
from vllama.bench.wire import Client
from vllama.bench.workload import Workload

# Of free length, so that nothing but the text tells what the count should be.
LOAD = Workload("w", 20, 8, concurrency=3, requests=12, kind="completion", asks="json")


def tokenizes(call: Call) -> None:
    call.whole({"tokens": list(range(len(call.body["prompt"].split())))})


def counting(claimed: int) -> Answer:
    """A server that answers eight words, and says of them that they were `claimed` tokens."""

    async def answer(call: Call) -> None:
        if call.path == "/tokenize":
            return tokenizes(call)
        if call.path == "/metrics" or call.body.get("max_tokens") != 8:
            return await completes(call)
        if not call.body["stream"]:
            choice = {"text": "x " * 8, "finish_reason": "stop"}
            counts = {"prompt_tokens": 20, "completion_tokens": claimed}
            return call.whole({"choices": [choice], "usage": counts})
        call.head()
        # Two words a chunk: their number alone says nothing against a count.
        for part in (*[event("x x ")] * 4, event("", finish="stop"), usage(20, claimed), DONE):
            call.piece(part)
        return call.end()

    return answer


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("stream", "claimed", "believed"),
    [(True, 8, True), (True, 4, False), (True, 40, False), (False, 8, True), (False, 4, False)],
)
async def test_a_count_that_the_text_belies_makes_the_run_suspect(
    stream: bool, claimed: int, believed: bool, workers: int
) -> None:
    client = Client(workers=workers)
    async with scripted(counting(claimed)) as server, server.session(client=client) as session:
        shown = await session.measure(replace(LOAD, stream=stream))
    told = [reason for reason in miscounts(shown) if "counted again" in reason]
    assert bool(told) != believed
    if told:
        assert told == [
            "3 of 3 answers counted again: their text is 8 tokens by the server's tokenizer, "
            f"the server counted {claimed}"
        ]


async def test_a_server_without_a_tokenizer_is_asked_once() -> None:
    async with scripted(completes) as server, server.session() as session:
        await session.measure(replace(LOAD, asks="text"))
        before = sum(c.path == "/tokenize" for c in server.calls)
        shown = await session.measure(replace(LOAD, asks="text"))
    assert miscounts(shown) == []
    assert sum(c.path == "/tokenize" for c in server.calls) == before


async def halves(text: str) -> int:
    """A tokenizer that knows two of the same letter as one token."""
    return (len(text) + 1) // 2


@pytest.mark.parametrize(
    ("counted", "streamed", "believed"),
    [
        (64, True, True),  # as the model made them
        (32, True, True),  # as the tokenizer would have made them
        (100, True, False),
        (20, True, False),
        (64, False, True),  # of a whole answer nobody knows how it was made
        (20, False, False),
    ],
)
async def test_tokens_that_the_tokenizer_would_have_joined_are_no_lie(
    counted: int, streamed: bool, believed: bool
) -> None:
    answer = Said(("x",) * 64 if streamed else ("x" * 64,), counted, streamed)
    assert (await doubt([answer], halves) is None) == believed


async def test_one_odd_answer_of_several_is_no_reason_for_doubt() -> None:
    true, odd = Said(("x",) * 64, 64, True), Said(("x",) * 64, 400, True)
    assert await doubt([true, true, odd], halves) is None
    assert await doubt([], halves) is None


def body_of(*parts: object, sse: bool = False) -> Transcript:
    transcript = Transcript()
    for part in parts:
        text = json.dumps(part).encode()
        transcript.put(b"data: " + text + b"\n\n" if sse else text + b"\n", 0.0)
    return transcript


def deltas(*deltas: Mapping[str, object]) -> Transcript:
    return body_of(*({"choices": [{"delta": d}]} for d in deltas), sse=True)


@pytest.mark.parametrize(
    ("transcript", "pieces"),
    [
        (deltas({"role": "assistant"}, {"reasoning": "hm"}, {"content": "a"}), ("hm", "a")),
        (deltas({"reasoning_content": "hm"}, {"content": "a"}, {}), ("hm", "a")),
        (body_of({"choices": [{"message": {"content": "a b"}}]}), ("a b",)),
        (body_of({"choices": [{"text": "a b", "finish_reason": "stop"}]}), ("a b",)),
        (body_of({"response": "a"}, {"response": "b", "done": True}), ("a", "b")),
        (body_of({"message": {"thinking": "hm"}}, {"message": {"content": "a"}}), ("hm", "a")),
        (deltas({"content": "a"}, {"tool_calls": [{"index": 0}]}), None),
        (deltas({"content": ""}), None),
        (deltas(*[{"content": "a"}] * 300), None),
    ],
)
def test_what_was_said_is_read_in_every_form(
    transcript: Transcript, pieces: tuple[str, ...] | None
) -> None:
    found = said(transcript, 5)
    assert (found and found.pieces) == pieces
    assert found is None or found.output_tokens == 5
