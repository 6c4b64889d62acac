"""Inference engines behind one seam: `engine` by name, `choose` for a model and a machine."""

from vllama.engines.choice import Choice, able, choose, engine

__all__ = ["Choice", "able", "choose", "engine"]
