"""The JSON of `vllama bench`."""

from collections.abc import Sequence
from typing import Any

from vllama import __version__
from vllama.bench.contest import Contest, Target
from vllama.bench.verdicts import Result, Verdict
from vllama.cli.bench_ollama import SIDES
from vllama.cli.bench_plan import Plan
from vllama.cli.keeping import commit
from vllama.tuner.document import machine

FORMAT = 1


def document(
    plan: Plan, contest: Contest, found: Sequence[Result], judged: Sequence[Verdict]
) -> dict[str, Any]:
    """All that was measured, with what is needed to repeat and to compare it."""
    return {
        "format": FORMAT,
        "machine": machine(plan.machine),
        "model": _model(plan, contest),
        "vllama_version": __version__,
        "git_commit": commit(),
        "seed": plan.seed,
        "turns": "blocks" if contest.together else "starts",
        "targets": [_target(t, contest, plan.weights) for t in contest.targets],
        "results": [r.to_json() for r in found],
        "comparisons": [v.to_json() for v in judged],
    }


def _model(plan: Plan, contest: Contest) -> str:
    """As the user called it; as the server calls it, where that is all that is known."""
    first = contest.targets[0]
    endpoint = contest.endpoints.get(first.name)
    return plan.model if first.launched or endpoint is None else endpoint.model


def _target(target: Target, contest: Contest, weights: str) -> dict[str, Any]:
    endpoint = contest.endpoints.get(target.name)
    kind = endpoint.facts.get("engine", endpoint.engine) if endpoint else target.engine.name
    return {
        "name": target.name,
        "engine": str(kind),
        "version": endpoint.version if endpoint else "",
        "url": endpoint.base_url if endpoint else None,
        "model": endpoint.model if endpoint else target.profile.model,
        "weights": weights if target.launched and target.name not in SIDES else "",
        "options": dict(target.profile.options),
        "profile": target.profile.to_json() if target.launched else None,
        "profile_digest": target.profile.digest if target.launched else None,
        "command": list(endpoint.command) if endpoint else [],
        "start_s": endpoint.start_s if endpoint else None,
        "facts": dict(endpoint.facts) if endpoint else {},
    }
