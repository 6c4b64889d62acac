"""How much a tune shall do, as its flags say it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllama.errors import UsageError

if TYPE_CHECKING:
    from vllama.model import Model
    from vllama.settings import Settings
    from vllama.tuner.accuracy import Text
    from vllama.tuner.space import Space

OBJECTIVES = ("throughput", "latency", "balanced", "capacity")
QUICK_TRIALS, QUICK_BUDGET = 10, "30m"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    add = parser.add_argument
    add("--objective", default="throughput", choices=OBJECTIVES,
        help="capacity is the most load that keeps every --slo (throughput)")  # fmt: skip
    add("--quick", action="store_true",
        help=f"at most {QUICK_TRIALS} trials, in {QUICK_BUDGET} where no --budget is")  # fmt: skip
    add("--ablate", action="store_true",
        help="also put the winner's settings back one by one: which of them mattered?")  # fmt: skip


def draft_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what guesses ahead."""
    parser.add_argument("--draft", metavar="MODEL",
        help="a small model of the same vocabulary that may guess ahead")  # fmt: skip


def draft(args: argparse.Namespace, engine: str, settings: Settings) -> Model | None:
    """The model that may guess ahead; None where none was named, or only another engine of
    `--engine auto` can read it.

    Raises:
        ModelNotFound: there is none of that name.
        UsageError: it cannot guess.
    """
    from vllama import store

    if args.draft is None:
        return None
    found = store.resolve(args.draft, settings)
    kind = "gguf" if engine == "llamacpp" else "safetensors"
    if kind in found.formats:
        return found
    if args.engine == "auto":
        return None
    raise UsageError(f"--draft {args.draft} is not there as {kind}", f"{engine} reads no other.")


def lossy_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what lets answers change, and how much."""
    add = parser.add_argument
    add("--allow-lossy", action="store_true",
        help="also try what may change answers; it wins only if they hardly change")  # fmt: skip
    add("--accuracy-text", metavar="FILE",
        help="the text on which --allow-lossy compares answers (one that is built in)")  # fmt: skip


def accuracy(args: argparse.Namespace, space: Space) -> Text | None:
    """The text of the accuracy gate; None where there is nothing that must pass it.

    Raises:
        UsageError: it cannot be used.
    """
    from vllama.tuner import accuracy

    if not any(knob.lossy for knob in space.knobs):
        return None
    return accuracy.text(args.accuracy_text)


def settle(args: argparse.Namespace) -> None:
    """Check them, and let `--quick` set what it stands for.

    Raises:
        UsageError: they contradict each other.
    """
    if args.trials < 1:
        raise UsageError("--trials must be at least 1")
    if args.accuracy_text and not args.allow_lossy:
        raise UsageError(
            "--accuracy-text is for --allow-lossy", "Without it, nothing changes the answers."
        )
    if args.objective == "capacity" and not args.slo:
        raise UsageError(
            "--objective capacity needs a limit to keep", "Such as --slo ttft_p99=500ms."
        )
    if args.quick:
        args.trials = min(args.trials, QUICK_TRIALS)
        args.budget = args.budget or QUICK_BUDGET


def words(args: argparse.Namespace) -> list[str]:
    """The flags as they were given."""
    given = ["--objective", args.objective]
    given += ["--draft", args.draft] if args.draft else []
    given += ["--allow-lossy"] if args.allow_lossy else []
    given += ["--accuracy-text", args.accuracy_text] if args.accuracy_text else []
    return given + [f"--{name}" for name in ("quick", "ablate") if getattr(args, name)]


def documents(folder: Path) -> Iterator[dict[str, Any]]:
    """What earlier studies came to; one that cannot be read has nothing to say."""
    for path in sorted(folder.glob("*.json")):
        try:
            read = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(read, dict):
            yield read
