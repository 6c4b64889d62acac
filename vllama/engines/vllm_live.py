"""Changing the limits of vLLM's scheduler while it serves: no restart for these knobs.

A profile asks for it with `live(profile)`; where the installed version allows it, the
endpoint's fact `live_limits` names the file that the scheduler follows. The limits can only
be lowered from those of the start: launch at the top of the range. What a lower limit would
also change at a start (cache, graphs, compiled ranges) stays: confirm finalists by restarts.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from vllama import disk
from vllama.engines.engine import Endpoint
from vllama.engines.vllm_installed import Installed
from vllama.profile import Profile, Scalar

VARIABLE = "VLLAMA_LIVE_LIMITS"
LIMITS = ("max_num_seqs", "max_num_batched_tokens", "long_prefill_token_threshold")
# The scheduler's own limit of admitted requests, apart from its buffers, came with 0.31.
SINCE = (0, 31)


def live(profile: Profile) -> Profile:
    """The same launch, with a scheduler that follows `set_limits` where vLLM has one."""
    return replace(profile, environment={**profile.environment, VARIABLE: "1"})


def is_supported(installed: Installed) -> bool:
    """Whether this vLLM's scheduler can be told other limits while it runs."""
    return "scheduler_cls" in installed.flags.names and installed.release >= SINCE


def options(profile: Profile, installed: Installed) -> Mapping[str, Scalar]:
    """What the command line needs for it; nothing when not asked for or not supported."""
    if VARIABLE not in profile.environment or not is_supported(installed):
        return {}
    waits = installed.is_cpu or profile.options.get("async_scheduling") is False
    return {"scheduler_cls": f"vllama_live.{'LiveScheduler' if waits else 'LiveAsyncScheduler'}"}


def can_set_limits(endpoint: Endpoint) -> bool:
    """Whether it was started `live` by a version that allows it."""
    return "live_limits" in endpoint.facts


def set_limits(endpoint: Endpoint, **limits: int) -> bool:
    """Set the limits of the next step, and of all after it; those not named as at the start.

    False, and nothing happens, when the endpoint cannot: restart it instead.
    """
    unknown = set(limits) - set(LIMITS)
    if unknown or any(value < 0 for value in limits.values()):
        raise ValueError(f"limits are {', '.join(LIMITS)}, not {limits}")
    if not can_set_limits(endpoint):
        return False
    disk.write_whole(Path(str(endpoint.facts["live_limits"])), json.dumps(limits))
    return True
