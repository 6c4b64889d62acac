"""The random weights, and the Hugging Face folder around them."""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vllama.toy.size import CONTEXT, VOCABULARY, Size
from vllama.toy.tokenizer import END, PAD

Weights = dict[str, NDArray[np.float16]]
ROPE_THETA = 10000.0
NORM_EPSILON = 1e-6


def draw(size: Size, seed: int) -> Weights:
    """Weights by their Hugging Face names, equal for an equal seed.

    Wide enough for varied text at temperature 0; the tokens that end an answer are made
    improbable so that a fixed output length needs no luck, as is what no token stands for.
    """
    random = np.random.default_rng(seed)
    kv = size.kv_heads * size.head_size

    def matrix(*shape: int) -> NDArray[np.float16]:
        drawn: NDArray[np.float32] = random.standard_normal(shape, np.float32)
        return (drawn / np.float32(np.sqrt(shape[-1]))).astype(np.float16)

    def ones() -> NDArray[np.float16]:
        return np.ones(size.hidden, np.float16)

    embedding = random.standard_normal((size.vocabulary, size.hidden), np.float32)
    embedding[VOCABULARY:] *= 0.01
    embedding[: PAD + END + 1] *= 0.01
    weights: Weights = {"model.embed_tokens.weight": embedding.astype(np.float16)}
    for layer in range(size.layers):
        at = f"model.layers.{layer}."
        weights[at + "input_layernorm.weight"] = ones()
        weights[at + "post_attention_layernorm.weight"] = ones()
        for name, rows in (("q", size.hidden), ("k", kv), ("v", kv)):
            weights[f"{at}self_attn.{name}_proj.weight"] = matrix(rows, size.hidden)
            weights[f"{at}self_attn.{name}_proj.bias"] = np.zeros(rows, np.float16)
        weights[at + "self_attn.o_proj.weight"] = matrix(size.hidden, size.hidden)
        weights[at + "mlp.gate_proj.weight"] = matrix(size.intermediate, size.hidden)
        weights[at + "mlp.up_proj.weight"] = matrix(size.intermediate, size.hidden)
        weights[at + "mlp.down_proj.weight"] = matrix(size.hidden, size.intermediate)
    weights["model.norm.weight"] = ones()
    return weights


def write(directory: Path, size: Size, weights: Weights, pooling: str | None) -> None:
    """Write `model.safetensors` and the configuration files."""
    from safetensors.numpy import save_file

    save_file(weights, directory / "model.safetensors", {"format": "pt"})
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "vocab_size": size.vocabulary,
        "hidden_size": size.hidden,
        "intermediate_size": size.intermediate,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": NORM_EPSILON,
        "rope_theta": ROPE_THETA,
        "rope_parameters": {"rope_theta": ROPE_THETA, "rope_type": "default"},
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "dtype": "float16",
        "eos_token_id": END,
        "pad_token_id": PAD,
        "bos_token_id": None,
        "use_sliding_window": False,
    }
    _write_json(directory / "config.json", config)
    _write_json(directory / "generation_config.json", {"eos_token_id": END, "pad_token_id": PAD})
    if pooling:
        _write_pooling(directory, size.hidden)


def _write_pooling(directory: Path, width: int) -> None:
    """Sentence-transformers' description of mean pooling."""
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling",
         "type": "sentence_transformers.models.Pooling"},
    ]  # fmt: skip
    _write_json(directory / "modules.json", modules)
    (directory / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": width, "pooling_mode_mean_tokens": True}
    _write_json(directory / "1_Pooling" / "config.json", pooling)


def _write_json(path: Path, document: object) -> None:
    path.write_text(json.dumps(document, indent=2))
