"""Where vllama's answer is meant to differ from Ollama's; docs/api.md argues each."""

import re

# The recording's name, and which of its differences are meant.
ARGUED: dict[str, str] = {}


def excused(name: str, difference: str) -> bool:
    """Whether this difference is meant."""
    pattern = ARGUED.get(name)
    return pattern is not None and re.search(pattern, difference) is not None
