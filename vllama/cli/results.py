"""`vllama results`: what was measured on this machine, and how it went over time."""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from vllama.errors import UsageError
from vllama.settings import Settings

if TYPE_CHECKING:
    from vllama.results.ledger import Ledger
    from vllama.results.record import Record
    from vllama.results.trend import Series


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("action", nargs="?", default="list", choices=list(ACTIONS))
    parser.add_argument("number", nargs="?", type=int, help="of `show`: a record's number")
    parser.add_argument(
        "--ledger", type=Path, metavar="FILE", help="another ledger than the home's"
    )
    parser.add_argument("--model", help="only records of this model (a part of its name)")
    parser.add_argument("--workload", help="only records of this workload")
    parser.add_argument("--metric", default="output_tokens_per_s", help="of `trend`")
    parser.add_argument("--limit", type=int, default=50, help="of `list`: the newest so many (50)")
    parser.add_argument("--older-than", type=int, metavar="DAYS", help="of `prune`")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="of `export`")
    parser.add_argument("--parquet", type=Path, metavar="FILE", help="of `export`")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")


def run(args: argparse.Namespace) -> int:
    """Do the action; data goes to stdout."""
    from vllama.results.ledger import Ledger

    path = args.ledger or Settings.from_environment().home / "ledger.jsonl"
    return ACTIONS[args.action](Ledger(path), args)


def _list(ledger: "Ledger", args: argparse.Namespace) -> int:
    found = list(_chosen(ledger, args))[-args.limit :] if args.limit > 0 else []
    if args.json:
        print(json.dumps({"format": 1, "records": [_numbered(n, r) for n, r in found]}))
        return 0
    for number, record in found:
        print(_line(number, record))
    if not found:
        print(f"nothing in {ledger.path}", file=sys.stderr)
    return 0


def _show(ledger: "Ledger", args: argparse.Namespace) -> int:
    for number, record in enumerate(ledger.read(), 1):
        if number == args.number:
            print(json.dumps(record.to_json(), indent=2))
            return 0
    raise UsageError(f"no record {args.number}", "`vllama results list` shows their numbers.")


def _prune(ledger: "Ledger", args: argparse.Namespace) -> int:
    if args.older_than is None:
        raise UsageError("prune what?", "vllama results prune --older-than DAYS")
    limit = datetime.now(UTC) - timedelta(days=args.older_than)
    removed = ledger.prune(lambda record: record.started_at >= limit)
    print(f"removed {removed} records older than {args.older_than} days", file=sys.stderr)
    return 0


def _export(ledger: "Ledger", args: argparse.Namespace) -> int:
    from vllama.results import frame

    path = args.csv or args.parquet
    if path is None:
        raise UsageError("export where to?", "vllama results export --csv FILE, or --parquet FILE")
    count = frame.write([r for _, r in _chosen(ledger, args)], path)
    print(f"{count} records", file=sys.stderr)
    print(path)
    return 0


def _trend(ledger: "Ledger", args: argparse.Namespace) -> int:
    from vllama.results.trend import series

    found = series((r for _, r in _chosen(ledger, args)), args.metric)
    if args.json:
        document = [{**asdict(s), "changes": [asdict(c) for c in s.changes]} for s in found]
        print(json.dumps({"format": 1, "series": document}, default=str))
        return 0
    for one in found:
        _print_series(one)
    if not found:
        print(f"no measurement of {args.metric} in {ledger.path}", file=sys.stderr)
    return 0


def _print_series(one: "Series") -> None:
    from vllama.results import metrics

    print(f"{one.name}: {metrics.label(one.metric)}")
    changes = {c.index: c.ratio for c in one.changes}
    for index, point in enumerate(one.points):
        mark = (
            f"  <- changed, {metrics.ratio(changes[index])} from here on"
            if index in changes
            else ""
        )
        value = metrics.reading(one.metric, point.value)
        print(f"  {point.at:%Y-%m-%d %H:%M}  {point.commit[:8]:<8}  {value:>12}{mark}")


def _chosen(ledger: "Ledger", args: argparse.Namespace) -> "Iterator[tuple[int, Record]]":
    for number, record in enumerate(ledger.read(), 1):
        load = record.workload.name if record.workload else ""
        if args.model and args.model not in record.profile.model:
            continue
        if args.workload and args.workload != load:
            continue
        yield number, record


def _numbered(number: int, record: "Record") -> dict[str, object]:
    return {"number": number, **record.to_json()}


def _line(number: int, record: "Record") -> str:
    load = record.workload.name if record.workload else "-"
    if record.measurement is not None:
        showed = f"{record.measurement.output_tokens_per_s:10.1f} tok/s"
    else:
        showed = f"{record.failure.kind if record.failure else '':>16}"
    model = record.profile.model.rstrip("/").rpartition("/")[2]
    return (
        f"{number:>6}  {record.started_at:%Y-%m-%d %H:%M}  {record.engine:<9} "
        f"{record.profile.name:<12} {load:<24} {showed}  {model}"
    )


ACTIONS = {"list": _list, "show": _show, "trend": _trend, "prune": _prune, "export": _export}
