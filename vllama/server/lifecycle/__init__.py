"""Engines from start to stop: on demand, shared, kept up, evicted, asleep, renewed."""
