"""Blobs that no model needs go, unless OLLAMA_NOPRUNE keeps them."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.store.shelves import put_model
from vllama.settings import Settings
from vllama.store import commit, creation
from vllama.store.blobs import Blobs

DAY_S = 86_400


@pytest.fixture
def tiny(toy: Path, settings: Settings) -> str:
    layers = [("model", (toy / "toy-f16.gguf").read_bytes())]
    put_model(settings.home / "models", "tiny", layers, {"model_format": "gguf"})
    return "tiny"


def put_old_blob(settings: Settings, data: bytes) -> Path:
    blobs = Blobs(settings)
    path = blobs.root.blob(blobs.add(data))
    os.utime(path, (1, 1))
    return path


def test_blobs_that_nobody_needs_go_at_the_start_of_a_server(tiny: str, settings: Settings) -> None:
    old, young = put_old_blob(settings, b"old"), put_old_blob(settings, b"young")
    os.utime(young, (DAY_S, DAY_S))
    needed = [p for p in old.parent.glob("sha256-*") if p not in (old, young)]
    for path in needed:
        os.utime(path, (1, 1))
    assert commit.tidy(settings, DAY_S + 2) == [old.name]
    assert not old.exists()
    assert young.exists()
    assert all(path.exists() for path in needed)


def test_blobs_stay_where_they_are_wanted_or_may_be_needed(tiny: str, settings: Settings) -> None:
    old = put_old_blob(settings, b"old")
    assert commit.tidy(replace(settings, keeps_blobs=True), 2 * DAY_S) == []
    broken = settings.home / "models" / "manifests" / "h" / "n" / "m" / "t"
    broken.parent.mkdir(parents=True)
    broken.write_text("{")
    assert commit.tidy(settings, 2 * DAY_S) == []
    assert old.exists()


async def test_a_replaced_model_leaves_its_blobs_where_nothing_is_pruned(
    tiny: str, settings: Settings
) -> None:
    def blobs() -> set[str]:
        return {p.name for p in (settings.home / "models" / "blobs").glob("sha256-*")}

    async def made(system: str, kept: Settings) -> None:
        request = {"model": "mine", "from": tiny, "system": system}
        assert [s async for s in creation.create(request, kept)][-1]["status"] == "success"

    keeping = replace(settings, keeps_blobs=True)
    await made("one", keeping)
    before = blobs()
    await made("two", keeping)
    assert before < blobs()
    before = blobs()
    await made("three", settings)
    assert not before <= blobs()
