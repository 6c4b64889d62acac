"""The engine as one of the things that are tuned."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.tuner.simulated import LOAD, subject
from vllama.bench.contest import Block, Target
from vllama.bench.measurement import Run, Sample
from vllama.engines.choice import engine
from vllama.machine import Machine
from vllama.profile import Profile
from vllama.settings import Settings
from vllama.store import names
from vllama.tuner import duel
from vllama.tuner.duel import Side

TOKENS = 10


def side(name: str, settings: Settings) -> Side:
    return Side(Target(name, engine(name, settings), Profile("best", name, "toy")), subject())


def blocks(name: str, rates: list[float]) -> list[Block]:
    return [Block(name, LOAD, start, 0, run(rate)) for start, rate in enumerate(rates)]


def run(rate: float, count: int = 20) -> Run:
    """Requests one after the other, with `rate` tokens a second."""
    each = TOKENS / rate
    samples = [
        Sample(i * each, i * each, (i + 1) * each, (i * each + each / 2, (i + 1) * each), 5, TOKENS)
        for i in range(count)
    ]
    return Run(tuple(samples), 0.0, count * each)


def test_an_engine_that_is_surely_faster_wins(settings: Settings) -> None:
    sides = [side("vllm", settings), side("llamacpp", settings)]
    judged = duel.judge(sides, blocks("vllm", [100, 101, 99]) + blocks("llamacpp", [150, 151, 149]))
    assert judged.winner == "llamacpp"
    assert judged.against["llamacpp"].ratio == pytest.approx(1.5, rel=0.03)


def test_an_engine_that_may_be_faster_does_not(settings: Settings) -> None:
    sides = [side("vllm", settings), side("llamacpp", settings)]
    judged = duel.judge(sides, blocks("vllm", [100, 120, 90]) + blocks("llamacpp", [130, 95, 110]))
    assert judged.winner == "vllm"
    assert "surely" in judged.reason


def test_starts_are_compared_with_those_beside_them(settings: Settings) -> None:
    sides = [side("vllm", settings), side("llamacpp", settings)]
    drifting = blocks("vllm", [100, 50, 200]) + blocks("llamacpp", [110, 55, 220])
    judged = duel.judge(sides, drifting)
    assert judged.against["llamacpp"].ratio == pytest.approx(1.1, rel=0.01)
    assert judged.winner == "llamacpp"


@pytest.mark.llamacpp
async def test_real_engines_take_turns_by_whole_starts(
    toy: Path, settings: Settings, machine: Machine
) -> None:
    real = engine("llamacpp", settings)
    plain = real.default(names.resolve(str(toy), settings), machine)
    load = replace(LOAD, prompt_tokens=16, output_tokens=4, concurrency=2)
    about = subject(None, load)
    small = plain.with_options(threads=1, threads_batch=1, n_ctx=2048)
    sides = [
        Side(Target("one", real, small), about),
        Side(Target("two", real, small.with_options(n_parallel=2)), about),
    ]
    ran = [block async for block in duel.fight(sides, 0.4, starts=2)]
    order = [b.target for b in ran if b.block == 0]
    assert order == ["one", "two", "two", "one"]
    judged = duel.judge(sides, ran)
    assert judged.against["two"].pairs == 2
