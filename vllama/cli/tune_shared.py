"""`vllama tune` on many GPUs or hosts: `--jobs`, `--ray`, `--storage`, `--worker`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from vllama.errors import UsageError

if TYPE_CHECKING:
    from vllama.engines.engine import Engine
    from vllama.machine import Machine
    from vllama.settings import Settings
    from vllama.tuner.jobs import Way


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare them."""
    add = parser.add_argument
    add("--jobs", type=int, default=1, metavar="N",
        help="trials side by side, each on GPUs of its own (1)")  # fmt: skip
    add("--ray", metavar="ADDRESS",
        help="run the trials of the search on this Ray cluster, by the GPUs they need "
             "(`auto`: the one that this host belongs to)")  # fmt: skip
    add("--storage", metavar="URL",
        help="keep the study where several hosts reach it: postgresql://, sqlite:/// or "
             "journal:///")  # fmt: skip
    add("--worker", action="store_true",
        help="only help with the search of the same tune elsewhere; needs --storage")  # fmt: skip


def check(args: argparse.Namespace) -> None:
    """Refuse what does not go together.

    Raises:
        UsageError: says what to give instead.
    """
    if args.worker and not args.storage:
        raise UsageError("--worker needs --storage", "Give the one of the tune that it helps.")
    if args.worker and args.fresh:
        raise UsageError("--fresh would forget what the others have done", "Leave it out here.")
    if args.storage and "://" not in args.storage:
        raise UsageError("--storage is a URL", "For a file: sqlite:////absolute/path.db")
    if args.ray and args.allow_lossy:
        raise UsageError(
            "--allow-lossy does not go with --ray", "Answers are compared on this host only."
        )
    if args.storage and args.engine in (None, "auto"):
        raise UsageError("--storage needs --engine vllm or llamacpp", "A study is of one engine.")


def check_jobs(args: argparse.Namespace, machine: Machine) -> None:
    """Whether so many trials can run side by side; Ray makes those wait that cannot.

    Raises:
        UsageError: they would disturb each other.
    """
    from vllama.tuner import jobs

    jobs.check(1 if args.ray and args.jobs > 1 else args.jobs, machine)


def way(engine: Engine, machine: Machine, settings: Settings, args: argparse.Namespace) -> Way:
    """How the search is run: alone, on disjoint GPUs, by Ray, or as one worker of several."""
    from vllama.bench.rig import Rig
    from vllama.tuner.jobs import SideBySide, Way

    if args.ray:
        from vllama.cli import ray_bench

        ray_bench.connect(args.ray)
        return Way(args.jobs, ray_bench.RayBench(ray_bench.Rigs(engine.name), machine), args.worker)
    if args.jobs == 1:
        return Way(only_searches=args.worker)
    beside = SideBySide(Rig(engine), machine, settings.environment)
    return Way(args.jobs, beside, args.worker)
