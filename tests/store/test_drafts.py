"""A small model that guesses ahead is kept with its model, and llama.cpp is started with it."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import installed
from tests.store.shelves import put_model
from vllama.profile import Profile
from vllama.settings import Settings
from vllama.store import catalogue, changes, creation, details
from vllama.store.blobs import Blobs
from vllama.store.errors import Refused


@pytest.fixture
def tiny(toy: Path, settings: Settings) -> str:
    layers = [("model", (toy / "toy-f16.gguf").read_bytes())]
    put_model(settings.home / "models", "tiny", layers, {"model_format": "gguf"})
    return "tiny"


async def statuses(request: dict[str, Any], settings: Settings) -> list[str]:
    return [s["status"] async for s in creation.create(request, settings)]


async def test_a_draft_model_is_kept_with_its_model_and_named_in_its_modelfile(
    tiny: str, toy: Path, settings: Settings
) -> None:
    digest = Blobs(settings).add_file(toy / "toy-q8_0.gguf")
    request = {"model": "fast", "from": "tiny", "draft_files": {"small.gguf": digest}}
    assert (await statuses(request, settings))[0] == "parsing GGUF"
    card = catalogue.card("fast", settings)
    assert card.draft == Blobs(settings).root.blob(digest)
    assert f"\nDRAFT {card.draft}\n" in details.modelfile(card)
    await statuses({"model": "faster", "from": "fast", "system": "s"}, settings)
    assert catalogue.card("faster", settings).draft == card.draft
    changes.delete("fast", settings)
    assert Blobs(settings).has(digest)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"draft_quantize": "q8_0"}, "--draft-quantize requires a DRAFT model"),
        ({"draft_files": {"../m.gguf": "sha256:" + "0" * 64}}, "file path must be relative"),
        ({"draft_files": {"m.txt": "sha256:" + "0" * 64}}, "a draft model must be one GGUF file"),
    ],
)
async def test_a_wrong_draft_is_refused(
    given: dict[str, Any], message: str, tiny: str, settings: Settings
) -> None:
    with pytest.raises(Refused) as caught:
        await statuses({"model": "x", "from": "tiny", **given}, settings)
    assert (caught.value.status, caught.value.message) == (400, message)


@pytest.mark.llamacpp
async def test_a_draft_model_guesses_and_changes_no_word(toy: Path, settings: Settings) -> None:
    engine = installed("llamacpp", settings)
    blobs = Blobs(settings)
    files = {"toy.gguf": blobs.add_file(toy / "toy-f16.gguf")}
    drafts = {"small.gguf": blobs.add_file(toy / "toy-f16.gguf")}
    requests = [
        {"model": "plain", "files": files},
        {"model": "fast", "from": "plain", "draft_files": drafts, "draft_quantize": "q8_0",
         "parameters": {"draft_num_predict": 3}},
    ]  # fmt: skip
    for request in requests:
        async for _ in creation.create(request, settings):
            pass
    body = {"prompt": "Once upon a time", "max_tokens": 24, "temperature": 0, "ignore_eos": True}
    said: list[str] = []
    timings: dict[str, int] = {}
    for name in ("plain", "fast"):
        wanted = Profile("test", "llamacpp", name, {"n_ctx": 1024, "threads": 1})
        async with (
            engine.start(wanted) as endpoint,
            httpx.AsyncClient(base_url=endpoint.base_url, trust_env=False, timeout=60) as client,
        ):
            answer = (await client.post("/v1/completions", json=body)).json()
        said.append(answer["choices"][0]["text"])
        timings = answer["timings"]
    # Sums of another order may part the ways of random weights at the end.
    assert said[0].split()[:12] == said[1].split()[:12]
    assert 0 < timings["draft_n_accepted"] <= timings["draft_n"]
