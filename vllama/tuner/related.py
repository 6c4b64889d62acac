"""Related: the best of earlier studies on this machine, as seeds for a new one.

They are tried, never believed: what won elsewhere is a good guess here and no more.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from vllama.profile import Scalar
from vllama.tuner.subject import Subject

MOST = 3
# Models count as similar whose sizes are within this factor.
_SIMILAR = 4.0

Document = Mapping[str, Any]


def about(subject: Subject) -> dict[str, Any]:
    """What a document says of its model, so that a later study can tell whether it is related."""
    shape = subject.space.ground.model.shape
    return {
        "architecture": shape.architecture,
        "parameters": shape.parameters,
        "quantization": shape.quantization,
    }


def seeds(subject: Subject, documents: Iterable[Document]) -> dict[str, list[dict[str, Scalar]]]:
    """The winners of the nearest studies, on the knobs of `subject`, by where they come from.

    Of the same engine on the same machine; of the same model, or one of similar size. Studies
    in which the default was kept have nothing to give.
    """
    found: dict[str, list[dict[str, Scalar]]] = {}
    known = [dict(s) for s in subject.space.seeds]
    for document in sorted(_related(subject, documents), key=lambda d: _distance(subject, d)):
        options = _here(subject, (document.get("best") or {}).get("options") or {})
        if options and options not in known and len(found) < MOST:
            known.append(options)
            found[f"study {document['study']}"] = [options]
    return found


def _related(subject: Subject, documents: Iterable[Document]) -> Iterable[Document]:
    default = subject.default
    for document in documents:
        engine = (document.get("engine") or {}).get("name")
        machine = (document.get("machine") or {}).get("fingerprint")
        here = engine == default.engine and machine == default.machine
        other = here and document.get("study") != subject.study
        if other and _distance(subject, document) <= math.log(_SIMILAR):
            yield document


def _distance(subject: Subject, document: Document) -> float:
    """The log of the ratio of sizes; a little more for another architecture."""
    if document.get("model") == subject.default.model:
        return -1.0
    there, here = document.get("shape") or {}, about(subject)
    sizes = int(there.get("parameters") or 0), int(here["parameters"])
    if not all(sizes):
        return math.inf
    other = 0.0 if there.get("architecture") == here["architecture"] else 0.1
    return abs(math.log(sizes[0] / sizes[1])) + other


def _here(subject: Subject, options: Mapping[str, Any]) -> dict[str, Scalar]:
    """Its options on the values that this space has; empty where they cannot work here."""
    knobs = {k.name: k for k in subject.space.knobs}
    choice: dict[str, Scalar] = {}
    for name, value in options.items():
        near = knobs[name].nearest(value) if name in knobs else None
        if near is not None:
            choice[name] = near
    launched = subject.space.launch(choice)
    return launched if subject.space.check(launched) is None else {}
