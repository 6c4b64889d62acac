"""A converted folder gives llama.cpp the same model: the same probabilities as the reference."""

import math
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import installed
from vllama.machine import Machine
from vllama.settings import Settings
from vllama.store import convert, names
from vllama.store.errors import Refused

PROMPT = "The quick brown fox jumps over the lazy dog, and then it"
ROPE = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64, "rope_theta": 10000.0}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128,
        "rope_theta": 10000.0}  # fmt: skip
LONG = {"rope_type": "longrope", "short_factor": [1.0 + n / 20 for n in range(16)],
        "long_factor": [1.0 + n for n in range(16)], "rope_theta": 10000.0,
        "original_max_position_embeddings": 64}  # fmt: skip
PARTIAL = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
# The context at the engine, where it decides how positions are turned.
CONTEXTS = {"LongRopeShort": 512, "Phi3Partial": 512}
KINDS: dict[str, dict[str, Any]] = {
    "Linear": {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}},
    "Yarn": {"rope_parameters": YARN},
    "YarnAttention": {"rope_parameters": {**YARN, "attention_factor": 1.3, "beta_fast": 16.0}},
    "LongRope": {"rope_parameters": LONG},
    "LongRopeShort": {"rope_parameters": {**LONG, "original_max_position_embeddings": 512}},
    "Phi3Long": {"rope_parameters": LONG, "pad_token_id": 0},
    "Phi3Partial": {"rope_parameters": PARTIAL, "pad_token_id": 0},
    "LlamaForCausalLM": {"num_key_value_heads": 2},
    "Llama3": {"num_key_value_heads": 2, "rope_parameters": ROPE},
    "Qwen2ForCausalLM": {"num_key_value_heads": 2},
    "Qwen3ForCausalLM": {"num_key_value_heads": 2, "head_dim": 32},
}


def random_model(kind: str, options: dict[str, Any], toy: Path, folder: Path) -> Any:
    """A small model of the reference implementation, with the toy's tokenizer."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    # Of half a character llama.cpp tells no probabilities: these seeds begin with a whole one.
    torch.manual_seed(4 if kind.startswith("LongRope") else 3)
    plain = "Phi3ForCausalLM" if kind.startswith("Phi3") else "LlamaForCausalLM"
    name = kind if kind.endswith("ForCausalLM") else plain
    config = getattr(transformers, name.replace("ForCausalLM", "Config"))(
        vocab_size=4096, hidden_size=128, intermediate_size=256, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=512, tie_word_embeddings=False,
        initializer_range=0.2, bos_token_id=None, eos_token_id=2, **options,
    )  # fmt: skip
    model = getattr(transformers, name)(config).eval()
    model.save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / file).write_bytes((toy / file).read_bytes())
    return model


@pytest.mark.llamacpp
@pytest.mark.parametrize("kind", KINDS)
async def test_probabilities_are_those_of_the_reference(
    kind: str, toy: Path, tmp_path: Path, session_settings: Settings, machine: Machine
) -> None:
    import torch
    from tokenizers import Tokenizer

    model = random_model(kind, KINDS[kind], toy, tmp_path / "hf")
    for _ in convert.write(tmp_path / "hf", tmp_path / "model.gguf", "F32"):
        pass
    ids = Tokenizer.from_file(str(toy / "tokenizer.json")).encode(PROMPT * 12).ids
    assert 256 < len(ids) < 384
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, -1]
    expected = torch.log_softmax(logits.float(), 0)
    real = installed("llamacpp", session_settings)
    found = names.resolve(str(tmp_path / "model.gguf"), session_settings)
    profile = real.default(found, machine).with_options(n_parallel=1, threads=1)
    if kind in CONTEXTS:
        profile = profile.with_options(n_ctx=CONTEXTS[kind])
    async with (
        real.start(profile) as endpoint,
        httpx.AsyncClient(base_url=endpoint.base_url, timeout=60) as client,
    ):
        body = {"prompt": ids, "n_predict": 1, "temperature": 0, "n_probs": 10,
                "post_sampling_probs": False}  # fmt: skip
        reply = (await client.post("/completion", json=body)).json()
    top = reply["completion_probabilities"][0]["top_logprobs"]
    assert len(top) == 10
    for entry in top:
        assert math.isclose(entry["logprob"], float(expected[entry["id"]]), abs_tol=0.05)


def test_what_is_not_known_is_refused(toy: Path, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    for file in toy.iterdir():
        if file.suffix != ".gguf" and file.is_file():
            (folder / file.name).write_bytes(file.read_bytes())
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace("Qwen2ForCausalLM", "OddForCausalLM"))
    with pytest.raises(Refused, match="unsupported architecture 'OddForCausalLM'"):
        list(convert.write(folder, tmp_path / "x.gguf"))
    (folder / "config.json").write_text(config)
    tokenizer = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(tokenizer.replace('"Split"', '"Odd"'))
    with pytest.raises(Refused, match="is not known here"):
        list(convert.write(folder, tmp_path / "x.gguf"))
