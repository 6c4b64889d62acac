"""Getting to know a server: which way it answers, how it counts, and what prompts fit it."""

from collections.abc import Sequence
from dataclasses import replace

import msgspec

from vllama.bench import counters, said
from vllama.bench.answers import read
from vllama.bench.dialect import Body, Dialect, Ollama, OpenAi, Prompt, encode
from vllama.bench.lexicon import explore
from vllama.bench.measurement import Sample
from vllama.bench.prompts import Prompts, Vocabulary
from vllama.bench.said import Said
from vllama.bench.wire import Choice, wire
from vllama.bench.workload import Asks, Kind
from vllama.engines.engine import Endpoint
from vllama.errors import EngineFailed

_PROBE_TIMEOUT_S = 300.0
_METRICS_TIMEOUT_S = 5.0
_REFUSALS = ("http-400", "http-404", "http-405", "http-422", "http-501")


class Connection:
    """One server and what has been learned about it. Learns a thing when it is needed."""

    def __init__(self, endpoint: Endpoint, choice: Choice = "auto") -> None:
        self.endpoint = endpoint
        self.pool = wire(endpoint.base_url, choice)
        self._dialects: dict[Kind, OpenAi | Ollama] = {}
        self._prompts: dict[Kind, Prompts] = {}
        self._vocabulary: Vocabulary | None = None
        self._tokenizes = endpoint.api == "openai"

    def close(self) -> None:
        """Drop the connections."""
        self.pool.close()

    async def dialect(self, kind: Kind, asks: Asks = "text") -> Dialect:
        """The richest way in which the server answers this kind of work.

        Raises:
            EngineFailed: it answers none; says what it said.
        """
        if kind not in self._dialects:
            self._dialects[kind] = await self._settle(kind)
        return replace(self._dialects[kind], asks=asks)

    async def prompts(self, kind: Kind) -> Prompts:
        """Prompts of exact length, in tokens where the server takes them so."""
        if kind not in self._prompts:
            self._prompts[kind] = await self._fit(kind, await self.vocabulary())
        return self._prompts[kind]

    async def text_prompts(self, kind: Kind) -> Prompts:
        """Prompts of exact length as text, which other servers can be given too."""
        return await self._fit(kind, replace(await self.vocabulary(), ids=()))

    async def vocabulary(self) -> Vocabulary:
        """Words that are one token each in the server's tokenizer."""
        if self._vocabulary is None:
            self._vocabulary = await self._explored()
        return self._vocabulary

    async def _explored(self) -> Vocabulary:
        if self.endpoint.api == "openai":
            try:
                words = await explore(self._tokenized_length)
                return replace(words, ids=await self._ids(words.words))
            except EngineFailed:
                pass  # it can still be asked to count, by its usage
        return await explore(self._counted_length)

    async def post(self, path: str, body: Body) -> tuple[int, bytes]:
        """One side call: its status (0 when there was no answer) and body."""
        request = encode(self.pool, path, body)
        transcript = await self.pool.exchange(request, _PROBE_TIMEOUT_S)
        return transcript.status, transcript.body

    async def counters(self) -> dict[str, float]:
        """The server's own counters now; empty where it shows none."""
        request = self.pool.request(b"GET", b"/metrics")
        transcript = await self.pool.exchange(request, _METRICS_TIMEOUT_S)
        return (
            counters.read(transcript.body.decode(errors="replace")) if not transcript.error else {}
        )

    async def doubt(self, answers: Sequence[Said]) -> str | None:
        """Why its counts of these answers deserve no trust, where it has a tokenizer to ask."""
        if not self._tokenizes:
            return None
        lengths: dict[str, int] = {}

        async def count(text: str) -> int:
            if text not in lengths:
                lengths[text] = await self._tokenized_length(text)
            return lengths[text]

        try:
            return await said.doubt(answers, count)
        except EngineFailed:
            self._tokenizes = False
            return None

    async def _settle(self, kind: Kind) -> OpenAi | Ollama:
        said = ""
        for dialect in self._candidates(kind):
            prompt = Prompt("the of and", 3)
            request = dialect.request(self.pool, prompt, 1, stream=False)
            transcript = await self.pool.exchange(request, _PROBE_TIMEOUT_S)
            if transcript.error is None:
                return dialect
            said = transcript.body[:300].decode(errors="replace") or transcript.error
            if transcript.error not in _REFUSALS:
                break
        raise EngineFailed(
            f"{self.endpoint.base_url} does not answer a {kind} request: {said}",
            "Check the URL and the model's name.",
            kind="crash",
        )

    def _candidates(self, kind: Kind) -> Sequence[OpenAi | Ollama]:
        model = self.endpoint.model
        if self.endpoint.api == "ollama":
            return (Ollama(model, kind),)
        if kind == "embed":
            return (OpenAi(model, kind),)
        kinds: tuple[Kind, ...] = (kind, "chat") if kind == "completion" else (kind,)
        return [OpenAi(model, k, extras) for k in kinds for extras in (True, False)]

    async def _fit(self, kind: Kind, vocabulary: Vocabulary) -> Prompts:
        """What the server adds to a prompt, and whether it takes one in tokens."""
        words = (vocabulary.openers[0], *vocabulary.words[:7])
        text = " ".join(words)
        dialect = await self.dialect(kind)
        takes_ids = isinstance(dialect, OpenAi) and dialect.kind == "completion"
        if vocabulary.ids and takes_ids:
            sample = await self._ask(dialect, Prompt(text, 8, vocabulary.ids[:8]))
            if sample.error is None and sample.prompt_tokens == 8:
                return Prompts(vocabulary, as_ids=True)
        sample = await self._ask(dialect, Prompt(text, 8))
        return Prompts(vocabulary, overhead=max(sample.prompt_tokens - len(words), 0))

    async def _ask(self, dialect: Dialect, prompt: Prompt) -> Sample:
        request = dialect.request(self.pool, prompt, 1, stream=False)
        transcript = await self.pool.exchange(request, _PROBE_TIMEOUT_S)
        return read(transcript, transcript.sent_s, dialect.reader(stream=False))

    async def _tokenized_length(self, text: str) -> int:
        return len(await self._tokenize(text))

    async def _counted_length(self, text: str) -> int:
        kind: Kind = "embed" if "embed" in self._dialects else "completion"
        sample = await self._ask(await self.dialect(kind), Prompt(text, 0))
        if sample.error is not None:
            raise EngineFailed(f"{self.endpoint.base_url} failed a probe: {sample.error}")
        return sample.prompt_tokens

    async def _tokenize(self, text: str) -> list[int]:
        """The tokens of `text`, in vLLM's or llama.cpp's way of asking."""
        body: Body = {"content": text, "prompt": text, "add_special_tokens": False}
        status, answer = await self.post("/tokenize", body | {"model": self.endpoint.model})
        if status != 200:
            raise EngineFailed("the server does not tokenize")
        try:
            return [int(token) for token in msgspec.json.decode(answer)["tokens"]]
        except (msgspec.DecodeError, KeyError, TypeError, ValueError) as error:
            raise EngineFailed(f"the server's tokens make no sense: {error}") from error

    async def _ids(self, words: Sequence[str]) -> tuple[int, ...]:
        """The token of each word, as it is within a text."""
        tokens = await self._tokenize(" ".join(("the", *words)))
        return tuple(tokens[1:]) if len(tokens) == len(words) + 1 else ()
