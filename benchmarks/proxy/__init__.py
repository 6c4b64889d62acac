"""What vllama costs between client and engine."""
