"""The baseline of a bench: reading it, measuring it again, and the verdict against it."""

import argparse
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vllama.errors import UsageError
from vllama.profile import Profile

REGRESSION = 3
AGAIN = "baseline"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what concerns a baseline."""
    parser.add_argument("--baseline", type=Path, metavar="FILE", help="what --out wrote earlier")
    parser.add_argument(
        "--max-regression", type=share, default=0.05, metavar="SHARE", help="allowed (5%%)"
    )
    parser.add_argument("--junit", type=Path, metavar="FILE", help="the verdict as JUnit XML")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="the verdict as Markdown")
    parser.add_argument("--html", type=Path, metavar="FILE", help="the whole report as a page")


def share(text: str) -> float:
    """A share such as `5%` or `0.05`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(%?)", text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"'{text}' is no share; write it like 5% or 0.05")
    return float(match[1]) / (100 if match[2] else 1)


def read(path: Path) -> dict[str, Any]:
    """What an earlier bench wrote with `--out`.

    Raises:
        UsageError: no such file, or it is something else.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"cannot read the baseline {path}: {error}", "Make one: vllama bench MODEL --out FILE"
        ) from error
    if not isinstance(document, dict) or "results" not in document or "targets" not in document:
        raise UsageError(f"{path} is no bench", "Make one: vllama bench MODEL --out FILE")
    return document


def again(baseline: Mapping[str, Any], profile: Profile | None, version: str) -> Profile | None:
    """The baseline's profile, where measuring it in turns says more than its stored samples.

    That is where the same engine in the same version is here and only the profile differs.
    """
    first: Mapping[str, Any] = next(iter(baseline["targets"]), {})
    document = first.get("profile")
    if profile is None or not document or first.get("version") != version:
        return None
    old = Profile.from_json(document)
    if old.engine != profile.engine or old.digest == profile.digest:
        return None
    return old


def judge(document: dict[str, Any], baseline: Mapping[str, Any], args: argparse.Namespace) -> int:
    """Hold the bench against the baseline; puts `gate` into the document; the exit code.

    Where the document has a target `baseline`, that is the baseline measured in turns.

    Raises:
        NotComparable: naming what differs.
    """
    from vllama.results import junit, regression

    names = [t["name"] for t in document["targets"]]
    regression.check_comparable(baseline, document)
    in_turns = AGAIN in names
    found = regression.gate(
        document if in_turns else baseline,
        document,
        max_regression=args.max_regression,
        baseline_target=AGAIN if in_turns else None,
        candidate_target=next(n for n in names if n != AGAIN),
    )
    document["gate"] = found.to_json()
    for check in found.checks:
        print(f"{check.verdict:<10} {check.workload}: {junit.sentence(check)}", file=sys.stderr)
    print(f"against {args.baseline}: {found.verdict}", file=sys.stderr)
    write(document, args, found)
    return REGRESSION if found.verdict == "regression" else 0


def write(document: dict[str, Any], args: argparse.Namespace, gate: Any = None) -> None:
    """Write the files that were asked for; without a gate there is no JUnit."""
    from vllama.disk import write_whole

    if args.markdown:
        from vllama.results import markdown

        write_whole(args.markdown, markdown.gate(gate) if gate else markdown.summary(document))
    if args.junit and gate:
        from vllama.results import junit

        write_whole(args.junit, junit.document(gate))
    if args.html:
        from vllama.results import report

        report.write(args.html, tune=None, bench=document, title="vllama bench")
