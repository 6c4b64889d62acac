"""The limits that a search keeps are those of the bench; here under the tuner's name."""

from vllama.bench.slo import Slo, parse, quantile

__all__ = ["Slo", "parse", "quantile"]
