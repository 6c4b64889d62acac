"""How much a tune shall do, as its flags say it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vllama.errors import UsageError

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


def settle(args: argparse.Namespace) -> None:
    """Check them, and let `--quick` set what it stands for.

    Raises:
        UsageError: they contradict each other.
    """
    if args.trials < 1:
        raise UsageError("--trials must be at least 1")
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
    return given + [f"--{name}" for name in ("quick", "ablate") if getattr(args, name)]


def documents(folder: Path) -> Iterator[dict[str, Any]]:
    """What earlier studies came to; one that cannot be read has nothing to say."""
    for path in sorted(folder.glob("*.json")):
        try:
            read = json.loads(path.read_text())
        except (OSError, ValueError):
            continue
        if isinstance(read, dict):
            yield read
