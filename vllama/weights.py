"""Reading a model's shape from its files, without loading a weight."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vllama import gguf
from vllama.errors import ModelBroken
from vllama.model import Model, Shape

_REMEDY = "Fetch the model again: the file is corrupt or its download was not finished."
_BITS16 = 2


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
        layers = int(config["num_hidden_layers"])
        vocabulary = int(config["vocab_size"])
    except (KeyError, TypeError, ValueError) as error:
        raise ModelBroken(f"{folder / 'config.json'} lacks {error}", _REMEDY) from error
    head_size = int(config.get("head_dim") or hidden // heads)
    kv_heads = int(config.get("num_key_value_heads") or config.get("num_kv_heads") or heads)
    parameters = sum(_elements(t) for t in tensors.values())
    return Shape(
        architecture=str((outer.get("architectures") or [outer.get("model_type", "unknown")])[0]),
        layers=layers,
        hidden_size=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_size=head_size,
        intermediate_size=int(config.get("intermediate_size") or 4 * hidden),
        vocabulary=vocabulary,
        parameters=parameters,
        active_parameters=_active(parameters, tensors, config),
        weight_bytes=sum(_bytes(t) for t in tensors.values()),
        context_length=int(config.get("max_position_embeddings") or 0),
        quantization=_quantization(outer, tensors),
        kv_bytes_per_token=_kv_bytes(config, layers, kv_heads, head_size),
        pooling=_pooling(folder, outer),
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


def _kv_bytes(config: Mapping[str, Any], layers: int, kv_heads: int, head_size: int) -> int:
    """16-bit keys and values of one token: 2·L·H_kv·D·b, or L·(d_c + d_rope)·b for MLA."""
    latent = config.get("kv_lora_rank")
    if latent:
        return layers * (int(latent) + int(config.get("qk_rope_head_dim", 0))) * _BITS16
    return 2 * layers * kv_heads * head_size * _BITS16


def _active(parameters: int, tensors: Mapping[str, Any], config: Mapping[str, Any]) -> int:
    """Parameters a token passes through: of the experts only the share that is chosen."""
    names = ("num_experts", "n_routed_experts", "num_local_experts")
    experts = next((int(config[n]) for n in names if config.get(n)), 0)
    chosen = int(config.get("num_experts_per_tok") or 0)
    if not experts or not chosen:
        return parameters
    routed = sum(_elements(t) for n, t in tensors.items() if ".experts." in n)
    return parameters - routed + routed * chosen // experts


def _quantization(config: Mapping[str, Any], tensors: Mapping[str, Any]) -> str:
    method = (config.get("quantization_config") or {}).get("quant_method")
    if method:
        return str(method).upper()
    largest = max(tensors.values(), key=_elements, default=None)
    return str(largest["dtype"]) if largest else "unknown"


def _shards(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.exists():
        shards = [folder / n for n in sorted(set(_json(index).get("weight_map", {}).values()))]
    else:
        shards = sorted(folder.glob("*.safetensors"))
    for shard in shards:
        if not shard.exists():
            raise ModelBroken(f"{shard} is missing", _REMEDY)
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
            header: dict[str, Any] = json.loads(file.read(length))
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
    meta = header.metadata
    arch = str(meta.get("general.architecture", "unknown"))

    def number(key: str, default: int = 0) -> int:
        value = meta.get(f"{arch}.{key}", default)
        return int(max(value) if isinstance(value, list) else value or default)

    heads, hidden, layers = (
        number("attention.head_count", 1),
        number("embedding_length"),
        number("block_count"),
    )
    kv_heads = number("attention.head_count_kv", heads)
    head_size = number("attention.key_length", hidden // max(heads, 1))
    embedding = next((t for t in header.tensors if t.name == "token_embd.weight"), None)
    parameters = sum(t.elements for t in header.tensors)
    return Shape(
        architecture=arch,
        layers=layers,
        hidden_size=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_size=head_size,
        intermediate_size=number("feed_forward_length"),
        vocabulary=number("vocab_size", embedding.shape[-1] if embedding else 0),
        parameters=parameters,
        active_parameters=parameters,
        weight_bytes=sum(t.bytes for t in header.tensors),
        context_length=number("context_length"),
        quantization=gguf.FILE_TYPES.get(meta.get("general.file_type", -1), "unknown"),
        kv_bytes_per_token=2 * layers * kv_heads * head_size * _BITS16,
        pooling=gguf.POOLING.get(meta.get(f"{arch}.pooling_type", -1)),
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text())
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
