"""The step model by itself, in virtual time."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllama.engines.simulator_steps import Batcher, Sequence
from vllama.engines.simulator_trial import closed_loop
from vllama.engines.simulator_world import Limits, World
from vllama.errors import EngineFailed

WORLD = World()


def limits(seqs: int = 64, batched: int = 2048, tokens: int = 100_000) -> Limits:
    return Limits(seqs, batched, tokens)


@settings(max_examples=60, deadline=None)
@given(
    requests=st.lists(
        st.tuples(st.integers(1, 400), st.integers(1, 60), st.integers(0, 300)),
        min_size=1, max_size=30,
    ),
    seqs=st.integers(1, 16),
    batched=st.integers(16, 512),
    tokens=st.integers(500, 2000),
)  # fmt: skip
def test_every_request_is_served_in_full_within_the_limits(
    requests: list[tuple[int, int, int]], seqs: int, batched: int, tokens: int
) -> None:
    batcher = Batcher(WORLD, limits(seqs, batched, tokens))
    wanted = [Sequence(prompt, output, cached_tokens=cached) for prompt, output, cached in requests]
    got = dict.fromkeys(wanted, 0)
    for sequence in wanted:
        batcher.submit(sequence)
    finished: list[Sequence] = []
    steps = 0
    while not batcher.is_idle:
        decoding = list(batcher.decoding)
        step = batcher.step()
        steps += 1
        assert step.duration_s > 0
        assert step.prefill_tokens + step.decoding <= batched
        assert step.prefill_tokens + step.decoding > 0, "a step without work never ends"
        assert batcher.running <= seqs
        for sequence in [s for s in decoding if s not in step.preempted] + list(step.first):
            got[sequence] += 1
        finished += step.finished
    assert sorted(s.number for s in finished) == sorted(s.number for s in wanted)
    assert all(got[s] == output for s, (_, output, _) in zip(wanted, requests, strict=True))
    assert batcher.used_tokens == 0


def test_skipping_quiet_steps_takes_as_long_as_taking_them() -> None:
    fast, slow = Batcher(WORLD, limits()), Batcher(WORLD, limits())
    for batcher in (fast, slow):
        for _ in range(8):
            batcher.submit(Sequence(500, 400))
        while batcher.prefilling or batcher.waiting:
            batcher.step()
    steps = fast.quiet_steps()
    assert steps > 100
    taken = sum(slow.step().duration_s for _ in range(steps))
    assert fast.skip(steps) == pytest.approx(taken, rel=1e-6)
    assert fast.used_tokens == slow.used_tokens


def test_a_full_cache_preempts_and_computes_again() -> None:
    run = closed_loop(
        WORLD, limits(64, 2048, 12_000), concurrency=64, requests=128, prompt_tokens=200,
        output_tokens=200,
    )  # fmt: skip
    assert run.preemptions > 0
    assert {(s.prompt_tokens, s.output_tokens) for s in run.served} == {(200, 200)}


def test_more_sequences_give_more_throughput_and_slower_tokens() -> None:
    runs = [
        closed_loop(WORLD, limits(n), concurrency=64, requests=128, prompt_tokens=256,
                    output_tokens=128)
        for n in (4, 64)
    ]  # fmt: skip
    assert runs[1].output_tokens_per_s > 3 * runs[0].output_tokens_per_s


def test_a_larger_token_budget_shortens_the_wait_for_the_first_token() -> None:
    waits = []
    for batched in (512, 8192):
        run = closed_loop(
            WORLD, limits(64, batched), concurrency=64, requests=64, prompt_tokens=1024,
            output_tokens=64,
        )  # fmt: skip
        waits.append(sum(s.first_token_s - s.sent_s for s in run.served))
    assert waits[1] < waits[0]


def test_the_same_seed_gives_the_same_run() -> None:
    runs = [
        closed_loop(WORLD, limits(), concurrency=8, requests=32, prompt_tokens=300,
                    output_tokens=50, spread=0.3, seed=seed)
        for seed in (1, 1, 2)
    ]  # fmt: skip
    assert runs[0] == runs[1] != runs[2]


def test_what_cannot_fit_fails_with_its_phase() -> None:
    for options, phase in (
        ({"gpu_memory_utilization": 0.2}, "profile"),
        ({"gpu_memory_utilization": 0.995}, "graph"),
        ({"max_num_seqs": 300, "max_num_batched_tokens": 200}, "parse"),
        ({"max_model_len": 10_000_000}, "profile"),
    ):
        with pytest.raises(EngineFailed) as failed:
            WORLD.limits(options)
        assert failed.value.phase == phase
    assert WORLD.limits({"kv_cache_dtype": "fp8"}).kv_cache_tokens == pytest.approx(
        2 * WORLD.limits({}).kv_cache_tokens, abs=2
    )
