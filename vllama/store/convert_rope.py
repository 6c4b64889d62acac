"""How a model turns positions, as GGUF says it: stretched contexts, and heads turned in part."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vllama.store.errors import Refused

Floats = NDArray[np.float32]
# Names under which configurations have called the same.
_KINDS = {"default": "", "none": "", "linear": "linear", "llama3": "llama3", "yarn": "yarn",
          "longrope": "longrope", "su": "longrope", "dynamic": "dynamic"}  # fmt: skip
_BETA_FAST, _BETA_SLOW = 32.0, 1.0


def add(writer: Any, config: Mapping[str, Any], arch: str) -> None:
    """Write the base, the turned dimensions and the stretch.

    Raises:
        Refused: a stretch that llama.cpp does not have.
    """
    import gguf

    turned, size = _turned(config), head_size(config)
    if turned != size and arch == "llama":
        raise Refused("heads turned in part are not known here for this architecture")
    writer.add_rope_dimension_count(turned)
    writer.add_rope_freq_base(_theta(config))
    given = _scaling(config)
    kind = given["kind"]
    if kind in ("", "llama3"):
        return
    if kind == "dynamic":
        # Up to the length it was trained for, nothing is stretched.
        return
    types = gguf.RopeScalingType
    writer.add_rope_scaling_type(
        {"linear": types.LINEAR, "yarn": types.YARN, "longrope": types.LONGROPE}[kind]
    )
    if kind == "linear":
        writer.add_rope_scaling_factor(float(given["factor"]))
        return
    writer.add_rope_scaling_orig_ctx_len(_original(config, given))
    if kind == "longrope":
        writer.add_rope_scaling_attn_factors(_long_attention(config, given))
        return
    _add_yarn(writer, config, given)


def tables(config: Mapping[str, Any]) -> dict[str, Floats]:
    """By how much each frequency is divided, where every one has its own number."""
    given = _scaling(config)
    if given["kind"] == "llama3":
        return {"rope_freqs.weight": _llama3(config, given)}
    if given["kind"] == "longrope":
        return {
            f"rope_factors_{which}.weight": np.asarray(given[f"{which}_factor"], np.float32)
            for which in ("long", "short")
        }
    return {}


def head_size(config: Mapping[str, Any]) -> int:
    """Numbers in a head."""
    return int(config.get("head_dim") or 0) or int(config["hidden_size"]) // int(
        config["num_attention_heads"]
    )


def _add_yarn(writer: Any, config: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    factor = float(given.get("factor") or _ratio(config, given))
    writer.add_rope_scaling_factor(factor)
    if given.get("mscale") or given.get("mscale_all_dim") or given.get("truncate") is False:
        raise Refused("rope scaling 'yarn' with mscale or without truncation is not known here")
    if given.get("attention_factor") is not None:
        # llama.cpp multiplies with the usual factor by itself.
        usual = 0.1 * math.log(factor) + 1.0
        writer.add_rope_scaling_attn_factors(float(given["attention_factor"]) / usual)
    fast, slow = given.get("beta_fast") or _BETA_FAST, given.get("beta_slow") or _BETA_SLOW
    writer.add_rope_scaling_yarn_beta_fast(float(fast))
    writer.add_rope_scaling_yarn_beta_slow(float(slow))


def _scaling(config: Mapping[str, Any]) -> dict[str, Any]:
    """How positions are stretched, with its kind under one name."""
    given = config.get("rope_scaling") or config.get("rope_parameters") or {}
    name = str(given.get("rope_type") or given.get("type") or "default")
    if name not in _KINDS:
        raise Refused(f"rope scaling {name!r} is not known here")
    return {**given, "kind": _KINDS[name]}


def _parameter(config: Mapping[str, Any], name: str) -> Any:
    return config.get(name) or (config.get("rope_parameters") or {}).get(name)


def _theta(config: Mapping[str, Any]) -> float:
    return float(_parameter(config, "rope_theta") or 10000.0)


def _turned(config: Mapping[str, Any]) -> int:
    return int(head_size(config) * float(_parameter(config, "partial_rotary_factor") or 1.0))


def _original(config: Mapping[str, Any], given: Mapping[str, Any]) -> int:
    name = "original_max_position_embeddings"
    return int(given.get(name) or config.get(name) or config["max_position_embeddings"])


def _ratio(config: Mapping[str, Any], given: Mapping[str, Any]) -> float:
    return float(config["max_position_embeddings"]) / _original(config, given)


def _long_attention(config: Mapping[str, Any], given: Mapping[str, Any]) -> float:
    if given.get("attention_factor") is not None:
        return float(given["attention_factor"])
    factor = _ratio(config, given)
    if factor <= 1.0 and given.get("factor"):
        factor = float(given["factor"])
    if factor <= 1.0:
        return 1.0
    return math.sqrt(1.0 + math.log(factor) / math.log(_original(config, given)))


def _llama3(config: Mapping[str, Any], given: Mapping[str, Any]) -> Floats:
    size = head_size(config)
    freqs = 1.0 / _theta(config) ** (np.arange(0, size, 2) / size)
    old = float(given["original_max_position_embeddings"])
    low, high = float(given["low_freq_factor"]), float(given["high_freq_factor"])
    factor, turns = float(given["factor"]), old * freqs / (2 * np.pi)
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    return np.asarray(1 / ((1 - smooth) / factor + smooth), np.float32)
