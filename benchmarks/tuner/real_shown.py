"""What a grid on a real engine tells: its table, who is raced, and the two ratios."""

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.tuner.real_file import Line
from vllama.bench.compare import Comparison, paired
from vllama.profile import Scalar
from vllama.tuner.subject import Subject
from vllama.tuner.trial import in_words, key

Options = dict[str, Scalar]


def shuffled(points: Sequence[Options]) -> list[Options]:
    """The same order every time, and no knob's order: drift must not look like an effect."""
    order = list(points)
    random.Random(0).shuffle(order)
    return order


def to_race(lines: Sequence[Line], best: int) -> list[Options]:
    """The default, the tuner's choice, and the grid's best few; each once."""
    grid = sorted((x for x in lines if x.part == "grid"), key=lambda x: -x.rate)
    chosen = [x for x in lines if x.part in ("chosen", "live-chosen")]
    sides: list[Mapping[str, Scalar]] = [{}, *(x.options for x in chosen)]
    sides += [x.options for x in grid[:best]]
    return [dict(s) for s in {key(s): s for s in sides}.values()]


@dataclass(frozen=True, slots=True)
class Race:
    """What the race found: mean rates by configuration, and who is best by them."""

    rates: Mapping[str, Mapping[int, float]]
    best: str

    @classmethod
    def of(cls, lines: Sequence[Line]) -> "Race | None":
        """From its lines; None before there are any."""
        rates: dict[str, dict[int, float]] = {}
        for line in lines:
            if line.part == "race" and line.rate:
                rates.setdefault(key(line.options), {})[line.round] = line.rate
        if not rates:
            return None
        return cls(rates, max(rates, key=lambda k: _mean(rates[k])))

    def mean(self, options: Mapping[str, Scalar]) -> float:
        """Tokens a second over the rounds, 0 where it was not raced."""
        return _mean(self.rates.get(key(options), {}))

    def ratio(self, baseline: str, candidate: str) -> Comparison | None:
        """Candidate over baseline, in pairs of the same round."""
        return self._over(dict.fromkeys(self.rates.get(baseline, {}), baseline), candidate)

    def share_of_best(self, candidate: str) -> Comparison | None:
        """Candidate over the best: in each half of the rounds who was best in the other half.

        Who is best among equals by the same rounds was lucky in them, and all others look
        worse than they are.
        """
        halves = [self._best_of(1), self._best_of(0)]
        rounds = {n for each in self.rates.values() for n in each}
        return self._over({n: halves[n % 2] for n in rounds}, candidate)

    def _best_of(self, half: int) -> str:
        """By the even or the odd rounds; by all before there are any of them."""
        means = {
            k: _mean({n: rate for n, rate in each.items() if n % 2 == half})
            for k, each in self.rates.items()
        }
        return max(means, key=lambda k: means[k]) if any(means.values()) else self.best

    def _over(self, baselines: Mapping[int, str], candidate: str) -> Comparison | None:
        mine = self.rates.get(candidate, {})
        pairs = [
            (self.rates[base][n], mine[n])
            for n, base in sorted(baselines.items())
            if n in mine and n in self.rates[base]
        ]
        if not pairs:
            return None
        return paired([b for b, _ in pairs], [c for _, c in pairs], lower_is_better=False)


def _mean(rates: Mapping[int, float]) -> float:
    logs = [math.log(r) for r in rates.values()]
    return math.exp(sum(logs) / len(logs)) if logs else 0.0


def table(about: Subject, lines: Sequence[Line], points: Sequence[Options]) -> str:
    """Markdown: the result first, then every point."""
    text = [f"# The tuner on a grid of {about.default.engine} {about.default.engine_version}", ""]
    load = about.workloads[0]
    text.append(
        f"A toy model of random weights on {about.default.machine}, under {load.name}: "
        f"{load.concurrency} in flight, {load.prompt_tokens} tokens in and {load.output_tokens} "
        f"out, {load.duration_s:g} s a measurement, a fresh start each. Output tokens a second. "
        f"Written by `make bench-tuner-real ENGINE={about.default.engine}`; every start is in "
        "the .jsonl beside this page. Who is best is told by the race's other half: even rounds "
        "are compared with who led in the odd ones, and odd with even."
    )
    text += ["", *_found(lines, points), "", *_points(about, lines), "", *_trials(lines)]
    return "\n".join(text) + "\n"


def _found(lines: Sequence[Line], points: Sequence[Options]) -> Iterator[str]:
    race = Race.of(lines)
    count = {p: sum(x.part == p for x in lines) for p in {x.part for x in lines}}
    if race is None:
        yield "Not through yet."
        return
    exhaustive = count.get("grid", 0) + count.get("control", 0) + count.get("race", 0)
    yield from (
        "| | |",
        "| --- | --- |",
        f"| starts of the grid | {count.get('grid', 0)} of {len(points)} points "
        f"({exhaustive} with controls and race) |",
        f"| the grid's best, after re-measuring its best few | `{_words(race, lines)}` |",
    )
    rates = [x.rate for x in lines if x.part == "control" and x.rate]
    if len(rates) > 1:
        spread = max(rates) / min(rates) - 1
        yield f"| the default, {len(rates)} times among the points | apart by {spread:.1%} |"
    for part, name in (("", "the tuner"), ("live-", "the tuner with live limits")):
        yield from _tuner(lines, race, part, name)


def _tuner(lines: Sequence[Line], race: Race, part: str, name: str) -> Iterator[str]:
    chosen = next((x for x in lines if x.part == f"{part}chosen"), None)
    if chosen is None:
        return
    trials = [x for x in lines if x.part == f"{part}trial"]
    starts = sum(x.start_s > 0 for x in trials)
    mine = key(chosen.options)
    yield from (
        f"| **{name}** chose | `{in_words(chosen.options)}` |",
        f"| **its choice / grid's best** | **{_ratio(race.share_of_best(mine))}** |",
        f"| its choice / default | {_ratio(race.ratio(key({}), mine))} |",
        f"| it measured | {len(trials)} configurations on {starts} starts, {chosen.rate:.0f} an "
        f"hour; {chosen.number} starts in its finals; {chosen.seconds:.0f} s in all |",
        *_against_full_starts(lines, trials, chosen),
        f"| it ended because | {chosen.failure} |",
        *(f"| rung: {rung} | {told} |" for rung, told in chosen.facts.items()),
    )


def _against_full_starts(
    lines: Sequence[Line], trials: Sequence[Line], chosen: Line
) -> Iterator[str]:
    """Where one start serves for several: against the tuner that gives one to each.

    Before that one ran, against the default, whose start is always its own.
    """
    if all(x.start_s > 0 for x in trials):
        return
    plain = [x.seconds for x in lines if x.part == "trial" and x.rate and x.options]
    alone = plain or [x.seconds for x in trials if x.rate and not x.options]
    if alone:
        each = 3600 * len(alone) / sum(alone)
        times = chosen.rate / each
        yield f"| with a full start each | {each:.0f} an hour: it is {times:.1f}x that |"


def _words(race: Race, lines: Sequence[Line]) -> str:
    return next(in_words(x.options) for x in lines if key(x.options) == race.best)


def _ratio(found: Comparison | None) -> str:
    if found is None:
        return "not raced"
    if found.ci95 is None or found.ratio == 1.0:
        return f"{found.ratio:.3f}"
    return f"{found.ratio:.3f} (95 %: {found.ci95[0]:.3f} to {found.ci95[1]:.3f})"


def _points(about: Subject, lines: Sequence[Line]) -> Iterator[str]:
    names = [k.name for k in about.space.knobs]
    race = Race.of(lines)
    head = [*names, "tok/s", "raced", "start s"]
    yield "| " + " | ".join(head) + " |"
    yield "| --- " * len(head) + "|"
    for line in sorted((x for x in lines if x.part == "grid"), key=lambda x: -x.rate):
        choice = about.space.choice(line.options)
        cells = [str(choice[n]) for n in names]
        raced = race.mean(line.options) if race else 0.0
        cells += [f"{line.rate:.0f}" if line.rate else line.failure]
        cells += [f"{raced:.0f}" if raced else "", f"{line.start_s:.1f}"]
        yield "| " + " | ".join(cells) + " |"


def _trials(lines: Sequence[Line]) -> Iterator[str]:
    """What the tuner tried, in its order, with the grid's figure for the same point."""
    grid = {key(x.options): x.rate for x in lines if x.part == "grid"}
    best = max(grid.values(), default=0.0)
    yield "| trial | | options | tok/s | the grid's figure / its best |"
    yield "| --- | --- | --- | --- | --- |"
    for part, name in (("trial", ""), ("live-trial", "live")):
        for number, line in enumerate((x for x in lines if x.part == part), 1):
            share = grid.get(key(line.options), 0.0) / best if best else 0.0
            told = f"{line.rate:.0f}" if line.rate else line.failure
            words = in_words(line.options)
            yield f"| {number} | {name} | `{words}` | {told} | {share:.3f} |"
