"""`vllama tune --engine auto` where several engines can serve the model: a study each, a duel."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from vllama.cli import INTERRUPTED, tune_lines
from vllama.errors import VllamaError

if TYPE_CHECKING:
    from vllama.bench.contest import Block
    from vllama.engines import Choice
    from vllama.settings import Settings
    from vllama.tuner.document import Outcome
    from vllama.tuner.duel import Judged, Side

# The duel's share of a budget; the studies have the rest in equal parts.
DUEL_SHARE = 0.25
# One study: what it came to, and whether it was called off. Takes a choice and its seconds.
Study = Callable[["Choice", float | None], "tuple[Outcome, bool]"]


def run(
    args: argparse.Namespace,
    settings: Settings,
    choices: Sequence[Choice],
    study: Study,
    say: tune_lines.Lines,
) -> int:
    """A study of each engine, then their winners against each other; saves the better one's."""
    from vllama import durations

    whole_s = None if args.budget is None else durations.parse(args.budget)
    each_s = None if whole_s is None else whole_s * (1 - DUEL_SHARE) / len(choices)
    names = " and ".join(c.engine.name for c in choices)
    say.say(f"engines    {names} can both serve this model: a study each, then their best in turns")
    outcomes: dict[str, Outcome] = {}
    for choice in choices:
        try:
            outcome, interrupted = study(choice, each_s)
        except VllamaError as error:
            say.say(f"engine     {choice.engine.name} is out: {error.message}")
            continue
        if interrupted:
            return INTERRUPTED
        if any(t.complete for t in outcome.trials):
            outcomes[choice.engine.name] = outcome
    if not outcomes:
        return 1
    sides = [_side(c, outcomes[c.engine.name]) for c in choices if c.engine.name in outcomes]
    judged, blocks = _duel(sides, whole_s, say)
    if judged is None:
        return INTERRUPTED
    for name, outcome in outcomes.items():
        _tell(name, outcome, say)
    say.say(f"engine     {judged.winner}: {judged.reason}")
    outcomes[judged.winner] = _shelve(settings, outcomes, judged)
    for name, path in outcomes[judged.winner].saved.items():
        say.say(f"profile    {name:<10} {judged.winner}  {path}")
    if args.json:
        print(json.dumps(_document(outcomes, judged, blocks)))
    return 0


def _side(choice: Choice, outcome: Outcome) -> Side:
    from vllama.bench.contest import Target
    from vllama.tuner.duel import Side

    profile = outcome.selected["best"].profile
    return Side(Target(choice.engine.name, choice.engine, profile), outcome.subject)


def _duel(
    sides: Sequence[Side], whole_s: float | None, say: tune_lines.Lines
) -> tuple[Judged | None, list[Block]]:
    from vllama.tuner import duel

    blocks: list[Block] = []
    if len(sides) == 1:
        return duel.Judged(sides[0].name, {}, "the only one that could be measured"), blocks
    # A start of vLLM is a minute: two of each are the fewest from which noise can be told.
    starts = duel.STARTS if whole_s is None else 2
    block_s = 8.0 if whole_s is None else max(2.0, DUEL_SHARE * whole_s / 60)

    async def follow() -> None:
        from vllama.bench.measurement import summarize

        async for block in duel.fight(sides, min(block_s, 20.0), starts):
            blocks.append(block)
            shown = tune_lines.figures({block.workload.name: summarize(block.run)})
            say.say(f"duel start {block.start + 1}  {shown}  {block.target}")

    try:
        asyncio.run(follow())
    except (KeyboardInterrupt, asyncio.CancelledError):
        return None, blocks
    return duel.judge(sides, blocks), blocks


def _tell(name: str, outcome: Outcome, say: tune_lines.Lines) -> None:
    """Each engine's default beside its best."""
    from vllama.tuner import document

    for what, side in (("default", "baseline"), ("best", "best")):
        measured = (document.of(outcome)[side] or {}).get("measurements") or {}
        rates = ", ".join(f"{m['output_tokens_per_s']:.0f} tok/s" for m in measured.values())
        say.say(f"{name:<10} {what}: {rates or 'not measured'}")


def _shelve(settings: Settings, outcomes: dict[str, Outcome], judged: Judged) -> Outcome:
    """The winner's profiles under the plain names, the others' best under their engine's."""
    from vllama.shelf import Shelf

    shelf = Shelf(settings.home / "profiles")
    told = {n: {"ratio": c.ratio, "ci95": c.ci95} for n, c in judged.against.items()}
    for name, outcome in outcomes.items():
        if name != judged.winner:
            shelf.put(replace(outcome.selected["best"].profile, name=f"best-{name}"))
    winner = outcomes[judged.winner]
    engines = {"winner": judged.winner, "reason": judged.reason, "against": told}
    saved = {}
    for name, chosen in winner.selected.items():
        provenance = {**chosen.profile.provenance, "engines": engines}
        saved[name] = shelf.put(replace(chosen.profile, provenance=provenance))
    return replace(winner, saved=saved)


def _document(
    outcomes: dict[str, Outcome], judged: Judged, blocks: Sequence[Block]
) -> dict[str, Any]:
    """The winner's document, with what the engines were against each other."""
    from vllama.bench.measurement import summarize
    from vllama.tuner import document

    written = {name: document.of(outcome) for name, outcome in outcomes.items()}
    of_engine = ("engine", "study", "baseline", "best", "gain", "verdict", "cost")
    return {
        **written[judged.winner],
        "engines": {n: {key: d[key] for key in of_engine} for n, d in written.items()},
        "duel": {
            "winner": judged.winner,
            "reason": judged.reason,
            "against": {n: asdict(c) for n, c in judged.against.items()},
            "blocks": [
                {
                    "engine": b.target, "workload": b.workload.name, "start": b.start,
                    "block": b.block, "measurement": asdict(summarize(b.run)),
                }
                for b in blocks
            ],
        },
    }  # fmt: skip
