"""`make report`: the committed results as pages, and one table of them all.

Reads results/*/ and writes a page beside every whole document of `vllama tune` and
`vllama bench`, and results/README.md. No figure is in it that is not in one of the files.

    python -m benchmarks.report
"""

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from vllama.disk import write_whole
from vllama.errors import UsageError, VllamaError
from vllama.results import metrics, report

ROOT = Path(__file__).parent.parent
SHOWN = ("output_tokens_per_s", "requests_per_s", "ttft_s.p50", "tpot_s.p50", "e2e_s.p50")
TITLE = "# Results\n\nWritten by `make report` from the files beside it; not to be edited.\n"
Row = Sequence[str]


def main() -> int:
    """Write all of it."""
    try:
        for path in build(ROOT / "results"):
            print(path.relative_to(ROOT))
    except VllamaError as error:
        print(f"report: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def build(results: Path) -> list[Path]:
    """Pages and table; what was written.

    Raises:
        UsageError: a file is no JSON; names it.
    """
    documents = {path: _read(path) for path in sorted(results.glob("*/*.json"))}
    pages = {path: _page(path, d) for path, d in documents.items() if _is_whole(d)}
    shown = {p: d for p, d in documents.items() if isinstance(d, dict)}
    table = results / "README.md"
    write_whole(table, "\n".join([TITLE, *_parts(results, shown)]))
    return [*pages.values(), table]


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UsageError(f"{path} is no JSON: {error}", "Measure again, or remove it.") from error


def _is_whole(document: Any) -> bool:
    """Whether it is a tune or a bench with figures of its own, not ratios alone."""
    if not isinstance(document, dict) or "relative_to" in document:
        return False
    return "trials" in document or bool(document.get("targets") and document.get("results"))


def _page(path: Path, document: dict[str, Any]) -> Path:
    tune = document if "trials" in document else None
    bench = None if tune else document
    title = f"{path.stem} on {path.parent.name}"
    return report.write(path.with_suffix(".html"), tune=tune, bench=bench, title=title)


def _parts(results: Path, documents: Mapping[Path, dict[str, Any]]) -> Iterator[str]:
    head = ("machine", "model", "workload", "target", *map(metrics.label, SHOWN), "file")
    rows = [r for p, d in documents.items() if _is_whole(d) for r in _measured(p, d)]
    yield from _table("Measured", head, rows)
    rows = [r for p, d in documents.items() if "relative_to" in d for r in _ratios(p, d)]
    note = "Geometric mean of the ratios of pairs of blocks in one run; 1 is no difference."
    yield from _table("Times another in the same run", head, rows, note)
    head = ("machine", "model", "default", "best", "gain", "95 % interval", "file")
    rows = [_tuned(p, d) for p, d in documents.items() if "trials" in d]
    yield from _table("Tuned", head, rows)
    head = ("machine", "model", "start", "predicted tokens", "log", "off", "file")
    rows = [r for p, d in documents.items() if "kv" in d for r in _cache(p, d)]
    yield from _table("KV cache, predicted against the log", head, rows)
    others = [p for p in sorted(results.glob("*/*.md")) if p != results / "README.md"]
    known = ("relative_to", "kv", "trials")
    others += [
        p for p, d in documents.items() if not _is_whole(d) and not any(key in d for key in known)
    ]
    if others:
        yield "## Also here\n"
        yield "\n".join(f"- {_link(p)}{_heading(p)}" for p in others) + "\n"


def _measured(path: Path, document: Mapping[str, Any]) -> Iterator[Row]:
    for result in document.get("results") or ():
        measured = result.get("measurement") or {}
        figures = [metrics.reading(n, metrics.value(measured, n)) for n in SHOWN]
        load, target = result["workload"]["name"], result["target"]
        yield [path.parent.name, _model(document), load, target, *figures, _link(path)]


def _ratios(path: Path, document: Mapping[str, Any]) -> Iterator[Row]:
    for result in document["results"]:
        series = [[b["metrics"].get(n) for b in result["blocks"]] for n in SHOWN]
        figures = [
            metrics.ratio(geometric_mean(values)) if all(values) else "–" for values in series
        ]
        target = f"{result['target']} / {document['relative_to']}"
        load = result["workload"]["name"]
        yield [path.parent.name, _model(document), load, target, *figures, _link(path)]


def _tuned(path: Path, document: Mapping[str, Any]) -> Row:
    gain = document.get("gain") or {}
    interval = gain.get("ci95")
    sides = [_options((document.get(side) or {}).get("options")) for side in ("baseline", "best")]
    ratio = metrics.ratio(gain["ratio"]) if gain.get("ratio") else "–"
    between = " to ".join(map(metrics.ratio, interval)) if interval else "–"
    return [path.parent.name, _model(document), *sides, ratio, between, _link(path)]


def _cache(path: Path, document: Mapping[str, Any]) -> Iterator[Row]:
    for row in document["kv"]:
        off = row["off"] if math.isfinite(row["off"]) else 0.0
        figures = (f"{row['predicted']:,}", f"{row['log']:,}", f"{off:+.1%}")
        yield [path.parent.name, _model(document), row["target"], *figures, _link(path)]


def _table(title: str, head: Row, rows: Sequence[Row], note: str = "") -> Iterator[str]:
    if not rows:
        return
    yield f"## {title}\n"
    if note:
        yield f"{note}\n"
    lines = [head, ["---"] * len(head), *rows]
    yield "\n".join("| " + " | ".join(_cell(c) for c in line) + " |" for line in lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _options(options: Mapping[str, Any] | None) -> str:
    return ", ".join(f"{k}={v}" for k, v in sorted((options or {}).items())) or "–"


def _model(document: Mapping[str, Any]) -> str:
    return str(document.get("model") or "").rstrip("/").rpartition("/")[2]


def _link(path: Path) -> str:
    page = path.with_suffix(".html")
    shown = page if path.suffix == ".json" and page.exists() else path
    return f"[{path.name}]({path.parent.name}/{shown.name})"


def _heading(path: Path) -> str:
    """What a table that another benchmark wrote calls itself."""
    if path.suffix != ".md":
        return ""
    first = path.read_text().partition("\n")[0]
    return f": {first.lstrip('# ')}"


if __name__ == "__main__":
    sys.exit(main())
