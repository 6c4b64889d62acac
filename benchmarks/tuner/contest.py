"""The contestants: each searches one world, and says what it chose and claimed."""

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import optuna

from benchmarks.tuner.landscape import MACHINE, Truth, subject
from benchmarks.tuner.virtual import StepModel, VirtualBench
from vllama.bench.workload import Workload
from vllama.errors import EngineFailed
from vllama.profile import Scalar
from vllama.tuner import samplers, study
from vllama.tuner.attempt import lasting
from vllama.tuner.ladder import Aids
from vllama.tuner.study import distribution, value_of
from vllama.tuner.subject import Subject
from vllama.tuner.trial import Trial
from vllama.tuner.tuning import Budget, Tuning

FULL_S = 75 * 60.0
BLOCK_S = 60.0
LIVE = "vllama gp, live limits"


@dataclass(frozen=True, slots=True)
class Found:
    """How one search of one world went.

    `curve` is the true quality of the best so far after each start, `settings` how many were
    tried. `bias` is the claimed
    gain over the true one, less 1, of what was chosen; `covered` whether the 95 % interval
    holds the true gain. Hours are virtual.
    """

    curve: tuple[float, ...]
    chosen: float
    crashes: int
    search_starts: int
    starts: int
    hours: float
    bias: float | None
    covered: bool | None
    default: float
    settings: int
    proven: bool = False
    stopped: str = ""


Method: TypeAlias = Callable[[str, int, float, int], Coroutine[Any, Any, Found]]


def ours(sampler: str, *, with_prior: bool = True, live: bool = False) -> Method:
    """The tuner as it is, with one of its samplers; `live`: the engine takes limits as it runs."""

    async def search(load: str, seed: int, error: float, trials: int) -> Found:
        truth, about = Truth(load, seed, error), subject_of(load)
        bench = VirtualBench(truth, seed)
        prior = StepModel(load, about.objective) if with_prior else None
        made = samplers.make(sampler, about.space, seed, about.objective, prior)
        with study.opened(study.MEMORY, about.study, about.space, about.objective, made) as kept:
            aids = Aids(steering=bench) if live else None
            tuning = Tuning(kept, bench, about, MACHINE, Budget(trials, FULL_S * trials / 20),
                            bench.clock, aids)  # fmt: skip
            crashes = starts = 0
            async for event in tuning.run():
                if isinstance(event, Trial):
                    crashes, starts = bench.crashes, bench.starts
            return _found(truth, bench, tuning, crashes, starts)

    return search


def _found(truth: Truth, bench: VirtualBench, tuning: Tuning, crashes: int, starts: int) -> Found:
    about, verdict = tuning.subject, tuning.judged()
    bias = covered = None
    base = truth.quality({})
    # Where the default breaks a limit there is no gain over it to be wrong about.
    if verdict.gain and verdict.gain.ci95 and base:
        real = truth.quality(verdict.shown) / base
        bias = verdict.gain.ratio / real - 1 if real else None
        covered = verdict.gain.ci95[0] <= real <= verdict.gain.ci95[1]
    return Found(
        _curve(truth, about, tuning.trials), truth.quality(verdict.options), crashes, starts,
        bench.starts, bench.now / 3600, bias, covered, base, len(tuning.trials), verdict.proven,
        tuning.stopped,
    )  # fmt: skip


def _curve(truth: Truth, about: Subject, trials: Sequence[Trial]) -> tuple[float, ...]:
    curve: list[float] = []
    best: Trial | None = None
    value = about.objective.value
    for trial in trials:
        if trial.complete and (not best or value(trial.measurements) > value(best.measurements)):
            best = trial
        quality = truth.quality(dict(best.options)) if best else 0.0
        # What a running engine showed of other limits is part of what its start was good for.
        curve[len(curve) - (not trial.has_own_start) :] = [quality]
    return tuple(curve)


def plain(make: Callable[[int], optuna.samplers.BaseSampler]) -> Method:
    """What a user of Optuna writes: suggest, start, measure 60 s, a crash is a failed trial."""

    async def search(load: str, seed: int, error: float, trials: int) -> Found:
        truth, about = Truth(load, seed, error), subject_of(load)
        bench = VirtualBench(truth, seed)
        kept = optuna.create_study(direction="maximize", sampler=make(seed))
        best: tuple[float, dict[str, Scalar]] | None = None
        curve: list[float] = []
        for _ in range(trials):
            asked = kept.ask({k.name: distribution(k) for k in about.space.knobs})
            choice = {k.name: value_of(k, asked.params[k.name]) for k in about.space.knobs}
            rate, keeps = await _measured(bench, about, choice, about.workloads[0])
            if rate is None:
                kept.tell(asked, state=optuna.trial.TrialState.FAIL)
            else:
                kept.tell(asked, rate if keeps else 0.0)
                if keeps and (best is None or rate > best[0]):
                    best = rate, choice
            curve.append(truth.quality(best[1]) if best else 0.0)
        figures = truth.figures(best[1]) if best else None
        bias = best[0] / figures.rate - 1 if best and figures else None
        return Found(
            tuple(curve), curve[-1], bench.crashes, bench.starts, bench.starts,
            bench.now / 3600, bias, None, truth.quality({}), len(curve),
        )  # fmt: skip

    return search


async def _measured(
    bench: VirtualBench, about: Subject, choice: dict[str, Scalar], load: Workload
) -> tuple[float | None, bool]:
    if int(choice["max_num_seqs"]) > int(choice["max_num_batched_tokens"]):
        # The engine refuses this after its start, as vLLM does.
        bench.now += BLOCK_S
        bench.starts += 1
        bench.crashes += 1
        return None, False
    try:
        async with bench.started(about.profile(choice)) as session:
            measured = await session.measure(lasting(load, BLOCK_S))
    except EngineFailed:
        return None, False
    return measured.output_tokens_per_s, about.objective.holds({load.name: measured})


def subject_of(load: str) -> Subject:
    """The search problem of a load."""
    from benchmarks.tuner.landscape import LOADS

    return subject(LOADS[load])


METHODS: dict[str, Method] = {
    "random": plain(lambda seed: optuna.samplers.RandomSampler(seed=seed)),
    "optuna tpe": plain(lambda seed: optuna.samplers.TPESampler(seed=seed)),
    "vllama tpe": ours("tpe"),
    "vllama gp without prior": ours("gp", with_prior=False),
    "vllama gp": ours("gp"),
    LIVE: ours("gp", live=True),
}
