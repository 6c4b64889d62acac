"""The tuner, fresh, on the space of a grid; with live limits where the engine has them."""

from dataclasses import dataclass
from pathlib import Path

from benchmarks.tuner.real_file import File, Line
from vllama.bench.rig import Rig
from vllama.cli import tune_aids
from vllama.engines.engine import Engine
from vllama.machine import Machine
from vllama.tuner import costs, samplers, study
from vllama.tuner.ablation import Ablated
from vllama.tuner.finals import Block
from vllama.tuner.fit import Fit
from vllama.tuner.prior import Analytic
from vllama.tuner.subject import Subject
from vllama.tuner.trial import Trial, in_words, key
from vllama.tuner.tuning import Budget, Tuning


@dataclass(frozen=True, slots=True)
class Run:
    """One tune: `live` is whether one start may measure several limits of the scheduler."""

    engine: Engine
    about: Subject
    machine: Machine
    file: File
    budget: Budget
    live: bool

    @property
    def part(self) -> str:
        """What its lines are called: `trial` and `chosen`, of the live one `live-trial` ..."""
        return "live-" if self.live else ""


async def tune(run: Run, folder: Path) -> None:
    """Search, prove, and write down what was chosen; goes on where it was interrupted."""
    if any(run.file.lines(f"{run.part}chosen")):
        return
    about, storage = run.about, stored(folder, run.about, live=run.live)
    if not run.file.lines(f"{run.part}trial"):
        study.forget(storage)
    prior = Analytic(Fit.of(about.space.ground), about.objective, about.workloads)
    sampler = samplers.make(samplers.OURS, about.space, 0, about.objective, prior)
    with study.opened(storage, about.study, about.space, about.objective, sampler) as kept:
        tuning = Tuning(kept, Rig(run.engine), about, run.machine, run.budget)
        told = {line.number for line in run.file.lines(f"{run.part}trial")}
        async with tune_aids.of(run.engine, about.default, live=run.live) as tuning.aids:
            async for event in tuning.run():
                _tell(run, event, told)
        run.file.append(_chosen(run, tuning))


def stored(folder: Path, about: Subject, *, live: bool) -> str:
    """Where its study is."""
    return str(folder / f"{about.study}{'-live' if live else ''}.db")


def _tell(run: Run, event: Trial | Block | Ablated, told: set[int]) -> None:
    if isinstance(event, Block):
        words = in_words(event.options)
        rate = event.measured.output_tokens_per_s if event.measured else 0.0
        print(f"{run.part}finals   round {event.round + 1}  {rate:8.1f} tok/s  {words}", flush=True)
    elif isinstance(event, Trial) and event.number not in told:
        run.file.keep(f"{run.part}trial", event)


def _chosen(run: Run, tuning: Tuning) -> Line:
    verdict = tuning.judged()
    starts = len({(b.round, key(b.options)) for b in tuning.blocks})
    spent = costs.by_rung(run.about.space, tuning.trials, tuning.blocks, tuning.aids)
    told = {
        c.rung: f"{c.configurations} configurations, {c.refused} not usable, {c.starts} starts, "
        f"{c.seconds:.1f} s"
        for c in spent
    }
    # The default has a start of its own in either way, so it is left out of the comparison.
    rate = costs.configurations_per_hour([t for t in tuning.trials if t.options])
    return Line(
        f"{run.part}chosen", verdict.options, rate=rate, number=starts, seconds=tuning.spent_s,
        failure=f"{tuning.stopped}; {verdict.reason}", facts=told,
    )  # fmt: skip
