"""Study: the trials of one search, kept by Optuna so that a kill loses no finished one."""

import asyncio
import functools
import json
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import TrialState

from vllama.profile import Scalar
from vllama.tuner import storages
from vllama.tuner.objective import Objective
from vllama.tuner.space import Knob, Space
from vllama.tuner.storages import MEMORY, forget
from vllama.tuner.trial import Trial, key

_TRIAL, _ORIGIN, _PARAMS = "trial", "origin", "params"
UNASKED = -1
__all__ = ["MEMORY", "Ask", "Outlook", "Study", "forget", "opened"]
_NEVER_MEASURED = -100.0
# A worker that has said nothing for so long is dead: its trial is free again.
_BEAT = "alive_at"
BEAT_S, GRACE_S = 15.0, 120.0
_PHASES = ("parse", "import", "load", "profile", "graph", "ready", "run")
_PATIENCE = 25
_LOOKS, _LOOK_S = 20, 0.01

optuna.logging.set_verbosity(optuna.logging.ERROR)


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a sampler thinks is left to gain: as logs, so 0.01 is a gain of 1 %."""

    expected_gain: float
    possible_gain: float


@dataclass(frozen=True, slots=True)
class Ask:
    """A configuration to try next."""

    number: int
    options: dict[str, Scalar]
    origin: str


class Study:
    """Asks a sampler for configurations, and remembers what became of them.

    In Optuna a number is the index among its knob's values: they are few and uneven.
    """

    def __init__(
        self, study: optuna.Study, space: Space, objective: Objective, *, is_shared: bool = False
    ) -> None:
        self._study = study
        self._is_shared = is_shared
        self._space = space
        self._objective = objective
        self._distributions = {k.name: distribution(k) for k in space.knobs}
        self._asked: dict[int, optuna.trial.Trial] = {}
        self.outlooks: list[Outlook] = []

    @property
    def name(self) -> str:
        """Its name in the storage."""
        return self._study.study_name

    def trials(self) -> list[Trial]:
        """Every finished trial, in the order of their numbers."""
        return finished(self._study)

    def plant(self, seeds: Mapping[str, list[dict[str, Scalar]]]) -> None:
        """Try these first, unless they were tried; by origin."""
        for origin, each in seeds.items():
            for options in each:
                self._enqueue(options, origin, again=False)

    def ask(self) -> Ask | None:
        """What to try next, never a repeat; None when everything was tried."""
        self.free_stale()
        for _ in range(_PATIENCE):
            asked = self._study.ask(self._distributions)
            options = self._space.launch(self._choice(asked.params))
            beside = self._tried_beside(asked.number)
            # Read after what is under way: in this order nothing that ends meanwhile is missed.
            seen = {key(t.options): t for t in self.trials()}
            if key(options) in beside:
                # Somebody is at it: what comes of it is not known, and is no news to anybody.
                self._study.tell(asked, state=TrialState.FAIL)
                continue
            known = seen.get(key(options))
            if known is None and self._space.check(options) is None:
                return self._started(asked, options)
            self._answer(asked, known)
        return self._untried(seen)

    @property
    def has_queue(self) -> bool:
        """Whether something was planted that was not asked for yet."""
        return bool(self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))

    @property
    def under_way(self) -> int:
        """How many trials are being measured now, by whomever."""
        return len(self._running())

    @asynccontextmanager
    async def alive(self) -> AsyncIterator[None]:
        """Meanwhile show other workers that the trials asked for here are not abandoned."""

        async def beat() -> None:
            while True:
                for asked in self._asked.values():
                    # Already freed, if this host has slept: `tell` will find out.
                    with suppress(optuna.exceptions.UpdateFinishedTrialError):
                        asked.set_user_attr(_BEAT, time.time())
                await asyncio.sleep(BEAT_S)

        beating = asyncio.create_task(beat()) if self._is_shared else None
        try:
            yield
        finally:
            if beating is not None:
                beating.cancel()
                await asyncio.gather(beating, return_exceptions=True)

    def free_stale(self) -> None:
        """Queue again what a dead worker had in hand."""
        if not self._is_shared:
            return
        for left in self._running():
            since_s = time.time() - float(left.user_attrs.get(_BEAT, _born(left)))
            if left.number not in self._asked and since_s > GRACE_S:
                # Another worker may have been quicker.
                with suppress(RuntimeError, optuna.exceptions.UpdateFinishedTrialError):
                    self._settle(left)

    def _running(self) -> list[optuna.trial.FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))

    def _tried_beside(self, number: int) -> set[str]:
        """What is under way, as far as it was asked for before trial `number`."""
        earlier = [t for t in self._running() if t.number < number]
        for _ in range(_LOOKS):
            if all(t.params.keys() == self._distributions.keys() for t in earlier):
                break
            # Another process is about to write down what it was given.
            time.sleep(_LOOK_S)
            earlier = [t for t in self._running() if t.number < number]
        return {
            key(self._space.launch(self._choice(t.params)))
            for t in earlier
            if t.params.keys() == self._distributions.keys()
        }

    def repeat(self, options: dict[str, Scalar], origin: str) -> Ask:
        """Ask for a configuration again, to see whether the machine is still the same."""
        self._enqueue(options, origin, again=True)
        return self._started(self._study.ask(self._distributions), options)

    def beside(self, options: dict[str, Scalar], origin: str) -> Ask:
        """A configuration that costs nothing to try along with another; it may be forgotten."""
        return Ask(UNASKED, options, origin)

    def best_of(self, options: Sequence[dict[str, Scalar]]) -> dict[str, Scalar] | None:
        """Which of these the sampler would try next; None where it has no opinion."""
        best_of = getattr(self._study.sampler, "best_of", None)
        return None if best_of is None else options[best_of(self.trials(), options)]

    def expects(self, options: dict[str, Scalar]) -> bool:
        """Whether the sampler believes that it would start; True where it has no opinion."""
        starts = getattr(self._study.sampler, "starts", None)
        return starts is None or bool(starts(self.trials(), options))

    def tell(self, trial: Trial) -> Trial:
        """Keep what became of the trial of this number: durable once its attribute is.

        If another worker took this one for dead meanwhile, it is kept under a new number.
        """
        if trial.number == UNASKED:
            return self._added(trial)
        asked = self._asked.pop(trial.number)
        try:
            for name, excess in constraints(trial, self._objective).items():
                asked.set_constraint(name, excess)
            asked.set_user_attr(_TRIAL, json.dumps(trial.to_json()))
            self._study.tell(asked, self._value(trial))
        except optuna.exceptions.UpdateFinishedTrialError:
            return self._added(trial)
        return trial

    def _added(self, trial: Trial) -> Trial:
        """A trial that the sampler was not asked for, whole at once, under the next number."""
        kept = replace(trial, number=len(self._study.get_trials(deepcopy=False)))
        made = optuna.trial.create_trial(
            value=self._value(trial), params=self._params(trial.options),
            distributions=dict(self._distributions),
            user_attrs={_TRIAL: json.dumps(kept.to_json())},
            constraints=constraints(trial, self._objective),
        )  # fmt: skip
        self._study.add_trial(made)
        return kept

    def take_up(self) -> None:
        """Finish what a killed tuner left: keep what was measured, queue the rest again."""
        if self._is_shared:
            self.free_stale()
            return
        for left in self._running():
            self._settle(left)

    def _settle(self, left: optuna.trial.FrozenTrial) -> None:
        if _TRIAL in left.user_attrs:
            self._study.tell(left.number, self._value(read(left)))
            return
        params = left.user_attrs.get(_PARAMS, left.params)
        origin = str(left.user_attrs.get(_ORIGIN, "search"))
        self._study.tell(left.number, state=TrialState.FAIL)
        if params.keys() == self._distributions.keys():
            self._enqueue(self._space.launch(self._choice(params)), origin, again=True)

    def _value(self, trial: Trial) -> float:
        if not trial.measurements:
            return _NEVER_MEASURED
        return max(self._objective.value(trial.measurements), _NEVER_MEASURED)

    def _started(self, asked: optuna.trial.Trial, options: dict[str, Scalar]) -> Ask:
        self._asked[asked.number] = asked
        if self._is_shared:
            asked.set_user_attr(_BEAT, time.time())
        outlook = getattr(self._study.sampler, "outlook", None)
        if isinstance(outlook, Outlook):
            self.outlooks.append(outlook)
        return Ask(asked.number, options, str(asked.user_attrs.get(_ORIGIN, "search")))

    def _answer(self, asked: optuna.trial.Trial, known: Trial | None) -> None:
        """Tell the sampler at no cost what is known already, or that it cannot work."""
        excesses = {"rule": 1.0} if known is None else constraints(known, self._objective)
        for name, excess in excesses.items():
            asked.set_constraint(name, excess)
        self._study.tell(asked, self._value(known) if known else _NEVER_MEASURED)

    def _untried(self, seen: Mapping[str, Trial]) -> Ask | None:
        """The sampler goes in circles: take the first combination that was not tried."""
        for options in self._space.combinations():
            if key(options) not in seen:
                return self.repeat(options, "sweep")
        return None

    def _enqueue(self, options: dict[str, Scalar], origin: str, *, again: bool) -> None:
        params = self._params(options)
        about = {_ORIGIN: origin, _PARAMS: params}
        self._study.enqueue_trial(params, about, skip_if_exists=not again)

    def _params(self, options: Mapping[str, Scalar]) -> dict[str, Any]:
        choice = self._space.choice(options)
        return {
            k.name: choice[k.name]
            if k.kind == "categorical"
            else k.choices.index(k.nearest(choice[k.name]) or 0)
            for k in self._space.knobs
        }

    def _choice(self, params: Mapping[str, Any]) -> dict[str, Scalar]:
        return {k.name: value_of(k, params[k.name]) for k in self._space.knobs}


def _born(trial: optuna.trial.FrozenTrial) -> float:
    return trial.datetime_start.timestamp() if trial.datetime_start else 0.0


def distribution(knob: Knob) -> BaseDistribution:
    """A knob as Optuna sees it."""
    if knob.kind == "categorical":
        return CategoricalDistribution(knob.choices)
    return IntDistribution(0, len(knob.choices) - 1)


def value_of(knob: Knob, param: Any) -> Scalar:
    """The knob's value of an Optuna parameter."""
    chosen: Scalar = param if knob.kind == "categorical" else knob.choices[int(param)]
    return chosen


def finished(study: optuna.Study) -> list[Trial]:
    """Every finished trial of ours in an Optuna study, in the order of their numbers."""
    found = study.get_trials(deepcopy=False)
    return [read(t) for t in found if t.state.is_finished() and _TRIAL in t.user_attrs]


def read(frozen: optuna.trial.FrozenTrial) -> Trial:
    """The trial that was kept with an Optuna trial."""
    return _parsed(str(frozen.user_attrs[_TRIAL]))


@functools.lru_cache(maxsize=4096)
def _parsed(text: str) -> Trial:
    return Trial.from_json(json.loads(text))


def constraints(trial: Trial, objective: Objective) -> dict[str, float]:
    """A crash is a violated constraint, the graver the earlier, and never a failed trial."""
    if trial.state == "failed":
        phase = trial.failure.phase if trial.failure else ""
        late = _PHASES.index(phase) if phase in _PHASES else len(_PHASES) // 2
        return {"crash": 1.0 + (len(_PHASES) - late) / len(_PHASES)}
    excesses = objective.broken(trial.measurements)
    return {name: min(excess, 10.0) for name, excess in {"crash": 0.0, **excesses}.items()}


@contextmanager
def opened(
    storage: str,
    name: str,
    space: Space,
    objective: Objective,
    sampler: optuna.samplers.BaseSampler,
) -> Iterator[Study]:
    """The study `name`, taken up where it was left; made where it is not there.

    A `storage` that is a path is a file of this machine, held by one tuner at a time; a URL
    is shared; `MEMORY` keeps nothing.

    Raises:
        UsageError: another tuner is at work on it.
    """
    with storages.held(storage) as where:
        made = optuna.create_study(
            storage=where,
            study_name=name,
            direction="maximize",
            sampler=sampler,
            load_if_exists=True,
        )
        study = Study(made, space, objective, is_shared=storages.is_shared(storage))
        study.take_up()
        yield study
