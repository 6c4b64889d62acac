"""Who goes to the finals: whom all trials together call best."""

import random
from collections.abc import Mapping

from tests.tuner.simulated import measurement, slots, subject
from vllama.profile import Scalar
from vllama.tuner import contenders, smoothing
from vllama.tuner.trial import Trial

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


def test_without_noise_nothing_is_smoothed_away() -> None:
    about, trials = subject(), searched(1, noise=0.0)
    for smooth in smoothing.of(about, trials):
        seen = about.objective.value(smooth.trial.measurements)
        assert abs(smooth.mean - seen) < 0.01


def test_a_few_trials_speak_for_themselves() -> None:
    about, trials = subject(), searched(2)[: smoothing.FEWEST - 1]
    seen = [about.objective.value(t.measurements) for t in trials]
    assert [smooth.mean for smooth in smoothing.of(about, trials)] == seen
