"""Subject: what one search is about."""

import hashlib
import json
import re
from dataclasses import asdict, dataclass, replace

from vllama.bench.workload import Workload
from vllama.profile import Profile, Scalar
from vllama.tuner.accuracy import Text
from vllama.tuner.knob import is_variable
from vllama.tuner.objective import Objective
from vllama.tuner.space import Space


@dataclass(frozen=True, slots=True)
class Subject:
    """A model on an engine on a machine, under loads, with a goal.

    `default` is the engine's own default profile; every other is it plus options of `space`.
    `accuracy` is the text on which lossy options must answer as the default does.
    """

    default: Profile
    workloads: tuple[Workload, ...]
    objective: Objective
    space: Space
    accuracy: Text | None = None

    def profile(self, options: dict[str, Scalar], name: str = "trial") -> Profile:
        """The profile that launches with `options` on top of the default's.

        Those that are variables go into its environment.
        """
        flags = {k: v for k, v in options.items() if not is_variable(k)}
        variables = {k: str(v) for k, v in options.items() if is_variable(k)}
        environment = {**self.default.environment, **variables}
        whole = replace(self.default.with_options(**flags), environment=environment)
        return Profile.from_json({**whole.to_json(), "name": name, "provenance": {}})

    @property
    def study(self) -> str:
        """A name for its study: readable, and equal only for what may share trials.

        A study may be taken up again only where its trials are comparable and the space is
        the same, so all that they depend on is in it.
        """
        start = self.default
        goal = self.objective.name
        model = re.sub(r"[^A-Za-z0-9.]+", "-", start.model.rstrip("/").rpartition("/")[2])
        draft = self.space.ground.draft
        further = [] if self.accuracy is None else [self.accuracy.digest]
        further += [] if draft is None else [draft.name]
        what = json.dumps(
            [
                *further,
                start.digest,
                start.engine_version,
                start.machine,
                [asdict(w) for w in self.workloads],
                [str(limit) for limit in self.objective.limits],
                [[k.name, k.choices] for k in self.space.knobs],
            ],
            sort_keys=True,
        )
        digest = hashlib.sha256(what.encode()).hexdigest()[:8]
        return f"{model.strip('-')}-{start.engine}-{goal}-{digest}"
