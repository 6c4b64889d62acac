"""The Ollama-compatible server, in rooms: who serves what is told by each room's first line."""
