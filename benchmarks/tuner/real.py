"""`make bench-tuner-real`: the tuner against an exhaustive grid of a real engine, here.

Its parts, each start written down at once (call it again after an interruption): `grid`, every
point on a fresh start, the default again every few points; `tune`, the tuner, fresh, on the
same space with a third as many trials; `live`, for vLLM, the same with several limits of the
scheduler measured on one start, as it works unless told otherwise (`tune` is then left out
unless asked for); `race`, the grid's best, the tuner's choices and the default on interleaved
fresh starts. Writes results/<machine>/tuner-<engine>.jsonl and .md.
"""

import argparse
import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.tuner import real_shown, real_tune
from benchmarks.tuner.real_file import File
from benchmarks.tuner.real_grid import GRIDS, Grid, subject
from benchmarks.tuner.side_by_side import SideBySide
from vllama import hardware, store, toy
from vllama.bench.rig import Bench, Rig
from vllama.engines import choose
from vllama.engines.engine import Engine
from vllama.machine import Machine
from vllama.profile import Scalar
from vllama.settings import Settings
from vllama.tuner.attempt import Rung, attempt
from vllama.tuner.study import Ask
from vllama.tuner.subject import Subject
from vllama.tuner.trial import key
from vllama.tuner.tuning import Budget

ROOT = Path(__file__).parent.parent.parent
CACHE = ROOT / ".cache" / "tuner-real"
CONTROL_EVERY, RACED = 8, 5
ROUNDS = {"llamacpp": 8, "vllm": 10}
PARTS = {"llamacpp": "grid,tune,race", "vllm": "grid,live,race"}


@dataclass(frozen=True, slots=True)
class Work:
    """All that the parts have in common."""

    engine: Engine
    grid: Grid
    about: Subject
    machine: Machine
    file: File
    points: tuple[dict[str, Scalar], ...]

    @property
    def bench(self) -> Bench:
        return Rig(self.engine)

    @property
    def rungs(self) -> tuple[Rung, ...]:
        return (Rung(self.grid.seconds),)


def main() -> None:
    """Measure what is not measured yet; write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--engine", default="llamacpp", choices=list(GRIDS))
    parser.add_argument("--fresh", action="store_true", help="forget what was measured before")
    parser.add_argument("--parts", help="those to do now: grid,tune,live,race")
    parser.add_argument("--points", type=int, help="only so many points, to try the benchmark")
    parser.add_argument("--seconds", type=float, help="of each measurement, to try the benchmark")
    parser.add_argument("--out", type=Path, help="a folder in place of results/<machine>")
    args = parser.parse_args()
    work = _prepared(args)
    if args.fresh:
        work.file.forget()
    asyncio.run(_run(work, (args.parts or PARTS[args.engine]).split(",")))
    table = real_shown.table(work.about, work.file.lines(), work.points)
    work.file.path.with_suffix(".md").write_text(table)
    print(table)


def _prepared(args: argparse.Namespace) -> Work:
    settings = Settings.from_environment()
    grid = GRIDS[args.engine]
    if args.seconds:
        grid = replace(grid, seconds=args.seconds)
    place = CACHE / f"toy-{grid.parameters // 1_000_000}m"
    if not place.exists():
        toy.make(place, parameters=grid.parameters)
    machine = hardware.detect()
    model = store.resolve(str(place), settings)
    engine = choose(model, machine, settings, args.engine).engine
    about = subject(grid, engine, model, machine)
    points = tuple(about.space.combinations())
    out = args.out or ROOT / "results" / machine.fingerprint
    file = File(out / f"tuner-{args.engine}.jsonl")
    chosen = points[:: max(1, len(points) // args.points)] if args.points else points
    return Work(engine, grid, about, machine, file, chosen)


async def _run(work: Work, parts: Sequence[str]) -> None:
    if "grid" in parts:
        await _measure_grid(work)
    third = max(1, len(work.points) // 3)
    if "tune" in parts:
        await _tune(work, third, live=False)
    if "live" in parts and work.engine.name == "vllm":
        # One start for the default and for each way to compile and compute.
        await _tune(work, max(2, third * 5 // 8), live=True)
    if "race" in parts:
        await _race(work)


async def _tune(work: Work, trials: int, *, live: bool) -> None:
    budget = Budget(trials)
    run = real_tune.Run(work.engine, work.about, work.machine, work.file, budget, live)
    await real_tune.tune(run, CACHE)


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
        work.file.keep(part, await attempt(bench, work.about, ask, work.rungs), round_)

    await asyncio.gather(*(one(part, options) for part, options in group))


async def _race(work: Work) -> None:
    """The grid's best few, the choice and the default, interleaved on fresh starts."""
    sides = real_shown.to_race(work.file.lines(), RACED)
    done = {(line.round, key(line.options)) for line in work.file.lines("race")}
    for number in range(ROUNDS[work.engine.name]):
        order = sides if number % 2 == 0 else sides[::-1]
        todo = [("race", s) for s in order if (number, key(s)) not in done]
        await _in_groups(work, todo, number)


if __name__ == "__main__":
    main()
