"""The tuner's whole path on a simulated engine."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.tuner.simulated import (
    MACHINE,
    SimulatedBench,
    SimulatedSession,
    fell,
    slots,
    subject,
)
from vllama.errors import EngineFailed, UsageError
from vllama.machine import Machine
from vllama.profile import Profile, Scalar
from vllama.tuner import document, samplers, study
from vllama.tuner.finals import Block
from vllama.tuner.objective import Objective
from vllama.tuner.study import Study
from vllama.tuner.subject import Subject
from vllama.tuner.trial import Trial, key
from vllama.tuner.tuning import Budget, Tuning


def faster_with_slots(options: Mapping[str, Scalar]) -> float:
    return 1000 + 50 * min(slots(options), 10)


def opened(path: Path | str, about: Subject, sampler: str = "tpe") -> AbstractContextManager[Study]:
    made = samplers.make(sampler, about.space, 1, about.objective)
    where = path if isinstance(path, str) else str(path / "study.db")
    return study.opened(where, about.study, about.space, about.objective, made)


async def tune(
    bench: SimulatedBench,
    about: Subject | None = None,
    trials: int = 8,
    seconds: float | None = None,
    path: Path | str = study.MEMORY,
    machine: Machine = MACHINE,
) -> Tuning:
    about = about or subject()
    with opened(path, about) as kept:
        tuning = Tuning(kept, bench, about, machine, Budget(trials, seconds), bench.clock)
        async for _ in tuning.run():
            pass
    return tuning


async def test_the_default_is_tried_first_then_the_rules_of_thumb() -> None:
    tuning = await tune(SimulatedBench(faster_with_slots))
    seeds = [dict(s) for s in tuning.subject.space.seeds]
    tried = [dict(t.options) for t in tuning.trials]
    assert tried[0] == {}
    assert tried[: len(seeds)] == seeds
    assert tuning.trials[0].origin == "default"


async def test_no_configuration_is_tried_twice_in_a_search() -> None:
    tuning = await tune(SimulatedBench(faster_with_slots), trials=30)
    tried = [key(t.options) for t in tuning.trials if t.origin != "control"]
    assert len(tried) == len(set(tried))


async def test_what_is_really_faster_wins_and_the_gain_holds_the_truth() -> None:
    bench = SimulatedBench(faster_with_slots, noise=0.005, start_noise=0.003)
    verdict = (await tune(bench)).judged()
    assert verdict.proven
    assert slots(verdict.options) == 10
    assert verdict.gain is not None
    assert verdict.gain.ci95 is not None
    low, high = verdict.gain.ci95
    assert low <= 1500 / 1050 <= high


async def test_the_finals_start_everyone_afresh_and_interleave() -> None:
    tuning = await tune(SimulatedBench(faster_with_slots))
    rounds = sorted({b.round for b in tuning.blocks})
    assert len(rounds) >= 3
    for number in rounds:
        sides = [key(b.options) for b in tuning.blocks if b.round == number]
        assert key({}) in sides
        assert len(set(sides)) >= 2
        assert sides != sorted(sides)


class Counting(SimulatedBench):
    """Knows how many engines were up at once."""

    now = most = 0

    @asynccontextmanager
    async def started(self, profile: Profile) -> AsyncIterator[SimulatedSession]:
        async with super().started(profile) as session:
            self.now += 1
            self.most = max(self.most, self.now)
            yield session
            self.now -= 1


@pytest.mark.parametrize(("peaks", "at_once"), [(11, 5), (9, 1)])
async def test_finalists_are_up_at_once_where_half_of_the_memory_holds_them(
    peaks: float, at_once: int
) -> None:
    bench = Counting(faster_with_slots, noise=0.005)
    # Each engine is seen to take 10**8 bytes.
    machine = replace(MACHINE, available_bytes=int(peaks * 10**8))
    await tune(bench, machine=machine)
    assert bench.most == at_once


async def test_a_gain_that_noise_hides_gets_as_many_rounds_again() -> None:
    bench = SimulatedBench(faster_with_slots, noise=0.05, start_noise=0.15, seed=0)
    tuning = await tune(bench)
    assert len({b.round for b in tuning.blocks}) == 9
    verdict = tuning.judged()
    assert verdict.gain is not None
    assert verdict.gain.ci95 is not None
    assert verdict.gain.ratio > 1.1


async def test_when_nothing_beats_the_default_it_is_kept_and_said() -> None:
    bench = SimulatedBench(lambda _: 1000.0, noise=0.01, start_noise=0.01, seed=3)
    tuning = await tune(bench)
    verdict = tuning.judged()
    assert verdict.options == {}
    assert "default" in verdict.reason
    assert all(s.profile.options == {} for s in tuning.selected().values())


async def test_a_trial_that_falls_is_recorded_and_the_study_goes_on() -> None:
    def rate(options: Mapping[str, Scalar]) -> float:
        if slots(options) >= 8:
            raise fell("out_of_memory", "load")
        return faster_with_slots(options)

    tuning = await tune(SimulatedBench(rate), trials=10)
    fallen = [t for t in tuning.trials if t.state == "failed"]
    assert fallen
    assert {t.failure.kind for t in fallen if t.failure} == {"out_of_memory"}
    assert len([t for t in tuning.trials if t.origin != "control"]) == 10
    assert 1 < slots(tuning.judged().options) < 8


async def test_an_engine_that_dies_under_load_is_a_failed_trial() -> None:
    bench = SimulatedBench(faster_with_slots)

    def die() -> None:
        if bench.measured == 3:
            raise fell("crash", "run")

    bench.before_measuring = die
    tuning = await tune(bench, trials=5)
    assert [t.state for t in tuning.trials].count("failed") == 1
    assert bench.live == 0


async def test_when_nothing_can_start_it_ends_with_the_first_reason() -> None:
    def rate(options: Mapping[str, Scalar]) -> float:
        raise fell("crash", "import")

    bench = SimulatedBench(rate)
    with pytest.raises(EngineFailed, match="no configuration could be started"):
        await tune(bench, trials=20)
    assert len(bench.launched) == 5


async def test_a_second_call_goes_on_and_repeats_nothing(tmp_path: Path) -> None:
    tuning = await tune(SimulatedBench(faster_with_slots), trials=4, path=tmp_path)
    first = {key(t.options) for t in tuning.trials}
    bench = SimulatedBench(faster_with_slots)
    about = subject()
    with opened(tmp_path, about) as kept:
        tuning = Tuning(kept, bench, about, MACHINE, Budget(9), bench.clock)
        events = [e async for e in tuning.run() if isinstance(e, Trial)]
    new = [e for e in events if e.origin != "control"]
    assert len(new) == 5
    assert not {key(t.options) for t in new} & first
    assert len(tuning.trials) == 4 + len(events)


async def test_leaving_in_the_middle_keeps_what_was_finished() -> None:
    about, bench = subject(), SimulatedBench(faster_with_slots)
    with opened(study.MEMORY, about) as kept:
        tuning = Tuning(kept, bench, about, MACHINE, Budget(8), bench.clock)
        events = tuning.run()
        for _ in range(3):
            await anext(events)
        await events.aclose()
        assert len(tuning.trials) == 3
        assert tuning.stopped == "interrupted"
        assert slots(tuning.selected()["best"].profile.options) == 10
        assert not tuning.judged().proven
    assert bench.live == 0


async def test_the_budget_is_kept_with_the_finals_in_it() -> None:
    bench = SimulatedBench(faster_with_slots)
    tuning = await tune(bench, trials=1000, seconds=60.0)
    assert bench.clock.now <= 60
    assert tuning.blocks
    assert "budget" in tuning.stopped


@pytest.mark.parametrize("seconds", [600.0, 900.0])
async def test_a_small_gain_is_proven_within_a_short_budget(seconds: float) -> None:
    """Of slow starts: two of each prove nothing, so a third is left time for."""
    bench = SimulatedBench(
        lambda options: 1000 + 10 * min(slots(options), 10), start_s=30.0, start_noise=0.01
    )
    tuning = await tune(bench, trials=1000, seconds=seconds)
    assert bench.clock.now <= seconds
    assert {b.round for b in tuning.blocks} == {0, 1, 2}
    assert slots(tuning.judged().options) == 10


async def test_two_tuners_do_not_share_a_study(tmp_path: Path) -> None:
    about = subject()
    with opened(tmp_path, about), pytest.raises(UsageError, match="another vllama"):
        opened(tmp_path, about).__enter__()


async def test_a_limit_that_the_fastest_breaks_makes_another_win() -> None:
    from vllama.tuner import slo

    about = subject(Objective("latency", (slo.parse("tpot_p95=15ms"),)))
    tuning = await tune(SimulatedBench(faster_with_slots), about)
    states = {slots(t.options): t.state for t in tuning.trials}
    assert states[1] == "infeasible"
    assert states[10] == "complete"
    verdict = tuning.judged()
    assert slots(verdict.options) == 10
    assert "cannot be used" in verdict.reason


async def test_profiles_carry_what_they_promise_and_where_to_fall_back() -> None:
    tuning = await tune(SimulatedBench(faster_with_slots))
    selected = tuning.selected()
    assert set(selected) == {"best", "throughput", "latency", "balanced"}
    best = selected["best"].profile
    assert best.name == "best"
    assert best.machine == MACHINE.fingerprint
    assert best.provenance["expected"]["concurrent-10"]["output_tokens_per_s"] == 1500
    assert best.provenance["fallback"][-1] == {}
    assert best.provenance["proof"] == "finals"


async def test_the_document_is_what_a_report_reads(tmp_path: Path) -> None:
    from vllama.results import report

    tuning = await tune(SimulatedBench(faster_with_slots))
    written = document.of(
        document.Outcome(
            tuning.subject, MACHINE, tuning.trials, tuning.blocks, tuning.judged(),
            tuning.selected(), {}, tuning.stopped, tuning.spent_s, "vllama tune toy",
        )
    )  # fmt: skip
    page = report.write(tmp_path / "report.html", tune=written, bench=None).read_text()
    assert "Best beats the default" in page
    assert written["cost"]["engine_starts"] == len(tuning.trials) + len(
        {(b.round, key(b.options)) for b in tuning.blocks}
    )


async def test_every_event_is_a_trial_or_a_block_of_the_finals() -> None:
    about, bench = subject(), SimulatedBench(faster_with_slots)
    with opened(study.MEMORY, about, "random") as kept:
        tuning = Tuning(kept, bench, about, MACHINE, Budget(5), bench.clock)
        events = [e async for e in tuning.run()]
    assert [type(e) for e in events[:5]] == [Trial] * 5
    assert all(isinstance(e, Block) for e in events[5:])


@pytest.mark.parametrize("sampler", ["gp", "tpe", "random", "nsga2", "grid"])
async def test_every_sampler_searches(sampler: str) -> None:
    about, bench = subject(), SimulatedBench(faster_with_slots)
    with opened(study.MEMORY, about, sampler) as kept:
        tuning = Tuning(kept, bench, about, MACHINE, Budget(12), bench.clock)
        events = [e async for e in tuning.run() if isinstance(e, Trial)]
    tried = [key(e.options) for e in events if e.origin != "control"]
    assert len(set(tried)) == len(tried)
    # Ours may be sure earlier that nothing better is left.
    assert len(tried) == 12 or (sampler == "gp" and "nothing that is left" in tuning.stopped)
