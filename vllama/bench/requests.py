"""The requests of a load: made before the clock runs, logged as they are answered."""

import asyncio
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from vllama.bench.answers import Reader, read
from vllama.bench.dataset import texts
from vllama.bench.dialect import Dialect, Prompt
from vllama.bench.measurement import Run, Sample
from vllama.bench.prompts import Prompts
from vllama.bench.said import KEPT, Said, said
from vllama.bench.transcript import Transcript
from vllama.bench.wire import Wire
from vllama.bench.workload import Workload

_READY = 2_000


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, and the counts of tokens that its answer must confirm."""

    data: bytes
    prompt_tokens: int
    output_tokens: int
    hangs_up: bool = False


@dataclass(frozen=True, slots=True)
class Share:
    """Requests `number`, `number + of`, and so on: one process of `of`."""

    number: int
    of: int


WHOLE = Share(0, 1)


class Requests:
    """The requests of `workload` in their order; those that are surely needed are ready."""

    def __init__(
        self, pool: Wire, dialect: Dialect, prompts: Prompts, workload: Workload, ready: int,
        share: Share = WHOLE,
    ) -> None:  # fmt: skip
        self.pool = pool
        self._share = share
        self._dialect = dialect
        self._prompts = prompts
        self._workload = workload
        self._next = 0
        self._texts = texts(Path(workload.dataset)) if workload.dataset else ()
        self._ready = [self._make(self._index(i), None) for i in range(min(ready, _READY))]

    @property
    def reader(self) -> Reader:
        """What reads the answers."""
        return self._dialect.reader(stream=self._workload.stream)

    def take(self, output_tokens: int | None = None) -> Asked:
        """The next one; `output_tokens` where its answer shall have another length."""
        turn, self._next = self._next, self._next + 1
        if output_tokens is not None or turn >= len(self._ready):
            return self._make(self._index(turn), output_tokens)
        return self._ready[turn]

    def _index(self, turn: int) -> int:
        return self._share.number + turn * self._share.of

    async def send(self, asked: Asked) -> Transcript:
        """Send it and wait for the whole answer, or hang up when the first of it has come."""
        first = 1 if asked.hangs_up else None
        return await self.pool.exchange(asked.data, self._workload.timeout_s, hang_up_after=first)

    def _make(self, index: int, output_tokens: int | None) -> Asked:
        load = self._workload
        usual = self._prompts.answer_length(load, index) if load.output_tokens else 0
        tokens = usual if output_tokens is None else output_tokens
        prompt = self._conversation(index)
        data = self._dialect.request(self.pool, prompt, tokens, stream=load.stream)
        fixed = load.kind != "embed" and load.asks == "text"
        hangs_up = random.Random(f"{load.seed}/{index}/cancel").random() < load.cancel_share
        return Asked(data, prompt.tokens, tokens if fixed else 0, hangs_up)

    def _conversation(self, index: int) -> Prompt:
        """The prompt, as the next turn of a conversation where the load has several."""
        load = self._workload
        if self._texts:
            return Prompt(self._texts[index % len(self._texts)], 0)
        turn = index // load.concurrency % load.turns
        prompt = self._prompts.prompt(load, index)
        if not turn:
            return prompt
        earlier = [
            (self._prompts.prompt(load, index - back * load.concurrency).text, "yes")
            for back in range(turn, 0, -1)
        ]
        return Prompt(prompt.text, 0, earlier=tuple(earlier))


@dataclass(frozen=True, slots=True)
class Answered:
    """One request that has been answered, or has failed; not yet read."""

    asked: Asked
    transcript: Transcript
    scheduled_s: float
    measured: bool


def run_of(log: Sequence[Answered], reader: Reader, start_s: float, end_s: float) -> Run:
    """Read the answers: the samples of a load, its window, and what a few of them said."""
    samples = tuple(_sample(each, reader) for each in log)
    return Run(samples, start_s, max(start_s, end_s), said=tuple(_said(log, samples)))


def _said(log: Sequence[Answered], samples: Sequence[Sample]) -> Iterator[Said]:
    good = (
        (each.transcript, sample.output_tokens)
        for each, sample in zip(log, samples, strict=True)
        if each.measured and sample.error is None and sample.output_tokens
    )
    for transcript, output_tokens in islice(good, KEPT):
        text = said(transcript, output_tokens)
        if text is not None:
            yield text


def _sample(answered: Answered, reader: Reader) -> Sample:
    return replace(
        read(answered.transcript, answered.scheduled_s, reader),
        measured=answered.measured,
        asked_prompt_tokens=answered.asked.prompt_tokens,
        asked_output_tokens=answered.asked.output_tokens,
    )


async def ended(tasks: Sequence["asyncio.Task[None]"]) -> None:
    """Cancel tasks and wait until they are gone."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
