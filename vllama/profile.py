"""Profile: one way to launch one engine; the handshake between the tuner and the server."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from vllama.errors import ProfileBroken

FORMAT = 1
# The key of the provenance that says which versions of the engine a profile is for.
ENGINE_VERSIONS = "engine_versions"
Scalar: TypeAlias = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Profile:
    """How to launch `engine` for `model`.

    `options` are the engine's own option names without dashes (`max_num_seqs`), so that a
    profile reads like the command it becomes; `environment` is added to the child's.
    `machine` is the fingerprint it was made on, empty for "any". `provenance` says where it
    comes from: study, objective, gain, expected figures, fall-back order, engine versions.
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

    @property
    def engine_versions(self) -> str:
        """The versions of its engine that it is for, such as `>=0.32,<0.33`; empty for any.

        What its provenance says, else the release that it was made with: flags and defaults
        change between releases, not within one.
        """
        said = self.provenance.get(ENGINE_VERSIONS)
        if isinstance(said, str) and said:
            return said
        return _release(self.engine_version) if self.engine_version else ""

    def is_outdated_by(self, version: str) -> bool:
        """Whether it is for other versions of its engine than `version`."""
        wanted = self.engine_versions
        return bool(wanted and version) and not _is_within(version, wanted)

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
    """All versions that share their first two numbers with this one; itself if it has none."""
    name, _, number = version.rpartition(" ")
    numbers = _numbers(number)
    bounds = f"=={number}"
    if len(numbers) >= 2:
        major, minor = numbers[:2]
        bounds = f">={major}.{minor},<{major}.{minor + 1}"
    return f"{name} {bounds}".strip()


def _is_within(version: str, versions: str) -> bool:
    """Whether it is of that name, where there is one, and within every bound."""
    name, _, bounds = versions.replace(", ", ",").rpartition(" ")
    here_name, _, here = version.rpartition(" ")
    return name == here_name and all(_keeps(here, bound) for bound in bounds.split(","))


def _keeps(number: str, bound: str) -> bool:
    """What is no bound is kept by the same text only."""
    match = re.fullmatch(r"(>=|<)(\d.*)", bound)
    if match is None or not _numbers(number):
        return number == bound.removeprefix("==")
    return (_numbers(number) >= _numbers(match[2])) == (match[1] == ">=")


def _numbers(version: str) -> tuple[int, ...]:
    """`0.32.1rc2` begins with 0, 32, 1."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, match[0].split("."))) if match else ()
