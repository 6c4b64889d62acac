"""The space of configurations: what may be varied here, what binds it, where to begin."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from vllama.bench.workload import Workload
from vllama.errors import UsageError
from vllama.machine import Machine
from vllama.model import Model
from vllama.profile import Profile, Scalar
from vllama.tuner import knobs_llamacpp, knobs_vllm
from vllama.tuner.fit import Fit
from vllama.tuner.knob import Catalogue, Ground, Knob, Options, Rule, RuledOut, is_variable

__all__ = ["Knob", "Options", "RuledOut", "Space", "build"]

_CATALOGUES: dict[str, Catalogue] = {
    "vllm": knobs_vllm.CATALOGUE,
    "llamacpp": knobs_llamacpp.CATALOGUE,
    # It stands in for vLLM and takes its names.
    "simulator": knobs_vllm.CATALOGUE,
}


@dataclass(frozen=True, slots=True)
class Space:
    """Every configuration worth a thought. A choice maps knob names to values.

    A choice may be partial: what it lacks is at the knob's default. `launch` turns it into
    the options to add to the default profile; `seeds` are such options already, the empty
    one first.
    """

    knobs: tuple[Knob, ...]
    ruled_out: tuple[RuledOut, ...]
    seeds: tuple[dict[str, Scalar], ...]
    ground: Ground
    rules: tuple[Rule, ...]
    fit: Fit | None = None

    def check(self, options: Options) -> str | None:
        """Why this combination cannot work, in words; None when it may."""
        every = self.effective(options)
        reason = next((reason for rule in self.rules if (reason := rule(every))), None)
        if reason is not None or self.fit is None or not options:
            return reason
        verdict = self.fit.verdict(every)
        return None if verdict.fits else verdict.reason

    def effective(self, options: Options) -> dict[str, Scalar]:
        """All that an engine launched with `options` works with, as far as it is known."""
        given = {k.name: k.default for k in self.knobs} | dict(self.ground.default)
        follows = self._catalogue.complete(self.ground, {**given, **options})
        return {**given, **follows, **options}

    def launch(self, choice: Options) -> dict[str, Scalar]:
        """What `choice` adds to the default profile: overrides, and what follows from them."""
        given = self.ground.default
        defaults = {k.name: given.get(k.name, k.default) for k in self.knobs}
        changed = {k: v for k, v in choice.items() if k not in defaults or v != defaults[k]}
        if not changed:
            return {}
        follows = self._catalogue.complete(self.ground, {**defaults, **given, **changed})
        return changed | {k: v for k, v in follows.items() if given.get(k) != v}

    def choice(self, options: Options) -> dict[str, Scalar]:
        """A value for every knob, the inverse of `launch`."""
        given = {**self.ground.default, **options}
        return {k.name: given.get(k.name, k.default) for k in self.knobs}

    def snapped(self, options: Options) -> dict[str, Scalar]:
        """The choice nearest to `options`: an earlier space may have had other values."""
        choice = self.choice(options)
        return {k.name: _near(k, choice[k.name]) for k in self.knobs}

    def point(self, options: Options) -> list[float]:
        """Coordinates: a number's place between low and high, categories one by one."""
        choice = self.choice(options)
        point: list[float] = []
        for knob in self.knobs:
            value = choice[knob.name]
            if knob.kind == "categorical" and len(knob.choices) > 2:
                point += [float(value == c) for c in knob.choices]
            else:
                point.append(knob.coordinate(value))
        return point

    def neighbourhood(self, options: Options) -> Iterator[dict[str, Scalar]]:
        """Launches that differ in one knob: the next number either way, any other category."""
        centre = self.choice(options)
        for knob in self.knobs:
            for value in _beside(knob, centre[knob.name]):
                near = self.launch({**centre, knob.name: value})
                if self.check(near) is None:
                    yield near

    def combinations(self) -> Iterator[dict[str, Scalar]]:
        """Every launch that may work: for grids, and for samplers that enumerate."""
        names = [k.name for k in self.knobs]
        for values in itertools.product(*(k.choices for k in self.knobs)):
            found = self.launch(dict(zip(names, values, strict=True)))
            if self.check(found) is None:
                yield found

    @property
    def size(self) -> int:
        """How many combinations there are, those that cannot work included."""
        product = 1
        for knob in self.knobs:
            product *= len(knob.choices)
        return product

    @property
    def compiled(self) -> frozenset[str]:
        """The options under whose values the engine keeps compiled code for later starts."""
        return self._catalogue.compiled

    @property
    def _catalogue(self) -> Catalogue:
        return _CATALOGUES[self.ground.engine]


def build(
    model: Model,
    machine: Machine,
    *,
    engine: str,
    version: str,
    accepts: frozenset[str],
    default: Profile,
    load: Sequence[Workload],
    allow_lossy: bool = False,
    draft: Model | None = None,
) -> Space:
    """What may be varied for `model` on `machine` under `load`.

    Raises:
        UsageError: there is nothing to tune in an engine of that name.
    """
    if engine not in _CATALOGUES:
        raise UsageError(f"'{engine}' cannot be tuned", f"These can: {', '.join(_CATALOGUES)}.")
    ground = Ground(
        model, machine, engine, version, accepts, default.options, tuple(load), allow_lossy,
        draft,
    )  # fmt: skip
    catalogue = _CATALOGUES[engine]
    made = [_make(name, catalogue, ground) for name in catalogue.makers]
    knobs = tuple(m for m in made if isinstance(m, Knob))
    bare = Space(
        knobs=knobs,
        ruled_out=tuple(m for m in made if isinstance(m, RuledOut)),
        seeds=({},),
        ground=ground,
        rules=tuple(catalogue.rules(ground)),
        fit=_trusted(ground),
    )
    return replace(bare, seeds=_seeds(bare, catalogue))


def _trusted(ground: Ground) -> Fit | None:
    """The memory model, unless it is wrong about the default already, which must be tried."""
    fit = Fit.of(ground)
    return fit if fit.verdict({}).fits else None


def _make(name: str, catalogue: Catalogue, ground: Ground) -> Knob | RuledOut:
    if name not in ground.accepts and not is_variable(name):
        return RuledOut(name, f"{ground.engine} {ground.version} does not take this option")
    made = catalogue.makers[name](ground)
    if isinstance(made, RuledOut):
        return made
    knob = _with_default(made, ground.default.get(name, made.default))
    if len(knob.choices) < 2:
        return RuledOut(name, f"only {knob.default} makes sense here")
    return knob


def _with_default(knob: Knob, default: Scalar) -> Knob:
    """The default is always among the choices: it must be possible to leave things alone."""
    choices = knob.choices if default in knob.choices else (default, *knob.choices)
    if knob.kind != "categorical":
        choices = tuple(sorted(choices, key=float))
    return replace(knob, default=default, choices=choices)


def _seeds(space: Space, catalogue: Catalogue) -> tuple[dict[str, Scalar], ...]:
    """The rule-of-thumb choices, moved onto the knobs' values; without repeats."""
    knobs = {k.name: k for k in space.knobs}
    seeds: list[dict[str, Scalar]] = [{}]
    for wanted in catalogue.seeds(space.ground):
        choice = {
            name: value
            for name, about in wanted.items()
            if name in knobs and (value := knobs[name].nearest(about)) is not None
        }
        found = space.launch(choice)
        if found not in seeds and space.check(found) is None:
            seeds.append(found)
    return tuple(seeds)


def _near(knob: Knob, value: Scalar) -> Scalar:
    near = knob.nearest(value)
    return knob.default if near is None else near


def _beside(knob: Knob, value: Scalar) -> tuple[Scalar, ...]:
    if knob.kind == "categorical":
        return tuple(c for c in knob.choices if c != value)
    near = knob.nearest(value)
    at = 0 if near is None else knob.choices.index(near)
    return knob.choices[max(0, at - 1) : at] + knob.choices[at + 1 : at + 2]
