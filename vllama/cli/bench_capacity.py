"""`vllama bench --capacity`: the most load that keeps every `--slo`, of each target and load."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from vllama.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vllama.bench.capacity import Probe, Search
    from vllama.bench.contest import Block, Target
    from vllama.bench.slo import Slo
    from vllama.bench.workload import Workload
    from vllama.cli.bench_plan import Plan

_DEFAULT_WINDOW_S = 4.0
_SHORTEST_S = 1.0


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the limits, and the search for the load that keeps them."""
    parser.add_argument(
        "--slo", action="append", default=[], metavar="LIMIT",
        help="a limit to keep, such as ttft_p95=500ms; may be given again",
    )  # fmt: skip
    parser.add_argument(
        "--capacity", action="store_true", help="find the most load that keeps every --slo"
    )


def check(args: argparse.Namespace) -> None:
    """Refuse what makes no sense together.

    Raises:
        UsageError: says what to do instead.
    """
    if not args.capacity:
        return
    if not args.slo:
        raise UsageError("--capacity needs a limit to keep", "Such as --slo ttft_p95=500ms.")
    for option in ("baseline", "junit", "requests", "concurrency", "vs_ollama"):
        if getattr(args, option):
            raise UsageError(
                f"--capacity and --{option.replace('_', '-')} do not go together",
                "It chooses the load itself; --duration says how long it may look.",
            )
    if args.rate and args.rate[1] is not None:
        raise UsageError("--capacity goes from rate to rate itself", "Give one: --rate 4.")
    if args.repeat > 1:
        raise UsageError("--capacity is searched on one start", "Leave out --repeat.")


def limits(args: argparse.Namespace) -> tuple[Slo, ...]:
    """What every `--slo` says."""
    from vllama.bench import slo

    return tuple(slo.parse(text) for text in args.slo)


def limited(workload: Workload, found: Sequence[Slo], *, searched: bool) -> Workload:
    """The load with the limits that each of its requests must keep to count as good.

    Raises:
        UsageError: the load cannot show whether it keeps one of them.
    """
    if not found:
        return workload
    if searched and workload.replay:
        raise UsageError("the capacity for recorded traffic is its own pace", "Give another load.")
    within = [s.name for s in found if s.metric != "e2e"]
    if within and not workload.stream:
        raise UsageError(f"{workload.name} is not streamed: it shows no {within[0]}")
    each = tuple((s.metric, s.limit_s) for s in found if s.metric != "itl")
    return replace(workload, slo=each)


@dataclass
class Found:
    """What was searched so far, by target."""

    limits: tuple[Slo, ...]
    window_s: float
    searches: list[tuple[str, Search]] = field(default_factory=list)

    @property
    def blocks(self) -> list[Block]:
        """What was measured at the highest level that held, else at the lowest that did not."""
        return [b for target, search in self.searches for b in _blocks(target, search)]

    def to_json(self) -> list[dict[str, Any]]:
        """For the document."""
        return [search.to_json(target) for target, search in self.searches if search.probes]


def prepare(args: argparse.Namespace) -> Found:
    """How long to look: `--duration` is for the whole search of one load on one target."""
    from vllama import durations
    from vllama.bench.capacity import PROBES

    window_s = _DEFAULT_WINDOW_S
    if args.duration:
        try:
            window_s = max(_SHORTEST_S, durations.parse(args.duration) / PROBES)
        except ValueError as error:
            raise UsageError(f"--duration: {error}", "Write it like 30s or 2m.") from error
    return Found(limits(args), window_s)


async def search(plan: Plan, found: Found, *, quiet: bool) -> None:
    """Search for every load on every target; `found` has it as it is found."""
    from vllama.bench.capacity import Search
    from vllama.bench.rig import Rig

    contest = plan.contest
    for target in contest.targets:
        async with Rig(target.engine, contest.client).started(target.profile) as session:
            contest.endpoints[target.name] = session.endpoint
            for workload in contest.workloads:
                looking = Search(workload, found.limits, found.window_s)
                looking.on_probe = _Progress(target, looking, quiet=quiet)
                found.searches.append((target.name, looking))
                await looking.run(session)


@dataclass(frozen=True)
class _Progress:
    target: Target
    search: Search
    quiet: bool

    def __call__(self, probe: Probe) -> None:
        if not self.quiet:
            name = self.search.workload.name
            print(f"{name}  {self.target.name}  {_told(probe)}", file=sys.stderr, flush=True)


def _told(probe: Probe) -> str:
    shares = ", ".join(
        f"{s.kept} of {s.requests} within the {s.quantile} limits" for s in probe.shares
    )
    word = "holds" if probe.holds else "does not hold"
    doubt = "" if probe.certain else " (too few requests to be sure)"
    return f"at {probe.level:.3g}: {shares or 'measured'}: {word}{doubt}"


def lines(found: Found) -> str:
    """The answers, for people."""
    return "\n".join(_line(d) for d in found.to_json())


def _line(told: dict[str, Any]) -> str:
    who = f"capacity: {told['workload']} on {told['target']}: "
    kept = " and ".join(told["limits"])
    if told["capacity"] is None:
        return f"{who}no load that was tried keeps {kept}; down to {told['broken_at']:.3g}"
    below = "" if told["broken_at"] is None else f", {told['broken_at']:.3g} do not"
    doubt = "" if told["certain"] else "; too few requests to be sure, give it a longer --duration"
    early = "" if told["finished"] else "; the search ended early: it may be more"
    return f"{who}{told['capacity']:.3g} {told['unit']} keep {kept}{below}{doubt}{early}"


def _blocks(target: str, search: Search) -> Iterator[Block]:
    from vllama.bench.capacity import at
    from vllama.bench.contest import Block

    probe = search.held or search.broke
    if probe is None:
        return
    load = at(search.workload, probe.level)
    load = replace(load, name=f"{load.name}@{probe.level:.4g}")
    for number, run in enumerate(probe.runs):
        yield Block(target, load, 0, number, run)
