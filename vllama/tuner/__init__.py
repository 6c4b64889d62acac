"""The tuner: what can be varied, what is worth trying, and which was best."""
