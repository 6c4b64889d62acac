"""`vllama tune MODEL`: find the fastest way to launch an engine here, and keep it."""

from __future__ import annotations

import argparse
import asyncio
import json
import shlex
import signal
import sys
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vllama.cli import INTERRUPTED, keeping, tune_plan, tune_shared
from vllama.errors import UsageError

if TYPE_CHECKING:
    from vllama.engines import Choice
    from vllama.machine import Machine
    from vllama.settings import Settings
    from vllama.tuner.document import Outcome
    from vllama.tuner.subject import Subject
    from vllama.tuner.tuning import Tuning

DEFAULT_TRIALS = 20
DEFAULT_WORKLOAD = "concurrent-10"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add = parser.add_argument
    add("model", metavar="MODEL", help="a hub repository, folder, GGUF file or Ollama name")
    add("--engine",
        help="vllm, llamacpp, or auto: tune every engine that can serve the model, and keep the "
             "better (the usual one of this machine)")  # fmt: skip
    add("--workload", action="append", metavar="NAME|FILE",
        help="the load to tune for, or `observed`: what came to `serve --observe`; "
             f"may be given again ({DEFAULT_WORKLOAD})")  # fmt: skip
    tune_plan.arguments(parser)
    add("--slo", action="append", default=[], metavar="LIMIT",
        help="a limit to keep, such as ttft_p95=500ms; may be given again")  # fmt: skip
    add("--trials", type=int, default=DEFAULT_TRIALS, help=f"at most ({DEFAULT_TRIALS})")
    add("--budget", metavar="TIME", help="at most so long, finals included, such as 30m")
    add("--sampler", default="gp", help="gp, tpe, nsga2, random or grid (gp)")
    add("--seed", type=int, default=0, help="of the search (0)")
    add("--fresh", action="store_true", help="forget an earlier study instead of going on with it")
    add("--no-live", action="store_true",
        help="a start for each configuration, also where vLLM can be told others")  # fmt: skip
    tune_shared.arguments(parser)
    tune_plan.lossy_arguments(parser)
    tune_plan.draft_arguments(parser)
    add("--dummy-weights", action="store_true", help="random weights: no download, vLLM only")
    add("--dry-run", action="store_true", help="say what would be tried, start nothing")
    add("--json", action="store_true", help="one JSON document on stdout")
    keeping.arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Tune; 130 when interrupted, with the best so far saved."""
    from vllama.cli import tune_lines
    from vllama.settings import Settings

    _check(args)
    say = tune_lines.Lines(sys.stderr, quiet=args.quiet)
    settings = Settings.from_environment()
    plan = _prepare(args, settings)
    choices = _choices(args, plan)
    if len(choices) > 1 and not args.dry_run:
        from vllama.cli import tune_engines

        def study(choice: Choice, seconds: float | None) -> tuple[Outcome, bool]:
            found = _prepare(args, settings, choice)
            say.ground(choice, found.machine, found.subject)
            return _search(found, args, say, seconds)

        return tune_engines.run(args, settings, choices, study, say)
    say.ground(plan.choice, plan.machine, plan.subject)
    if args.dry_run:
        return _dry_run(plan, args, say)
    return _tune(plan, args, say)


@dataclass(frozen=True, slots=True)
class _Plan:
    settings: Settings
    machine: Machine
    choice: Choice
    subject: Subject


def _check(args: argparse.Namespace) -> None:
    tune_plan.settle(args)
    tune_shared.check(args)
    if args.dummy_weights and args.engine == "llamacpp":
        raise UsageError("--dummy-weights is for vLLM", "llama.cpp reads the weights it is given.")


def _choices(args: argparse.Namespace, plan: _Plan) -> list[Choice]:
    """The engines to tune: with `auto` all that can serve the model, the usual one first."""
    from vllama.engines import able

    if args.engine != "auto" or args.dummy_weights:
        return [plan.choice]
    return able(plan.subject.space.ground.model, plan.machine, plan.settings)


def _prepare(args: argparse.Namespace, settings: Settings, chosen: Choice | None = None) -> _Plan:
    """Everything that can be known, and refused, before anything is started."""
    from vllama import hardware, store
    from vllama.bench import workloads
    from vllama.engines import choose
    from vllama.tuner import slo, space
    from vllama.tuner.objective import Objective
    from vllama.tuner.subject import Subject

    objective = Objective(args.objective, tuple(slo.parse(s) for s in args.slo))
    machine = hardware.visible(settings.environment)
    model = store.resolve(args.model, settings)
    # Traffic at its own pace shows no throughput but its own: for that it is sent without pause.
    paced = args.objective != "throughput"
    load = tuple(
        w for name in args.workload or [DEFAULT_WORKLOAD]
        for w in workloads.named(name, settings.home / "traffic", model.name, paced=paced)
    )  # fmt: skip
    tune_shared.check_jobs(args, machine)
    choice = chosen or choose(model, machine, settings, args.engine or "auto")
    engine = choice.engine
    default = engine.default(model, machine)
    if args.dummy_weights:
        default = default.with_options(load_format="dummy")
    version = engine.version()
    default = replace(default, engine_version=version, machine=machine.fingerprint)
    found = space.build(
        model, machine, engine=engine.name, version=version, accepts=engine.accepts(),
        default=default, load=load, allow_lossy=args.allow_lossy,
        draft=tune_plan.draft(args, engine.name, settings),
    )  # fmt: skip
    gate = tune_plan.accuracy(args, found)
    return _Plan(settings, machine, choice, Subject(default, load, objective, found, gate))


def _dry_run(plan: _Plan, args: argparse.Namespace, say: Any) -> int:
    """The space, what fits, and how the first trial would be launched."""
    from vllama.tuner import document

    first = plan.subject.default
    if args.json:
        print(json.dumps(document.plan(plan.subject, plan.machine)))
    else:
        say.space(plan.subject)
        print(f"engine: {first.engine} {first.engine_version}")
        print(f"model: {first.model}")
        print(
            "options: " + " ".join(f"--{k.replace('_', '-')}={v}" for k, v in first.options.items())
        )
    return 0


def _tune(plan: _Plan, args: argparse.Namespace, say: Any) -> int:
    from vllama import durations
    from vllama.tuner import document

    seconds = None if args.budget is None else durations.parse(args.budget)
    outcome, interrupted = _search(plan, args, say, seconds)
    if args.json:
        print(json.dumps(document.of(outcome)))
    if interrupted:
        return INTERRUPTED
    return 0 if any(t.complete for t in outcome.trials) else 1


def _search(
    plan: _Plan, args: argparse.Namespace, say: Any, seconds: float | None
) -> tuple[Outcome, bool]:
    """One study of one engine; and whether it was called off."""
    from vllama.cli import tune_aids
    from vllama.tuner import journal, samplers, study
    from vllama.tuner.fit import Fit
    from vllama.tuner.prior import Analytic
    from vllama.tuner.tuning import Budget, Tuning

    subject = plan.subject
    file = args.storage or str(plan.settings.home / "studies" / f"{subject.study}.db")
    if args.fresh:
        study.forget(file, subject.study)
    known = Analytic(Fit.of(subject.space.ground), subject.objective, subject.workloads)
    sampler = samplers.make(args.sampler, subject.space, args.seed, subject.objective, known)
    diary = plan.settings.home / "studies" / f"{subject.study}.journal"
    opened = study.opened(file, subject.study, subject.space, subject.objective, sampler)
    with opened as kept, journal.kept(diary):
        tuning = Tuning(
            kept,
            tune_aids.bench(plan.choice.engine, plan.machine, plan.settings),
            subject,
            plan.machine,
            Budget(args.trials, seconds),
            ablate=args.ablate,
            way=tune_shared.way(plan.choice.engine, plan.machine, plan.settings, args),
        )
        say.begin(tuning, args.trials)
        interrupted = False
        try:
            asyncio.run(_follow(tuning, plan, args, say))
        except (KeyboardInterrupt, asyncio.CancelledError):
            interrupted = True
        outcome = _keep(tuning, plan, args)
    if not args.worker:
        say.result(outcome, interrupted)
    return outcome, interrupted


async def _follow(tuning: Tuning, plan: _Plan, args: argparse.Namespace, say: Any) -> None:
    """Write down and tell what happens, as it happens."""
    from vllama.cli import tune_aids, tune_records
    from vllama.tuner import related
    from vllama.tuner.ablation import Ablated
    from vllama.tuner.trial import Trial

    earlier = related.seeds(plan.subject, tune_plan.documents(plan.settings.home / "studies"))
    say.related(earlier)
    keeper = keeping.Keeper(plan.settings.home, args.record)
    # A polite request to end is a Ctrl-C by another name: engines are stopped, the best kept.
    me = asyncio.current_task()
    assert me is not None
    with suppress(NotImplementedError):
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, me.cancel)
    live = not (args.no_live or args.ray)
    aids = tune_aids.of(plan.choice.engine, plan.subject.default, live=live)
    async with aids as tuning.aids, aclosing(tuning.run(earlier)) as events:
        async for event in events:
            if isinstance(event, Trial):
                say.trial(event, tuning)
                records = tune_records.of_trial(event, plan.subject, args.seed)
            elif isinstance(event, Ablated):
                say.ablated(event)
                continue
            else:
                say.block(event, tuning)
                records = tune_records.of_block(event, plan.subject, args.seed)
            keeper.keep(records)


def _keep(tuning: Tuning, plan: _Plan, args: argparse.Namespace) -> Outcome:
    """Put the profiles on the shelf, and the document beside the study."""
    from vllama.disk import write_whole
    from vllama.shelf import Shelf
    from vllama.tuner import costs, document

    selected = tuning.selected()
    shelf = Shelf(plan.settings.home / "profiles")
    measured = any(t.complete for t in tuning.trials)
    keeps = measured and not args.worker
    saved = {n: shelf.put(s.profile) for n, s in selected.items()} if keeps else {}
    outcome = document.Outcome(
        tuning.subject, plan.machine, tuning.trials, tuning.blocks, tuning.judged(), selected,
        saved, tuning.stopped, tuning.spent_s, _command(args),
        costs.by_rung(tuning.subject.space, tuning.trials, tuning.blocks, tuning.aids),
        tuning.ablated,
    )  # fmt: skip
    path = plan.settings.home / "studies" / f"{tuning.subject.study}.json"
    write_whole(path, json.dumps(document.of(outcome), indent=1))
    return outcome


def _command(args: argparse.Namespace) -> str:
    """The command line that gives this again."""
    words = ["vllama", "tune", args.model, *(["--engine", args.engine] if args.engine else [])]
    for name in args.workload or ():
        words += ["--workload", name]
    for limit in args.slo:
        words += ["--slo", limit]
    words += tune_plan.words(args)
    words += ["--trials", str(args.trials), "--seed", str(args.seed)]
    return shlex.join(words)
