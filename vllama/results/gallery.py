"""Which pictures a document gives rise to: each is drawn only where there is enough to see."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vllama.results import metrics, plots, tables
from vllama.results.importance import ENOUGH, TRUSTED, importance
from vllama.results.search import THROUGHPUT, differ, metric, over_workloads, trials
from vllama.results.sections import Document, Section

_ENOUGH_TO_SEE = 12
_SIDES = (("baseline", "default"), ("best", "best"))


def of_tune(tune: Document) -> Iterator[Section]:
    """Pictures of a search."""
    search = trials(tune)
    complete = [t for t in search if t.complete]
    if complete:
        failed = len(search) - len(complete)
        caption = f"Complete trials: {len(complete)}; not counted: {failed}."
        picture = (caption, plots.progress(search, metric(tune)))
        yield Section("Progress of the search", pictures=(picture,))
    pair = [(n, (tune.get(k) or {}).get("measurements") or {}) for k, n in _SIDES]
    if all(measurements for _, measurements in pair) and differ(tune):
        yield _side_by_side(dict(pair))
    if len(complete) > 1:
        pictures = tuple(_pareto(tune))
        if pictures:
            yield Section("Throughput against latency", pictures=pictures)
    yield _importance(tune)


def of_bench(bench: Document) -> Iterator[Section]:
    """Pictures of a measurement."""
    results = tables.measured(bench)
    rows: dict[str, dict[str, float]] = {}
    bounds: dict[tuple[str, str], Any] = {}
    measured: dict[str, dict[str, Any]] = {}
    for result in results:
        where, target = tables.workload_name(result), str(result["target"])
        measured.setdefault(where, {})[target] = result["measurement"]
        rate = metrics.value(result["measurement"], THROUGHPUT)
        if rate is not None:
            rows.setdefault(where, {})[target] = rate
            bounds[where, target] = (result.get("ci95") or {}).get(THROUGHPUT)
    if rows:
        picture = ("Thin lines on the bars are 95 % intervals.", plots.bars(rows, bounds))
        yield Section("Throughput by workload", pictures=(picture,))
    lines = _lines(results)
    if any(len({load for load, _ in points}) > 1 for points in lines.values()):
        yield Section("Throughput by load", pictures=(("", plots.by_concurrency(lines)),))
    timed = [(w, m) for w, m in measured.items() if _timed(m)]
    pictures = tuple((f"Workload {w}.", plots.latencies(m)) for w, m in timed[:_ENOUGH_TO_SEE])
    if pictures:
        more = len(timed) - len(pictures)
        text = (f"{more} more workloads stand in the table of latencies.",) if more else ()
        yield Section("Latency by quantile", text, pictures=pictures)


def _lines(results: Sequence[Document]) -> dict[str, list[tuple[int, float]]]:
    """(concurrency, rate) by target, told apart by shape of load where there are several."""
    shapes = {_shape(r["workload"]) for r in results}
    lines: dict[str, list[tuple[int, float]]] = {}
    for result in results:
        rate = metrics.value(result["measurement"], THROUGHPUT)
        if rate is not None:
            target, shape = str(result["target"]), _shape(result["workload"])
            name = target if len(shapes) == 1 else f"{target}, {shape}"
            load = int(result["workload"].get("concurrency") or 1)
            lines.setdefault(name, []).append((load, rate))
    return lines


def _shape(workload: Document) -> str:
    whole = "" if workload.get("stream", True) else ", not streamed"
    return f"{workload.get('prompt_tokens', '?')}+{workload.get('output_tokens', '?')}{whole}"


def _side_by_side(pair: Mapping[str, Mapping[str, Any]]) -> Section:
    rows: dict[str, dict[str, float]] = {}
    bounds: dict[tuple[str, str], Any] = {}
    for name, measurements in pair.items():
        for workload, measurement in measurements.items():
            rate = metrics.value(measurement, THROUGHPUT)
            if rate is not None:
                rows.setdefault(workload, {})[name] = rate
                bounds[workload, name] = (measurement.get("ci95") or {}).get(THROUGHPUT)
    pictures = [("", plots.bars(rows, bounds))] if rows else []
    for workload in rows:
        both = {name: m[workload] for name, m in pair.items() if workload in m}
        if _timed(both):
            pictures.append((f"Latency by quantile, workload {workload}.", plots.latencies(both)))
    return Section("Default against best, drawn", pictures=tuple(pictures))


def _pareto(tune: Document) -> Iterator[tuple[str, str]]:
    complete = [t for t in trials(tune) if t.complete]
    for latency in ("ttft_s.p50", "tpot_s.p50"):
        placed = [
            (t, (over_workloads(t.measurements, THROUGHPUT), _mean(t.measurements, latency)))
            for t in complete
        ]
        seen = [(t, (x, y)) for t, (x, y) in placed if x is not None and y is not None]
        if len(seen) < 2:
            continue
        named = dict(tune.get("profile_trials") or {})
        names: dict[int, list[str]] = {}
        for index, (trial, _) in enumerate(seen):
            for key, name in _SIDES:
                side = tune.get(key)
                if side and (side.get("options") or {}) == dict(trial.options):
                    names.setdefault(index, []).append(name)
            for name, number in named.items():
                if number == trial.number and name not in names.get(index, ()):
                    names.setdefault(index, []).append(name)
        labels = {index: ", ".join(words) for index, words in names.items()}
        caption = "Each point is a trial; over several workloads, their geometric mean."
        yield caption, plots.pareto([point for _, point in seen], labels, latency)


def _mean(measurements: Mapping[str, Mapping[str, Any]], latency: str) -> float | None:
    if all(metrics.value(m, latency) is None for m in measurements.values()):
        return None
    return over_workloads(measurements, latency)


def _importance(tune: Document) -> Section:
    search = trials(tune)
    complete = sum(t.complete for t in search)
    title = "Which options mattered"
    shares = importance(search)
    if not shares:
        reason = f"Not shown: it takes {ENOUGH} complete trials with different options"
        return Section(title, (f"{reason}; so far: {complete}.",))
    text = ["The search does not vary options evenly: this shows what went together, not causes."]
    if complete < TRUSTED:
        text.append(f"Only {complete} complete trials: below {TRUSTED} the order may be chance.")
    caption = "Share of the order of the trials that an option explains by itself."
    return Section(title, tuple(text), pictures=((caption, plots.importance(shares)),))


def _timed(measured: Mapping[str, Mapping[str, Any]]) -> bool:
    return any(m.get(kind) for m in measured.values() for kind in metrics.LATENCIES)
