"""From a Hugging Face folder to a GGUF file, so that llama.cpp can run the same weights."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vllama.store import convert_tokenizer
from vllama.store.errors import Refused

Floats = NDArray[np.float32]
ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "BertModel": "bert",
}
# Tables that llama.cpp adds up rather than multiplies with: it wants them whole.
_EXACT = frozenset({"position_embd.weight", "token_types.weight", "rope_freqs.weight"})
_LEFT_OUT = ("pooler.", "embeddings.position_ids", "rotary_emb.inv_freq")


def write(folder: Path, target: Path, kind: str = "F16") -> Iterator[tuple[int, int]]:
    """Write `target` with weights of F16, BF16 or F32; tensors done and to do, after each.

    Raises:
        Refused: an architecture, a tokenizer or a rope scaling that is not known here.
    """
    import gguf

    config = _json(folder / "config.json")
    arch = _architecture(config)
    writer = gguf.GGUFWriter(target, arch, use_temp_file=True)
    writer.add_name(str(config.get("_name_or_path") or folder.name))
    _add_shape(writer, config, arch)
    convert_tokenizer.add(writer, folder, config)
    writer.add_file_type(gguf.LlamaFileType[f"{'ALL' if kind == 'F32' else 'MOSTLY'}_{kind}"])
    names = gguf.get_tensor_name_map(_model_arch(arch, gguf), int(config["num_hidden_layers"]))
    freqs = _rope_freqs(config)
    if freqs is not None:
        writer.add_tensor("rope_freqs.weight", freqs)
    for name, tensor, done, total in _tensors(folder):
        if any(part in name for part in _LEFT_OUT) or _is_tied_head(name, config):
            continue
        short = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if short is None:
            raise Refused(f"{folder.name}: tensor {name} is not known here")
        data = _permuted(tensor, name, config) if arch == "llama" else tensor
        exact = data.ndim < 2 or short in _EXACT
        wanted = gguf.GGMLQuantizationType["F32" if exact else kind]
        writer.add_tensor(short, gguf.quants.quantize(data, wanted), raw_dtype=wanted)
        yield done, total
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _architecture(config: dict[str, Any]) -> str:
    name = str((config.get("architectures") or [""])[0])
    if name not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise Refused(
            f"unsupported architecture {name!r} for a conversion to GGUF", 400,
            f"Known are {known}; vLLM may run the folder as it is, without --quantize.",
        )  # fmt: skip
    return ARCHITECTURES[name]


def _model_arch(arch: str, gguf: Any) -> Any:
    return next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == arch)


def _add_shape(writer: Any, config: dict[str, Any], arch: str) -> None:
    import gguf

    heads = int(config["num_attention_heads"])
    writer.add_context_length(int(config["max_position_embeddings"]))
    writer.add_embedding_length(int(config["hidden_size"]))
    writer.add_block_count(int(config["num_hidden_layers"]))
    writer.add_feed_forward_length(int(config["intermediate_size"]))
    writer.add_head_count(heads)
    writer.add_vocab_size(int(config["vocab_size"]))
    if arch == "bert":
        writer.add_layer_norm_eps(float(config["layer_norm_eps"]))
        writer.add_causal_attention(False)
        writer.add_pooling_type(gguf.PoolingType.MEAN)
        return
    head_size = int(config.get("head_dim") or int(config["hidden_size"]) // heads)
    writer.add_head_count_kv(int(config.get("num_key_value_heads") or heads))
    writer.add_layer_norm_rms_eps(float(config["rms_norm_eps"]))
    writer.add_rope_freq_base(_theta(config))
    writer.add_key_length(head_size)
    writer.add_value_length(head_size)
    if arch == "llama":
        writer.add_rope_dimension_count(head_size)
    scaling = _scaling(config)
    if scaling.get("type") == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(scaling["factor"]))


def _scaling(config: dict[str, Any]) -> dict[str, Any]:
    """How positions are stretched, under one name for its kind."""
    given = config.get("rope_scaling") or config.get("rope_parameters") or {}
    kind = str(given.get("rope_type") or given.get("type") or "default")
    if kind not in ("default", "linear", "llama3"):
        raise Refused(f"rope scaling {kind!r} is not known here")
    return {**given, "type": kind}


def _theta(config: dict[str, Any]) -> float:
    nested = (config.get("rope_parameters") or {}).get("rope_theta")
    return float(config.get("rope_theta") or nested or 10000.0)


def _rope_freqs(config: dict[str, Any]) -> Floats | None:
    """Llama 3's stretch: by how much each frequency is divided."""
    scaling = _scaling(config)
    if scaling["type"] != "llama3":
        return None
    heads = int(config["num_attention_heads"])
    size = int(config.get("head_dim") or int(config["hidden_size"]) // heads)
    freqs = 1.0 / _theta(config) ** (np.arange(0, size, 2) / size)
    old = float(scaling["original_max_position_embeddings"])
    low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
    factor, turns = float(scaling["factor"]), old * freqs / (2 * np.pi)
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    return (1 / ((1 - smooth) / factor + smooth)).astype(np.float32)


def _permuted(tensor: Floats, name: str, config: dict[str, Any]) -> Floats:
    """Llama's queries and keys as llama.cpp turns them: neighbours instead of halves."""
    heads = int(config["num_attention_heads"])
    if "self_attn.k_proj" in name:
        heads = int(config.get("num_key_value_heads") or heads)
    elif "self_attn.q_proj" not in name:
        return tensor
    halves = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(tensor.shape))


def _is_tied_head(name: str, config: dict[str, Any]) -> bool:
    return name == "lm_head.weight" and bool(config.get("tie_word_embeddings"))


def _tensors(folder: Path) -> Iterator[tuple[str, Floats, int, int]]:
    """Every tensor as 32-bit floats, and how many are done."""
    files = sorted(folder.glob("*.safetensors"))
    headers = [(file, *_header(file)) for file in files]
    total = sum(len(header) for _, header, _ in headers)
    done = 0
    for file, header, start in headers:
        raw = np.memmap(file, np.uint8, "r")
        for name, entry in header.items():
            done += 1
            begin, end = (start + int(offset) for offset in entry["data_offsets"])
            data = _floats(raw[begin:end], str(entry["dtype"]), name)
            yield name, data.reshape(entry["shape"]), done, total


def _header(path: Path) -> tuple[dict[str, Any], int]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    return {k: v for k, v in header.items() if k != "__metadata__"}, 8 + length


def _floats(raw: NDArray[np.uint8], kind: str, name: str) -> Floats:
    if kind == "BF16":
        return (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    if kind in ("F16", "F32", "F64"):
        return raw.view(f"<f{int(kind[1:]) // 8}").astype(np.float32)
    if kind == "I64" and name.endswith("position_ids"):
        return raw.view("<i8").astype(np.float32)
    raise Refused(f"tensor {name} is quantised already ({kind})")


def _json(path: Path) -> dict[str, Any]:
    document = json.loads(path.read_text())
    assert isinstance(document, dict)
    return document
