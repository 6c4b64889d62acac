"""Ollama's API: its requests, routes and how it tells an answer."""
