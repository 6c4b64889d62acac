"""vllama: tune an inference engine for this machine, then serve it as Ollama would."""

__version__ = "0.1.0"
