"""The ladder of costs on a simulated bench: the dry run, one start for several settings."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from tests.tuner.simulated import MACHINE, SimulatedBench, fell, slots, subject
from vllama.bench.rig import Session
from vllama.errors import EngineFailed
from vllama.profile import Profile, Scalar
from vllama.tuner import costs, document, samplers, study
from vllama.tuner.ladder import SIBLINGS, Aids
from vllama.tuner.prior import Expected, Prior
from vllama.tuner.trial import LIVE, Trial, key
from vllama.tuner.tuning import Budget, Tuning


@dataclass
class Word:
    reason: str = ""
    effective: Mapping[str, Scalar | None] = field(default_factory=dict)


@dataclass
class Slots:
    """Slots that change while the engine runs; `now` is what they are, 0 for those launched."""

    now: int = 0
    allowed: bool = True
    limits: tuple[str, ...] = ("n_parallel",)

    def steerable(self, profile: Profile) -> Profile:
        return profile.with_options(steerable=True)

    def steer(self, session: Session, limits: Mapping[str, int]) -> bool:
        self.now = limits["n_parallel"]
        return self.allowed

    def rate(self, options: Mapping[str, Scalar]) -> float:
        mine = self.now if options.get("steerable") else slots(options)
        flash = 1.2 if options.get("flash_attn") == "off" else 1.0
        return flash * (1000 + 50 * min(mine or slots(options), 8))


async def tune(
    bench: SimulatedBench, aids: Aids, trials: int = 4, prior: Prior | None = None
) -> Tuning:
    """At random; with a `prior`, by the model."""
    about = subject()
    name = "random" if prior is None else "gp"
    sampler = samplers.make(name, about.space, 1, about.objective, prior)
    with study.opened(study.MEMORY, about.study, about.space, about.objective, sampler) as kept:
        tuning = Tuning(kept, bench, about, MACHINE, Budget(trials), bench.clock, aids)
        async for _ in tuning.run():
            pass
    return tuning


async def test_what_the_engine_refuses_costs_no_start_and_is_told_in_its_words() -> None:
    async def check(profile: Profile) -> Word:
        return Word("eight are too many" if slots(profile.options) >= 8 else "", {"n_ubatch": 7})

    bench = SimulatedBench(lambda o: 1000.0 + slots(o))
    aids = Aids(check)
    tuning = await tune(bench, aids, trials=6)
    refused = [t for t in tuning.trials if t.refused]
    assert refused
    assert not any(slots(o) >= 8 for o in bench.launched)
    assert sum(t.has_own_start for t in tuning.trials) == 6
    assert aids.refused == len(refused)
    measured = next(t for t in tuning.trials if t.measurements)
    assert measured.effective == {"n_ubatch": 7}
    outcome = document.Outcome(
        tuning.subject, MACHINE, tuning.trials, tuning.blocks, tuning.judged(), {}, {},
        tuning.stopped, 1.0,
        costs=costs.by_rung(tuning.subject.space, tuning.trials, tuning.blocks, aids),
    )  # fmt: skip
    written = document.of(outcome)
    assert {"eight are too many"} <= {r["reason"] for r in written["ruled_out"]}
    by_name = {r["rung"]: r for r in written["cost"]["rungs"]}
    assert by_name["dry run"]["refused"] == len(refused)
    assert by_name["start of its own"]["starts"] == 6


async def test_a_check_that_cannot_be_asked_is_done_without() -> None:
    async def check(profile: Profile) -> Word:
        raise EngineFailed("no helper")

    tuning = await tune(SimulatedBench(lambda o: 1000.0 + slots(o)), Aids(check))
    assert all(t.complete for t in tuning.trials)


async def test_one_start_measures_several_settings_and_the_finals_confirm_afresh() -> None:
    steering = Slots()
    bench = SimulatedBench(steering.rate, start_s=40.0)
    tuning = await tune(bench, Aids(steering=steering))
    trials = tuning.trials
    live = [t for t in trials if LIVE in t.facts]
    assert len({key(t.options) for t in trials}) == len(trials)
    assert sum(t.has_own_start for t in trials) == 4
    assert len(live) > 2 * 3
    # The default is started as itself, and so is everyone in the finals.
    assert LIVE not in trials[0].facts
    assert bench.launched[0] == {}
    finalists = [dict(b.options) for b in tuning.blocks]
    assert finalists
    assert all("steerable" not in o for o in bench.launched[4:])
    assert slots(tuning.judged().options) == 8 or slots(tuning.judged().options) == 10
    rungs = {c.rung: c for c in costs.by_rung(tuning.subject.space, trials, [], tuning.aids)}
    assert rungs["live server"].starts == 3
    assert rungs["start of its own"].starts == 1


async def test_starts_of_a_minute_give_four_times_as_many_configurations_an_hour() -> None:
    about = subject()
    slow = Slots()
    with_live = await tune(SimulatedBench(slow.rate, start_s=40.0), Aids(steering=slow))
    without = await tune(SimulatedBench(Slots().rate, start_s=40.0), Aids())
    live = [t for t in with_live.trials if t.options]
    gained = costs.configurations_per_hour(live) / costs.configurations_per_hour(without.trials)
    values = next(len(k.choices) for k in about.space.knobs if k.name == "n_parallel")
    # As many as the knob has values share a start here.
    assert gained > 0.8 * min(values, 1 + SIBLINGS)


@dataclass(frozen=True)
class Foretold:
    """A prior by which so many slots are best, and more than `most` do not start."""

    best: int
    most: int = 1000

    def expect(self, options: Mapping[str, Scalar]) -> Expected:
        value = -abs(math.log(slots(options) / self.best))
        return Expected(7 + 0.3 * value, {}, slots(options) <= self.most)

    def after(self, trials: Sequence[Trial]) -> "Foretold":
        return self


SLOTS = next(k.choices for k in subject().space.knobs if k.name == "n_parallel")


@pytest.mark.parametrize("best", [n for n in SLOTS if n not in (1, 10)])
async def test_what_a_live_server_measures_next_is_what_the_model_promises_most_of(
    best: int,
) -> None:
    steering, prior = Slots(), Foretold(best)

    def rate(options: Mapping[str, Scalar]) -> float:
        mine = steering.now if options.get("steerable") else 0
        return math.exp(prior.expect({"n_parallel": mine or slots(options)}).value)

    bench = SimulatedBench(rate)
    tuning = await tune(bench, Aids(steering=steering), trials=2, prior=prior)
    asked, *others = [slots(t.options) for t in tuning.trials if LIVE in t.facts]
    assert best in (asked, others[0])


async def test_a_live_server_starts_no_higher_than_it_should_come_up() -> None:
    steering = Slots()
    most = SLOTS[-2]
    bench = SimulatedBench(steering.rate)
    tuning = await tune(bench, Aids(steering=steering), trials=6, prior=Foretold(4, int(most)))
    launched = [slots(o) for o in bench.launched if o.get("steerable")]
    asked = [slots(t.options) for t in tuning.trials if LIVE in t.facts and t.has_own_start]
    # What was asked for is tried all the same.
    assert launched == [max(int(most), n) for n in asked]
    assert most in launched


async def test_an_engine_that_cannot_be_steered_is_restarted_for_each() -> None:
    steering = Slots(allowed=False)
    bench = SimulatedBench(steering.rate)
    tuning = await tune(bench, Aids(steering=steering))
    assert not any(LIVE in t.facts for t in tuning.trials)
    assert sum("steerable" in o for o in bench.launched) == 1
    assert len(tuning.trials) == 4


async def test_an_engine_that_falls_at_the_top_of_the_limits_is_tried_as_asked() -> None:
    steering = Slots()

    def rate(options: Mapping[str, Scalar]) -> float:
        if options.get("steerable"):
            raise fell("out_of_memory", "profile")
        return steering.rate(options)

    bench = SimulatedBench(rate)
    tuning = await tune(bench, Aids(steering=steering), trials=5)
    assert [t.state for t in tuning.trials] == ["complete"] * 5
    assert sum("steerable" in o for o in bench.launched) == 2


async def test_leaving_on_a_live_server_stops_it() -> None:
    steering = Slots()
    bench = SimulatedBench(steering.rate)
    about = subject()
    sampler = samplers.make("random", about.space, 1, about.objective)
    with study.opened(study.MEMORY, about.study, about.space, about.objective, sampler) as kept:
        tuning = Tuning(
            kept, bench, about, MACHINE, Budget(9), bench.clock, Aids(steering=steering)
        )
        events = tuning.run()
        for _ in range(3):
            await anext(events)
        assert bench.live == 1
        await events.aclose()
    assert bench.live == 0
    assert len(tuning.trials) == 3
