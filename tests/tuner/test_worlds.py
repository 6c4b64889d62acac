"""The simulated worlds: the memory model never rules out what would have been best."""

from dataclasses import replace

import pytest

from benchmarks.tuner.landscape import KNOBS, LOADS, subject
from vllama.engines.simulator_world import World
from vllama.errors import EngineFailed
from vllama.profile import Scalar
from vllama.tuner.fit import Fit


def every() -> list[dict[str, Scalar]]:
    choices: list[dict[str, Scalar]] = [{}]
    for knob in KNOBS:
        choices = [{**c, knob.name: v} for c in choices for v in knob.choices]
    return choices


def starts(choice: dict[str, Scalar], world: World) -> bool:
    try:
        world.limits(choice)
    except EngineFailed:
        return False
    return True


@pytest.mark.parametrize("load", ["A", "B"])
def test_of_all_that_starts_in_the_worlds_fit_rejects_nothing(load: str) -> None:
    """The best of a world is among what starts, whatever its random effects are."""
    found = subject(LOADS[load]).space
    # With the memory model that a real tune has, of the engine that the worlds stand for.
    ground = replace(found.ground, engine="vllm")
    space = replace(found, ground=ground, fit=Fit.of(ground))
    allowed = [c for c in every() if int(c["max_num_seqs"]) <= int(c["max_num_batched_tokens"])]
    usable = [c for c in allowed if starts(c, World())]
    rejected = [c for c in usable if space.check(space.launch(c)) is not None]
    assert len(usable) > 1000
    assert rejected == []


def test_fit_does_reject_what_cannot_start_at_all() -> None:
    found = subject(LOADS["A"]).space
    ground = replace(found.ground, engine="vllm")
    fit = Fit.of(ground)
    assert not fit.verdict({"gpu_memory_utilization": 0.2}).fits
