"""A tuner that works on a shared study: `python -m tests.tuner.shared_worker URL TRIALS WORKS`.

It says `ready`, and begins when it reads a line.
"""

import asyncio
import sys

from tests.tuner.simulated import MACHINE, SimulatedBench, slots, subject
from vllama.tuner import samplers, study
from vllama.tuner.jobs import Way
from vllama.tuner.trial import Trial
from vllama.tuner.tuning import Budget, Tuning


async def main(url: str, trials: int, only_searches: bool) -> None:
    """Search, and say the number of each trial."""
    bench = SimulatedBench(lambda options: 1000 + 50 * min(slots(options), 10))
    about = subject()
    sampler = samplers.make("gp", about.space, 1, about.objective)
    with study.opened(url, about.study, about.space, about.objective, sampler) as kept:
        print("ready", flush=True)
        sys.stdin.readline()
        way = Way(only_searches=only_searches)
        tuning = Tuning(kept, bench, about, MACHINE, Budget(trials), bench.clock, way=way)
        async for event in tuning.run():
            if isinstance(event, Trial):
                print(event.number, event.origin, flush=True)
                # How long a trial takes: nobody can do all of them before the others have begun.
                await asyncio.sleep(0.05)
    if not only_searches:
        print("won", slots(tuning.judged().options), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3] == "worker"))
