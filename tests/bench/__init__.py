"""The bench: it counts exactly, times at arrival, and never calls a failure fast."""
