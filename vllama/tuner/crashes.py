"""What crashes have in common: which configurations probably fall for the same reason.

Every crash is explained by something simple in its options: one value, a value "or more" or
"or less", or two of these together. A success clears every explanation that it has in it.
What share of a crash's uncleared explanations a configuration shares is how likely it falls;
one that explains several crashes at once weighs the more.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from vllama.profile import Scalar
from vllama.tuner.gaussian import Array, Mask
from vllama.tuner.space import Knob
from vllama.tuner.trial import Trial

Choice = Mapping[str, Scalar]
PAIR_WEIGHT = 0.5
FOR_EACH_FURTHER = 4.0
LEAST = 0.02


def survival(
    knobs: Sequence[Knob], every: Sequence[Choice], tried: Sequence[tuple[Choice, Trial]]
) -> Array:
    """The probability that each configuration of `every` comes up."""
    up = np.ones(len(every))
    fallen = [choice for choice, trial in tried if trial.state == "failed"]
    if not fallen:
        return up
    successes = [choice for choice, trial in tried if trial.state != "failed"]
    table, known = _table(knobs, every), _table(knobs, successes)
    for crash in {tuple(c[k.name] for k in knobs): c for c in fallen}.values():
        up *= 1 - _shared(knobs, crash, table, known, _table(knobs, fallen))
    return np.clip(up, LEAST, 1.0)


def _shared(
    knobs: Sequence[Knob], crash: Choice, table: Array, known: Array, fallen: Array
) -> Array:
    """The share of the explanations of `crash` that hold for each row of `table`."""
    here = _table(knobs, [crash])[0]
    single, cleared, fell = (_predicates(knobs, here, t) for t in (table, known, fallen))
    total, shared = 0.0, np.zeros(len(table))
    for simple, size in ((1.0, 1), (PAIR_WEIGHT, 2)):
        for parts in combinations(range(len(single)), size):
            if size == 2 and single[parts[0]][0] == single[parts[1]][0]:
                continue
            if np.all([cleared[p][1] for p in parts], axis=0).any():
                continue
            explained = int(np.all([fell[p][1] for p in parts], axis=0).sum())
            weight = simple * FOR_EACH_FURTHER ** min(explained - 1, 10)
            total += weight
            shared += weight * np.all([single[p][1] for p in parts], axis=0)
    result: Array = shared / total if total else np.all(table == here, axis=1).astype(float)
    return result


def _predicates(knobs: Sequence[Knob], here: Array, table: Array) -> list[tuple[int, Mask]]:
    """(knob, which rows it holds for): equal, and for numbers at least and at most."""
    found: list[tuple[int, Mask]] = []
    for index, knob in enumerate(knobs):
        column = table[:, index]
        found.append((index, column == here[index]))
        if knob.kind != "categorical":
            found += [(index, column >= here[index]), (index, column <= here[index])]
    return found


def _table(knobs: Sequence[Knob], choices: Sequence[Choice]) -> Array:
    rows = [[float(k.choices.index(c[k.name])) for k in knobs] for c in choices]
    return np.array(rows, dtype=float).reshape(len(choices), len(knobs))
