"""Knob: one option that the tuner may vary; and why another is left alone."""

import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from vllama.bench.workload import Workload
from vllama.machine import Machine
from vllama.model import Model
from vllama.profile import Scalar

Kind: TypeAlias = Literal["int", "float", "categorical"]
Options: TypeAlias = Mapping[str, Scalar]
Rule: TypeAlias = Callable[[Options], str | None]


@dataclass(frozen=True, slots=True)
class Knob:
    """One option with its few values, in order when they are numbers.

    `default` is what the engine does when the option is not given: choosing it adds
    nothing to a launch. The short list of values is on purpose: several of them are part
    of the key under which engines keep compiled code, and a repeated value starts faster.
    `restart` is False for what can be changed on a running engine. `lossy` is what makes other
    answers: all values but the default and those that are `exact` must pass the gate of
    `accuracy`.
    """

    name: str
    kind: Kind
    choices: tuple[Scalar, ...]
    default: Scalar
    why: str
    log: bool = False
    restart: bool = True
    lossy: bool = False
    exact: tuple[Scalar, ...] = ()

    @property
    def low(self) -> float:
        """The smallest number among the choices; 0 for categories."""
        return 0.0 if self.kind == "categorical" else float(min(map(float, self.choices)))

    @property
    def high(self) -> float:
        """The largest number among the choices; the number of choices less 1 for categories."""
        last = len(self.choices) - 1
        return float(last if self.kind == "categorical" else max(map(float, self.choices)))

    def coordinate(self, value: Scalar) -> float:
        """Where `value` lies between 0 and 1, on a logarithmic scale if the knob has one."""
        if self.kind == "categorical":
            return self.choices.index(value) / max(1, len(self.choices) - 1)
        low, high, at = self.low, self.high, float(value)
        if self.log and low > 0:
            low, high, at = math.log(low), math.log(high), math.log(max(at, 1e-9))
        return (at - low) / (high - low) if high > low else 0.0

    def nearest(self, value: Scalar) -> Scalar | None:
        """The choice nearest to `value`; None when a category is not among them."""
        if value in self.choices:
            return self.choices[self.choices.index(value)]
        if self.kind == "categorical":
            return None
        return min(self.choices, key=lambda c: abs(self.coordinate(c) - self.coordinate(value)))


@dataclass(frozen=True, slots=True)
class RuledOut:
    """An option, or `option=value`, that is not searched, and the reason in words."""

    option: str
    reason: str


@dataclass(frozen=True, slots=True)
class Ground:
    """All that is known before anything is started; `draft` is the model named to guess ahead."""

    model: Model
    machine: Machine
    engine: str
    version: str
    accepts: frozenset[str]
    default: Options
    load: tuple[Workload, ...]
    allow_lossy: bool = False
    draft: Model | None = None

    @property
    def concurrency(self) -> int:
        """The most requests in flight that the load asks for; open loops count as 256, replayed
        traffic as many as it had."""
        open_loops = (256 if w.rate_per_s and not w.replay else 0 for w in self.load)
        return max(*open_loops, *(w.concurrency for w in self.load), 1)

    @property
    def longest_tokens(self) -> int:
        """The longest request of the load, prompt and answer."""
        whole = (max(w.longest_tokens, w.prompt_tokens + w.output_tokens) for w in self.load)
        return max(whole, default=1024)

    @property
    def longest_prompt_tokens(self) -> int:
        """The longest prompt of the load."""
        lengths = (max(w.longest_prompt_tokens, w.prompt_tokens) for w in self.load)
        return max(lengths, default=512)

    @property
    def shares_prefixes(self) -> bool:
        """Whether any workload's prompts begin alike."""
        return any(w.shared_prefix_tokens > 0 for w in self.load)

    @property
    def has_real_text(self) -> bool:
        """Whether all of the load is text that somebody wrote, or asks for text of a form."""
        return bool(self.load) and all(w.dataset or w.asks != "text" for w in self.load)

    @property
    def on_gpu(self) -> bool:
        """Whether the engine will run on an accelerator."""
        return bool(self.machine.gpus)

    def is_at_least(self, version: str) -> bool:
        """Whether the engine is of `version` or later; an unknown version counts as new."""
        here = _numbers(self.version)
        return not here or here >= _numbers(version)


def _numbers(version: str) -> tuple[int, ...]:
    parts = []
    for part in version.split(".")[:3]:
        digits = "".join(c for c in part if c.isdigit())
        if not digits or not part[0].isdigit():
            break
        parts.append(int(digits))
    return tuple(parts)


Maker: TypeAlias = Callable[[Ground], Knob | RuledOut]


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What one engine has to vary: how each knob is made, what binds them, where to begin.

    `complete` gives the options that follow from others, such as a context that grows with
    the slots. `compiled` are the options under whose values compiled code is kept.
    """

    makers: Mapping[str, Maker]
    rules: Callable[[Ground], Sequence[Rule]]
    seeds: Callable[[Ground], Sequence[Options]]
    complete: Callable[[Ground, Options], Options] = field(default=lambda _, __: {})
    compiled: frozenset[str] = frozenset()


def always(made: Knob | RuledOut) -> Maker:
    """The maker of what is the same everywhere."""
    return lambda _: made


def is_variable(name: str) -> bool:
    """Whether this is no option but a variable of the child's environment: it is in capitals."""
    return name.isupper()


_UNITS = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def count(options: Options, name: str, otherwise: int) -> int:
    """The number that an option holds, also as vLLM writes it (`2k` is 2000, `2K` is 2048).

    `otherwise` when it is absent or a word such as `auto`.
    """
    number = _number(str(options.get(name, otherwise)))
    return otherwise if number is None else number


# Asked for a hundred thousand times while a model of the machine is fitted.
@functools.lru_cache(1024)
def _number(text: str) -> int | None:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kmgtKMGT]?)", text)
    if match is None:
        return None
    return int(float(match[1]) * {**_UNITS, **_BINARY, "": 1}[match[2]])


def ladder(low: float, high: float, *, halves: bool = False) -> tuple[int, ...]:
    """Powers of two from `low` to the first at or above `high`; with `halves` 1.5x between."""
    steps = [2**i for i in range(21)]
    if halves:
        steps = sorted({*steps, *(s * 3 // 2 for s in steps if s >= 16)})
    top = next((s for s in steps if s >= high), steps[-1])
    return tuple(s for s in steps if low <= s <= top) or (top,)
