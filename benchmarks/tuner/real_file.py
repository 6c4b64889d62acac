"""What a grid on a real engine found, line by line, each on disk as soon as it is known."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vllama.profile import Scalar
from vllama.tuner.trial import Trial, in_words

FACTS = ("kv_cache_tokens", "kv_cache_bytes", "load_s", "compile_s")


@dataclass(frozen=True, slots=True)
class Line:
    """One configuration that was measured, or a tuner's choice.

    `part` is grid, control, race, trial, live-trial, or chosen and live-chosen, whose `number`
    is the starts of the finals and whose `rate` is configurations an hour of the search.
    """

    part: str
    options: Mapping[str, Scalar]
    rate: float = 0.0
    ttft_s: float = 0.0
    start_s: float = 0.0
    seconds: float = 0.0
    number: int = 0
    round: int = 0
    at: str = ""
    failure: str = ""
    facts: Mapping[str, Scalar] = field(default_factory=dict)

    @classmethod
    def of(cls, part: str, trial: Trial, round_: int = 0) -> "Line":
        """A trial in short: of one load, or of none when it failed."""
        measured = next(iter(trial.measurements.values()), None)
        ttft = measured.ttft_s.mean if measured and measured.ttft_s else 0.0
        return cls(
            part, dict(trial.options), measured.output_tokens_per_s if measured else 0.0, ttft,
            trial.start_s, trial.seconds, trial.number, round_,
            trial.ended_at.isoformat(timespec="seconds") if trial.ended_at else "",
            trial.failure.message if trial.failure else "",
            {k: v for k, v in trial.facts.items() if k in FACTS},
        )  # fmt: skip


class File:
    """The lines of one benchmark."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self, part: str = "") -> list[Line]:
        """Those of a part, or all; a line that a kill cut short is not one."""
        if not self.path.exists():
            return []
        found = [_parsed(text) for text in self.path.read_text().splitlines()]
        return [line for line in found if line and part in ("", line.part)]

    def append(self, line: Line) -> None:
        """Keep it, also through a kill."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            if file.tell() and _last_byte(self.path) != b"\n":
                file.write(b"\n")
            file.write(json.dumps(_short(line)).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def keep(self, part: str, trial: Trial, round_: int = 0) -> None:
        """Keep a trial, and say so."""
        line = Line.of(part, trial, round_)
        self.append(line)
        rate = f"{line.rate:8.1f} tok/s" if line.rate else f"{line.failure[:60]}"
        words = in_words(line.options)
        print(f"{part:10} {rate}  start {line.start_s:5.1f} s  {words}", flush=True)

    def forget(self) -> None:
        """Begin anew."""
        self.path.unlink(missing_ok=True)


def _last_byte(path: Path) -> bytes:
    return path.read_bytes()[-1:]


def _short(line: Line) -> dict[str, Any]:
    rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(line).items()}
    return {k: v for k, v in rounded.items() if v not in (0.0, "", {}) or k == "options"}


def _parsed(text: str) -> Line | None:
    try:
        return Line(**json.loads(text))
    except (ValueError, TypeError):
        return None
