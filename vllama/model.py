"""What a model is: its name, where its files lie, their format, and its shape."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

Format: TypeAlias = Literal["safetensors", "gguf"]


@dataclass(frozen=True, slots=True)
class Shape:
    """A transformer's dimensions, read without loading a weight. Sizes in bytes.

    `active_parameters` differs from `parameters` for mixtures of experts.
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
