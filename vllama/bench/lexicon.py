"""Finding words that are one token each, for a tokenizer that can only be asked to count."""

from collections.abc import Awaitable, Callable, Sequence
from importlib.resources import files
from typing import TypeAlias

from vllama.bench.prompts import Vocabulary
from vllama.errors import EngineFailed

Count: TypeAlias = Callable[[str], Awaitable[int]]

_GROUP = 8
_ENOUGH = 96
_OPENERS = 12
# The commonest English words: nearly every tokenizer has nearly all of them as one token.
WORDS = tuple(files("vllama.bench").joinpath("words.txt").read_text(encoding="utf-8").split())


async def explore(count: Count, *, enough: int = _ENOUGH) -> Vocabulary:
    """Words that `count` finds to be one token each, in groups and alone where a group fails.

    Raises:
        EngineFailed: the counts make no sense.
    """
    overhead = await _overhead(count)

    async def fits(words: Sequence[str]) -> bool:
        return await count(" ".join(words)) == overhead + len(words)

    good: list[str] = []
    for start in range(0, len(WORDS), _GROUP):
        group = WORDS[start : start + _GROUP]
        if await fits(("the", *group)):
            good += group
        elif len(good) < 2 * _GROUP:
            good += [word for word in group if await fits(("the", word))]
        if len(good) >= enough:
            break
    openers = [word for word in good[:_OPENERS] if await fits((word, *good[:3]))]
    if not openers:
        raise EngineFailed(
            "the server's token counts make no sense: no word is one token",
            "Check that it reports usage (prompt tokens) for completions.",
            kind="bad_model",
        )
    return Vocabulary(tuple(good), tuple(openers))


async def _overhead(count: Count) -> int:
    """The tokens that come with every prompt: what is left when the words are taken off."""
    one, two = await count("the of and"), await count("the of and the of and")
    return max(2 * one - two, 0)
