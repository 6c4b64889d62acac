"""Benchmarks of the tuner: see `__main__`."""
