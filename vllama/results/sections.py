"""What a report says, part by part, whatever it is written as."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from vllama.results import metrics, tables
from vllama.results.search import default_won, differ, metric, trials, verdict
from vllama.results.tables import Table

Document: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, sentences, tables, commands to type, and captioned SVG pictures."""

    title: str
    text: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    commands: tuple[tuple[str, str], ...] = ()
    pictures: tuple[tuple[str, str], ...] = ()


def of_tune(tune: Document) -> Iterator[Section]:
    """The parts of a report on a search, without pictures."""
    baseline, best = tune.get("baseline") or {}, tune.get("best") or {}
    yield summary(tune)
    yield Section("Machine and model", tables=(tables.facts(_ground(tune)),))
    if baseline or best:
        yield _launch(baseline, best)
    if tune.get("ablation"):
        yield _ablation(tune["ablation"])
    search = trials(tune)
    text = ("Over several workloads, a trial's value is their geometric mean.",)
    yield Section("Every trial", text, (tables.every_trial(search, metric(tune)),))
    failed = tables.failures(search)
    nothing = () if failed.rows else ("No trial failed.",)
    yield Section("Failures", nothing, (failed,) if failed.rows else ())
    if tune.get("ruled_out"):
        text = ("Left out before the search began, so no start was spent on it.",)
        yield Section("Ruled out", text, (tables.ruled_out(tune["ruled_out"]),))


def _ablation(parts: Sequence[Document]) -> Section:
    text = (
        "The best with one setting at a time put back to the default, one start each. Below 1x "
        "the setting brings something; within 3 % one start cannot tell a difference.",
    )
    return Section("Which settings mattered", text, (tables.ablation(parts),))


def _launch(baseline: Document, best: Document) -> Section:
    settings = tables.options(baseline.get("options") or {}, best.get("options") or {})
    commands = tuple(
        (who, tables.command(side["command"]))
        for who, side in (("default", baseline), ("best", best))
        if side.get("command")
    )
    title = "How it is launched"
    if not settings.rows:
        return Section(title, ("No option is set: these are the engine's own.",), (), commands)
    return Section(title, (), (settings,), commands)


def summary(tune: Document) -> Section:
    """Default against best, in words and figures."""
    baseline, best = tune.get("baseline") or {}, tune.get("best") or {}
    against = tables.default_against_best(
        baseline.get("measurements") or {}, best.get("measurements") or {}
    )
    text = [verdict(tune)]
    if differ(tune) and default_won(tune):
        text.append("So the default is the setting to use.")
    cost = tune.get("cost")
    if cost:
        text.append(
            f"It took {cost.get('trials', 0)} trials, {cost.get('engine_starts', 0)} engine starts "
            f"and {metrics.digits(float(cost.get('seconds', 0)))} seconds."
        )
    return Section("Default against best", tuple(text), (against,) if against.rows else ())


def of_bench(bench: Document) -> Iterator[Section]:
    """The parts of a report on a measurement, without pictures."""
    results = tables.measured(bench)
    if bench.get("gate"):
        yield _gate(bench["gate"])
    compared = bench.get("comparisons") or ()
    if compared:
        table = tables.comparisons(compared)
        yield Section("Comparison", _verdicts(compared), (table,))
    yield Section("Throughput", tables=(tables.throughput(results),))
    yield Section("Latency", tables=(tables.latency(results),))
    failed = tables.failed_requests(bench.get("results") or ())
    suspect = tuple(
        f"{tables.workload_name(r)} on {r['target']} is suspect: {reason}."
        for r in results
        for reason in r["measurement"].get("suspect") or ()
    )
    if failed.rows or suspect:
        yield Section("Requests that failed", suspect, (failed,) if failed.rows else ())
    targets = tuple(tables.facts(t) for t in bench.get("targets") or ())
    yield Section("What was measured", tables=(tables.facts(_ground(bench)), *targets))


def _gate(gate: Document) -> Section:
    how = "in turns with the baseline" if gate["paired"] else "against the baseline's samples"
    text = (
        f"Verdict: {gate['verdict']}.",
        f"{gate['candidate']} was measured {how}, {gate['baseline']}; "
        f"{100 * gate['max_regression']:g} % worse is allowed.",
    )
    return Section("Regression gate", text, (tables.checks(gate),))


def ending(documents: Sequence[Document]) -> Iterator[Section]:
    """What holds for every report: how to repeat it, and what the words mean."""
    commands = tuple(("", tables.command(d["command"])) for d in documents if d.get("command"))
    if commands:
        yield Section("Repeat it", commands=commands)
    meaning = Table(("", ""), metrics.DEFINITIONS, words=2)
    yield Section("What the words mean", tables=(meaning,))


def _verdicts(compared: Sequence[Document]) -> tuple[str, ...]:
    words = [str(c["verdict"]) for c in compared]
    counts = ", ".join(f"{words.count(w)} {w}" for w in dict.fromkeys(words))
    return (f"Of {len(words)} comparisons: {counts}. Undecided means that noise hides the answer.",)


def _ground(document: Document) -> dict[str, Any]:
    keys = ("model", "engine", "study", "machine")
    return {k: document[k] for k in keys if document.get(k)}
