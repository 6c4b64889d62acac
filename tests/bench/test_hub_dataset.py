"""Prompts from a dataset of the hub: fetched once, sent as they are, refused with a reason."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.bench.serving import completes, scripted
from tests.store import hubs
from vllama.bench import workloads
from vllama.errors import UsageError

LINES = [{"conversations": [{"from": "human", "value": f"tell me {i}"}]} for i in range(3)]
CHATS = "\n".join(json.dumps(line) for line in LINES).encode()
NAME = "hub:some/chats/data/chats.jsonl"


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[hubs.Hub]:
    with hubs.running() as hub:
        hub.repositories["some/chats"] = {"data/chats.jsonl": CHATS}
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.delenv("HF_HUB_CACHE", raising=False)
        yield hub


async def test_a_dataset_of_the_hub_is_sent_as_it_is(online: hubs.Hub) -> None:
    (load,) = workloads.named(NAME)
    async with scripted(completes) as server, server.session() as session:
        shown = await session.measure(replace(load, requests=6, concurrency=2, output_tokens=4))
    asked = {
        c.body["messages"][-1]["content"] for c in server.calls if c.body.get("max_tokens") == 4
    }
    assert {f"tell me {i}" for i in range(3)} <= asked
    assert shown.completed == 6
    assert online.fetched() == ["chats.jsonl"]


def test_it_is_fetched_once(online: hubs.Hub) -> None:
    first, second = workloads.named(NAME), workloads.named(f"{NAME}@{online.commit}")
    assert first == second
    assert online.fetched() == ["chats.jsonl"]


def test_offline_what_was_fetched_is_used_and_nothing_is_asked(
    online: hubs.Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    (load,) = workloads.named(NAME)
    asked = len(online.asked)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert workloads.named(NAME) == (load,)
    with pytest.raises(UsageError, match="cannot be had"):
        workloads.named("hub:some/chats/data/more.jsonl")
    assert len(online.asked) == asked


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("hub:some/chats/other.jsonl", "cannot be had"),
        ("hub:nobody/chats/data/chats.jsonl", "cannot be had"),
        (f"{NAME}@v9", "cannot be had"),
        ("hub:chats.jsonl", "names no file"),
    ],
)
def test_what_is_not_there_is_refused_with_a_reason(
    online: hubs.Hub, name: str, reason: str
) -> None:
    with pytest.raises(UsageError, match=reason):
        workloads.named(name)


def test_a_gated_one_says_how_to_be_let_in(online: hubs.Hub) -> None:
    online.gated.add("some/chats")
    online.token = "secret"
    with pytest.raises(UsageError, match="gated"):
        workloads.named(NAME)
