"""Reading kept answers after the run: which chunk carried content, and what was counted."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import msgspec

from vllama.bench import shapes
from vllama.bench.measurement import Sample
from vllama.bench.shapes import Chunk, Line, Usage
from vllama.bench.transcript import CUT_SHORT, MALFORMED, SERVER_ERROR, Transcript

Reader: TypeAlias = Callable[[Transcript, float], Sample]


def read_events(transcript: Transcript, scheduled_s: float) -> Sample:
    """A stream of server-sent events, as OpenAI's API sends it."""
    arrived, events, closed, broken = _events(transcript)
    chunks = _decoded(events)
    times: list[float] = []
    usage, finished = Usage(), False
    for arrived_s, chunk in zip(arrived, chunks, strict=False):
        if chunk.error is not None:
            return _failed(transcript, scheduled_s, SERVER_ERROR, times)
        usage = chunk.usage or usage
        for choice in chunk.choices:
            if choice.finish_reason is not None:
                finished = True
            delta = choice.delta
            if choice.text or (delta is not None and delta.says):
                times.append(arrived_s)
    if len(chunks) < len(events):
        return _failed(transcript, scheduled_s, MALFORMED, times)
    if broken:
        return _failed(transcript, scheduled_s, SERVER_ERROR, times)
    if not (finished and closed):
        return _failed(transcript, scheduled_s, CUT_SHORT, times)
    return _sample(transcript, scheduled_s, times, usage.prompt_tokens, usage.completion_tokens)


def _events(transcript: Transcript) -> tuple[list[float], list[bytes], bool, bool]:
    """Arrivals and data of the events; whether the stream was closed, and whether it said that
    it broke off (nothing after that is read)."""
    pieces = transcript.pieces
    # Nearly every stream is one whole event a piece, but for its last pieces.
    plain = next((i for i, p in enumerate(pieces) if not _is_one_event(p)), len(pieces))
    arrived = transcript.times[:plain]
    events = [piece[6:-2] for piece in pieces[:plain]]
    closed = False
    for arrived_s, event in split(transcript, b"\n\n", plain):
        if event[:5] != b"data:":
            if event.startswith((b"event: error", b"error:")):
                return arrived, events, closed, True
            continue
        data = event[6:] if event[5:6] == b" " else event[5:]
        if data[:1] == b"[" and data.strip() == b"[DONE]":
            closed = True
            continue
        arrived.append(arrived_s)
        events.append(data)
    return arrived, events, closed, False


def _is_one_event(piece: bytes) -> bool:
    return piece[:7] == b"data: {" and piece.find(b"\n\n") == len(piece) - 2


def _decoded(events: Sequence[bytes]) -> list[Chunk]:
    """The chunks up to the first that is malformed: at one go, which is much the cheapest."""
    try:
        chunks = shapes.chunks.decode(b"[%b]" % b",".join(events))
        if len(chunks) == len(events):
            return chunks
    except msgspec.MsgspecError:
        pass
    good: list[Chunk] = []
    try:
        for event in events:
            good.append(shapes.chunk.decode(event))
    except msgspec.MsgspecError:
        pass
    return good


def read_completion(transcript: Transcript, scheduled_s: float) -> Sample:
    """A whole answer of OpenAI's API."""
    try:
        chunk = shapes.chunk.decode(transcript.body)
    except msgspec.MsgspecError:
        return _failed(transcript, scheduled_s, MALFORMED)
    if chunk.error is not None:
        return _failed(transcript, scheduled_s, SERVER_ERROR)
    if not chunk.choices or chunk.choices[0].finish_reason is None:
        return _failed(transcript, scheduled_s, CUT_SHORT)
    usage = chunk.usage or Usage()
    return _sample(transcript, scheduled_s, (), usage.prompt_tokens, usage.completion_tokens)


def read_lines(transcript: Transcript, scheduled_s: float) -> Sample:
    """A stream of JSON lines, as Ollama sends it."""
    times: list[float] = []
    last: Line | None = None
    try:
        for arrived_s, text in split(transcript, b"\n"):
            last = shapes.line.decode(text)
            if last.error is not None:
                return _failed(transcript, scheduled_s, SERVER_ERROR, times)
            said = last.message
            if last.response or last.thinking or (said and said.says):
                times.append(arrived_s)
    except msgspec.MsgspecError:
        return _failed(transcript, scheduled_s, MALFORMED, times)
    if last is None or not last.done:
        return _failed(transcript, scheduled_s, CUT_SHORT, times)
    return _sample(transcript, scheduled_s, times, last.prompt_eval_count, last.eval_count)


def read_ollama_whole(transcript: Transcript, scheduled_s: float) -> Sample:
    """A whole answer of Ollama's API."""
    try:
        line = shapes.line.decode(transcript.body)
    except msgspec.MsgspecError:
        return _failed(transcript, scheduled_s, MALFORMED)
    if line.error is not None or not line.done:
        return _failed(transcript, scheduled_s, SERVER_ERROR if line.error else CUT_SHORT)
    return _sample(transcript, scheduled_s, (), line.prompt_eval_count, line.eval_count)


def read_embedding(transcript: Transcript, scheduled_s: float) -> Sample:
    """Vectors from OpenAI's API."""
    try:
        vectors = shapes.vectors.decode(transcript.body)
    except msgspec.MsgspecError:
        return _failed(transcript, scheduled_s, MALFORMED)
    if vectors.error is not None or not vectors.data:
        return _failed(transcript, scheduled_s, SERVER_ERROR)
    tokens = vectors.usage.prompt_tokens if vectors.usage else 0
    return _sample(transcript, scheduled_s, (), tokens, 0)


def read_ollama_embedding(transcript: Transcript, scheduled_s: float) -> Sample:
    """Vectors from Ollama's API."""
    try:
        vectors = shapes.vectors.decode(transcript.body)
    except msgspec.MsgspecError:
        return _failed(transcript, scheduled_s, MALFORMED)
    if vectors.error is not None or not vectors.embeddings:
        return _failed(transcript, scheduled_s, SERVER_ERROR)
    return _sample(transcript, scheduled_s, (), vectors.prompt_eval_count, 0)


def read(transcript: Transcript, scheduled_s: float, reader: Reader) -> Sample:
    """The sample of one request: failed before a byte was read, or as `reader` finds it."""
    transcript.unpack()
    if transcript.error is not None:
        return _failed(transcript, scheduled_s, transcript.error)
    return reader(transcript, scheduled_s)


def split(
    transcript: Transcript, separator: bytes, begin: int = 0
) -> Iterator[tuple[float, bytes]]:
    """The events of a stream from piece number `begin`, each with the arrival of its end."""
    rest = b""
    times, pieces = transcript.times[begin:], transcript.pieces[begin:]
    for arrived_s, piece in zip(times, pieces, strict=True):
        *events, rest = (rest + piece).replace(b"\r\n", b"\n").split(separator)
        for event in events:
            if event:
                yield arrived_s, event
    if rest.strip():
        yield times[-1], rest


def _sample(
    transcript: Transcript,
    scheduled_s: float,
    times: Sequence[float],
    prompt_tokens: int,
    output_tokens: int,
) -> Sample:
    end_s = times[-1] if times else transcript.times[-1]
    return Sample(scheduled_s, transcript.sent_s, end_s, tuple(times), prompt_tokens, output_tokens)


def _failed(
    transcript: Transcript, scheduled_s: float, error: str, times: Sequence[float] = ()
) -> Sample:
    end_s = transcript.times[-1] if transcript.times else transcript.sent_s
    return Sample(scheduled_s, transcript.sent_s, end_s, tuple(times), error=error)
