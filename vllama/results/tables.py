"""Tables of a tune's and a bench's JSON documents: text in rows, for any way to show them."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vllama.results import metrics
from vllama.results.search import Trial

_RATES = ("output_tokens_per_s", "total_tokens_per_s", "requests_per_s", "goodput_per_s")
_NONE = "–"


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text under named columns; the first `words` columns are words, not figures."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1


def facts(document: Mapping[str, Any]) -> Table:
    """What an object says, one line a fact; nested ones by their path."""
    return Table(("", ""), tuple(_flat(document, "")), words=2)


def options(baseline: Mapping[str, Any], best: Mapping[str, Any]) -> Table:
    """The options of both, those that differ marked."""
    names = sorted({*baseline, *best})
    pairs = [(n, _setting(baseline, n), _setting(best, n)) for n in names]
    rows = tuple((n, a, b, "changed" if a != b else "") for n, a, b in pairs)
    return Table(("option", "default", "best", ""), rows, words=4)


def default_against_best(
    baseline: Mapping[str, Mapping[str, Any]], best: Mapping[str, Mapping[str, Any]]
) -> Table:
    """Each metric of each workload that both were measured with."""
    rows = []
    for workload in baseline.keys() & best.keys():
        for name in (*_RATES[:3], "ttft_s.p50", "ttft_s.p95", "tpot_s.p50", "e2e_s.p95"):
            before = metrics.value(baseline[workload], name)
            after = metrics.value(best[workload], name)
            if before is not None and after is not None:
                values = (metrics.reading(name, before), metrics.reading(name, after))
                change = metrics.ratio(after / before) if before else _NONE
                rows.append((workload, metrics.label(name), *values, change))
    columns = ("workload", "metric", "default", "best", "ratio")
    return Table(columns, tuple(sorted(rows, key=lambda row: row[0])), words=2)


def failures(search: Sequence[Trial]) -> Table:
    """Trials that did not complete, with the cause."""
    rows = tuple(
        (str(t.number), t.state, t.failure_kind or _NONE, t.failure or _NONE, inline(t.options))
        for t in search
        if t.state != "complete"
    )
    return Table(("trial", "state", "cause", "in its own words", "options"), rows, words=5)


def every_trial(search: Sequence[Trial], metric: str) -> Table:
    """All trials with the value that was compared."""
    rows = tuple(
        (str(t.number), t.state, metrics.reading(metric, t.value), inline(t.options))
        for t in search
    )
    return Table(("trial", "state", metrics.label(metric), "options"), rows, words=4)


def ruled_out(entries: Sequence[Mapping[str, Any]]) -> Table:
    """What the search left out before it began, and why."""
    rows = tuple((str(e.get("option", "")), str(e.get("reason", ""))) for e in entries)
    return Table(("option", "why"), rows, words=2)


def throughput(results: Sequence[Mapping[str, Any]]) -> Table:
    """Rates of each target under each workload, with intervals where they are known."""
    known = [
        n for n in _RATES if any(metrics.value(r["measurement"], n) is not None for r in results)
    ]
    rows = []
    for result in results:
        measured = result["measurement"]
        counts = (str(measured.get("completed", _NONE)), str(measured.get("failed", _NONE)))
        rates = [interval(n, metrics.value(measured, n), result.get("ci95")) for n in known]
        rows.append((workload_name(result), str(result["target"]), *rates, *counts))
    names = (*(metrics.label(n) for n in known), "completed", "failed")
    return Table(("workload", "target", *names), tuple(rows), words=2)


def latency(results: Sequence[Mapping[str, Any]]) -> Table:
    """Quantiles of each time of each target under each workload."""
    rows = []
    for result in results:
        for key, name in metrics.LATENCIES.items():
            if result["measurement"].get(key):
                values = (
                    metrics.reading(
                        f"{key}.{q}", metrics.value(result["measurement"], f"{key}.{q}")
                    )
                    for q in metrics.QUANTILES
                )
                rows.append((workload_name(result), str(result["target"]), name, *values))
    return Table(("workload", "target", "time", *metrics.QUANTILES), tuple(rows), words=3)


def comparisons(entries: Sequence[Mapping[str, Any]]) -> Table:
    """Verdicts of a bench: candidate against baseline."""
    rows = []
    for entry in entries:
        name = str(entry["metric"])
        both = [_side(name, entry.get(side)) for side in ("baseline", "candidate")]
        low, high = entry.get("ci95") or (None, None)
        bounds = _NONE if low is None or high is None else _span(low, high)
        change = metrics.ratio(entry["ratio"]) if entry.get("ratio") is not None else _NONE
        where = str(entry["workload"])
        rows.append((where, metrics.label(name), *both, change, bounds, str(entry["verdict"])))
    columns = ("workload", "metric", "baseline", "candidate", "ratio", "95 % interval", "verdict")
    return Table(columns, tuple(rows), words=2)


def checks(gate: Mapping[str, Any]) -> Table:
    """Every metric of every workload that a regression gate looked at."""
    rows = []
    for check in gate["checks"]:
        name = str(check["metric"])
        both = (metrics.reading(name, check["baseline"]), metrics.reading(name, check["candidate"]))
        bounds = _span(*check["worse_ci90"]) if check["worse_ci90"] else _NONE
        worse = metrics.ratio(check["worse"])
        where = (str(check["workload"]), metrics.label(name))
        rows.append((*where, *both, worse, bounds, str(check["verdict"])))
    columns = ("workload", "metric", "baseline", "candidate", "times worse", "90 %", "verdict")
    return Table(columns, tuple(rows), words=2)


def failed_requests(results: Sequence[Mapping[str, Any]]) -> Table:
    """Requests that failed, by cause; one row for a target that showed nothing at all."""
    rows = []
    for result in results:
        where = (workload_name(result), str(result["target"]))
        for cause, count in ((result.get("measurement") or {}).get("failures") or {}).items():
            rows.append((*where, str(cause), str(count)))
        failure = result.get("failure")
        if failure:
            rows.append((*where, f"{failure.get('kind', '')}: {failure.get('message', '')}", "all"))
    return Table(("workload", "target", "cause", "requests"), tuple(rows), words=3)


def measured(bench: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The results of a bench that hold a measurement."""
    return [r for r in bench.get("results") or () if r.get("measurement")]


def interval(name: str, number: float | None, ci95: Mapping[str, Any] | None) -> str:
    """A value, with its 95 % interval where that is known."""
    bounds = (ci95 or {}).get(name)
    shown = metrics.reading(name, number)
    if not bounds:
        return shown
    return f"{shown} [{metrics.reading(name, bounds[0])}, {metrics.reading(name, bounds[1])}]"


def workload_name(result: Mapping[str, Any]) -> str:
    """The name of a result's workload."""
    return str((result.get("workload") or {}).get("name", ""))


def command(words: str | Sequence[str] | None) -> str:
    """A command as one types it, from a text or a list of words; empty where there is none."""
    return words if isinstance(words, str) else shlex.join(words or ())


def inline(settings: Mapping[str, Any]) -> str:
    """Options on one line; the engine's own where none is set."""
    return ", ".join(f"{k}={_text(v)}" for k, v in settings.items()) or "the engine's own"


def _span(low: float, high: float) -> str:
    return f"{metrics.ratio(low)} to {metrics.ratio(high)}"


def _side(name: str, side: object) -> str:
    if isinstance(side, int | float):
        return metrics.reading(name, side)
    return _NONE if side is None else str(side)


def _setting(settings: Mapping[str, Any], name: str) -> str:
    return _text(settings[name]) if name in settings else "(not set)"


def _flat(document: Mapping[str, Any], prefix: str) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in document.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{key} ")
        elif isinstance(value, list) and value and all(isinstance(v, Mapping) for v in value):
            for number, entry in enumerate(value):
                rows += _flat(entry, f"{prefix}{key} {number} ")
        elif value not in (None, "", [], ()):
            rows.append(_fact(f"{prefix}{key}", value))
    return rows


def _fact(key: str, value: object) -> tuple[str, str]:
    if key.endswith("_bytes") and isinstance(value, int | float):
        return key.removesuffix("_bytes").replace("_", " "), f"{value / 1024**3:.1f} GiB"
    return key.replace("_", " "), _text(value)


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ", ".join(_text(v) for v in value)
    return str(value)


def ablation(parts: Sequence[Mapping[str, Any]]) -> Table:
    """What is left of the best without each of its settings."""
    rows = tuple(
        (
            f"{part['option']}={part['value']}",
            str(part["default"]),
            str(part["failure"]) if part["ratio"] is None else metrics.ratio(part["ratio"]),
            str(part["verdict"]),
        )
        for part in parts
    )
    return Table(("setting", "put back to", "what is left", "so it"), rows, words=4)
