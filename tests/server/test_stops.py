"""Stop sequences beyond those that an engine takes: cut here, in every API, streamed or not."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.server.house import House
from tests.server.test_translation import events, ndjson, simulated, user
from vllama.server.translation.stops import Stops
from vllama.settings import Settings

# vLLM gets the first four; the simulator heeds none, so that only our own cut can show.
UNHEARD = ["<1>", "<2>", "", "<3>", "<4>"]
WHOLE = "Forty two."


@pytest.fixture(scope="module")
async def sim(
    session_settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    async with simulated(session_settings, tmp_path_factory.mktemp("stops")) as house:
        yield house


@settings(deadline=None, derandomize=True, max_examples=200)
@given(
    st.text("abc", max_size=20),
    st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=4),
    st.lists(st.integers(1, 4), max_size=20),
)
def test_however_text_arrives_it_is_cut_before_a_stop_sequence(
    text: str, sequences: list[str], sizes: list[int]
) -> None:
    stops, said, rest = Stops(sequences), "", text
    for size in [*sizes, len(text)]:
        said += stops.feed(rest[:size])
        rest = rest[size:]
        if stops.has_stopped:
            break
    said += stops.flush()
    assert text.startswith(said)
    assert not any(each in said for each in sequences)
    assert stops.has_stopped == any(each in text for each in sequences)
    if not stops.has_stopped:
        assert said == text
    else:
        assert any(text[len(said) :].startswith(each) for each in sequences)


def chat(stop: str) -> dict[str, Any]:
    options = {"stop": [*UNHEARD, stop]}
    return {"model": "sim", "messages": user("ponder"), "options": options}


@pytest.mark.parametrize(("stop", "text"), [("ty", "For"), ("o.", "Forty tw"), ("never", WHOLE)])
async def test_ollamas_clients_see_nothing_of_the_fifth(sim: House, stop: str, text: str) -> None:
    whole = (await sim.post("/api/chat", {**chat(stop), "stream": False})).json()
    assert whole["message"]["content"] == text
    assert whole["message"]["thinking"] == "Let me think."
    *parts, last = ndjson(await sim.post("/api/chat", chat(stop)))
    assert "".join(part["message"]["content"] for part in parts) == text
    for answer in (whole, last):
        assert (answer["done"], answer["done_reason"]) == (True, "stop")
        assert answer["prompt_eval_count"] > 0
        assert answer["eval_count"] > 0


async def test_openais_clients_see_nothing_of_the_fifth(sim: House) -> None:
    request = {"model": "sim", "messages": user("ponder"), "stop": [*UNHEARD, "ty"]}
    whole = (await sim.post("/v1/chat/completions", request)).json()["choices"][0]
    assert (whole["message"]["content"], whole["finish_reason"]) == ("For", "stop")
    told = events(await sim.post("/v1/chat/completions", {**request, "stream": True}))
    assert told[-1] == "[DONE]"
    choices = [event["choices"][0] for event in told[:-1]]
    assert "".join(each["delta"].get("content", "") for each in choices) == "For"
    assert choices[-1]["finish_reason"] == "stop"


async def test_the_engine_is_stopped_when_a_stream_was_cut(
    session_settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # An answer that would take minutes: only an engine that was stopped is done in time.
    slow = {"answer_tokens": 4000, "time_scale": 5.0}
    async with simulated(session_settings, tmp_path_factory.mktemp("slow"), slow) as house:
        request = {"model": "sim", "messages": user("x"), "options": {"stop": [*UNHEARD, " "]}}
        *_, last = ndjson(await house.post("/api/chat", request))
        assert last["done_reason"] == "stop"
        assert last["eval_count"] < 100
        engine = next(iter(house.pool.loaded())).endpoint
        assert engine is not None
        idle = 'num_requests_running{engine="0",model_name="toy"} 0'
        async with house.client() as client, asyncio.timeout(60):
            while idle not in (await client.get(f"{engine.base_url}/metrics")).text:
                pass
