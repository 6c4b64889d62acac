"""Benchmarks that are committed with their figures."""
