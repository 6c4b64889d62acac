"""`vllama bench`: measure a profile, a server, or several against each other."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllama.cli import INTERRUPTED, baseline, bench_capacity, keeping
from vllama.cli import bench_arrivals as arrival_options
from vllama.errors import UsageError, VllamaError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllama.bench.contest import Block, Contest
    from vllama.bench.verdicts import Verdict
    from vllama.cli.bench_plan import Plan

_FIND_OLLAMA = "auto"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add = parser.add_argument
    add("model", nargs="?", metavar="MODEL", help="what to launch; or the model's name at --url")
    add("--url", help="measure a server that runs already")
    add("--api", choices=["openai", "ollama"], help="which of the server's APIs (found out)")
    add("--engine", default="auto", help="auto, vllm or llamacpp (auto)")
    add("--profile", action="append", default=[], metavar="NAME|FILE",
        help="a saved profile, or `default`; may be given again (best, else default)")  # fmt: skip
    add("--vs-ollama", nargs="?", const=_FIND_OLLAMA, metavar="URL",
        help="take the same load to Ollama: at URL, or found or started here")  # fmt: skip
    add("--ollama-model", metavar="NAME", help="the model's name there (the same weights)")
    add("--ollama-import", action="store_true", help="give Ollama the GGUF file that is measured")
    add("--workload", action="append", default=[], metavar="NAME|FILE",
        help="a load, also hub:OWNER/NAME/FILE.jsonl; may be given again "
             "(sequential, concurrent-5, concurrent-50)")  # fmt: skip
    add("--concurrency", type=_numbers, metavar="N,N...", help="each load with so many in flight")
    arrival_options.arguments(parser)
    add("--requests", type=_positive, metavar="N", help="of each load, on each target")
    add("--duration", metavar="TIME", help="of each load, on each target, such as 30s")
    add("--prompt-tokens", type=_positive, metavar="N")
    add("--output-tokens", type=_positive, metavar="N")
    add("--stream", action=argparse.BooleanOptionalAction, help="as the load says")
    add("--repeat", type=_positive, default=1, metavar="N", help="fresh starts of each target (1)")
    add("--seed", type=int, help="of the prompts")
    add("--client", choices=["auto", "raw", "httpx"], default="auto",
        help="what sends: our own client, or httpx (ours where it can run)")  # fmt: skip
    add("--workers", type=int, metavar="N", help="processes that send (by the load; 0: this one)")
    add("--out", type=Path, metavar="FILE", help="write what a later --baseline reads")
    add("--json", action="store_true", help="one JSON document on stdout")
    bench_capacity.arguments(parser)
    baseline.arguments(parser)
    keeping.arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Measure; 130 when interrupted, 3 when a regression was found."""
    from vllama.cli import bench_plan
    from vllama.settings import Settings

    _check(args)
    old = baseline.read(args.baseline) if args.baseline else None
    plan = bench_plan.make(args, Settings.from_environment(), old)
    if not args.quiet:
        for line in plan.said:
            print(line, file=sys.stderr, flush=True)
    outcome = _measure(plan, args, bench_capacity.prepare(args) if args.capacity else None)
    return _report(plan, outcome, args, old)


@dataclass
class _Outcome:
    contest: Contest
    blocks: list[Block] = field(default_factory=list)
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    ended_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    interrupted: bool = False
    failure: VllamaError | None = None
    capacities: bench_capacity.Found | None = None


def _measure(plan: Plan, args: argparse.Namespace, wanted: bench_capacity.Found | None) -> _Outcome:
    from vllama.bench import selftest
    from vllama.bench.wire import run_fast
    from vllama.cli import bench_lines

    outcome = _Outcome(plan.contest, capacities=wanted)
    total = len(plan.contest.targets) * len(plan.contest.workloads)
    total *= plan.contest.blocks * plan.contest.starts

    async def collect() -> None:
        contest = plan.contest
        contest.client = await selftest.proven(contest.client)
        if not args.quiet:
            print(bench_lines.client(contest.client), file=sys.stderr, flush=True)
        if wanted is not None:
            await bench_capacity.search(plan, wanted, quiet=args.quiet)
            return
        async with aclosing(plan.contest.run()) as blocks:
            async for block in blocks:
                outcome.blocks.append(block)
                if not args.quiet:
                    line = bench_lines.progress(block, len(outcome.blocks), total)
                    print(line, file=sys.stderr, flush=True)

    try:
        run_fast(collect())
    except KeyboardInterrupt:
        outcome.interrupted = True
    except VllamaError as error:
        outcome.failure = error
    if wanted is not None:
        outcome.blocks += wanted.blocks
    if plan.contest.partial is not None:
        outcome.blocks.append(plan.contest.partial)
    outcome.ended_at = datetime.now(UTC)
    return outcome


def _report(
    plan: Plan, outcome: _Outcome, args: argparse.Namespace, old: dict[str, Any] | None
) -> int:
    from vllama.bench import verdicts
    from vllama.cli import bench_document, bench_lines
    from vllama.disk import write_whole

    if not outcome.blocks:
        if outcome.failure:
            raise outcome.failure
        return INTERRUPTED
    _keep(plan, outcome, args)
    found = verdicts.results(outcome.blocks)
    # What each target holds at its own capacity is not the same work.
    pairs = () if outcome.capacities else plan.pairs
    judged = [v for pair in pairs for v in verdicts.verdicts(found, *pair)]
    document = bench_document.document(plan, outcome.contest, found, judged)
    command = shlex.join(["vllama", *sys.argv[1:]])
    document |= {"command": command, "interrupted": outcome.interrupted}
    document |= {"started_at": outcome.started_at.isoformat()}
    document |= {"ended_at": outcome.ended_at.isoformat()}
    document |= _beside_ollama(document, judged) if args.vs_ollama else {}
    print(bench_lines.tables(found, judged, document), file=sys.stderr)
    if outcome.capacities:
        document["capacities"] = outcome.capacities.to_json()
        print(bench_capacity.lines(outcome.capacities), file=sys.stderr)
    whole = not outcome.interrupted and outcome.failure is None
    code = baseline.judge(document, old, args) if old and whole else 0
    if not old:
        baseline.write(document, args)
    if args.out:
        write_whole(args.out, json.dumps(document, indent=1) + "\n")
    if args.json:
        print(json.dumps(document))
    if outcome.failure:
        raise outcome.failure
    return INTERRUPTED if outcome.interrupted else code


def _beside_ollama(document: dict[str, Any], judged: Sequence[Verdict]) -> dict[str, Any]:
    """What vllama aims at, and what is not alike between the two."""
    from vllama.cli import bench_ollama

    ours = document["targets"][0]
    unlike = {
        t["name"]: bench_ollama.differences(ours, t, bench_ollama.shown(t["url"], t["model"]))
        for t in document["targets"]
        if t["name"] in bench_ollama.SIDES
    }
    return {"aims": [a.to_json() for a in bench_ollama.aims(judged)], "unlike": unlike}


def _keep(plan: Plan, outcome: _Outcome, args: argparse.Namespace) -> None:
    from vllama.cli import bench_records
    from vllama.settings import Settings

    times = (outcome.started_at, outcome.ended_at)
    records = bench_records.of_blocks(
        outcome.blocks, outcome.contest, plan.machine.fingerprint, times
    )
    keeping.Keeper(Settings.from_environment().home, args.record).keep(records)


def _check(args: argparse.Namespace) -> None:
    bench_capacity.check(args)
    if not args.model and not args.url:
        raise UsageError(
            "what shall be measured?", "Name a model to launch, or a server with --url."
        )
    if args.url and (args.profile or args.engine != "auto"):
        raise UsageError("--profile and --engine are for what is launched here, not for a --url")
    if args.requests and args.duration:
        raise UsageError("either --requests or --duration")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(_positive(part) for part in text.split(","))


def _positive(text: str) -> int:
    if not text.strip().isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number above 0")
    return int(text)
