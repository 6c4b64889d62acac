"""Profile: one way to launch one engine; the handshake between the tuner and the server."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from vllama.errors import ProfileBroken

FORMAT = 1
Scalar: TypeAlias = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Profile:
    """How to launch `engine` for `model`.

    `options` are the engine's own option names without dashes (`max_num_seqs`), so that a
    profile reads like the command it becomes; `environment` is added to the child's.
    `machine` is the fingerprint it was made on, empty for "any". `provenance` says where it
    comes from: study, objective, gain, expected figures, fall-back order.
    """

    name: str
    engine: str
    model: str
    options: Mapping[str, Scalar] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    engine_version: str = ""
    machine: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """64 hex digits over all that changes the launch, and nothing else."""
        launch = [self.engine, self.model, dict(self.options), dict(self.environment)]
        return hashlib.sha256(json.dumps(launch, sort_keys=True).encode()).hexdigest()

    def with_options(self, **options: Scalar) -> "Profile":
        """The same profile with these options set."""
        return replace(self, options={**self.options, **options})

    def is_outdated_by(self, version: str) -> bool:
        """Whether it was made with another release of its engine than `version`.

        Flags and defaults change between releases, not within one: `0.32.1` is of `0.32`.
        """
        known = bool(self.engine_version) and bool(version)
        return known and _release(version) != _release(self.engine_version)

    def to_json(self) -> dict[str, Any]:
        """The document that `from_json` reads."""
        return {
            "format": FORMAT,
            "name": self.name,
            "engine": self.engine,
            "engine_version": self.engine_version,
            "model": self.model,
            "machine": self.machine,
            "options": dict(self.options),
            "environment": dict(self.environment),
            "provenance": dict(self.provenance),
        }

    @classmethod
    def from_json(cls, document: object) -> "Profile":
        """Read what `to_json` wrote.

        Raises:
            ProfileBroken: not a profile, or of a newer format.
        """
        if not isinstance(document, dict):
            raise ProfileBroken("a profile is a JSON object")
        if document.get("format") != FORMAT:
            raise ProfileBroken(
                f"profile format {document.get('format')!r} is not the {FORMAT} that is read here",
                "It was written by another version of vllama: upgrade, or tune again.",
            )
        texts = {k: document.get(k, "") for k in ("name", "engine", "model")}
        for key, value in texts.items():
            if not isinstance(value, str) or not value:
                raise ProfileBroken(f"a profile needs '{key}', a text")
        tables = {k: document.get(k, {}) for k in ("options", "environment", "provenance")}
        for key, value in tables.items():
            if not isinstance(value, dict):
                raise ProfileBroken(f"a profile's '{key}' is an object")
        for key, value in tables["options"].items():
            if not isinstance(value, str | int | float | bool):
                raise ProfileBroken(
                    f"option '{key}' of a profile must be a text, number or boolean"
                )
        return cls(
            **texts,
            options=tables["options"],
            environment={k: str(v) for k, v in tables["environment"].items()},
            engine_version=str(document.get("engine_version", "")),
            machine=str(document.get("machine", "")),
            provenance=tables["provenance"],
        )


def _release(version: str) -> str:
    return ".".join(version.split(".")[:2])
