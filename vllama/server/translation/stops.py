"""Stop sequences that an engine was not told of: the answer is cut here."""

from collections.abc import Sequence


class Stops:
    """Cuts one choice's text at the first stop sequence, however the text arrives."""

    def __init__(self, sequences: Sequence[str]) -> None:
        self._sequences = tuple(sequences)
        self._held = ""
        self.has_stopped = False

    def feed(self, text: str) -> str:
        """What is certain by now to come before a stop sequence."""
        if self.has_stopped:
            return ""
        held = self._held + text
        found = [at for each in self._sequences if (at := held.find(each)) >= 0]
        if found:
            self.has_stopped = True
            self._held = ""
            return held[: min(found)]
        keep = max(overlap(held, each) for each in self._sequences)
        said, self._held = held[: len(held) - keep], held[len(held) - keep :]
        return said

    def flush(self) -> str:
        """What was held, now that nothing follows."""
        held, self._held = self._held, ""
        return held


def overlap(text: str, sequence: str) -> int:
    """How much of the end of `text` may be the beginning of `sequence`."""
    for size in range(min(len(text), len(sequence) - 1), 0, -1):
        if sequence.startswith(text[-size:]):
            return size
    return 0
