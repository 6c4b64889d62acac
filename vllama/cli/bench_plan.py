"""What `vllama bench` will measure: targets, loads and turns, all known before anything starts."""

import argparse
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vllama import durations, hardware, store
from vllama.bench import workloads
from vllama.bench.contest import Contest, Target
from vllama.bench.wire import Client
from vllama.bench.workload import Workload
from vllama.cli import baseline as gate
from vllama.cli import bench_arrivals, bench_capacity, bench_ollama
from vllama.engines import choose, engine
from vllama.engines.attached import Attached
from vllama.engines.engine import Engine
from vllama.errors import ProfileNotFound, UsageError
from vllama.machine import Machine
from vllama.model import Model
from vllama.profile import Profile
from vllama.settings import Settings
from vllama.shelf import Shelf, load

DEFAULT_WORKLOADS = ("sequential-short", "concurrent-5-short", "concurrent-50-short")
DEFAULT = "default"
# Six pairs are the fewest from which the rank test gives a 95 % interval.
_PAIRED_BLOCKS = 6
_BLOCKS = 3
_FEWEST_REQUESTS = 60
_WAVES = 10


@dataclass(frozen=True, slots=True)
class Plan:
    """`pairs` are (baseline, candidate); `said` is for people, before it begins."""

    contest: Contest
    machine: Machine
    model: str
    pairs: tuple[tuple[str, str], ...]
    said: tuple[str, ...]
    seed: int
    weights: str = ""


def make(args: argparse.Namespace, settings: Settings, old: Mapping[str, Any] | None) -> Plan:
    """Everything that can be refused is refused here.

    Raises:
        UsageError, NotComparable, ModelError, EngineMissing, ProfileError
    """
    machine = hardware.visible(settings.environment)
    said: list[str] = []
    targets = [_attached(args)] if args.url else _launched(args, settings, machine, said, old)
    seed = _seed(args, old)
    traffic = settings.home / "traffic"
    of = (args.model or "") if args.url else targets[0].profile.model
    loads = [w.with_seed(seed) for w in _loads(args, traffic, of)]
    if args.vs_ollama:
        targets += _ollama(args, settings, targets[0], loads)
    starts = args.repeat
    blocks = _BLOCKS if starts > 1 or len(targets) == 1 else _PAIRED_BLOCKS
    loads = [_sized(w, args, blocks * starts) for w in loads]
    model = targets[0].profile.model
    if old is not None:
        _refuse_early(old, machine, model if targets[0].launched else str(old.get("model")), loads)
    together = _side_by_side(targets, machine)
    if len(targets) > 1:
        said.append("turns      " + ("block by block" if together else "start by start"))
    client = Client(args.client, args.workers)
    contest = Contest(tuple(targets), tuple(loads), blocks, starts, together, client=client)
    weights = store.resolve(args.model, settings).shape.quantization if not args.url else ""
    return Plan(contest, machine, model, _pairs(targets), tuple(said), seed, weights)


def _attached(args: argparse.Namespace) -> Target:
    server = Attached(args.url, args.model or "", args.api)
    return Target("server", server, server.profile(), launched=False)


def _launched(
    args: argparse.Namespace,
    settings: Settings,
    machine: Machine,
    said: list[str],
    old: Mapping[str, Any] | None,
) -> list[Target]:
    model = store.resolve(args.model, settings)
    choice = choose(model, machine, settings, args.engine)
    said.append(f"engine     {choice.engine.name} {choice.engine.version()}: {choice.reason}")
    shelf = Shelf(settings.home / "profiles")
    names = args.profile or [_best_or_default(shelf, model, choice.engine, said)]
    targets = []
    for name in dict.fromkeys(names):
        profile = _profile(name, shelf, model, machine, choice.engine)
        its = choice.engine if profile.engine == choice.engine.name else None
        targets.append(Target(profile.name, its or engine(profile.engine, settings), profile))
    if old is not None:
        version = targets[0].engine.version()
        again = gate.again(old, targets[0].profile, version)
        if again is not None:
            targets.append(Target(gate.AGAIN, targets[0].engine, again))
    return targets


def _best_or_default(shelf: Shelf, model: Model, chosen: Engine, said: list[str]) -> str:
    if "best" in shelf.names(model.name):
        return "best"
    said.append(
        f"profile    {model.name} has no profile `best`: measuring {chosen.name}'s own defaults "
        f"(vllama tune {model.name} makes one)"
    )
    return DEFAULT


def _profile(name: str, shelf: Shelf, model: Model, machine: Machine, chosen: Engine) -> Profile:
    if name == DEFAULT and DEFAULT not in shelf.names(model.name):
        return replace(chosen.default(model, machine), name=DEFAULT)
    if Path(name).suffix == ".json":
        return load(Path(name))
    try:
        return shelf.get(model.name, name)
    except ProfileNotFound as missing:
        raise ProfileNotFound(
            missing.message, f"{missing.remedy} `default` is the engine's own."
        ) from missing


def _ollama(
    args: argparse.Namespace, settings: Settings, first: Target, loads: Sequence[Workload]
) -> list[Target]:
    url = args.vs_ollama if args.vs_ollama != "auto" else ""
    name = args.ollama_model or ""
    if args.ollama_import:
        name = bench_ollama.bring(url or settings.address.url, first, settings)
    return bench_ollama.targets(url, name, settings, first, max(w.concurrency for w in loads))


def _loads(args: argparse.Namespace, traffic: Path, model: str) -> list[Workload]:
    usual = tuple(bench_ollama.AIMS) if args.vs_ollama else DEFAULT_WORKLOADS
    wanted = args.workload or usual
    loads = [w for name in wanted for w in workloads.named(name, traffic, model)]
    if args.concurrency:
        first = loads if args.workload else loads[:1]
        loads = [workloads.closed(n, w) for w in first for n in args.concurrency]
    if args.vs_ollama:
        loads = bench_ollama.with_alone(loads, workloads.named("sequential-short")[0])
    limits = bench_capacity.limits(args)
    changed = [
        bench_capacity.limited(_overridden(w, args), limits, searched=args.capacity) for w in loads
    ]
    return list({w.name: w for w in changed}.values())


def _overridden(workload: Workload, args: argparse.Namespace) -> Workload:
    changes: dict[str, Any] = {}
    if args.prompt_tokens:
        changes["prompt_tokens"] = args.prompt_tokens
    if args.output_tokens:
        changes["output_tokens"] = args.output_tokens
    if args.stream is not None:
        changes["stream"] = args.stream
    changes |= bench_arrivals.changes(args)
    if changes and workload.replay:
        raise UsageError(
            "recorded traffic has lengths and times of its own",
            "Leave out --prompt-tokens, --output-tokens, --rate, --arrivals and --stream.",
        )
    changed = replace(workload, **changes)
    return changed if changed == workload else replace(changed, name=_told(changed))


def _told(load: Workload) -> str:
    """A name that says what was asked for, where it is no longer the built-in's."""
    flow = bench_arrivals.told(load) if load.rate_per_s else f"concurrent-{load.concurrency}"
    length = Path(load.dataset).stem if load.dataset else f"{load.prompt_tokens}in"
    name = f"{flow}-{length}-{load.output_tokens}out"
    return name if load.stream else name + workloads.WHOLE


def _sized(workload: Workload, args: argparse.Namespace, parts: int) -> Workload:
    """The load of one block, so that all blocks together are what was asked for."""
    if args.duration:
        try:
            total_s = durations.parse(args.duration)
        except ValueError as error:
            raise UsageError(f"--duration: {error}", "Write it like 30s or 2m.") from error
        return replace(workload, requests=None, duration_s=total_s / parts)
    if workload.trace and not args.requests:
        return workload  # half a trace is another load
    total = args.requests or workload.requests
    if total is None and workload.duration_s is not None:
        return replace(workload, duration_s=workload.duration_s / parts)
    if total is None:
        total = max(_FEWEST_REQUESTS, _WAVES * workload.concurrency)
    return replace(workload, requests=math.ceil(total / parts))


def _seed(args: argparse.Namespace, old: Mapping[str, Any] | None) -> int:
    """The baseline's, so that the prompts are the same; new ones for a server that may know
    the old ones by heart (its prefix cache outlives this process)."""
    if args.seed is not None:
        return int(args.seed)
    if old is not None:
        first: Mapping[str, Any] = next(iter(old.get("results") or ()), {})
        return int((first.get("workload") or {}).get("seed", 0))
    return int(time.time()) if args.url or args.vs_ollama else 0


def _refuse_early(
    old: Mapping[str, Any], machine: Machine, model: str, loads: Sequence[Workload]
) -> None:
    from dataclasses import asdict

    from vllama.results.regression import check_comparable

    results = [{"workload": asdict(w)} for w in loads]
    here = {"fingerprint": machine.fingerprint}
    check_comparable(old, {"machine": here, "model": model, "results": results})


def _side_by_side(targets: Sequence[Target], machine: Machine) -> bool:
    """Whether all may be up at once without one disturbing the other by being there."""
    launched = [t for t in targets if t.launched]
    if machine.gpus:
        return not launched
    return len(launched) < 2 or all(t.engine.name == "llamacpp" for t in launched)


def _pairs(targets: Sequence[Target]) -> tuple[tuple[str, str], ...]:
    names = [t.name for t in targets]
    rivals = [name for name in names if name in bench_ollama.SIDES]
    if rivals:
        ours = [name for name in names if name not in rivals]
        return tuple((against, name) for against in rivals for name in ours)
    for against in (gate.AGAIN, DEFAULT):
        if against in names:
            return tuple((against, name) for name in names if name != against)
    return tuple((names[0], name) for name in names[1:])
