"""Tuning: the whole of it, from the first seed to the verdict, as a stream of what happened."""

import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass

from vllama.bench.rig import Bench
from vllama.machine import Machine
from vllama.profile import Scalar
from vllama.tuner import ablation, capacity, claims, contenders, drift, effort, finals, verdict
from vllama.tuner.ablation import Ablated
from vllama.tuner.attempt import Clock
from vllama.tuner.deadline import OutOfTimeError, TimedBench
from vllama.tuner.finals import Block
from vllama.tuner.jobs import Way
from vllama.tuner.ladder import Aids
from vllama.tuner.search import Limits, Search
from vllama.tuner.selection import Selected, select
from vllama.tuner.study import Study
from vllama.tuner.subject import Subject
from vllama.tuner.trial import LIVE, Trial
from vllama.tuner.verdict import Verdict

# Where everything is slow, a few trials without proof are worth more than a proof of one.
MOST_FOR_FINALS = 0.4
# With two the interval of two starts is so wide that hardly any gain is proven.
ROUNDS_TO_PROVE = 3
CONTENDERS_AFTER_LIVE = 4
# A budget may be overrun by this share, so that what has nearly ended need not be thrown away.
OVERRUN = 0.05


@dataclass(frozen=True, slots=True)
class Budget:
    """At most so many trials in the study, and so many seconds for all, finals included."""

    trials: int
    seconds: float | None = None


class Tuning:
    """One tune. Stop iterating at any time: what was finished is there to be judged."""

    def __init__(
        self,
        study: Study,
        bench: Bench,
        subject: Subject,
        machine: Machine,
        budget: Budget,
        clock: Clock = time.monotonic,
        aids: Aids | None = None,
        ablate: bool = False,
        way: Way | None = None,
    ) -> None:
        self._study = study
        self._way = way or Way()
        self._bench = capacity.over(TimedBench(bench, self._deadline_s), subject.objective)
        # The finals are run alone, whatever the search is run on.
        searching = TimedBench(self._way.bench or bench, self._deadline_s)
        self._searching = capacity.over(searching, subject.objective)
        self._machine = machine
        self._budget = budget
        self._clock = clock
        self._began = clock()
        self._effort = effort.of(
            subject.default.engine, machine, subject.workloads, budget.trials, budget.seconds
        )
        self.aids = aids or Aids()
        self.subject = subject
        self.blocks: list[Block] = []
        self.ablated: list[Ablated] = []
        self._wants_ablation = ablate
        self._in_finals = False
        self.stopped = "interrupted"

    @property
    def trials(self) -> list[Trial]:
        """Every finished trial of the study, those of earlier calls included."""
        return self._study.trials()

    @property
    def spent_s(self) -> float:
        """Seconds since the beginning of this call."""
        return self._clock() - self._began

    async def run(
        self, related: Mapping[str, list[dict[str, Scalar]]] | None = None
    ) -> AsyncGenerator[Trial | Block | Ablated, None]:
        """Search, finals, ablation. `related` are further seeds, by where they come from."""
        default, *seeds = [dict(s) for s in self.subject.space.seeds]
        self._study.plant({"default": [default], "seed": seeds, **(related or {})})
        search = Search(
            self._study, self._searching, self.subject, self._effort.rungs, self._clock,
            self.aids, self._way.jobs,
        )  # fmt: skip
        try:
            async with aclosing(search.run(self._limits())) as trials:
                async for trial in trials:
                    yield trial
            self.stopped = search.stopped
        except OutOfTimeError:
            self.stopped = "the budget ended in the middle of a trial, which is not counted"
        if self._way.only_searches:
            return
        self._in_finals = True
        with suppress(OutOfTimeError):
            async for block in self._finals():
                self.blocks.append(block)
                yield block
            if self._wants_ablation:
                async for part in self._ablation():
                    self.ablated.append(part)
                    yield part

    def judged(self) -> Verdict:
        """What may be said by now."""
        return verdict.judge(self.subject, self.trials, self.blocks)

    def selected(self) -> dict[str, Selected]:
        """The profiles that this study is good for by now."""
        return select(self.subject, self.trials, self.blocks, self.judged())

    def _limits(self) -> Limits:
        seconds = self._budget.seconds
        if seconds is None:
            return Limits(self._budget.trials)
        return Limits(self._budget.trials, lambda: self._left_s() - self._reserve())

    def _reserve(self) -> float:
        """What the smallest finals that prove something need, so that the search leaves it."""
        # What limits set on a running engine have shown is a little off: more must prove it.
        is_live = any(LIVE in t.facts for t in self.trials)
        contenders_ = CONTENDERS_AFTER_LIVE if is_live else 1
        sides = self._block_costs()[: contenders_ + 1]
        if len(sides) < 2:
            usual_s = 1.0 if self.subject.default.engine == "llamacpp" else 60.0
            side_s = usual_s + 2.6 * self._effort.block_s * len(self.subject.workloads)
            usual = 2 * ROUNDS_TO_PROVE * side_s
            return min(usual, MOST_FOR_FINALS * (self._budget.seconds or usual))
        plan = finals.Plan(ROUNDS_TO_PROVE, 2, self._effort.block_s, contenders_, False)
        needed = finals.cost_s(plan, self._start_s(), sides)
        if self._wants_ablation:
            needed += 4 * (self._start_s() + sides[-1])
        return min(needed, MOST_FOR_FINALS * (self._budget.seconds or needed))

    def _block_costs(self) -> list[float]:
        """Seconds that one block over all loads took: on the default, then on the best."""
        whole = self._effort.block_s / sum(r.seconds for r in self._effort.rungs)
        trials = [t for t in self.trials if t.has_own_start]
        default = [t for t in trials if not t.options and t.measurements]
        best = contenders.ranked(self.subject, trials)
        return [(t.seconds - t.start_s) * whole for t in [*default[:1], *best]]

    def _start_s(self) -> float:
        starts = sorted(t.start_s for t in self.trials if t.start_s)
        return starts[len(starts) // 2] if starts else 0.0

    def _left_s(self) -> float:
        seconds = self._budget.seconds
        return math.inf if seconds is None else seconds - self.spent_s

    def _deadline_s(self) -> float:
        """Until when a start or a measurement may go on; a little over the budget in the finals.

        The default must be measured whatever the finals would need.
        """
        slack_s = OVERRUN * (self._budget.seconds or 0.0)
        if self._in_finals or not any(t.complete for t in self.trials):
            return self._left_s() + slack_s
        return self._left_s() - self._reserve() + slack_s

    @property
    def eta_s(self) -> float | None:
        """How long it should still take; None before anything was measured."""
        done = [t for t in self.trials if t.has_own_start]
        costs = self._block_costs()
        if not done or not costs:
            return None
        typical_s = sum(t.seconds for t in done) / len(done)
        searched = [t for t in done if t.origin != drift.CONTROL]
        left = max(0, self._budget.trials - len(searched))
        search_s = (left + left // drift.EVERY) * typical_s
        plan = self._plan(beyond_s=search_s)
        finals_s = 0.0
        if plan is not None:
            every = [*costs, *[costs[-1]] * plan.contenders]
            finals_s = finals.cost_s(plan, self._start_s(), every)
        return min(search_s + finals_s, max(self._left_s(), 0.0))

    async def _ablation(self) -> AsyncIterator[Ablated]:
        options = self.judged().options
        if options:
            each_s = self._start_s() + max(self._block_costs(), default=0.0)
            parts = ablation.run(
                self._bench, self.subject, options, self._effort.block_s,
                lambda: self._left_s() > each_s,
            )  # fmt: skip
            async for part in parts:
                yield part

    async def _finals(self) -> AsyncIterator[Block]:
        plan = self._plan()
        if plan is None:
            return
        base = next((t.measurements for t in self.trials if t.complete and not t.options), None)
        fit = [t for t in self.trials if not claims.seem_lost(self.subject, t.measurements, base)]
        finalists = contenders.choose(self.subject, fit, plan.contenders)
        if finalists:
            async for block in finals.run(self._bench, self.subject, finalists, plan, self._left_s):
                yield block

    def _plan(self, beyond_s: float = 0.0) -> finals.Plan | None:
        costs = self._block_costs()
        if not costs:
            return None
        left = None if self._budget.seconds is None else self._left_s() - beyond_s
        return finals.plan(self._start_s(), self._effort.block_s, costs, left, self._together())

    def _together(self) -> int:
        """How many engines may be up at once: on CPUs as many as half of the memory holds."""
        peaks = [m.peak_memory_bytes or 0 for t in self.trials for m in t.measurements.values()]
        if self._machine.gpus or not peaks or not max(peaks):
            return 1
        return int(0.5 * self._machine.available_bytes / max(peaks))
