"""Accuracy: what may change answers wins only if it hardly changes them.

A configuration with a lossy option continues the same text as the unquantised default did,
on the start on which it is measured anyway.
"""

import asyncio
import hashlib
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, TypeAlias

from vllama.bench import continuation
from vllama.bench.continuation import Continuation
from vllama.bench.rig import Session
from vllama.errors import EngineFailed, UsageError
from vllama.profile import Scalar
from vllama.tuner.knob import Knob
from vllama.tuner.trial import Trial

# Between an 8-bit cache and 4-bit weights: docs/tuning.md has the figures and their sources.
LEAST_AGREEMENT = 0.95
MOST_SHIFT = 0.03
PROMPTS, TOKENS = 24, 8
FEWEST_WORDS, MOST_WORDS = 60, 2_000
# Fewer are too few to tell 95 % from 100 %.
FEWEST_COMPARED = 64
LISTEN_S = 300.0
BUILT_IN = "built-in"
_FACTS = {"agreement": "accuracy_agreement", "shift": "accuracy_shift", "tokens": "accuracy_tokens"}

Listen: TypeAlias = Callable[[Session, Sequence[str]], Awaitable[Sequence[Continuation]]]


@dataclass(frozen=True, slots=True)
class Text:
    """What is continued; prompts of growing length from one text."""

    name: str
    prompts: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Equal for the same prompts."""
        return hashlib.sha256("\0".join(self.prompts).encode()).hexdigest()[:12]


def text(path: str | None = None) -> Text:
    """The text in that file, or the one that is built in.

    Raises:
        UsageError: it cannot be read, or is too short to tell anything.
    """
    if path is None:
        whole = resources.files("vllama.tuner").joinpath("accuracy_text.txt").read_text("utf-8")
        return Text(BUILT_IN, _prompts(whole))
    try:
        whole = Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--accuracy-text {path}: {error}") from error
    if len(whole.split()) < FEWEST_WORDS:
        raise UsageError(
            f"--accuracy-text {path} has {len(whole.split())} words",
            f"Give at least {FEWEST_WORDS}, of the kind that your users write.",
        )
    return Text(Path(path).name, _prompts(whole))


def _prompts(whole: str) -> tuple[str, ...]:
    """Cut between words, so that each prompt ends where the next word is to be guessed."""
    ends = [i for i in range(1, len(whole)) if whole[i].isspace() and not whole[i - 1].isspace()]
    ends = (ends or [len(whole)])[:MOST_WORDS]
    steps = min(PROMPTS, len(ends))
    return tuple(whole[: ends[(n + 1) * len(ends) // steps - 1]] for n in range(steps))


@dataclass(frozen=True, slots=True)
class Likeness:
    """How far two engines say the same.

    `agreement` is the share of tokens that are equal, of all up to and with the first that
    is not: what follows it follows another text. `shift` is the root mean square of the
    change in the probability of those that are equal.
    """

    agreement: float
    shift: float
    tokens: int

    @property
    def broken(self) -> str:
        """Why they are not alike enough, in words; empty when they are."""
        if self.tokens < FEWEST_COMPARED:
            return f"only {self.tokens} tokens could be compared with the default's"
        if self.agreement < LEAST_AGREEMENT:
            return (
                f"{self.agreement:.1%} of {self.tokens} tokens are the default's, "
                f"and {LEAST_AGREEMENT:.0%} are needed"
            )
        if self.shift > MOST_SHIFT:
            return (
                f"probabilities of tokens differ by {self.shift:.1%} from the default's, "
                f"and {MOST_SHIFT:.0%} are allowed"
            )
        return ""

    @property
    def facts(self) -> dict[str, Scalar]:
        """As a trial keeps it."""
        return {name: getattr(self, each) for each, name in _FACTS.items()}


def likeness(one: Sequence[Continuation], other: Sequence[Continuation]) -> Likeness:
    """Over the prompts that both continued."""
    compared, changes = 0, list[float]()
    for mine, theirs in zip(one, other, strict=False):
        for at in range(min(len(mine.tokens), len(theirs.tokens))):
            compared += 1
            if mine.tokens[at] != theirs.tokens[at]:
                break
            changes.append(math.exp(mine.logprobs[at]) - math.exp(theirs.logprobs[at]))
    if not changes:
        return Likeness(0.0, 1.0, compared)
    shift = math.sqrt(sum(c * c for c in changes) / len(changes))
    return Likeness(len(changes) / compared, shift, compared)


def lossy(knobs: Sequence[Knob], options: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Those of the options that may change answers."""
    return {
        k.name: options[k.name]
        for k in knobs
        if k.lossy and k.name in options and options[k.name] not in (k.default, *k.exact)
    }


def figures(facts: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Of the facts of a start those about its likeness, which hold for all measured on it."""
    return {name: facts[name] for name in _FACTS.values() if name in facts}


def told(facts: Mapping[str, Scalar], about: Text | None) -> dict[str, Any] | None:
    """The figures of a trial for a document; None where there was nothing to compare."""
    if about is None or _FACTS["agreement"] not in facts:
        return None
    shown = {each: facts[name] for each, name in _FACTS.items() if name in facts}
    return {**shown, "text": about.name, "text_digest": about.digest}


async def over_http(session: Session, prompts: Sequence[str]) -> Sequence[Continuation]:
    """Ask the engine that a session holds."""
    return await continuation.listen(session.endpoint, prompts, TOKENS)


class Gate:
    """Lets pass what is not lossy, and of what is only what answers like the default.

    `trials` are those of the study, other workers' included: the default's has its answers.
    """

    def __init__(
        self, about: Text, knobs: Sequence[Knob], trials: Callable[[], Sequence[Trial]],
        listen: Listen = over_http,
    ) -> None:  # fmt: skip
        self._about = about
        self._knobs = knobs
        self._trials = trials
        self._listen = listen

    async def passed(self, session: Session, trial: Trial) -> Trial:
        """The trial with its likeness to the default; the default with what it said.

        Raises:
            EngineFailed: of kind `accuracy`: it is not alike enough; or it fell meanwhile.
        """
        if not lossy(self._knobs, trial.options):
            return trial if trial.options else await self._heard(session, trial)
        default = next((t.said for t in self._trials() if not t.options and t.said), None)
        if default is None:
            raise _unlike("the default said nothing to compare with")
        found = likeness(default, await self._continued(session))
        if found.broken:
            raise _unlike(found.broken)
        return replace(trial, facts={**trial.facts, **found.facts})

    async def _heard(self, session: Session, trial: Trial) -> Trial:
        try:
            return replace(trial, said=tuple(await self._continued(session)))
        except EngineFailed:
            # It may be measured all the same: it is the lossy that are held against it.
            return trial

    async def _continued(self, session: Session) -> Sequence[Continuation]:
        try:
            async with asyncio.timeout(LISTEN_S):
                return await self._listen(session, self._about.prompts)
        except TimeoutError as error:
            raise EngineFailed(
                f"it did not continue the text within {LISTEN_S:.0f} s", kind="timeout", phase="run"
            ) from error


def _unlike(why: str) -> EngineFailed:
    return EngineFailed(why, "Its answers are not the default's.", kind="accuracy", phase="run")
