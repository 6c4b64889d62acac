"""How late an open loop sends: its own process, one core, arrivals drawn before.

python -m benchmarks.client.dispatch URL RATE SECONDS CORE
"""

import gc
import json
import os
import sys

from benchmarks.client.load import quantile
from benchmarks.client.realtime import realtime


async def measure(url: str, rate: float, seconds: float) -> dict[str, float]:
    """The delay from when a request was due to when its bytes were handed to the socket."""
    from vllama.bench.dialect import OpenAi
    from vllama.bench.open_loop import OpenLoop
    from vllama.bench.prompts import Prompts, Vocabulary
    from vllama.bench.requests import Requests
    from vllama.bench.wire import wire
    from vllama.bench.workload import Workload

    load = Workload("open", 8, 1, rate_per_s=rate, duration_s=seconds)
    words = tuple(f"w{i}" for i in range(64))
    pool = wire(url)
    prompts = Prompts(Vocabulary(words, words, tuple(range(64))), as_ids=True)
    requests = Requests(pool, OpenAi("m"), prompts, load, int(3 * rate * seconds))
    run = await OpenLoop(requests, load).run()
    pool.close()
    delays = [s.sent_s - s.scheduled_s for s in run.samples if s.measured]
    return {
        "requests": len(delays),
        "failed": sum(s.error is not None for s in run.samples),
        "delay_p50_ms": 1e3 * quantile(delays, 0.5),
        "delay_p99_ms": 1e3 * quantile(delays, 0.99),
    }


if __name__ == "__main__":
    import uvloop

    os.sched_setaffinity(0, {int(sys.argv[4])})
    realtime()
    gc.freeze()
    print(json.dumps(uvloop.run(measure(sys.argv[1], float(sys.argv[2]), float(sys.argv[3])))))
