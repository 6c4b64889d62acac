"""The same summary as Markdown, for a pull request or a README."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from vllama.results import sections, tables
from vllama.results.regression import Gate
from vllama.results.sections import Section
from vllama.results.tables import Table

_WORDS = {"pass": "no regression", "regression": "regression", "undecided": "undecided"}
_SPECIAL = re.compile(r"([\\`*_\[\]<>|#])")


def summary(document: Mapping[str, Any]) -> str:
    """Verdict and figures of a `vllama tune --json` or `vllama bench --json` document."""
    if "trials" in document:
        wanted = ("Default against best", "How it is launched", "Failures")
        parts = [s for s in sections.of_tune(document) if s.title in wanted]
    else:
        parts = [s for s in sections.of_bench(document) if s.title != "What was measured"]
    return "\n".join(line for part in parts for line in _lines(part))


def gate(found: Gate) -> str:
    """A gate's verdict and checks, for a pull request's comment or a step's summary."""
    how = "measured in turns with it" if found.paired else "against its stored samples"
    allowed = f"{100 * found.max_regression:g} %"
    return "\n".join(
        (
            f"## vllama bench: {_WORDS[found.verdict]}\n",
            f"{_plain(found.candidate)} against {_plain(found.baseline)}, {how}; "
            f"{allowed} worse is allowed.\n",
            *_table(tables.checks(found.to_json())),
            "",
        )
    )


def _lines(part: Section) -> Iterator[str]:
    yield f"## {_plain(part.title)}\n"
    for sentence in part.text:
        yield f"{_plain(sentence)}\n"
    for table in part.tables:
        yield from _table(table)
        yield ""
    for who, command in part.commands:
        yield f"{_plain(who)}:\n" if who else ""
        yield "\n".join(f"    {line}" for line in command.splitlines()) + "\n"


def _table(table: Table) -> Iterator[str]:
    yield _row(_plain(name) for name in table.columns)
    yield _row("---" if place < table.words else "---:" for place in range(len(table.columns)))
    for row in table.rows:
        yield _row(_plain(cell) for cell in row)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _plain(text: str) -> str:
    """The text without any meaning to Markdown, on one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))
