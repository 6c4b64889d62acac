"""The store, tested without a network."""
