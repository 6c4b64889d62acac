"""The fast way says exactly what the slow way says, for any tokens and any cut of the stream."""

import json
import random
import re
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllama.server.ollama import voices as ollama_voices
from vllama.server.openai import voices as openai_voices
from vllama.server.translation.generation import Voice
from vllama.server.translation.pieces import Piece
from vllama.server.translation.splice import Splice

NASTY = [
    "a", " the", '"', "\\", "\n", "{", "}", "é", "日本", '\\"', "\n\n", "data: ",
    '"},"x":"', "\u2028", "\t", "\\\\", '"}}]}', "null", "\r\n",
    '"finish_reason":null', " ", "<b>", "&", "\\u0041", "😀", "\x00", "\x7f",
]  # fmt: skip


def vllm(text: str, ascii_only: bool) -> bytes:
    body = {
        "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m",
        "choices": [{"index": 0, "delta": {"content": text}, "logprobs": None,
                     "finish_reason": None, "token_ids": None}],
    }  # fmt: skip
    return compact(body, ascii_only)


def llamacpp(text: str, ascii_only: bool) -> bytes:
    body = {
        "choices": [{"finish_reason": None, "index": 0, "delta": {"content": text}}],
        "created": 1, "id": "c", "model": "m", "object": "chat.completion.chunk",
    }  # fmt: skip
    return compact(body, ascii_only)


def completion(text: str, ascii_only: bool) -> bytes:
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": None}
    return compact({"id": "c", "choices": [choice], "usage": None}, ascii_only)


def compact(body: object, ascii_only: bool) -> bytes:
    return json.dumps(body, ensure_ascii=ascii_only, separators=(",", ":")).encode()


def line(text: str) -> bytes:
    said = json.dumps({"message": {"content": text}, "done": False}, ensure_ascii=False)
    return said.encode() + b"\n"


def frame() -> tuple[bytes, bytes]:
    before, _, after = line("MARK").partition(b"MARK")
    return before, after


def slow(event: bytes) -> str:
    choice = json.loads(event)["choices"][0]
    return str(choice["text"] if "text" in choice else choice["delta"].get("content") or "")


class Fast:
    """As an exchange uses it: events in, what they say out; how many went the fast way."""

    def __init__(self) -> None:
        self.splice = Splice(frame)
        self.moved = 0

    def feed(self, events: list[bytes]) -> bytes:
        self.splice.begin()
        out = []
        for event in events:
            is_alone = len(events) == 1
            moved = self.splice.move_one(event + b"\n\n") if is_alone else self.splice.move(event)
            if moved is None:
                text = slow(event)
                out.append(line(text))
                self.splice.learn(event, text)
            else:
                self.moved += 1
                out.append(moved)
        return b"".join(out)


def said(lines: bytes) -> list[str]:
    return [json.loads(each)["message"]["content"] for each in lines.splitlines() if each]


@pytest.mark.parametrize("shape", [vllm, llamacpp, completion])
@given(
    texts=st.lists(st.one_of(st.sampled_from(NASTY), st.text(max_size=8)), max_size=40),
    ascii_only=st.booleans(),
    seed=st.integers(0, 1 << 30),
)
@settings(max_examples=300, deadline=None)
def test_any_text_comes_through_as_the_slow_way_tells_it(
    shape: Callable[[str, bool], bytes], texts: list[str], ascii_only: bool, seed: int
) -> None:
    chance = random.Random(seed)
    texts = [t.encode("utf-8", "replace").decode() for t in texts]
    events = [shape(text, ascii_only) for text in texts]
    fast, out = Fast(), b""
    while events:
        count = chance.randint(1, len(events))
        out += fast.feed(events[:count])
        events = events[count:]
    assert said(out.replace(b"\\u2028", "\u2028".encode())) == texts


def test_plain_words_go_the_fast_way() -> None:
    fast = Fast()
    out = fast.feed([vllm(f"word{i} ", False) for i in range(100)])
    assert said(out) == [f"word{i} " for i in range(100)]
    assert fast.moved == 99


def test_a_read_of_two_events_is_not_taken_for_one() -> None:
    fast = Fast()
    fast.feed([vllm("a", False)])
    both = vllm("b", False) + b"\n\n" + vllm("c", False) + b"\n\n"
    assert fast.splice.move_one(both) is None
    assert fast.splice.move_one(vllm("b", False)) is None
    assert fast.splice.move_one(vllm("b", False) + b"\n\n") == line("b")


@pytest.mark.parametrize(
    "voice",
    [
        ollama_voices.ChatVoice("m"),
        ollama_voices.GenerateVoice("m", with_context=True),
        openai_voices.ChatVoice("m", with_usage=True),
        openai_voices.CompletionVoice("m", with_usage=True),
        openai_voices.CompletionVoice("m", with_usage=False),
    ],
)
def test_a_voice_frames_a_text_as_it_tells_a_piece(voice: Voice) -> None:
    voice.piece(Piece("the first is told differently"))
    told, framed = voice.piece(Piece("said")), voice.frame()
    assert framed is not None
    assert untimed(framed[0] + b"said" + framed[1]) == untimed(told)
    told = voice.piece(Piece('<a "quote"\n'))
    assert untimed(framed[0] + b'\\u003ca \\"quote\\"\\n' + framed[1]) == untimed(told)


def untimed(told: bytes) -> bytes:
    return re.sub(rb'"created_at":"[^"]*"', b"", told)


def test_what_tells_more_than_text_is_never_moved() -> None:
    counted = vllm("a", False)[:-1] + b',"usage":{"prompt_tokens":1}}'
    ids = vllm("a", False).replace(b'"token_ids":null', b'"token_ids":[5]')
    last = vllm("a", False).replace(b'"finish_reason":null', b'"finish_reason":"stop"')
    for event in (counted, ids, last):
        fast = Fast()
        fast.feed([event] * 5)
        assert fast.moved == 0
        fast.feed([vllm("b", False), event])
        assert fast.moved == 0


def test_markup_is_escaped_as_go_escapes_it() -> None:
    fast = Fast()
    out = fast.feed([vllm("x", False), vllm("<&>", False)])
    assert b"\\u003c\\u0026\\u003e" in out
    assert said(out) == ["x", "<&>"]
