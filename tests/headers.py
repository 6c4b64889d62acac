"""Models of any size that take no room: true headers, and weights that are a hole in the file."""

import json
import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Tensors = Mapping[str, tuple[str, Sequence[int]]]
_BYTES = {"BF16": 2, "F16": 2, "F32": 4, "I32": 4, "U8": 1, "F8_E4M3": 1}

LLAMA_8B = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
}


def write(folder: Path, config: Mapping[str, Any], tensors: Tensors, shards: int = 1) -> Path:
    """A folder in Hugging Face's layout."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    names = list(tensors)
    files: dict[str, str] = {}
    for number in range(shards):
        name = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        mine = {n: tensors[n] for n in names[number::shards]}
        files |= dict.fromkeys(mine, name)
        write_shard(folder / name, mine)
    index = {"metadata": {}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def write_shard(path: Path, tensors: Tensors) -> None:
    header, end = {}, 0
    for name, (dtype, shape) in tensors.items():
        size = math.prod(shape) * _BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)


def dense(config: Mapping[str, Any], dtype: str = "BF16", layers: int | None = None) -> Tensors:
    """The tensors of a Llama of these dimensions."""
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    size = config.get("head_dim") or hidden // config["num_attention_heads"]
    queries = config["num_attention_heads"] * size
    values = config["num_key_value_heads"] * size
    found: dict[str, tuple[str, Sequence[int]]] = {
        "model.embed_tokens.weight": ("BF16", (config["vocab_size"], hidden)),
        "lm_head.weight": ("BF16", (config["vocab_size"], hidden)),
        "model.norm.weight": ("BF16", (hidden,)),
    }
    for layer in range(config["num_hidden_layers"] if layers is None else layers):
        at = f"model.layers.{layer}"
        found |= {
            f"{at}.input_layernorm.weight": ("BF16", (hidden,)),
            f"{at}.post_attention_layernorm.weight": ("BF16", (hidden,)),
            f"{at}.self_attn.q_proj.weight": (dtype, (queries, hidden)),
            f"{at}.self_attn.k_proj.weight": (dtype, (values, hidden)),
            f"{at}.self_attn.v_proj.weight": (dtype, (values, hidden)),
            f"{at}.self_attn.o_proj.weight": (dtype, (hidden, queries)),
            f"{at}.mlp.gate_proj.weight": (dtype, (wide, hidden)),
            f"{at}.mlp.up_proj.weight": (dtype, (wide, hidden)),
            f"{at}.mlp.down_proj.weight": (dtype, (hidden, wide)),
        }
    return found


def experts(layer: int, count: int, hidden: int, wide: int) -> Tensors:
    """The routed experts of one layer."""
    return {
        f"model.layers.{layer}.mlp.experts.{e}.{part}_proj.weight": ("BF16", (wide, hidden))
        for e in range(count)
        for part in ("gate", "up", "down")
    }
