"""How a model's layers remember: what a token, and what a sequence, leaves in memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_BITS16 = 2
_BITS32 = 4
_STATE = ("linear_attention", "mamba", "mamba2", "recurrent", "conv", "M")
_FULL = ("full_attention", "attention", "hybrid", "*")
_SLIDING = ("sliding_attention", "chunked_attention", "local")


@dataclass(frozen=True, slots=True)
class Layers:
    """Layers by what they keep: every token, the last `window` tokens, or a fixed state.

    `state_bytes` is of one sequence, over all its state layers.
    """

    full: int
    sliding: int = 0
    window: int = 0
    state: int = 0
    state_bytes: int = 0


def of_config(config: Mapping[str, Any]) -> Layers:
    """The layers that a `config.json` describes, in the ways that models do."""
    count = int(config["num_hidden_layers"])
    kinds = _kinds(config, count)
    state = sum(k in _STATE for k in kinds)
    sliding = sum(k in _SLIDING for k in kinds)
    full = sum(k in _FULL for k in kinds)
    window = int(config.get("sliding_window") or config.get("attention_chunk_size") or 0)
    if not window:
        full, sliding = full + sliding, 0
    return Layers(full, sliding, window if sliding else 0, state, state * _state_bytes(config))


def _kinds(config: Mapping[str, Any], count: int) -> Sequence[str]:
    """What each layer is, or as far as it keeps anything."""
    for key in ("layer_types", "layers_block_type", "hybrid_override_pattern"):
        if config.get(key):
            return list(config[key])[:count]
    every = config.get("full_attention_interval")
    if every:
        return ["full_attention" if (i + 1) % every == 0 else "mamba" for i in range(count)]
    if config.get("attn_layer_period"):
        period, offset = int(config["attn_layer_period"]), int(config.get("attn_layer_offset", 0))
        return ["attention" if i % period == offset else "mamba" for i in range(count)]
    if not config.get("sliding_window") or config.get("use_sliding_window") is False:
        return ["full_attention"] * count
    pattern = config.get("sliding_window_pattern")
    if pattern is None and "gemma2" in str(config.get("model_type", "")):
        pattern = 2
    if isinstance(pattern, int) and pattern > 0:
        return [
            "sliding_attention" if (i + 1) % pattern else "full_attention" for i in range(count)
        ]
    return ["sliding_attention"] * count


def _state_bytes(config: Mapping[str, Any]) -> int:
    """The state of one layer and sequence: of a gated delta net, or of Mamba 1 and 2."""

    def number(*names: str) -> int:
        return next((int(config[n]) for n in names if config.get(n)), 0)

    kernel = number("linear_conv_kernel_dim", "mamba_d_conv", "conv_kernel", "d_conv")
    values = number("linear_num_value_heads")
    if values:
        keys = number("linear_num_key_heads") * number("linear_key_head_dim")
        width = 2 * keys + values * number("linear_value_head_dim")
        state = values * number("linear_key_head_dim") * number("linear_value_head_dim")
        return width * max(0, kernel - 1) * _BITS16 + state * _BITS32
    size = number("mamba_d_state", "ssm_state_size", "state_size", "d_state")
    heads = number("mamba_n_heads", "mamba_num_heads")
    inner = heads * number("mamba_d_head", "mamba_head_dim") or number("mamba_expand") * number(
        "hidden_size"
    )
    groups = number("mamba_n_groups", "n_groups") if heads else 0
    return (inner + 2 * groups * size) * max(0, kernel - 1) * _BITS16 + inner * size * _BITS32


def of_gguf(metadata: Mapping[str, Any], kv_heads: Sequence[int]) -> Layers:
    """The layers that GGUF metadata describe; `kv_heads` is 0 for a layer without attention."""
    arch = str(metadata.get("general.architecture", ""))
    full, state = sum(h > 0 for h in kv_heads), sum(h == 0 for h in kv_heads)
    window = int(metadata.get(f"{arch}.attention.sliding_window") or 0)
    pattern = metadata.get(f"{arch}.attention.sliding_window_pattern")
    known = {"gemma2": 2, "gemma3": 6, "gpt-oss": 2, "cohere2": 4}
    every = pattern if isinstance(pattern, int) and pattern > 0 else known.get(arch, 0)
    if isinstance(pattern, list):
        sliding = sum(map(bool, pattern))
    else:
        sliding = full - full // every if every else 0
    inner = int(metadata.get(f"{arch}.ssm.inner_size") or 0)
    size = int(metadata.get(f"{arch}.ssm.state_size") or 0)
    kernel = int(metadata.get(f"{arch}.ssm.conv_kernel") or 1)
    groups = int(metadata.get(f"{arch}.ssm.group_count") or 0)
    # llama.cpp keeps both parts in 32 bits.
    each = ((inner + 2 * groups * size) * (kernel - 1) + inner * size) * _BITS32
    if not window:
        return Layers(full, state=state, state_bytes=state * each)
    return Layers(full - sliding, sliding, window if sliding else 0, state, state * each)
