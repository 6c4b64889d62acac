"""Reading a model's shape from its files, without loading a weight."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vllama import attention, gguf
from vllama.errors import ModelBroken
from vllama.model import Model, Shape

_REMEDY = "Fetch the model again: the file is corrupt or its download was not finished."
_BITS16 = 2
_KV_HEADS = ("num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num",
             "num_attention_groups")  # fmt: skip
_EXPERTS = ("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts")
_CHOSEN = ("num_experts_per_tok", "top_k_experts", "moe_topk")
# PyTorch's old formats, which may run code when they are read.
_PICKLED = ("*.bin", "*.pt", "*.pth")
_NO_PARAMETERS = ("qzeros", "scales", ".biases", "g_idx", "_scale", "_scale_inv", "weight_shape",
                  "_zero_point", "absmax", "quant_map")  # fmt: skip


def read(path: Path, name: str) -> Model:
    """The model in a Hugging Face folder, or in a GGUF file.

    A folder may hold GGUF files beside: the F16 one is taken where there are several.

    Raises:
        ModelBroken: naming the file that is missing or broken.
    """
    if path.is_file():
        return Model(name, path, _gguf_shape(path), gguf=path)
    found = sorted(path.glob("*.gguf"), key=lambda p: ("f16" not in p.name.lower(), p.name))
    beside = found[0] if found else None
    if (path / "config.json").exists():
        return Model(name, path, _folder_shape(path), safetensors=path, gguf=beside)
    if beside is not None:
        return Model(name, path, _gguf_shape(beside), gguf=beside)
    raise ModelBroken(
        f"{path} holds neither config.json nor a .gguf file",
        "Give the folder of a model as the Hugging Face hub lays it out, or a GGUF file.",
    )


def _folder_shape(folder: Path) -> Shape:
    outer = _json(folder / "config.json")
    config = outer.get("text_config", outer)
    headers = [_safetensors_header(p) for p in _shards(folder)]
    tensors = {k: v for h in headers for k, v in h.items() if k != "__metadata__"}
    try:
        heads = int(config["num_attention_heads"])
        hidden = int(config["hidden_size"])
        vocabulary = int(config["vocab_size"])
        layers = attention.of_config(config)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelBroken(f"{folder / 'config.json'} lacks {error}", _REMEDY) from error
    head_size = _first(config, "head_dim", "hidden_size_per_head") or hidden // heads
    kv_heads = _first(config, *_KV_HEADS) or heads
    experts, chosen = _first(config, *_EXPERTS), _first(config, *_CHOSEN)
    bits = _bits(outer)
    parameters = sum(_parameters(n, t, bits) for n, t in tensors.items())
    routed = {n: t for n, t in tensors.items() if ".experts." in n and experts and chosen}
    idle = sum(_parameters(n, t, bits) for n, t in routed.items())
    latent = _first(config, "kv_lora_rank")
    return Shape(
        architecture=str((outer.get("architectures") or [outer.get("model_type", "unknown")])[0]),
        layers=int(config["num_hidden_layers"]),
        hidden_size=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_size=head_size,
        intermediate_size=_first(config, "intermediate_size") or 4 * hidden,
        vocabulary=vocabulary,
        parameters=parameters,
        active_parameters=parameters - idle + idle * chosen // max(1, experts),
        weight_bytes=sum(_bytes(t) for t in tensors.values()),
        context_length=_context(folder, config),
        quantization=_quantization(outer, tensors),
        kv_bytes_per_token=(layers.full + layers.sliding)
        * _BITS16
        * (latent + _first(config, "qk_rope_head_dim") if latent else 2 * kv_heads * head_size),
        pooling=_pooling(folder, outer),
        is_latent=bool(latent),
        sliding_layers=layers.sliding,
        sliding_window=layers.window,
        state_layers=layers.state,
        state_bytes=layers.state_bytes,
        experts=experts,
        experts_per_token=chosen,
        expert_bytes=sum(_bytes(t) for t in routed.values()),
    )


def tensors(folder: Path) -> list[dict[str, Any]]:
    """Name, type and shape of every tensor in a folder's safetensors files."""
    headers = [_safetensors_header(p) for p in _shards(folder)]
    return [
        {"name": name, "type": str(t["dtype"]), "shape": list(t["shape"])}
        for header in headers
        for name, t in header.items()
        if name != "__metadata__"
    ]


def _context(folder: Path, config: Mapping[str, Any]) -> int:
    """The longest input; embedding models were often trained on less than they have room for."""
    room = int(config.get("max_position_embeddings") or 0)
    path = folder / "sentence_bert_config.json"
    trained = int(_json(path).get("max_seq_length") or 0) if path.exists() else 0
    return min(room or trained, trained or room)


def _pooling(folder: Path, config: Mapping[str, Any]) -> str | None:
    """How an embedding model makes one vector of many, as sentence-transformers notes it."""
    path = folder / "1_Pooling" / "config.json"
    if path.exists():
        notes = _json(path)
        modes = {"mean_tokens": "mean", "cls_token": "cls", "lasttoken": "last"}
        return next((m for key, m in modes.items() if notes.get(f"pooling_mode_{key}")), "mean")
    architecture = str((config.get("architectures") or [""])[0])
    if architecture.endswith("ForSequenceClassification"):
        return "rank"
    return "mean" if (folder / "modules.json").exists() else None


def _first(config: Mapping[str, Any], *names: str) -> int:
    """The number under the first of these names that has one; models do not agree on names."""
    return next((int(config[n]) for n in names if config.get(n)), 0)


def _bits(config: Mapping[str, Any]) -> int:
    """Bits of a quantised weight; 4 where the config does not say."""
    quantised = config.get("quantization_config") or config.get("quantization") or {}
    return _first(quantised, "bits", "w_bit", "weight_bits") or 4


def _parameters(name: str, tensor: Mapping[str, Any], bits: int) -> int:
    """How many parameters a tensor holds: quantised ones pack several into one number."""
    if name.endswith(_NO_PARAMETERS):
        return 0
    is_mlx = tensor["dtype"] == "U32" and name.endswith(".weight")
    packed = is_mlx or name.endswith(("qweight", "weight_packed", "_blocks", "_packed"))
    width = {"I32": 32, "U32": 32, "U8": 8}.get(str(tensor["dtype"]), 0)
    return _elements(tensor) * (width // bits if packed and width else 1)


def _quantization(config: Mapping[str, Any], tensors: Mapping[str, Any]) -> str:
    method = (config.get("quantization_config") or {}).get("quant_method")
    if method:
        return str(method).upper()
    if is_mlx(config):
        return f"MLX {_bits(config)}-bit"
    largest = max(tensors.values(), key=_elements, default=None)
    return str(largest["dtype"]) if largest else "unknown"


def is_mlx(config: Mapping[str, Any]) -> bool:
    """Whether MLX has quantised the weights: it notes groups, and no method as others do."""
    noted = config.get("quantization")
    return isinstance(noted, dict) and "group_size" in noted


def _shards(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.exists():
        shards = [folder / n for n in sorted(set(_json(index).get("weight_map", {}).values()))]
    else:
        shards = sorted(folder.glob("*.safetensors"))
    for shard in shards:
        if not shard.exists():
            raise ModelBroken(f"{shard} is missing", _REMEDY)
    pickled = next((p.name for pattern in _PICKLED for p in sorted(folder.glob(pattern))), "")
    if not shards and pickled:
        raise ModelBroken(
            f"{folder} holds its weights only in PyTorch's old format ({pickled}), which may run"
            " code when it is read",
            "Take a revision or a repository with .safetensors files, or a GGUF of the model.",
        )
    if not shards:
        raise ModelBroken(f"{folder} holds no .safetensors file", _REMEDY)
    return shards


def _safetensors_header(path: Path) -> dict[str, Any]:
    """Name to dtype, shape and offsets; https://github.com/huggingface/safetensors#format."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > size:
                raise ValueError("its header is longer than the file")
            header = json.loads(file.read(length))
        if not isinstance(header, dict):
            raise ValueError("it is no JSON object")
        end = max(
            (t["data_offsets"][1] for n, t in header.items() if n != "__metadata__"), default=0
        )
    except (struct.error, ValueError, KeyError, TypeError) as error:
        raise ModelBroken(f"{path} has a broken safetensors header: {error}", _REMEDY) from error
    if 8 + length + end > size:
        raise ModelBroken(
            f"{path} is cut short: {8 + length + end - size} bytes are missing", _REMEDY
        )
    return header


def _gguf_shape(path: Path) -> Shape:
    header = gguf.read(path)
    meta = dict(header.metadata)
    arch = str(meta.get("general.architecture", "unknown"))
    if meta.get(f"{arch}.attention.head_count_kv", 0) is None:
        # One number a layer, in a list too long to be read unasked.
        meta = dict(gguf.read(path, lists=True).metadata)

    def number(key: str, default: int = 0) -> int:
        value = meta.get(f"{arch}.{key}", default)
        return int(max(value) if isinstance(value, list) else value or default)

    heads, hidden, count = (
        number("attention.head_count", 1),
        number("embedding_length"),
        number("block_count"),
    )
    each = meta.get(f"{arch}.attention.head_count_kv")
    kv_heads = [int(h) for h in each] if isinstance(each, list) else [int(each or heads)] * count
    layers = attention.of_gguf(meta, kv_heads)
    head_size = number("attention.key_length", hidden // max(heads, 1))
    latent = number("attention.kv_lora_rank")
    kept = head_size + number("attention.value_length", head_size)
    embedding = next((t for t in header.tensors if t.name == "token_embd.weight"), None)
    parameters = sum(t.elements for t in header.tensors)
    routed = [t for t in header.tensors if "_exps." in t.name]
    idle, experts = sum(t.elements for t in routed), number("expert_count")
    return Shape(
        architecture=arch,
        layers=count,
        hidden_size=hidden,
        heads=heads,
        kv_heads=max(kv_heads, default=heads),
        head_size=head_size,
        intermediate_size=number("feed_forward_length"),
        vocabulary=number("vocab_size", embedding.shape[-1] if embedding else 0),
        parameters=parameters,
        active_parameters=parameters - idle + idle * number("expert_used_count") // max(1, experts),
        weight_bytes=sum(t.bytes for t in header.tensors),
        context_length=number("context_length"),
        quantization=gguf.FILE_TYPES.get(meta.get("general.file_type", -1), "unknown"),
        kv_bytes_per_token=_BITS16
        * (count * (latent + number("rope.dimension_count")) if latent else sum(kv_heads) * kept),
        pooling=gguf.POOLING.get(meta.get(f"{arch}.pooling_type", -1)),
        is_latent=bool(latent),
        sliding_layers=layers.sliding,
        sliding_window=layers.window,
        state_layers=layers.state,
        state_bytes=layers.state_bytes,
        experts=experts,
        experts_per_token=number("expert_used_count"),
        expert_bytes=sum(t.bytes for t in routed),
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelBroken(f"{path} cannot be read: {error}", _REMEDY) from error
    if not isinstance(document, dict):
        raise ModelBroken(f"{path} is no JSON object", _REMEDY)
    return document


def _elements(tensor: Mapping[str, Any]) -> int:
    product = 1
    for side in tensor["shape"]:
        product *= side
    return product


def _bytes(tensor: Mapping[str, Any]) -> int:
    start, end = tensor["data_offsets"]
    return int(end) - int(start)
