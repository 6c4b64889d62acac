"""Smaller weights stay near the large ones, by llama.cpp's own reading of the blocks."""

from pathlib import Path

import gguf
import httpx
import numpy as np
import pytest

from tests.conftest import installed
from vllama.machine import Machine
from vllama.settings import Settings
from vllama.store import kquants, names, quantize

TYPES = gguf.GGMLQuantizationType


def relative_error(values: np.ndarray, again: np.ndarray) -> float:
    return float(np.sqrt(((values - again) ** 2).mean() / (values**2).mean()))


@pytest.mark.parametrize(
    ("quantise", "kind", "allowed"),
    [(kquants.q4_k, TYPES.Q4_K, 0.08), (kquants.q6_k, TYPES.Q6_K, 0.02)],
)
@pytest.mark.parametrize("spread", [1e-3, 1.0, 100.0])
def test_blocks_give_back_nearly_what_went_in(
    quantise: object, kind: TYPES, allowed: float, spread: float
) -> None:
    values = np.random.default_rng(1).standard_normal((8, 1024)).astype(np.float32) * spread
    raw = quantise(values)  # type: ignore[operator]
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    assert raw.shape == (8, 1024 // elements * size)
    assert relative_error(values, gguf.quants.dequantize(raw, kind)) < allowed


def test_four_bits_are_better_than_the_plain_four_bits() -> None:
    values = np.random.default_rng(2).standard_normal((16, 2048)).astype(np.float32)
    plain = gguf.quants.dequantize(gguf.quants.quantize(values, TYPES.Q4_0), TYPES.Q4_0)
    ours = gguf.quants.dequantize(kquants.q4_k(values), TYPES.Q4_K)
    assert relative_error(values, ours) < relative_error(values, plain)


@pytest.mark.parametrize("value", [0.0, 3.5, -2.0])
def test_blocks_of_one_value_survive(value: float) -> None:
    values = np.full((2, 256), value, np.float32)
    for quantise, kind in ((kquants.q4_k, TYPES.Q4_K), (kquants.q6_k, TYPES.Q6_K)):
        again = gguf.quants.dequantize(quantise(values), kind)
        assert np.allclose(again, value, rtol=0.02, atol=1e-6)


def test_the_types_are_mixed_as_llamacpp_mixes_them() -> None:
    def kind(name: str, shape: tuple[int, ...] = (256, 256), wanted: str = "Q4_K_M") -> str:
        return quantize.tensor_type(name, shape, wanted, layers=16, is_tied=False)

    assert kind("output.weight") == "Q6_K"
    assert kind("blk.0.attn_v.weight") == "Q6_K"
    assert kind("blk.2.ffn_down.weight") == "Q4_K"
    assert kind("blk.15.ffn_down.weight") == "Q6_K"
    assert kind("blk.15.ffn_down.weight", wanted="Q4_K_S") == "Q4_K"
    assert kind("blk.0.attn_q.weight") == "Q4_K"
    assert kind("blk.0.attn_norm.weight", (256,)) == "F32"
    assert kind("blk.0.attn_q.weight", (256, 96)) == "Q8_0"


@pytest.mark.llamacpp
@pytest.mark.parametrize("kind", ["Q4_K_M", "Q8_0"])
async def test_llamacpp_answers_from_what_was_quantised(
    kind: str, toy: Path, tmp_path: Path, session_settings: Settings, machine: Machine
) -> None:
    path = tmp_path / "small.gguf"
    for _ in quantize.quantize(toy / "toy-f16.gguf", path, kind):
        pass
    model = names.resolve(str(path), session_settings)
    assert model.shape.quantization == kind
    real = installed("llamacpp", session_settings)
    async with (
        real.start(real.default(model, machine)) as endpoint,
        httpx.AsyncClient(base_url=endpoint.base_url, timeout=60) as client,
    ):
        body = {"model": endpoint.model, "prompt": "The", "max_tokens": 8, "temperature": 0}
        reply = await client.post("/v1/completions", json=body)
    assert reply.json()["usage"]["completion_tokens"] == 8
