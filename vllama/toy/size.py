"""How large a toy is: from a parameter count to a transformer's dimensions."""

import re
from dataclasses import dataclass

from vllama.errors import UsageError

HEAD_SIZE = 64
VOCABULARY = 4096
CONTEXT = 8192
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9}


@dataclass(frozen=True, slots=True)
class Size:
    """Dimensions of a Qwen2: all in elements, `heads` query heads over `kv_heads`.

    Of the `vocabulary` the tokenizer knows the first 4096; the rest is never drawn.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_size: int = HEAD_SIZE
    vocabulary: int = VOCABULARY

    @property
    def parameters(self) -> int:
        """All weights, the tied embedding counted once."""
        kv = self.kv_heads * self.head_size
        attention = 2 * self.hidden * self.hidden + 2 * self.hidden * kv + self.hidden + 2 * kv
        layer = attention + 3 * self.hidden * self.intermediate + 2 * self.hidden
        return self.vocabulary * self.hidden + self.layers * layer + self.hidden


# Of the shape of Qwen2.5-1.5B to the last weight, for what a real size is needed for.
LIKE_QWEN_1_5B = Size(28, 1536, 8960, 12, 2, head_size=128, vocabulary=151_936)


def parse_parameters(text: str) -> int:
    """A count such as `4M`, `0.5B` or `4000000`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMB]?)", text.strip().upper())
    if match is None:
        raise UsageError(f"'{text}' is no parameter count", "Write it like 4M, 135M or 0.5B.")
    return round(float(match[1]) * _UNITS[match[2]])


def choose(parameters: int) -> Size:
    """The dimensions whose count comes nearest to `parameters`."""
    if not 2_000_000 <= parameters <= 2_000_000_000:
        raise UsageError(f"{parameters} parameters is no toy", "Choose between 2M and 2B.")
    sizes = [
        Size(layers, heads * HEAD_SIZE, 4 * heads * HEAD_SIZE, heads, max(1, heads // 2))
        for heads in (2, 4, 6, 8, 12, 16, 24, 32)
        for layers in range(2, 33)
        if layers <= 4 * heads
    ]
    return min(sizes, key=lambda size: abs(size.parameters - parameters))
