"""Schedulers for vLLM whose limits can be lowered while it serves.

Given to vLLM by name with `--scheduler-cls vllama_live.LiveScheduler`. Before each step they
look whether the file that VLLAMA_LIVE_LIMITS names has changed; its JSON holds
`max_num_seqs`, `max_num_batched_tokens` and `long_prefill_token_threshold`, none above what
the server was started with. The cache, graphs and compiled ranges stay those of the start.
"""

import json
import os
from pathlib import Path
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler


def _follow(scheduler: Any, seen: int) -> int:
    """Take over the limits when the file is another than that of time `seen`; its time."""
    path = Path(os.environ["VLLAMA_LIVE_LIMITS"])
    try:
        changed = path.stat().st_mtime_ns
    except FileNotFoundError:
        return seen
    if changed == seen:
        return seen
    limits = json.loads(path.read_text(encoding="utf-8"))
    config = scheduler.scheduler_config
    ceiling = scheduler.max_num_running_reqs
    scheduler.max_num_active_reqs = min(limits.get("max_num_seqs", ceiling), ceiling)
    ceiling = config.max_num_batched_tokens
    scheduler.max_num_scheduled_tokens = min(limits.get("max_num_batched_tokens", ceiling), ceiling)
    config.long_prefill_token_threshold = limits.get("long_prefill_token_threshold", 0)
    return changed


class LiveScheduler(Scheduler):
    """The one that waits for each step, as on CPU."""

    vllama_seen = 0

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        """One step, under the limits of this moment."""
        self.vllama_seen = _follow(self, self.vllama_seen)
        return super().schedule(*args, **kwargs)


class LiveAsyncScheduler(AsyncScheduler):
    """The one that schedules a step while the one before still runs."""

    vllama_seen = 0

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        """One step, under the limits of this moment."""
        self.vllama_seen = _follow(self, self.vllama_seen)
        return super().schedule(*args, **kwargs)
