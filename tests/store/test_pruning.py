"""Blobs that no model needs go, unless OLLAMA_NOPRUNE keeps them."""

import hashlib
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from tests.store.shelves import put_model
from vllama.errors import ModelNotFound
from vllama.settings import Settings
from vllama.store import changes, commit, creation, names
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


def test_changes_of_the_store_take_turns(toy: Path, settings: Settings) -> None:
    put_model(settings.home / "models", "tiny", [("model", (toy / "toy-q8_0.gguf").read_bytes())])
    other = threading.Thread(target=changes.copy, args=("tiny", "second", settings))
    with commit.locked(settings):
        other.start()
        other.join(timeout=0.3)
        assert other.is_alive()
        with pytest.raises(ModelNotFound):
            names.resolve("second", settings)
    other.join(timeout=30)
    assert names.resolve("second", settings).gguf is not None


def test_what_a_killed_upload_left_is_swept_away_after_a_day(settings: Settings) -> None:
    blobs = Blobs(settings)
    blobs.add(b"kept")
    left = settings.home / "models" / "blobs" / ".upload-abc"
    left.write_bytes(b"half")
    written = left.stat().st_mtime
    blobs.sweep(written + 3600)
    assert left.exists()
    blobs.sweep(written + 90_000)
    assert not left.exists()
    assert blobs.has("sha256:" + hashlib.sha256(b"kept").hexdigest())
