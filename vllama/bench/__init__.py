"""The bench: loads a server in a way that can be repeated, measures it, and forgets it."""
