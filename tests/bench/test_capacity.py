"""The most load that keeps the limits: found where it is known, and said as sure as it is."""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tests.bench.test_command import bench
from vllama.bench import slo
from vllama.bench.capacity import LONGEST, NEAR, PROBES, Search, judged, wilson
from vllama.bench.measurement import Run, Sample
from vllama.bench.workload import Workload
from vllama.engines import engine, simulator_trial
from vllama.engines.simulator_world import WORLDS, Limits, World
from vllama.profile import Profile, Scalar
from vllama.settings import Settings

LOAD = Workload("w", prompt_tokens=200, output_tokens=64, concurrency=8)


def run_of(latencies: list[float], failed: int = 0) -> Run:
    """Requests of these times to the first token, and some that failed."""
    good = [Sample(i, i, i + t + 1, (i + t, i + t + 1), 1, 2) for i, t in enumerate(latencies)]
    bad = [Sample(i, i, i + 0.001, (i + 0.001,), 1, 1, "reset") for i in range(failed)]
    return Run((*good, *bad), 0.0, float(len(latencies) + 1))


@pytest.mark.parametrize(
    ("kept", "of", "low", "high"), [(95, 100, 0.8883, 0.9785), (100, 100, 0.9630, 1.0)]
)
def test_wilsons_interval_is_the_textbooks(kept: int, of: int, low: float, high: float) -> None:
    assert wilson(kept, of) == pytest.approx((low, high), abs=5e-4)


def test_limits_must_hold_together_for_each_request() -> None:
    limits = [slo.parse("ttft_p50=500ms"), slo.parse("e2e_p50=1200ms")]
    alone = judged(1, [run_of([0.1] * 60 + [0.4] * 40)], limits[:1])
    both = judged(1, [run_of([0.1] * 40 + [0.4] * 60)], limits)
    assert (alone.holds, both.holds) == (True, False)


def test_a_failed_request_keeps_no_limit_however_fast_it_failed() -> None:
    (limit,) = [slo.parse("ttft_p95=500ms")]
    assert judged(1, [run_of([0.1] * 94)], [limit]).holds
    assert not judged(1, [run_of([0.1] * 94, failed=6)], [limit]).holds


def test_too_few_requests_are_not_called_certain() -> None:
    (limit,) = [slo.parse("ttft_p99=500ms")]
    assert not judged(1, [run_of([0.1] * 100)], [limit]).certain
    assert judged(1, [run_of([0.1] * 100)] * 4, [limit]).certain
    assert judged(1, [run_of([0.9] * 20)], [limit]).certain


@dataclass
class Virtual:
    """The engine simulator's step model, in virtual time."""

    slots: int
    world: World = field(default_factory=World)
    asked: list[int] = field(default_factory=list)

    async def observe(self, workload: Workload) -> Run:
        self.asked.append(workload.concurrency)
        limits = self.world.limits({"max_num_seqs": self.slots, "max_num_batched_tokens": 2048})
        return served(self.world, limits, workload.concurrency, seed=len(self.asked))


def served(
    world: World, limits: Limits, concurrency: int, seed: int = 0, load: Workload = LOAD
) -> Run:
    shown = simulator_trial.closed_loop(
        world, limits, concurrency=concurrency, requests=40 + 6 * concurrency, spread=0.2,
        prompt_tokens=load.prompt_tokens, output_tokens=load.output_tokens, seed=seed,
    )  # fmt: skip
    steady = shown.served[2 * concurrency : -concurrency]
    samples = tuple(
        Sample(s.sent_s, s.sent_s, s.end_s, (s.first_token_s, s.end_s), 1, s.output_tokens)
        for s in steady
    )
    return Run(samples, samples[0].sent_s, samples[-1].end_s)


@pytest.mark.parametrize(
    ("slots", "limit"),
    [(5, "ttft_p95=90ms"), (23, "ttft_p95=90ms"), (64, "tpot_p95=9ms"), (64, "tpot_p50=11ms")],
)
async def test_the_simulators_known_capacity_is_found_within_5_percent(
    slots: int, limit: str
) -> None:
    server, limits = Virtual(slots), [slo.parse(limit)]
    options = {"max_num_seqs": slots, "max_num_batched_tokens": 2048}
    bounds = server.world.limits(options)
    known = max(
        level
        for level in range(1, slots + 8)
        if judged(level, [served(server.world, bounds, level, s) for s in range(3)], limits).holds
    )
    search = Search(LOAD, limits, 5.0)
    await search.run(server)
    assert search.held is not None
    assert abs(search.held.level - known) <= max(1, (NEAR - 1) * known)
    assert len(search.probes) <= PROBES
    assert len(server.asked) <= PROBES * LONGEST


async def test_where_nothing_holds_there_is_no_capacity() -> None:
    search = Search(LOAD, [slo.parse("ttft_p95=1ms")], 5.0)
    await search.run(Virtual(8))
    assert search.held is None
    told = search.to_json("x")
    assert (told["capacity"], told["broken_at"], told["finished"]) == (None, 1, True)


async def test_a_live_simulators_known_capacity_is_found(settings: Settings) -> None:
    """Slowed down eight times, so that this machine's own delays are small beside it."""
    options: dict[str, Scalar] = {"max_num_seqs": 8, "time_scale": 8.0}
    virtual = WORLDS["small"]
    bounds, limit = virtual.limits(options), [slo.parse("ttft_p50=25ms")]
    short = replace(LOAD, prompt_tokens=50, output_tokens=32)
    known = max(
        level
        for level in range(1, 20)
        if judged(level, [served(virtual, bounds, level, 1, short)], limit).holds
    )
    profile = Profile("p", "simulator", "m", options)
    async with engine("simulator", settings).start(profile) as endpoint:
        code, document, said = await bench(
            "m", "--url", endpoint.base_url, "--capacity", "--slo", "ttft_p50=200ms", "--json",
            "--workload", "concurrent-5-short", "--duration", "8s", "--output-tokens", "32",
        )  # fmt: skip
    assert code == 0, said
    (found,) = document["capacities"]
    assert found["unit"] == "requests in flight"
    assert abs(found["capacity"] - known) <= 2, said
    assert found["broken_at"] > found["capacity"]
    assert f"on server: {found['capacity']:g} requests in flight keep ttft_p50=200ms" in said
    assert [p["level"] for p in found["probes"]][:2] == [5, 10]
    (result,) = document["results"]
    assert result["workload"]["concurrency"] == found["capacity"]
    assert document["comparisons"] == []


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--capacity",), "needs a limit"),
        (("--capacity", "--slo", "ttft_p95=1s", "--requests", "9"), "do not go together"),
        (("--capacity", "--slo", "ttft_p95=1s", "--repeat", "2"), "one start"),
        (("--capacity", "--slo", "ttft_p95=1s", "--rate", "1..9"), "from rate to rate"),
        (("--capacity", "--slo", "fast"), "is no limit"),
        (("--capacity", "--slo", "ttft_p95=1s", "--no-stream"), "not streamed"),
        (("--arrivals", "poisson"), "needs a rate"),
        (("--arrivals", "nowhere.csv"), "no file and no way"),
    ],
)
async def test_what_does_not_go_together_is_refused(words: tuple[str, ...], reason: str) -> None:
    code, _, said = await bench("m", "--url", "http://127.0.0.1:9", *words)
    assert code == 2
    assert reason in said


async def test_without_a_search_the_limits_give_goodput(settings: Settings) -> None:
    profile = Profile("p", "simulator", "m", {})
    async with engine("simulator", settings).start(profile) as endpoint:
        _, document, said = await bench(
            "m", "--url", endpoint.base_url, "--slo", "e2e_p95=60s", "--requests", "12", "--json",
            "--workload", "sequential-short", "--output-tokens", "4",
        )  # fmt: skip
    measured = document["results"][0]["measurement"]
    assert measured["good_share"] == 1.0
    assert measured["goodput_per_s"] > 0
    assert "100 % of the requests kept" in said
    assert math.isfinite(measured["joint_compliance"])


def test_the_files_of_the_bench_stay_readable_to_it(tmp_path: Path) -> None:
    """A workload file may name the new ways to arrive."""
    from vllama.bench import workloads

    file = tmp_path / "loads.json"
    file.write_text('{"prompt_tokens": 5, "output_tokens": 2, "rate_per_s": 1, "rate_to_per_s": 3}')
    assert workloads.named(str(file))[0].rate_to_per_s == 3
