"""Replay: real traffic once more with made-up words: the same lengths, gaps, shared beginnings."""

import functools
import hashlib
import json
import math
import random
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, median

import msgspec

from vllama.bench.workload import Workload
from vllama.disk import write_whole
from vllama.errors import UsageError
from vllama.store import names
from vllama.traffic import Seen, ends

# Nothing happens while nobody asks: a longer silence is cut to this.
SILENCE_S = 1.0
# What is replayed: the busiest stretch of this length, and not more requests than that.
STRETCH_S = 60.0
MOST = 2000
# A shorter one is replayed again and again, for so long.
SHORTEST_S = 10.0
_USUAL_LETTERS = 4.0


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a recording: `shared_tokens` are those with which number `like` began."""

    at_s: float
    prompt_tokens: int
    output_tokens: int
    like: int = -1
    shared_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Recording:
    """A stretch of traffic. `in_flight` is the most requests that were open at a time."""

    requests: tuple[Request, ...]
    span_s: float
    in_flight: int
    stream: bool

    def workload(self, folder: Path, *, paced: bool) -> Workload:
        """Kept in `folder`, as a load: at its own pace, or as fast as it goes.

        Not paced it keeps as many requests in flight as there were at most: the load to find
        out how much a server could take of this traffic.
        """
        text = json.dumps({"recorded": asdict(self), "paced": paced}, separators=(",", ":"))
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        path = folder / f"observed-{digest}.json"
        write_whole(path, text)
        return from_file(path)


def of(seen: Sequence[Seen], model: str = "") -> Recording:
    """The busiest stretch of what was observed, of `model` alone when it is given.

    Raises:
        UsageError: nothing was seen of this model; names those that were.
    """
    mine = [s for s in seen if not model or names.same(s.model, model)]
    if not mine:
        others = ", ".join(sorted({s.model for s in seen}))
        raise UsageError(f"no traffic of {model} was observed", f"There is some of: {others}.")
    stretch = _busiest(_without_silence(mine))
    begin = stretch[0].at_s
    gaps = (stretch[-1].at_s - begin) / max(1, len(stretch) - 1)
    return Recording(
        _related(stretch, begin),
        span_s=round(stretch[-1].at_s - begin + max(gaps, 0.001), 4),
        in_flight=_in_flight(stretch),
        stream=2 * sum(s.stream for s in stretch) >= len(stretch),
    )


def _without_silence(seen: Sequence[Seen]) -> list[Seen]:
    moved, until, shift = [], math.inf, 0.0
    for each in sorted(seen, key=lambda s: s.at_s):
        shift += max(0.0, each.at_s - until - SILENCE_S)
        until = max(until if math.isfinite(until) else 0.0, each.at_s + each.took_s)
        moved.append(replace(each, at_s=each.at_s - shift))
    return moved


def _busiest(seen: Sequence[Seen]) -> Sequence[Seen]:
    times = [s.at_s for s in seen]
    best = (0, 0)
    for begin, at in enumerate(times):
        end = min(bisect_left(times, at + STRETCH_S), begin + MOST)
        if end - begin >= best[1] - best[0]:
            best = (begin, end)
    return seen[best[0] : best[1]]


def _in_flight(seen: Sequence[Seen]) -> int:
    changes = sorted([(s.at_s, 1) for s in seen] + [(s.at_s + s.took_s, -1) for s in seen])
    open_now = most = 0
    for _, change in changes:
        open_now += change
        most = max(most, open_now)
    return most


def _related(seen: Sequence[Seen], begin_s: float) -> tuple[Request, ...]:
    """Each request, and which earlier one its prompt shares the longest beginning with."""
    known = [s.letters / s.prompt_tokens for s in seen if s.prompt_tokens and s.letters]
    usual = median(known) if known else _USUAL_LETTERS
    latest: dict[str, int] = {}
    found: list[Request] = []
    for number, each in enumerate(seen):
        tokens = each.prompt_tokens or max(1, round(each.letters / usual))
        like, shared = -1, 0
        for end, beginning in reversed([*zip(ends(each.letters), each.prefix, strict=False)]):
            if beginning in latest:
                like = latest[beginning]
                # One token at least is a prompt's own: engines compute the last one anew.
                most = min(tokens - 1, found[like].prompt_tokens)
                shared = max(0, min(most, round(end / max(1, each.letters) * tokens)))
                break
        latest |= dict.fromkeys(each.prefix, number)
        found.append(
            Request(round(each.at_s - begin_s, 4), tokens, each.output_tokens, like, shared)
        )
    return tuple(found)


def from_file(path: Path) -> Workload:
    """The load that `Recording.workload` kept.

    Raises:
        UsageError: it cannot be read.
    """
    found = recording(str(path.absolute()))
    paced = json.loads(path.read_text(encoding="utf-8")).get("paced", True)
    requests = found.requests
    return Workload(
        name="observed",
        prompt_tokens=round(mean(r.prompt_tokens for r in requests)),
        output_tokens=max(1, round(mean(r.output_tokens for r in requests))),
        concurrency=found.in_flight,
        duration_s=found.span_s * math.ceil(SHORTEST_S / found.span_s) if paced else None,
        rate_per_s=len(requests) / found.span_s if paced else None,
        shared_prefix_tokens=round(mean(r.shared_tokens for r in requests)),
        stream=found.stream,
        longest_prompt_tokens=max(r.prompt_tokens for r in requests),
        longest_tokens=max(r.prompt_tokens + r.output_tokens for r in requests),
        replay=str(path.absolute()),
    )


@functools.lru_cache(maxsize=8)
def recording(path: str) -> Recording:
    """The recording in a file; its name changes with what is in it, so it is read once.

    Raises:
        UsageError: there is none.
    """
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
        found = msgspec.convert(document["recorded"], Recording)
    except (OSError, ValueError, KeyError, TypeError, msgspec.ValidationError) as error:
        raise UsageError(f"{path} is no recorded traffic: {error}") from error
    if not found.requests:
        raise UsageError(f"{path} is recorded traffic without a request")
    return found


def due(workload: Workload, whole_s: float) -> list[float]:
    """Seconds from the start at which requests are due: as they came, and again from the start."""
    found = recording(workload.replay)
    rounds = range(1 + int(whole_s / found.span_s))
    every = (turn * found.span_s + r.at_s for turn in rounds for r in found.requests)
    return [at for at in every if at < whole_s]


def answer_tokens(workload: Workload, index: int) -> int:
    """How long the answer to request number `index` was."""
    requests = recording(workload.replay).requests
    return requests[index % len(requests)].output_tokens


def words(
    workload: Workload, index: int, words: Sequence[str], openers: Sequence[str], overhead: int
) -> list[str]:
    """The prompt of request number `index`: begun as those that it was like, else its own.

    Each time through the recording has words of its own: else a cache would know them all.
    """
    requests = recording(workload.replay).requests
    turn, number = divmod(index, len(requests))
    wanted = max(1, requests[number].prompt_tokens - overhead)
    pieces: list[list[str]] = []
    end = wanted
    while end > 0:
        each = requests[number]
        begin = max(0, each.shared_tokens - overhead) if each.like >= 0 else 0
        if begin < end:
            # Always all of its own words, so that all who begin like it get the same ones.
            own = max(1, each.prompt_tokens - overhead) - begin
            rng = random.Random(f"{workload.seed}/{turn}/{number}")
            drawn = rng.choices(words, k=max(own, end - begin))
            if begin == 0:
                drawn[0] = rng.choice(openers)
            pieces.append(drawn[: end - begin])
            end = begin
        number = each.like
    return [word for piece in reversed(pieces) for word in piece]
