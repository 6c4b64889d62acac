"""Models of random weights with a real tokenizer: demos and tests without a download."""

from vllama.toy.make import make
from vllama.toy.size import parse_parameters

__all__ = ["make", "parse_parameters"]
