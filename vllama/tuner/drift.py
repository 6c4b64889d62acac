"""Drift: whether the machine is still as fast as it was, told by the default measured again.

Where controls differ from the first by more than noise, what lies between them is corrected
by what they show, linear from one to the next.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vllama.tuner.objective import Objective
from vllama.tuner.trial import Trial

CONTROL = "control"
# So many starts lie between two controls.
EVERY = 9
# Two measurements on two starts differ by 2 % by chance alone every fourth time: a correction
# by so little would bring in more noise than it takes out (seen on the simulated worlds).
NOTABLE, GRAVE = 0.04, 0.08


@dataclass(frozen=True, slots=True)
class Drift:
    """The log of each control over the first default, by the trial's place in time."""

    points: tuple[tuple[int, float], ...] = ()

    @property
    def worst(self) -> float:
        """The largest change, as a log; 0 where none is notable."""
        worst = max((shift for _, shift in self.points), key=abs, default=0.0)
        return worst if abs(worst) > NOTABLE else 0.0

    @property
    def words(self) -> str:
        """What to tell people; empty when there is nothing to tell."""
        if not self.worst:
            return ""
        percent = 100 * (math.exp(self.worst) - 1)
        grave = "; look for what else runs here" if abs(self.worst) > GRAVE else ""
        return f"the machine drifted: the default measured again differs by {percent:+.0f} %{grave}"

    def at(self, number: int) -> float:
        """What to take off the log of a trial's value."""
        if not self.worst:
            return 0.0
        before = max((p for p in self.points if p[0] <= number), default=self.points[0])
        after = min((p for p in self.points if p[0] >= number), default=self.points[-1])
        if after[0] == before[0]:
            return before[1]
        share = (number - before[0]) / (after[0] - before[0])
        return before[1] + share * (after[1] - before[1])


def of(trials: Sequence[Trial], objective: Objective) -> Drift:
    """What the controls among `trials` show."""
    defaults = [t for t in trials if not t.options and t.measurements]
    if len(defaults) < 2:
        return Drift()
    values = [(t.number, objective.value(t.measurements)) for t in defaults]
    return Drift(tuple((number, value - values[0][1]) for number, value in values))


def is_due(trials: Sequence[Trial]) -> bool:
    """Whether the default should be measured again."""
    started = [t for t in trials if t.has_own_start]
    if not any(not t.options and t.measurements for t in started):
        return False
    since = next((i for i, t in enumerate(reversed(started)) if not t.options), 0)
    return since >= EVERY
