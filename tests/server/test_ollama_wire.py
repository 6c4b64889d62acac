"""Go's JSON rules, as pure functions: what is read, what is refused, and in which words."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vllama.server.ollama.wire import CHAT, GENERATE, SHOW, bad_base64_at
from vllama.server.relay.refusal import Refusal
from vllama.server.relay.written import utc
from vllama.server.translation.options import DEFAULTS, TYPES, merged
from vllama.server.translation.splitting import Splitter
from vllama.server.web import gojson
from vllama.server.web.gotypes import WrongType, unmarshal

BAD = [
    (b"{bad", "invalid character 'b' looking for beginning of object key string"),
    (b'{"a":1,}', "invalid character '}' looking for beginning of object key string"),
    (b'{"a" 1}', "invalid character '1' after object key"),
    (b'{"a":1 "b"}', "invalid character '\"' after object key:value pair"),
    (b"[1 2]", "invalid character '2' after array element"),
    (b"[01]", "invalid character '1' after array element"),
    (b"[1.]", "invalid character ']' after decimal point in numeric literal"),
    (b"[1ex]", "invalid character 'x' in exponent of numeric literal"),
    (b"[-]", "invalid character ']' in numeric literal"),
    (b"trux", "invalid character 'x' in literal true (expecting 'e')"),
    (b'"\n"', "invalid character '\\n' in string literal"),
    (b'"\\x"', "invalid character 'x' in string escape code"),
    (b'"\\u12g4"', "invalid character 'g' in \\u hexadecimal character escape"),
    (b"'a'", "invalid character '\\'' looking for beginning of value"),
    (b"\xef\xbb\xbf{}", "invalid character '\u00ef' looking for beginning of value"),
    (b'{"a":NaN}', "invalid character 'N' looking for beginning of value"),
    (b'{"a":', "unexpected EOF"),
    (b"[" * 20_000, "exceeded max depth"),
]


@pytest.mark.parametrize(("body", "error"), BAD, ids=lambda v: str(v)[:24])
def test_malformed_json_is_told_in_gos_words(body: bytes, error: str) -> None:
    with pytest.raises(gojson.Malformed) as failed:
        gojson.decode(body)
    assert str(failed.value) == error


def test_what_follows_the_first_value_does_not_count() -> None:
    assert gojson.decode(b' {"a": [1, "]"]} xx {') == {"a": [1, "]"]}
    assert gojson.decode(b"5,") == 5
    assert gojson.decode(b'"\\ud800" x') == "\ufffd"


steadily = settings(
    deadline=None, derandomize=True, max_examples=60, suppress_health_check=list(HealthCheck)
)


@steadily
@given(st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
))  # fmt: skip
def test_all_json_is_read_as_it_is_also_before_garbage(value: Any) -> None:
    body = json.dumps(value).encode()
    expected = json.loads(json.dumps(value).encode("utf-8", "replace"))
    if "\\ud" not in body.decode():
        assert gojson.decode(body) == expected
        assert gojson.decode(body + b" }x") == expected


@steadily
@given(st.binary(max_size=60))
def test_no_body_is_anything_but_read_or_refused(body: bytes) -> None:
    with contextlib.suppress(gojson.Malformed, gojson.NoBody):
        gojson.decode(body)


WRONG = [
    (
        SHOW,
        {"model": 5},
        "json: cannot unmarshal number into Go struct field ShowRequest.model of type string",
    ),
    (GENERATE, [], "json: cannot unmarshal array into Go value of type api.GenerateRequest"),
    (
        GENERATE,
        {"context": ["x"]},
        "json: cannot unmarshal string into Go struct field GenerateRequest.context of type int",
    ),
    (
        GENERATE,
        {"top_logprobs": 1.5},
        "json: cannot unmarshal number 1.5 into Go struct field GenerateRequest.top_logprobs"
        " of type int",
    ),
    (
        CHAT,
        {"messages": "x"},
        "json: cannot unmarshal string into Go struct field ChatRequest.messages"
        " of type []api.Message",
    ),
    (
        CHAT,
        {"tools": "x"},
        "json: cannot unmarshal string into Go struct field ChatRequest.tools of type api.Tools",
    ),
    (
        CHAT,
        {"messages": [{"tool_calls": [{"function": {"arguments": "{}"}}]}]},
        "Value looks like object, but can't find closing '}' symbol",
    ),
    # The first wrong type counts, unless a type with its own decoder objects.
    (
        CHAT,
        {"model": 1, "stream": "x"},
        "json: cannot unmarshal number into Go struct field ChatRequest.model of type string",
    ),
    (CHAT, {"model": 1, "keep_alive": True}, "Unsupported type: 'bool'"),
]


@pytest.mark.parametrize(("record", "value", "error"), WRONG, ids=lambda v: str(v)[:24])
def test_wrong_types_are_told_with_gos_names(record: Any, value: Any, error: str) -> None:
    with pytest.raises(WrongType) as failed:
        unmarshal(value, record)
    assert str(failed.value) == error


def test_names_match_in_any_case_the_last_wins_and_null_changes_nothing() -> None:
    body = gojson.decode(b'{"MODEL":"a","Model":"b","model":null,"nope":1,"options":null}')
    assert unmarshal(body, CHAT) == {"model": "b"}


@pytest.mark.parametrize(
    ("text", "at"),
    [("aGk=", None), ("aGk", 0), ("", None), ("@@@", 0), ("aG@k", 2), ("aGkx\naGkx", None)],
)
def test_base64_is_checked_like_gos(text: str, at: int | None) -> None:
    assert bad_base64_at(text) == at


def test_options_are_layered_and_typed() -> None:
    options = merged({"temperature": 0.1, "stop": ["a"]}, {"top_k": 3.9, "temperature": None})
    assert options["temperature"] == 0.1
    assert options["top_k"] == 3
    assert options["stop"] == ("a",)
    assert options["top_p"] == DEFAULTS["top_p"]
    assert merged({}, {"nope": {}}) == dict(DEFAULTS)
    for name, kind in TYPES.items():
        with pytest.raises(Refusal, match=f'option "{name}" must be of'):
            merged({}, {name: object() if kind != "array" else 5})


@steadily
@given(st.text(), st.lists(st.integers(1, 5), max_size=30))
def test_a_split_answer_loses_nothing(text: str, sizes: list[int]) -> None:
    splitter = Splitter(thinks=False, tag="<tool_call>", tools=["f"])
    said, rest = "", text
    for size in sizes:
        said += "".join(piece.text for piece in splitter.feed(rest[:size]))
        rest = rest[size:]
    said += "".join(p.text for p in (*splitter.feed(rest), *splitter.flush()))
    if "<tool_call>" not in text:
        assert said == text


def test_thinking_is_set_apart_however_it_is_cut() -> None:
    text = '<think>\nwell, <b>\n</think>\n\nSo: <tool_call>{"name":"f","arguments":{}}</tool_call>'
    for size in (1, 2, 3, 7, 100):
        splitter = Splitter(thinks=True, tag="<tool_call>", tools=["f"])
        pieces = [
            piece
            for start in range(0, len(text), size)
            for piece in splitter.feed(text[start : start + size])
        ]
        pieces += splitter.flush()
        assert "".join(p.thinking for p in pieces).strip() == "well, <b>"
        assert "".join(p.text for p in pieces).strip() == "So:"
        assert [c["function"]["name"] for p in pieces for c in p.calls] == ["f"]


@pytest.mark.parametrize(
    ("now_ns", "text"),
    [(0, "1970-01-01T00:00:00Z"), (1_500_000_000, "1970-01-01T00:00:01.5Z")],
)
def test_times_are_utc_with_trailing_zeros_trimmed(now_ns: int, text: str) -> None:
    assert utc(now_ns) == text
