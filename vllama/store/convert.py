"""From a Hugging Face folder to a GGUF file, so that llama.cpp can run the same weights."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vllama.store import convert_rope, convert_tensors, convert_tokenizer
from vllama.store.errors import Refused

Floats = NDArray[np.float32]
# Scores a query and a document read together: a reranker.
RANKER = "BertForSequenceClassification"
ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Phi3ForCausalLM": "phi3",
    "BertModel": "bert",
    RANKER: "bert",
}
# Tables that llama.cpp adds up rather than multiplies with: it wants them whole.
_EXACT = frozenset({"position_embd.weight", "token_types.weight"})
_LEFT_OUT = ("embeddings.position_ids", "rotary_emb.inv_freq")
# A reranker's head, which llama.cpp has under names of its own.
_HEAD = {"pooler.dense": "cls", "classifier": "cls.output"}


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
    for name, table in convert_rope.tables(config).items():
        writer.add_tensor(name, table)
    for name, tensor, done, total in convert_tensors.read(folder, config):
        if _is_left_out(name, config):
            continue
        short = _ranking(name, config) or names.get_name(
            name.removeprefix("bert."), try_suffixes=(".weight", ".bias")
        )
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
        ranks = config["architectures"][0] == RANKER
        writer.add_pooling_type(gguf.PoolingType["RANK" if ranks else "MEAN"])
        return
    size = convert_rope.head_size(config)
    writer.add_head_count_kv(int(config.get("num_key_value_heads") or heads))
    writer.add_layer_norm_rms_eps(float(config["rms_norm_eps"]))
    writer.add_key_length(size)
    writer.add_value_length(size)
    if arch == "phi3":
        # llama.cpp gives this architecture its whole context whatever the window.
        writer.add_sliding_window(0)
    convert_rope.add(writer, config, arch)


def _permuted(tensor: Floats, name: str, config: dict[str, Any]) -> Floats:
    """Llama's queries and keys as llama.cpp turns them: neighbours instead of halves."""
    heads = int(config["num_attention_heads"])
    if "self_attn.k_proj" in name:
        heads = int(config.get("num_key_value_heads") or heads)
    elif "self_attn.q_proj" not in name:
        return tensor
    halves = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(tensor.shape))


def _is_left_out(name: str, config: dict[str, Any]) -> bool:
    """What llama.cpp makes itself, has already, or does not need."""
    if name.startswith("pooler.") and config["architectures"][0] != RANKER:
        return True
    is_tied_head = name == "lm_head.weight" and bool(config.get("tie_word_embeddings"))
    return is_tied_head or any(part in name for part in _LEFT_OUT)


def _ranking(name: str, config: dict[str, Any]) -> str | None:
    """llama.cpp's name of a tensor of a reranker's head."""
    base, _, kind = name.removeprefix("bert.").rpartition(".")
    if config["architectures"][0] != RANKER or base not in _HEAD:
        return None
    return f"{_HEAD[base]}.{kind}"


def _json(path: Path) -> dict[str, Any]:
    document = json.loads(path.read_text("utf-8"))
    assert isinstance(document, dict)
    return document
