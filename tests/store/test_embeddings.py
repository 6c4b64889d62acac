"""A real embedding model gives the vectors that are known of it, on real llama.cpp."""

import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import minilm
from tests.conftest import installed
from vllama.machine import Machine
from vllama.settings import Settings
from vllama.store import catalogue, names

SKY = "why is the sky blue?"
ALIKE = [
    ("The cat sits on the mat.", "A cat is sitting on a rug."),
    ("How do I bake bread?", "What is the way to make a loaf?"),
]
APART = [
    ("The cat sits on the mat.", "Interest rates rose last quarter."),
    ("How do I bake bread?", "The rocket reached its orbit."),
]


@dataclass(frozen=True)
class Embedder:
    """A running engine that embeds."""

    base_url: str
    model: str

    async def embed(self, *texts: str) -> dict[str, Any]:
        async with httpx.AsyncClient(base_url=self.base_url, timeout=60) as client:
            reply = await client.post(
                "/v1/embeddings", json={"model": self.model, "input": list(texts)}
            )
        reply.raise_for_status()
        document: dict[str, Any] = reply.json()
        return document

    async def vectors(self, *texts: str) -> list[list[float]]:
        return [entry["embedding"] for entry in (await self.embed(*texts))["data"]]


@pytest.fixture(scope="module")
def minilm_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return minilm.write_gguf(tmp_path_factory.mktemp("minilm") / "minilm.gguf")


@pytest.fixture(scope="module")
async def embedder(
    minilm_gguf: Path, session_settings: Settings, machine: Machine
) -> AsyncIterator[Embedder]:
    real = installed("llamacpp", session_settings)
    profile = real.default(names.resolve(str(minilm_gguf), session_settings), machine)
    async with real.start(profile) as endpoint:
        yield Embedder(endpoint.base_url, endpoint.model)


def cosine(one: Sequence[float], two: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(one, two, strict=True)) / math.hypot(*one) / math.hypot(*two)


def test_both_formats_are_told_alike(minilm_gguf: Path, settings: Settings) -> None:
    # The folder says on what lengths the model was trained, and vLLM keeps to it.
    for path, context in ((minilm_gguf, 512), (minilm.folder(), 256)):
        card = catalogue.card(str(path), settings)
        assert card.capabilities == {"embedding"}
        assert (card.family, card.model.shape.pooling) == ("bert", "mean")
        assert (card.model.shape.hidden_size, card.model.shape.context_length) == (384, context)
        # The GGUF file leaves out the pooler, which no embedding needs.
        assert 22_500_000 < card.model.shape.parameters < 22_800_000


@pytest.mark.llamacpp
async def test_vectors_have_384_dimensions_and_the_known_values(embedder: Embedder) -> None:
    answer = await embedder.embed(SKY)
    [vector] = [entry["embedding"] for entry in answer["data"]]
    assert len(vector) == 384
    assert math.hypot(*vector) == pytest.approx(1, abs=1e-3)
    # As Ollama's own tests know this model: the first value, and the count of tokens.
    assert vector[0] == pytest.approx(0.0101, abs=5e-4)
    assert answer["usage"]["prompt_tokens"] == 8


@pytest.mark.llamacpp
async def test_sentences_that_mean_the_same_lie_near_each_other(embedder: Embedder) -> None:
    near = [cosine(*(await embedder.vectors(*pair))) for pair in ALIKE]
    far = [cosine(*(await embedder.vectors(*pair))) for pair in APART]
    assert min(near) > 0.5 > 0.2 > max(far)


@pytest.mark.llamacpp
async def test_a_batch_gives_what_each_gives_alone(embedder: Embedder) -> None:
    texts = [text for pair in ALIKE for text in pair]
    together = await embedder.vectors(*texts)
    alone = [(await embedder.vectors(text))[0] for text in texts]
    for one, two in zip(together, alone, strict=True):
        assert cosine(one, two) > 0.999


@pytest.mark.llamacpp
async def test_vectors_are_those_of_the_reference_implementation(embedder: Embedder) -> None:
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm.folder())
    model = transformers.AutoModel.from_pretrained(minilm.folder(), dtype=torch.float32)
    texts = [SKY, *ALIKE[0]]
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1)
    expected = (hidden * mask).sum(1) / mask.sum(1)
    for one, two in zip(await embedder.vectors(*texts), expected.tolist(), strict=True):
        assert cosine(one, two) > 0.9995
