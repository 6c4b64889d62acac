"""What answers said, counted again: the server's own counts against its tokenizer."""

import statistics
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass

import msgspec

from vllama.bench import shapes
from vllama.bench.shapes import Words
from vllama.bench.transcript import Transcript

# Of a load so many answers are counted again, and no longer ones than of so many chunks.
KEPT = 3
_LONGEST = 256
_OFF_TOKENS = 2
_OFF_SHARE = 0.1
# What a server keeps to itself: marks of reasoning, the end, white space (llama.cpp was seen to
# leave out 14 tokens of it before a JSON object).
_KEPT_BACK_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Said:
    """The text of one answer in the `pieces` in which it came, and the server's count of it."""

    pieces: tuple[str, ...]
    output_tokens: int
    streamed: bool


def said(transcript: Transcript, output_tokens: int) -> Said | None:
    """The text of a good answer.

    None where it has none, or not all of it is text (a call of a tool), or it is too long to be
    counted again for nothing but a check.
    """
    body = transcript.body
    whole = body.startswith(b"{") and b"}\n{" not in body
    try:
        words = [w for part in _parts(body, whole) for w in _words(part)]
    except msgspec.MsgspecError:
        return None
    pieces = tuple(text for w in words if (text := (w.thought or "") + (w.content or "")))
    if any(w.tool_calls for w in words) or not 0 < len(pieces) <= _LONGEST:
        return None
    return Said(pieces, output_tokens, not whole)


def _parts(body: bytes, whole: bool) -> Iterator[bytes]:
    for line in (body,) if whole else body.splitlines():
        data = line.removeprefix(b"data:").strip()
        if data.startswith(b"{"):
            yield data


def _words(part: bytes) -> Iterator[Words]:
    for choice in shapes.chunk.decode(part).choices:
        yield Words(content=choice.text)
        yield from filter(None, (choice.delta, choice.message))
    line = shapes.line.decode(part)
    yield Words(content=line.response, thinking=line.thinking)
    yield from filter(None, (line.message,))


async def doubt(answers: Sequence[Said], count: Callable[[str], Awaitable[int]]) -> str | None:
    """Why the server's counts of these answers deserve no trust; `count` tells a text's tokens.

    A text can be cut into tokens in more ways than one, and what was generated need not be the
    tokenizer's own way: of random weights it seldom is. An honest count lies between the tokens
    of the whole text and those of its chunks, each by itself. An answer that came whole may
    have been more tokens than its text is cut into, but not fewer.
    """
    off: list[tuple[int, int]] = []
    for answer in answers:
        by_text = [await count("".join(answer.pieces))]
        if answer.streamed:
            by_text.append(sum([await count(piece) for piece in answer.pieces]))
        spare = _OFF_TOKENS + _OFF_SHARE * answer.output_tokens
        too_few = answer.output_tokens < min(by_text) - spare
        most = max(by_text) + _KEPT_BACK_TOKENS + spare
        if too_few or (answer.streamed and answer.output_tokens > most):
            off.append((by_text[-1], answer.output_tokens))
    if 2 * len(off) <= len(answers):
        return None
    by_text_median = statistics.median(tokens for tokens, _ in off)
    return (
        f"{len(off)} of {len(answers)} answers counted again: their text is {by_text_median:g} "
        f"tokens by the server's tokenizer, the server counted {off[0][1]}"
    )
