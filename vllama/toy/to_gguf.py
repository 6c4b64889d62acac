"""The same weights and tokenizer as a GGUF file, for llama.cpp."""

import json
import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from vllama.toy.size import CONTEXT, Size
from vllama.toy.tokenizer import CHAT_TEMPLATE, END, PAD, SPECIAL, SPLIT_NAME
from vllama.toy.weights import NORM_EPSILON, ROPE_THETA, Weights

_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_TYPES = {
    "f16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
}


def write(
    path: Path,
    quantization: str,
    size: Size,
    weights: Weights,
    tokenizer: Path,
    pooling: str | None,
) -> None:
    """Write one file; `quantization` is `f16` or `q8_0`, `tokenizer` a `tokenizer.json`."""
    tensor_type, file_type = _TYPES[quantization]
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_name("toy")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(size.hidden)
    writer.add_block_count(size.layers)
    writer.add_feed_forward_length(size.intermediate)
    writer.add_head_count(size.heads)
    writer.add_head_count_kv(size.kv_heads)
    writer.add_layer_norm_rms_eps(NORM_EPSILON)
    writer.add_rope_freq_base(ROPE_THETA)
    writer.add_file_type(file_type)
    writer.add_type("model")
    writer.add_size_label(f"{sum(t.size for t in weights.values()) / 1e6:.1f}M")
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    if pooling:
        writer.add_pooling_type(gguf.PoolingType.MEAN)
    _add_tokenizer(writer, json.loads(tokenizer.read_text(encoding="utf-8")), size.vocabulary)
    for name, tensor in weights.items():
        if tensor.ndim == 1:
            writer.add_tensor(_tensor_name(name), tensor.astype(np.float32))
        else:
            raw = gguf.quants.quantize(tensor.astype(np.float32), tensor_type)
            writer.add_tensor(_tensor_name(name), raw, raw_dtype=tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: Any, document: dict[str, Any], size: int) -> None:
    vocabulary: dict[str, int] = document["model"]["vocab"]
    tokens = [f"<unused{i}>" for i in range(size)]
    types = [gguf.TokenType.UNUSED] * size
    for token, number in vocabulary.items():
        tokens[number], types[number] = token, gguf.TokenType.NORMAL
    for number, _ in enumerate(SPECIAL):
        types[number] = gguf.TokenType.CONTROL
    merges = document["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(SPLIT_NAME)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_eos_token_id(END)
    writer.add_pad_token_id(PAD)
    writer.add_chat_template(CHAT_TEMPLATE)


def _tensor_name(name: str) -> str:
    fixed = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
    }
    if name in fixed:
        return fixed[name]
    match = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
    assert match is not None, name
    return f"blk.{match[1]}.{_NAMES[match[2]]}.{match[3]}"
