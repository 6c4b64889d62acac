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


def doubt(counted: Mapping[str, float], prompt_tokens: int, shared_tokens: int) -> str:
    """Why the hits are not those that the prompts were made for; empty when they are.

    Only whole blocks of a prefix can be hit, and the first prompt of all hits nothing: below
    the promised share is fine, above it never.
    """
    share = counted.get("prefix_hit_share")
    promised = shared_tokens / prompt_tokens if prompt_tokens else 0.0
    if share is None or share <= promised + _SLACK:
        return ""
    return (
        f"the prefix cache held {share:.0%} of the prompt tokens, the prompts share "
        f"{promised:.0%}: it knew them from before"
    )
