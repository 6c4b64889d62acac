"""The report: one HTML file that needs nothing else, made from JSON documents."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from vllama.disk import write_whole
from vllama.errors import UsageError
from vllama.results import gallery, sections
from vllama.results.sections import Section

FORMAT = 1
# The answer first, then what shows it, then what it rests on.
_ORDER = (
    "Regression gate",
    "Default against best",
    "Comparison",
    "Default against best, drawn",
    "Throughput by workload",
    "Throughput by load",
    "Latency by quantile",
    "Progress of the search",
    "Throughput against latency",
    "Which options mattered",
    "How it is launched",
)


def write(
    path: Path,
    *,
    tune: dict[str, Any] | None,
    bench: dict[str, Any] | None,
    title: str = "vllama report",
) -> Path:
    """Write the report on a tune, a bench or both to `path`; returns `path`.

    `tune` and `bench` are what `vllama tune --json` and `vllama bench --json` print.

    Raises:
        UsageError: neither is given, or one is of a format that is not read here.
        StorageError: the file cannot be written; an old one is as it was.
    """
    for document in (d for d in (tune, bench) if d is not None):
        if document.get("format") != FORMAT:
            raise UsageError(
                f"format {document.get('format')!r} of the document is not the {FORMAT} read here",
                "It was written by another version of vllama: use that one, or measure again.",
            )
    if tune is None and bench is None:
        raise UsageError("nothing to report on", "Run `vllama tune` or `vllama bench` first.")
    write_whole(path, page(list(_sections(tune, bench)), title))
    return path


def page(parts: Sequence[Section], title: str) -> str:
    """The HTML of these sections. Every text is escaped; pictures are our own SVG."""
    environment = Environment(
        loader=PackageLoader("vllama.results", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["drawn"] = Markup
    return environment.get_template("report.html.jinja").render(title=title, sections=parts)


def _sections(tune: dict[str, Any] | None, bench: dict[str, Any] | None) -> Iterator[Section]:
    parts: list[Section] = []
    if tune is not None:
        parts += [*sections.of_tune(tune), *gallery.of_tune(tune)]
    if bench is not None:
        parts += [*sections.of_bench(bench), *gallery.of_bench(bench)]
    last = len(_ORDER)
    yield from sorted(parts, key=lambda p: _ORDER.index(p.title) if p.title in _ORDER else last)
    yield from sections.ending([d for d in (tune, bench) if d is not None])
