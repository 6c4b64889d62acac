"""One trial: start an engine, put the loads on it, say what came of it."""

import asyncio
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, TypeAlias

from vllama.bench.measurement import Measurement
from vllama.bench.rig import Bench, Session
from vllama.bench.workload import Workload
from vllama.errors import EngineFailed
from vllama.tuner import journal, watchdog
from vllama.tuner.accuracy import Gate
from vllama.tuner.objective import JOINT
from vllama.tuner.study import Ask
from vllama.tuner.subject import Subject
from vllama.tuner.trial import Failure, State, Trial

# How much later than a broken request the death is known that broke it.
LAST_WORDS_S = 1.0
Clock: TypeAlias = Callable[[], float]
# Given what was measured so far on this start: why it need not be measured longer.
Doubt: TypeAlias = Callable[[Mapping[str, Measurement]], str | None]


@dataclass(frozen=True, slots=True)
class Rung:
    """How long each load is put on an engine; a later rung measures longer."""

    seconds: float


def lasting(workload: Workload, seconds: float) -> Workload:
    """The same load for so long."""
    return replace(workload, requests=None, duration_s=seconds)


# What may be gone at the next try: a port that somebody took, cards that did not find each
# other, a download that broke off.
TRANSIENT = re.compile(r"NCCL|[Cc]onnection (?:reset|aborted)|temporarily unavailable")


async def attempt(
    bench: Bench,
    subject: Subject,
    ask: Ask,
    rungs: Sequence[Rung],
    doubt: Doubt = lambda _: None,
    clock: Clock = time.monotonic,
    gate: Gate | None = None,
) -> Trial:
    """Try `ask`, twice when it fell for what may be gone; never fails with the engine.

    Raises:
        EngineMissing: there is no engine to try.
    """
    began, at = clock(), datetime.now(UTC)
    blank = Trial(ask.number, ask.options, "failed", origin=ask.origin, started_at=at)
    journal.note("start", trial=ask.number, origin=ask.origin, options=dict(ask.options))
    trial = await _try(bench, subject, blank, rungs, doubt, gate)
    if trial.failure is not None and is_transient(trial.failure):
        journal.note("again", trial=ask.number, why=trial.failure.message)
        trial = await _try(bench, subject, blank, rungs, doubt, gate)
    trial = replace(trial, seconds=clock() - began, ended_at=datetime.now(UTC))
    noted(trial)
    return trial


def is_transient(failure: Failure) -> bool:
    """Whether the same start may well succeed the next time."""
    return failure.kind == "port" or bool(TRANSIENT.search(failure.message))


def noted(trial: Trial) -> None:
    """Write down how a trial ended."""
    why = trial.failure.message if trial.failure else ""
    journal.note("end", trial=trial.number, state=trial.state, seconds=trial.seconds,
                 phase=trial.failure.phase if trial.failure else "", why=why)  # fmt: skip


async def _try(
    bench: Bench, subject: Subject, trial: Trial, rungs: Sequence[Rung], doubt: Doubt,
    gate: Gate | None,
) -> Trial:  # fmt: skip
    try:
        async with bench.started(subject.profile(dict(trial.options))) as session:
            trial = replace(
                trial,
                start_s=session.start_s,
                facts=dict(session.facts),
                command=tuple(session.endpoint.command),
            )
            journal.note("up", trial=trial.number, start_s=session.start_s)
            if gate is not None:
                trial = await gate.passed(session, trial)
            measured, pruned = await measured_on(session, subject.workloads, rungs, doubt)
        return judged(replace(trial, measurements=measured), subject, pruned)
    except EngineFailed as failed:
        failure = Failure(failed.kind, failed.message, failed.phase)
        return replace(trial, state="failed", measurements={}, failure=failure)


async def measured_on(
    session: Session, workloads: Sequence[Workload], rungs: Sequence[Rung], doubt: Doubt
) -> tuple[dict[str, Measurement], str | None]:
    """Measure rung by rung on one start; stop early where more would tell nothing."""
    measured: dict[str, Measurement] = {}
    for index, rung in enumerate(rungs):
        for workload in workloads:
            measured[workload.name] = await bounded(session, lasting(workload, rung.seconds))
        pruned = doubt(measured) if index + 1 < len(rungs) else None
        if pruned:
            return measured, pruned
    return measured, None


async def bounded(session: Session, load: Workload) -> Measurement:
    """Measure, but not for ever: the window waits for the last request, however slow.

    Raises:
        EngineFailed: it took many times as long as the load lasts, or it makes no token.
    """
    limit_s = 4 * (load.duration_s or 60.0) + 30
    work = asyncio.ensure_future(session.measure(load))
    hung = asyncio.ensure_future(watchdog.hang(session, load))
    both: set[asyncio.Future[Any]] = {work, hung}
    try:
        await asyncio.wait(both, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return await _result(session, work)
        if hung.done() and hung.exception() is None:
            raise EngineFailed(
                f"no token came for {watchdog.QUIET_S:.0f} s with requests of {load.name} waiting",
                "It hangs under these options.",
                kind="hang",
                phase="run",
            )
        raise EngineFailed(
            f"{load.name} was not through after {limit_s:.0f} s",
            "It is far too slow for this load, or it hangs.",
            kind="timeout",
            phase="run",
        )
    finally:
        for each in (work, hung):
            each.cancel()
        await asyncio.gather(work, hung, return_exceptions=True)


async def _result(session: Session, work: "asyncio.Future[Measurement]") -> Measurement:
    """The measurement; where it failed because the engine died, what that one said last."""
    failure = work.exception()
    if not isinstance(failure, EngineFailed):
        return work.result()
    try:
        raise await asyncio.wait_for(session.endpoint.life.ended(), LAST_WORDS_S) from failure
    except TimeoutError:
        raise failure from None


def judged(trial: Trial, subject: Subject, pruned: str | None = None) -> Trial:
    """The trial with its state, from what was measured."""
    excesses = subject.objective.broken(trial.measurements)
    worst = max(excesses, key=lambda name: excesses[name])
    if excesses[worst] > 0:
        message = _broken(worst, subject, trial.measurements)
        return replace(trial, state="infeasible", failure=Failure("slo", message))
    if pruned:
        return replace(trial, state="pruned", failure=Failure("pruned", pruned))
    state: State = "complete"
    return replace(trial, state=state)


def _broken(name: str, subject: Subject, measured: Mapping[str, Measurement]) -> str:
    if name == "failed":
        lost = sum(m.failed for m in measured.values())
        return f"{lost} requests failed"
    if name == JOINT:
        return "all limits at once were kept in less than 99 % of the time"
    limit = next(s for s in subject.objective.limits if s.name == name)
    excess = max(limit.excess(m) for m in measured.values())
    return f"{limit} is exceeded {math.exp(min(excess, 10)):.2f} times"
