"""What a model is: its name, where its files lie, their format, and its shape."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

Format: TypeAlias = Literal["safetensors", "gguf"]


@dataclass(frozen=True, slots=True)
class Shape:
    """A transformer's dimensions, read without loading a weight. Sizes in bytes.

    `active_parameters` differs from `parameters` for mixtures of experts, `expert_bytes` is
    what of the weights lies in experts of which each token takes a few. `kv_bytes_per_token`
    is what a token leaves in all attention layers at 16 bits; of these, `sliding_layers` keep
    only the last `sliding_window` tokens. `state_layers` keep `state_bytes` a sequence
    instead. `is_latent` (MLA) says that tensor parallel shards do not share it out.
    """

    architecture: str
    layers: int
    hidden_size: int
    heads: int
    kv_heads: int
    head_size: int
    intermediate_size: int
    vocabulary: int
    parameters: int
    active_parameters: int
    weight_bytes: int
    context_length: int
    quantization: str
    kv_bytes_per_token: int
    pooling: str | None = None
    is_latent: bool = False
    sliding_layers: int = 0
    sliding_window: int = 0
    state_layers: int = 0
    state_bytes: int = 0
    experts: int = 0
    experts_per_token: int = 0
    expert_bytes: int = 0

    @property
    def attention_layers(self) -> int:
        """Layers that keep keys and values."""
        return max(1, self.layers - self.state_layers)

    def sequence_bytes(self, tokens: int) -> int:
        """What one sequence of so many tokens needs of the cache, at 16 bits."""
        layer = self.kv_bytes_per_token / self.attention_layers
        full = self.attention_layers - self.sliding_layers
        kept = full * tokens + self.sliding_layers * min(tokens, self.sliding_window or tokens)
        return round(layer * kept) + self.state_bytes


@dataclass(frozen=True, slots=True)
class Model:
    """A model on this disk.

    `name` is what the user asked for; `path` a folder in Hugging Face's layout or a GGUF
    file. `gguf` is the GGUF file to use for an engine that wants one, if there is any;
    `safetensors` the folder for one that wants that.
    """

    name: str
    path: Path
    shape: Shape
    safetensors: Path | None = None
    gguf: Path | None = None
    revision: str = ""

    @property
    def formats(self) -> frozenset[Format]:
        """The formats in which the weights are here."""
        found: set[Format] = set()
        if self.safetensors is not None:
            found.add("safetensors")
        if self.gguf is not None:
            found.add("gguf")
        return frozenset(found)
