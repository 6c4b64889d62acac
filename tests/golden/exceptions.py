"""Where vllama's answer is meant to differ from Ollama's; docs/api.md argues each."""

import re

# The recording's name, and which of its differences are meant.
ARGUED = {
    # Ollama gave up after 30 equal tokens and sent no final message: vllama always sends one.
    "059-generate-num-predict-0": r"too much$|/done",
    # The recorded tokenizer made more than 256 tokens of this prompt, the toy's makes fewer.
    "098-generate-shift-false-fills-context": r"^status 200, recorded 400",
    # The recorded model began with a stop sequence, so that there was no text at all.
    "293-v1-messages-stop-sequences": r"^shape at /content: array, recorded NoneType",
    # A route that Ollama lacks.
    "300-v1-messages-count-tokens": r"^status 200, recorded 404",
}

# Those that differ only where something takes long.
TIMED = {
    # Progress is told when quantising takes longer than half a second, as Ollama does.
    "211-create-quantize-q8": r"^events .*completed",
}


def excused(name: str, difference: str) -> bool:
    """Whether this difference is meant."""
    pattern = ARGUED.get(name) or TIMED.get(name)
    return pattern is not None and re.search(pattern, difference) is not None
