"""Trials and blocks of finals as records of the ledger."""

from collections.abc import Iterator
from datetime import UTC, datetime

from vllama import __version__
from vllama.results.record import Failure, Record
from vllama.tuner.finals import Block
from vllama.tuner.subject import Subject
from vllama.tuner.trial import Trial


def of_trial(trial: Trial, subject: Subject, seed: int) -> Iterator[Record]:
    """One record for each load, or one for the failure."""
    default, now = subject.default, datetime.now(UTC)
    blank = Record(
        "trial",
        subject.profile(dict(trial.options)),
        machine=default.machine,
        engine=default.engine,
        engine_version=default.engine_version,
        vllama_version=__version__,
        seed=seed,
        started_at=trial.started_at or now,
        ended_at=trial.ended_at or now,
        failure=Failure("unknown", ""),
        study=subject.study,
        trial=trial.number,
    )
    if trial.failure is not None and not trial.measurements:
        failure = trial.failure
        yield _with(blank, failure=Failure(failure.kind, failure.message, failure.phase))
    for workload in subject.workloads:
        if workload.name in trial.measurements:
            measured = trial.measurements[workload.name]
            yield _with(blank, workload=workload, measurement=measured, failure=None)


def of_block(block: Block, subject: Subject, seed: int) -> Iterator[Record]:
    """One record."""
    default, now = subject.default, datetime.now(UTC)
    blank = Record(
        "measurement",
        subject.profile(block.options, "final"),
        machine=default.machine,
        engine=default.engine,
        engine_version=default.engine_version,
        vllama_version=__version__,
        seed=seed,
        started_at=now,
        ended_at=now,
        failure=Failure("crash", block.failure),
        study=subject.study,
    )
    load = next((w for w in subject.workloads if w.name == block.workload), None)
    if block.measured is None:
        yield _with(blank, workload=load)
    else:
        yield _with(blank, workload=load, measurement=block.measured, failure=None)


def _with(record: Record, **changes: object) -> Record:
    from dataclasses import replace

    return replace(record, **changes)  # type: ignore[arg-type]
