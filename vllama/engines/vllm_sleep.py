"""vLLM's sleep mode: what a launch needs for it, and what an engine keeps while it sleeps.

The routes that it takes come with all the others of vLLM's development mode, some of which
let whoever reaches them call any method of its workers. The engine listens on loopback only,
and a middleware of ours answers none of those others.
"""

from collections.abc import Mapping

from vllama.engines.engine import Fact
from vllama.engines.sleep import OPTION, Sleep, Sleepless
from vllama.engines.sleep_http import SleepOverHttp
from vllama.engines.vllm_installed import Installed
from vllama.profile import Profile, Scalar

GATE = "vllama_sleep.Gate"
# CUDA's context and what was never in the pool that sleeps; graphs are told apart.
CONTEXT_BYTES = 768 * 1024**2
# The pool holds a little more than the weights.
SLACK = 1.1


def is_supported(installed: Installed) -> bool:
    """Whether this vLLM can sleep: its build for processors takes the option and refuses it."""
    return not installed.is_cpu and {OPTION, "middleware"} <= installed.flags.names


def is_asked_for(profile: Profile, installed: Installed) -> bool:
    """Whether this launch is to be able to sleep, and its routes can be gated."""
    wanted = profile.options.get(OPTION) is True and "middleware" not in profile.options
    return wanted and is_supported(installed)


def options(profile: Profile, installed: Installed) -> Mapping[str, Scalar]:
    """What the command line needs beside the profile's own option."""
    return {"middleware": GATE} if is_asked_for(profile, installed) else {}


def environment(profile: Profile, installed: Installed) -> Mapping[str, str]:
    """What opens the routes."""
    return {"VLLM_SERVER_DEV_MODE": "1"} if is_asked_for(profile, installed) else {}


def of(base_url: str, profile: Profile, facts: Mapping[str, Fact], installed: Installed) -> Sleep:
    """How the vLLM that was launched so sleeps; `facts` are those of its start."""
    weights = facts.get("model_memory_bytes")
    if not is_asked_for(profile, installed) or not isinstance(weights, int | float):
        return Sleepless()
    graphs = facts.get("graph_memory_bytes", 0)
    rest = CONTEXT_BYTES + (int(graphs) if isinstance(graphs, int | float) else 0)
    return SleepOverHttp(base_url, weights * _shards(profile) * SLACK, rest)


def _shards(profile: Profile) -> int:
    """How many workers hold weights: the log tells those of one."""
    count = 1
    for name in ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size"):
        value = profile.options.get(name, 1)
        count *= value if isinstance(value, int) and value > 0 else 1
    return count
