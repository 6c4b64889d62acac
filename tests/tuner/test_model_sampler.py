"""The search model: the process, the crashes, and what the sampler makes of them."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from tests.tuner.simulated import MACHINE, SimulatedBench, fell, slots, subject
from vllama.profile import Scalar
from vllama.tuner import crashes, gaussian, samplers, study
from vllama.tuner.prior import Expected
from vllama.tuner.trial import Trial
from vllama.tuner.tuning import Budget, Tuning


def test_a_process_goes_through_its_points_and_doubts_far_from_them() -> None:
    x = np.linspace(0, 1, 8)[:, None]
    process = gaussian.fit(x, np.sin(3 * x[:, 0]))
    mean, sd = process.predict(np.array([[x[3, 0]], [6.0]]))
    assert abs(mean[0] - math.sin(3 * x[3, 0])) < 0.05
    assert sd[1] > 5 * sd[0]


def test_expected_improvement_is_right_in_the_middle_and_finite_in_the_tail() -> None:
    exact = math.log(1 / math.sqrt(2 * math.pi))
    near, far = gaussian.log_expected_improvement(
        np.array([0.0, -50.0]), np.array([1.0, 1.0]), best=0.0
    )
    assert abs(near - exact) < 1e-9
    assert -1300 < far < -1250


def trial(options: dict[str, Scalar], *, failed: bool) -> Trial:
    return Trial(0, options, "failed" if failed else "complete")


def test_a_crash_makes_what_shares_its_cause_doubtful_and_a_success_clears_it() -> None:
    space = subject().space
    every = [space.choice(c) for c in space.combinations()]
    crash = space.choice({"n_parallel": 8, "flash_attn": "off"})
    fine = space.choice({"n_parallel": 8})
    alone = [(crash, trial({}, failed=True))]
    before = crashes.survival(space.knobs, every, alone)
    after = crashes.survival(space.knobs, every, [*alone, (fine, trial({}, failed=False))])
    where = next(i for i, c in enumerate(every) if c == fine)
    other = next(i for i, c in enumerate(every) if c == crash)
    assert before[where] < 1
    assert after[where] == 1
    assert after[other] == crashes.LEAST


class Knowing:
    """A prior that knows the truth."""

    def expect(self, options: Mapping[str, Scalar]) -> Expected:
        return Expected(math.log(truth(options)), {}, slots(options) != 4, "four never fits")

    def after(self, trials: Sequence[Trial]) -> "Knowing":
        return self


def truth(options: Mapping[str, Scalar]) -> float:
    bonus = 300 if options.get("flash_attn") == "off" and slots(options) == 8 else 0
    return 1000 + 20 * slots(options) + bonus


async def test_a_prior_that_knows_finds_the_best_at_once_and_rules_out_what_cannot_fit() -> None:
    about, bench = subject(), SimulatedBench(truth, noise=0.005)
    made = samplers.make("gp", about.space, 1, about.objective, Knowing())
    with study.opened(study.MEMORY, about.study, about.space, about.objective, made) as kept:
        tuning = Tuning(kept, bench, about, MACHINE, Budget(7), bench.clock)
        trials = [e async for e in tuning.run() if isinstance(e, Trial)]
    best = max(truth(c) for c in about.space.combinations())
    assert truth(trials[len(about.space.seeds)].options) == best
    searched = [t for t in trials if t.origin == "search"]
    assert all(slots(t.options) != 4 for t in searched)


async def test_crashes_are_not_tried_over_and_over() -> None:
    def rate(options: Mapping[str, Scalar]) -> float:
        if options.get("flash_attn") == "off":
            raise fell("crash", "load")
        return truth(options)

    about, bench = subject(), SimulatedBench(rate, noise=0.005)
    made = samplers.make("gp", about.space, 1, about.objective)
    with study.opened(study.MEMORY, about.study, about.space, about.objective, made) as kept:
        tuning = Tuning(kept, bench, about, MACHINE, Budget(8), bench.clock)
        trials = [e async for e in tuning.run() if isinstance(e, Trial)]
    assert sum(t.state == "failed" for t in trials) <= 2
