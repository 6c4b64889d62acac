"""Prompts of an exact number of tokens, unique, and the same again for the same seed.

Words that are one token each are put together at random: as many words as tokens are
wanted. Which words those are is found by asking the server to count (`lexicon`).
"""

import random
from dataclasses import dataclass

from vllama.bench import replay
from vllama.bench.dialect import Prompt
from vllama.bench.workload import Workload


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Words that are one token each within a text; `openers` also at its beginning.

    `ids` are the tokens of the words, in their order, where the server tells them.
    """

    words: tuple[str, ...]
    openers: tuple[str, ...]
    ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Prompts:
    """Makes the prompts of a server. `overhead` are the tokens that its template adds."""

    vocabulary: Vocabulary
    overhead: int = 0
    as_ids: bool = False

    def length(self, workload: Workload, index: int) -> int:
        """The tokens of the prompt number `index`: spread evenly where lengths are mixed."""
        return _spread(workload.prompt_tokens, workload, f"{workload.seed}/{index}/prompt")

    def answer_length(self, workload: Workload, index: int) -> int:
        """The tokens of its answer."""
        if workload.replay:
            return replay.answer_tokens(workload, index)
        return _spread(workload.output_tokens, workload, f"{workload.seed}/{index}/output")

    def prompt(self, workload: Workload, index: int) -> Prompt:
        """The prompt of the request number `index`."""
        own = self._words(workload, index)
        tokens = len(own) + self.overhead
        text = " ".join(own)
        if not self.as_ids:
            return Prompt(text, tokens)
        number = dict(zip(self.vocabulary.words, self.vocabulary.ids, strict=True))
        return Prompt(text, tokens, tuple(number[word] for word in own))

    def _words(self, workload: Workload, index: int) -> list[str]:
        vocabulary = self.vocabulary
        if workload.replay:
            return replay.words(
                workload, index, vocabulary.words, vocabulary.openers, self.overhead
            )  # fmt: skip
        content = max(self.length(workload, index) - self.overhead, 1)
        shared = min(max(workload.shared_prefix_tokens - self.overhead, 0), content - 1)
        own = _draw(vocabulary, f"{workload.seed}/{index}", content - shared, opens=not shared)
        if shared:
            own = _draw(vocabulary, f"{workload.seed}/shared", shared, opens=True) + own
        return own


def _spread(middle: int, workload: Workload, seed: str) -> int:
    if not workload.spread:
        return middle
    share = random.Random(seed).uniform(-workload.spread, workload.spread)
    return max(1, round(middle * (1 + share)))


def _draw(vocabulary: Vocabulary, seed: str, count: int, *, opens: bool) -> list[str]:
    # Random takes texts as seeds the same way on every platform and in every process.
    rng = random.Random(seed)
    words = rng.choices(vocabulary.words, k=count)
    if opens:
        words[0] = rng.choice(vocabulary.openers)
    return words
