"""The server's own counters around a load: what its cache hit, what it had to undo."""

import re
from collections.abc import Mapping

# What a figure is called here, and there: vLLM's names first, then llama.cpp's.
_COUNTED = {
    "prompt_tokens": ("vllm:prompt_tokens_total", "llamacpp:prompt_tokens_total"),
    "generated_tokens": ("vllm:generation_tokens_total", "llamacpp:tokens_predicted_total"),
    "prefix_queried_tokens": ("vllm:prefix_cache_queries_total",),
    "prefix_hit_tokens": ("vllm:prefix_cache_hits_total",),
    "preemptions": ("vllm:num_preemptions_total",),
}
_GAUGES = {"kv_cache_share": ("vllm:kv_cache_usage_perc", "llamacpp:kv_cache_usage_ratio")}
_SLACK = 0.02
_FEWEST_HITS = 0.5
_LINE = re.compile(r"^([a-z_:]+)(?:\{[^}]*\})?\s+([0-9.eE+-]+)\s*$")


def read(text: str) -> dict[str, float]:
    """The counters of a page of Prometheus metrics, by our names, summed over labels."""
    by_name: dict[str, float] = {}
    for line in text.splitlines():
        if match := _LINE.match(line):
            by_name[match[1]] = by_name.get(match[1], 0.0) + float(match[2])
    return {
        ours: by_name[theirs]
        for ours, names in (_COUNTED | _GAUGES).items()
        for theirs in names
        if theirs in by_name
    }


def between(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """What a load added, and the share of its prompt tokens that the prefix cache held."""
    grown = {n: after[n] - before.get(n, 0.0) for n in after if n in _COUNTED}
    grown |= {n: after[n] for n in after if n in _GAUGES}
    if queried := grown.get("prefix_queried_tokens"):
        grown["prefix_hit_share"] = grown.get("prefix_hit_tokens", 0.0) / queried
    return grown


def doubt(
    counted: Mapping[str, float], prompt_tokens: int, shared_tokens: int, known_tokens: int = 0
) -> str:
    """Why the hits are not those that the prompts were made for; empty when they are.

    Every prompt has `shared_tokens` with all others; up to `known_tokens` of one (where that is
    more) may have been seen before. Only whole blocks can be hit, and the first prompts hit
    nothing: somewhat below the share is fine, but below half of it the load is another than it
    was made to be. More than may be known is never fine.
    """
    share = counted.get("prefix_hit_share")
    if share is None or not prompt_tokens:
        return ""
    promised = shared_tokens / prompt_tokens
    told = (
        f"the prefix cache held {share:.0%} of the prompt tokens, the prompts share {promised:.0%}"
    )
    if share > max(promised, known_tokens / prompt_tokens) + _SLACK:
        return f"{told}: it knew them from before"
    if share < _FEWEST_HITS * promised:
        return f"{told}: it is off, or too small for this load"
    return ""
