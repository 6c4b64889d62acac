"""How requests arrive in an open loop: `--rate` and `--arrivals` of `vllama bench`."""

import argparse
import re
from pathlib import Path
from typing import Any, get_args

from vllama.bench.arrivals import Process, trace
from vllama.bench.workload import Workload
from vllama.errors import UsageError

_PROCESSES = get_args(Process)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare them."""
    parser.add_argument(
        "--rate", type=_rate, metavar="R[..R]",
        help="open loop: R requests/s, whatever happens; 2..10 rises from 2 to 10",
    )  # fmt: skip
    parser.add_argument(
        "--arrivals", metavar="HOW|FILE",
        help=f"in an open loop: {', '.join(_PROCESSES)} (poisson), or a file of their times",
    )  # fmt: skip


def changes(args: argparse.Namespace) -> dict[str, Any]:
    """What they change in a workload.

    Raises:
        UsageError: they do not go together, or the file holds no times.
    """
    found: dict[str, Any] = {}
    if args.rate:
        first, last = args.rate
        found["rate_per_s"] = first
        if last is not None:
            found["rate_to_per_s"] = last
    if not args.arrivals:
        return found
    if "rate_to_per_s" in found:
        raise UsageError("a rate that rises is always Poisson's", "Leave out --arrivals.")
    if args.arrivals in _PROCESSES:
        if not args.rate:
            raise UsageError("--arrivals needs a rate", "Such as --rate 4.")
        return found | {"arrivals": args.arrivals}
    path = Path(args.arrivals).absolute()
    if not path.is_file():
        raise UsageError(
            f"no file and no way to arrive is called '{args.arrivals}'",
            f"There are: {', '.join(_PROCESSES)}.",
        )
    times, span_s = trace(path)
    found.setdefault("rate_per_s", len(times) / span_s)
    if not (args.duration or args.requests or args.capacity):
        found["duration_s"] = len(times) / found["rate_per_s"]
    return found | {"trace": str(path)}


def told(load: Workload) -> str:
    """Such as `rate-4`, `rate-2-to-10` or `trace-monday-4`."""
    if load.trace:
        return f"trace-{Path(load.trace).stem}-{load.rate_per_s:.3g}"
    if load.rate_to_per_s is not None:
        return f"rate-{load.rate_per_s:g}-to-{load.rate_to_per_s:g}"
    return f"rate-{load.rate_per_s:g}"


def _rate(text: str) -> tuple[float, float | None]:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(?:\.\.(\d+(?:\.\d+)?))?", text.strip())
    if match is None or float(match[1]) <= 0 or float(match[2] or 1) <= 0:
        raise argparse.ArgumentTypeError(f"'{text}' is no rate above 0, such as 4 or 2..10")
    return float(match[1]), float(match[2]) if match[2] else None
