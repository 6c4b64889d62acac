"""`make bench-tuner-real`: the tuner against an exhaustive grid of a real engine, here.

Three parts, each start written down at once (call it again after an interruption): every
point of the grid on a fresh start, the default again every few points; the tuner, fresh, on
the same space with a third of the starts; and a race of the grid's best, the tuner's choice
and the default, on interleaved fresh starts. Writes results/<machine>/tuner-<engine>.jsonl
and .md. vLLM takes half an hour on two quiet cores, llama.cpp ten minutes.
"""

import argparse
import asyncio
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.tuner import real_shown
from benchmarks.tuner.real_file import File, Line
from benchmarks.tuner.real_grid import GRIDS, Grid, subject
from benchmarks.tuner.side_by_side import SideBySide
from vllama import hardware, store, toy
from vllama.bench.rig import Bench, Rig
from vllama.engines import choose
from vllama.machine import Machine
from vllama.profile import Scalar
from vllama.settings import Settings
from vllama.tuner import samplers, study
from vllama.tuner.attempt import Rung, attempt
from vllama.tuner.finals import Block
from vllama.tuner.fit import Fit
from vllama.tuner.prior import Analytic
from vllama.tuner.study import Ask
from vllama.tuner.subject import Subject
from vllama.tuner.trial import Trial, in_words, key
from vllama.tuner.tuning import Budget, Tuning

ROOT = Path(__file__).parent.parent.parent
CACHE = ROOT / ".cache" / "tuner-real"
CONTROL_EVERY, RACED = 8, 5
ROUNDS = {"llamacpp": 4, "vllm": 2}


@dataclass(frozen=True, slots=True)
class Work:
    """All that the parts have in common."""

    engine: str
    grid: Grid
    bench: Bench
    about: Subject
    machine: Machine
    file: File
    points: tuple[dict[str, Scalar], ...]

    @property
    def rungs(self) -> tuple[Rung, ...]:
        return (Rung(self.grid.seconds),)


def main() -> None:
    """Measure what is not measured yet; write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--engine", default="llamacpp", choices=list(GRIDS))
    parser.add_argument("--fresh", action="store_true", help="forget what was measured before")
    parser.add_argument("--points", type=int, help="only so many points, to try the benchmark")
    parser.add_argument("--seconds", type=float, help="of each measurement, to try the benchmark")
    parser.add_argument("--out", type=Path, help="a folder in place of results/<machine>")
    args = parser.parse_args()
    work = _prepared(args)
    asyncio.run(_run(work, args.fresh))
    table = real_shown.table(work.about, work.file.lines(), work.points)
    work.file.path.with_suffix(".md").write_text(table)
    print(table)


def _prepared(args: argparse.Namespace) -> Work:
    settings = Settings.from_environment()
    place = CACHE / "toy"
    if not place.exists():
        toy.make(place)
    machine = hardware.detect()
    model = store.resolve(str(place), settings)
    engine = choose(model, machine, settings, args.engine).engine
    grid = GRIDS[args.engine]
    if args.seconds:
        grid = Grid(grid.load, args.seconds, grid.at_once, grid.values)
    about = subject(grid, engine, model, machine)
    points = tuple(about.space.combinations())
    out = args.out or ROOT / "results" / machine.fingerprint
    file = File(out / f"tuner-{args.engine}.jsonl")
    chosen = points[:: max(1, len(points) // args.points)] if args.points else points
    return Work(args.engine, grid, Rig(engine), about, machine, file, chosen)


async def _run(work: Work, fresh: bool) -> None:
    storage = str(CACHE / f"{work.about.study}.db")
    if fresh or not work.file.path.exists():
        work.file.forget()
        study.forget(storage)
    await _measure_grid(work)
    await _tune(work, storage)
    await _race(work)


async def _measure_grid(work: Work) -> None:
    """Every point that is not there yet, in an order that no knob's value rules."""
    have = {key(line.options) for line in work.file.lines("grid")}
    todo = [p for p in real_shown.shuffled(work.points) if key(p) not in have]
    everything = list(_with_controls(todo))
    await _in_groups(work, everything, 0)


def _with_controls(
    todo: Sequence[dict[str, Scalar]],
) -> Iterator[tuple[str, dict[str, Scalar]]]:
    for index, point in enumerate(todo):
        if index % CONTROL_EVERY == CONTROL_EVERY // 2:
            yield "control", {}
        yield "grid", point


async def _in_groups(
    work: Work, every: Sequence[tuple[str, dict[str, Scalar]]], round_: int
) -> None:
    size = work.grid.at_once
    for at in range(0, len(every), size):
        await _together(work, every[at : at + size], round_)


async def _together(
    work: Work, group: Sequence[tuple[str, dict[str, Scalar]]], round_: int
) -> None:
    """Start these at the same time; each is written down as soon as it was measured."""
    bench = SideBySide(work.bench, len(group))

    async def one(part: str, options: dict[str, Scalar]) -> None:
        ask = Ask(round_, options, part)
        _keep(work, part, await attempt(bench, work.about, ask, work.rungs), round_)

    await asyncio.gather(*(one(part, options) for part, options in group))


def _keep(work: Work, part: str, trial: Trial, round_: int = 0) -> None:
    line = Line.of(part, trial, round_)
    work.file.append(line)
    rate = f"{line.rate:8.1f} tok/s" if line.rate else f"{line.failure[:60]}"
    print(f"{part:8} {rate}  start {line.start_s:5.1f} s  {in_words(line.options)}", flush=True)


async def _tune(work: Work, storage: str) -> None:
    """The tuner on the same space: at most a third as many trials as the grid has points."""
    if any(work.file.lines("chosen")):
        return
    about = work.about
    trials = max(1, len(work.points) // 3)
    prior = Analytic(Fit.of(about.space.ground), about.objective, about.workloads)
    sampler = samplers.make(samplers.OURS, about.space, 0, about.objective, prior)
    with study.opened(storage, about.study, about.space, about.objective, sampler) as kept:
        tuning = Tuning(kept, work.bench, about, work.machine, Budget(trials))
        told = {line.number for line in work.file.lines("trial")}
        async for event in tuning.run():
            if isinstance(event, Block):
                print(f"finals   round {event.round + 1}  {in_words(event.options)}", flush=True)
            elif event.number not in told:
                _keep(work, "trial", event)
        verdict = tuning.judged()
        starts = len({(b.round, key(b.options)) for b in tuning.blocks})
        work.file.append(
            Line("chosen", verdict.options, number=starts, seconds=tuning.spent_s,
                 failure=f"{tuning.stopped}; {verdict.reason}")
        )  # fmt: skip


async def _race(work: Work) -> None:
    """The grid's best few, the choice and the default, interleaved on fresh starts."""
    sides = real_shown.to_race(work.file.lines(), RACED)
    done = {(line.round, key(line.options)) for line in work.file.lines("race")}
    for number in range(ROUNDS[work.engine]):
        order = sides if number % 2 == 0 else sides[::-1]
        todo = [("race", s) for s in order if (number, key(s)) not in done]
        await _in_groups(work, todo, number)


if __name__ == "__main__":
    sys.exit(main())
