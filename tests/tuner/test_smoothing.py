"""Who goes to the finals: whom all trials together call best."""

import random
from collections.abc import Mapping

from tests.tuner.simulated import measurement, slots, subject
from vllama.profile import Scalar
from vllama.tuner import contenders, smoothing
from vllama.tuner.objective import Objective
from vllama.tuner.slo import Slo
from vllama.tuner.subject import Subject
from vllama.tuner.trial import State, Trial

NOISE = 0.02
OF = 60


def truth(options: Mapping[str, Scalar]) -> float:
    """More slots are faster up to ten; all else hardly matters."""
    small = 0.98 if options.get("flash_attn") == "off" else 1.0
    return small * (1000 + 50 * min(slots(options), 10))


def searched(seed: int, noise: float = NOISE) -> list[Trial]:
    """Fourteen trials of a machine with some noise, the default first."""
    rng = random.Random(seed)
    tried = [{}, *rng.sample([o for o in subject().space.combinations() if o], 13)]
    rates = [truth(o) * (1 + rng.gauss(0, noise)) for o in tried]
    return [
        Trial(n, o, "complete", {"concurrent-10": measurement(rate)})
        for n, (o, rate) in enumerate(zip(tried, rates, strict=True))
    ]


def test_the_finalist_is_better_than_who_was_measured_best() -> None:
    about, lost = subject(), {"smooth": 0.0, "lucky": 0.0}
    for seed in range(OF):
        trials = searched(seed)
        best = max(truth(t.options) for t in trials if t.options)
        chosen = {
            "smooth": contenders.choose(about, trials, 1)[0],
            "lucky": dict(contenders.ranked(about, trials)[0].options),
        }
        for name, options in chosen.items():
            lost[name] += 1 - truth(options) / best
    assert lost["smooth"] < 0.8 * lost["lucky"]


def first_s(options: Mapping[str, Scalar]) -> float:
    """More slots make the first token come later."""
    return 0.94 + 0.01 * slots(options)


def near_a_limit(about: Subject, seed: int) -> list[Trial]:
    """Thirteen trials; the fastest break the limit, but some were measured just below it."""
    rng = random.Random(seed)
    trials = []
    for n, options in enumerate(rng.sample([o for o in about.space.combinations() if o], 13)):
        noisy_s = first_s(options) * (1 + rng.gauss(0, NOISE))
        seen = {"concurrent-10": measurement(truth(options), ttft_s=noisy_s)}
        state: State = "complete" if about.objective.holds(seen) else "infeasible"
        trials.append(Trial(n, options, state, seen))
    return trials


def test_where_a_limit_binds_who_should_keep_it_goes_to_the_finals() -> None:
    about = subject(Objective("throughput", (Slo("ttft", "mean", 1.0),)))
    best = {"likely": 0.0, "lucky": 0.0}
    for seed in range(OF):
        trials = near_a_limit(about, seed)
        chosen = {
            "likely": contenders.choose(about, trials, 2),
            "lucky": [dict(t.options) for t in contenders.ranked(about, trials)[:2]],
        }
        for name, finalists in chosen.items():
            best[name] += max((truth(o) for o in finalists if first_s(o) <= 1.0), default=0.0)
    assert best["likely"] > 1.05 * best["lucky"]


def test_without_noise_nothing_is_smoothed_away() -> None:
    about, trials = subject(), searched(1, noise=0.0)
    for smooth in smoothing.of(about, trials):
        seen = about.objective.value(smooth.trial.measurements)
        assert abs(smooth.mean - seen) < 0.01


def test_a_few_trials_speak_for_themselves() -> None:
    about, trials = subject(), searched(2)[: smoothing.FEWEST - 1]
    seen = [about.objective.value(t.measurements) for t in trials]
    assert [smooth.mean for smooth in smoothing.of(about, trials)] == seen
