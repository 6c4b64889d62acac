"""The grids of the real engines: few values of the knobs that matter for a toy model here.

They are exhaustive over their own small space, and the tuner gets the very same space.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from vllama.bench import workloads
from vllama.engines.engine import Engine
from vllama.errors import UsageError
from vllama.machine import Machine
from vllama.model import Model
from vllama.profile import Scalar
from vllama.tuner import space
from vllama.tuner.knob import Knob
from vllama.tuner.knobs_vllm_cpu import WORKER
from vllama.tuner.objective import Objective
from vllama.tuner.space import Space
from vllama.tuner.subject import Subject
from vllama.tuner.trial import key


@dataclass(frozen=True, slots=True)
class Grid:
    """What is varied under which load, and for how long each point is measured.

    The toy has so many `parameters`: where the client and the plumbing of the server take a
    good part of the processor, the noise of who runs where drowns the options. `at_once`
    engines are started together, for a start is mostly one core's work; they are measured one
    after the other.
    """

    load: str
    seconds: float
    parameters: int
    at_once: int
    values: Mapping[str, tuple[Scalar, ...]]


GRIDS: Mapping[str, Grid] = {
    # 48 points: slots bound the batch, the rest is how a step is computed.
    "llamacpp": Grid(
        "concurrent-10", 3.0, 30_000_000, 1,
        {
            "n_parallel": (1, 4, 10),
            "threads_batch": (1, 2),
            "n_ubatch": (128, 512),
            "flash_attn": ("auto", "off"),
            "kv_unified": (True, False),
        },
    ),
    # 32 points: the two limits of the scheduler, in which process it computes and in which
    # arithmetic.
    "vllm": Grid(
        "concurrent-10", 6.0, 4_000_000, 2,
        {
            "max_num_seqs": (2, 4, 10, 128),
            "max_num_batched_tokens": (256, 2048),
            WORKER: ("1", "0"),
            "dtype": ("auto", "float32"),
        },
    ),
}  # fmt: skip


def subject(grid: Grid, engine: Engine, model: Model, machine: Machine) -> Subject:
    """The search problem whose every configuration is a point of the grid."""
    load = tuple(
        replace(w, duration_s=grid.seconds, requests=None) for w in workloads.named(grid.load)
    )
    default = engine.default(model, machine)
    version = engine.version()
    default = replace(default, engine_version=version, machine=machine.fingerprint)
    whole = space.build(
        model, machine, engine=engine.name, version=version, accepts=engine.accepts(),
        default=default, load=load,
    )  # fmt: skip
    return Subject(default, load, Objective("throughput"), narrowed(whole, grid.values))


def narrowed(whole: Space, values: Mapping[str, tuple[Scalar, ...]]) -> Space:
    """The space of these values only; all else stays at the default.

    Raises:
        UsageError: one of them cannot be varied here.
    """
    known = {k.name: k for k in whole.knobs}
    missing = [name for name in values if name not in known]
    if missing:
        reasons = {r.option: r.reason for r in whole.ruled_out}
        why = "; ".join(f"{name}: {reasons.get(name, 'unknown')}" for name in missing)
        raise UsageError(f"the grid does not suit this machine ({why})")
    knobs = tuple(_only(known[name], chosen) for name, chosen in values.items())
    small = replace(whole, knobs=knobs, seeds=({},))
    seeds = {key(s): s for s in (_moved(small, seed) for seed in whole.seeds)}
    return replace(small, seeds=tuple(seeds.values()))


def _only(knob: Knob, chosen: tuple[Scalar, ...]) -> Knob:
    if knob.default not in chosen:
        raise UsageError(f"the grid of {knob.name} lacks the default, {knob.default}")
    return replace(knob, choices=chosen)


def _moved(small: Space, seed: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """The seed on the nearest point of the grid."""
    wanted = small.choice(seed)
    choice = {k.name: k.nearest(wanted[k.name]) for k in small.knobs}
    return small.launch({name: value for name, value in choice.items() if value is not None})
