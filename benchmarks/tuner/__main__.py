"""`make bench-tuner`: how near the best, in how many starts, at what honesty.

The tuner's own path (study, sampler, search, finals, verdict) against random search and
Optuna's default TPE, on the same worlds with the same noise. Writes results/tuner/.
"""

import argparse
import asyncio
import json
import multiprocessing
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.tuner import contest, shown

RESULTS = Path(__file__).parent.parent.parent / "results" / "tuner"


@dataclass(frozen=True, slots=True)
class Case:
    """Worlds of one load and one error of the prior, searched with so many starts."""

    load: str
    error: float
    trials: int


CASES = (Case("A", 0.04, 20), Case("A", 0.08, 30), Case("B", 0.04, 20))
# The contest that the targets are about; --methods adds the tuner's other samplers.
STANDARD = ";".join(("random", "optuna tpe", "vllama gp", contest.LIVE))


def main() -> None:
    """Run every method on every world of every case; write the table and the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worlds", type=int, default=30)
    parser.add_argument("--methods", default=STANDARD, help="; ".join(contest.METHODS))
    parser.add_argument("--cases", default="0,1,2")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    methods = args.methods.split(";")
    cases = [CASES[int(i)] for i in args.cases.split(",")]
    jobs = [(c, m, s) for c in cases for m in methods for s in range(args.worlds)]
    with multiprocessing.Pool(2) as pool:
        done = pool.starmap(_one, jobs, chunksize=1)
    rows = [
        {**asdict(case), "method": method, "world": seed, **asdict(found)}
        for (case, method, seed), found in zip(jobs, done, strict=True)
    ]
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "simulated.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    table = shown.table(rows)
    (args.out / "simulated.md").write_text(table)
    shown.regret(rows, args.out / "regret.svg")
    print(table)


def _one(case: Case, method: str, seed: int) -> contest.Found:
    return asyncio.run(contest.METHODS[method](case.load, seed, case.error, case.trials))


if __name__ == "__main__":
    main()
