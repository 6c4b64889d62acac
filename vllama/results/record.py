"""Record: one measurement or trial, with all that is needed to repeat it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, Literal, TypeAlias

import msgspec

from vllama.bench.measurement import Measurement
from vllama.bench.workload import Workload
from vllama.errors import ProfileBroken, RecordBroken
from vllama.profile import Profile

FORMAT = 1
Kind: TypeAlias = Literal["trial", "measurement"]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why nothing was measured: `kind` as of `EngineFailed`, or the bench's own word."""

    kind: str
    message: str
    phase: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """One workload on one profile, measured or failed.

    `machine` is the fingerprint. Exactly one of `measurement` and `failure` is there;
    `workload` is None only where the engine failed before any load. Times carry their zone.
    `study` and `trial` say which search it belongs to, where it belongs to one.
    """

    kind: Kind
    profile: Profile
    machine: str
    engine: str
    engine_version: str
    vllama_version: str
    seed: int
    started_at: datetime
    ended_at: datetime
    workload: Workload | None = None
    measurement: Measurement | None = None
    failure: Failure | None = None
    git_commit: str | None = None
    study: str | None = None
    trial: int | None = None

    def __post_init__(self) -> None:
        if (self.measurement is None) == (self.failure is None):
            raise ValueError("a record holds either a measurement or a failure")
        if self.measurement is not None and self.workload is None:
            raise ValueError("a measurement needs the workload it was made with")
        if self.started_at.tzinfo is None or self.ended_at.tzinfo is None:
            raise ValueError("a record's times need a time zone")

    def to_json(self) -> dict[str, Any]:
        """The document that `from_json` reads: one line of a ledger."""
        return {
            "format": FORMAT,
            "kind": self.kind,
            "profile": self.profile.to_json(),
            "machine": self.machine,
            "engine": self.engine,
            "engine_version": self.engine_version,
            "vllama_version": self.vllama_version,
            "seed": self.seed,
            "started_at": self.started_at.isoformat(),
            "ended_at": self.ended_at.isoformat(),
            "workload": None if self.workload is None else asdict(self.workload),
            "measurement": None if self.measurement is None else asdict(self.measurement),
            "failure": None if self.failure is None else asdict(self.failure),
            "git_commit": self.git_commit,
            "study": self.study,
            "trial": self.trial,
        }

    @classmethod
    def from_json(cls, document: object) -> "Record":
        """Read what `to_json` wrote; keys that are not known here are passed over.

        Raises:
            RecordBroken: not a record, or of another format; says which field.
        """
        if not isinstance(document, Mapping):
            raise RecordBroken("a record is a JSON object")
        if document.get("format") != FORMAT:
            raise RecordBroken(
                f"record format {document.get('format')!r} is not the {FORMAT} that is read here",
                "It was written by another version of vllama: upgrade to read it.",
            )
        try:
            profile = Profile.from_json(document.get("profile"))
            return replace(msgspec.convert(document, cls), profile=profile)
        except (msgspec.ValidationError, ProfileBroken, ValueError) as error:
            raise RecordBroken(f"not a record: {error}") from error
