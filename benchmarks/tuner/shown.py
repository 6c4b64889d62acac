"""The benchmark's rows as a table and a picture."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

_HEAD = (
    "| worlds | method | best after 10 | after 20 | after 30 | starts to 98 % | chosen, median | "
    "10th pct | starts | settings tried | crashes in 20 | bias of the claim | interval covers | "
    "hours |"
)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown, one line for each method of each case."""
    lines = [
        "# The tuner on simulated landscapes",
        "",
        "An 8B model on an 80 GB card, 2352 configurations, 60 s a start, 1 % noise a minute and "
        "0.7 % between starts. Load A: 256 users, 1024/256 tokens. Load B: 64 users, 4096/256 "
        "tokens, p99 TTFT 2 s and TPOT 42 ms at most. Figures are shares of the exhaustive "
        "best. 'Chosen' is after the finals, where a method has them; starts and crashes are "
        "those of the search. With live limits, as with vLLM from 0.31, a start measures up to "
        "nine further settings of its scheduler's limits, a third as long each, which are 1 % off "
        "what they are at a start of their own; those that would not start bring it down. "
        "Written by `make bench-tuner`.",
        "",
        _HEAD,
        "| --- " * (_HEAD.count("|") - 1) + "|",
    ]
    for (load, error, count), case in _cases(rows):
        for method in dict.fromkeys(r["method"] for r in case):
            mine = [r for r in case if r["method"] == method]
            lines.append(_line(f"{load}, prior error {error:.0%}, {count}", method, mine))
    return "\n".join(lines) + "\n"


def _cases(
    rows: Sequence[Mapping[str, Any]],
) -> Iterator[tuple[tuple[str, float, int], list[Mapping[str, Any]]]]:
    for case in dict.fromkeys((r["load"], r["error"]) for r in rows):
        mine = [r for r in rows if (r["load"], r["error"]) == case]
        yield (case[0], case[1], len({r["world"] for r in mine})), mine


def _line(worlds: str, method: str, rows: Sequence[Mapping[str, Any]]) -> str:
    cells = [_at(rows, n) for n in (10, 20, 30)]
    to_98 = [next((i + 1 for i, q in enumerate(r["curve"]) if q >= 0.98), 999) for r in rows]
    typical = float(np.median(to_98))
    chosen = [r["chosen"] for r in rows]
    biases = [r["bias"] for r in rows if r["bias"] is not None]
    covers = [r["covered"] for r in rows if r["covered"] is not None]
    crashes = np.mean([r["crashes"] * 20 / r["search_starts"] for r in rows])
    cells += [
        "never" if typical > 900 else f"{typical:.0f}",
        f"{np.median(chosen):.3f}",
        f"{np.percentile(chosen, 10):.3f}",
        f"{np.mean([r['search_starts'] for r in rows]):.1f}",
        f"{np.mean([r['settings'] for r in rows]):.0f}",
        f"{crashes:.2f}",
        f"{100 * np.mean(biases):+.2f} %" if biases else "–",
        f"{np.mean(covers):.0%} of {len(covers)}" if covers else "–",
        f"{np.median([r['hours'] for r in rows]):.2f}",
    ]
    return f"| {worlds} | {method} | " + " | ".join(cells) + " |"


def _at(rows: Sequence[Mapping[str, Any]], starts: int) -> str:
    """Median / 10th percentile of the best so far."""
    if not all(len(r["curve"]) for r in rows) or starts > max(r["trials"] for r in rows):
        return "–"
    values = [r["curve"][min(starts, len(r["curve"])) - 1] for r in rows]
    return f"{np.median(values):.3f} / {np.percentile(values, 10):.3f}"


def regret(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """How far from the best, by starts: the median and the range from 10 to 90 of 100."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    cases = list(_cases(rows))
    figure, axes = pyplot.subplots(1, len(cases), figsize=(5 * len(cases), 4), squeeze=False)
    for axis, ((load, error, _), case) in zip(axes[0], cases, strict=True):
        for method in dict.fromkeys(r["method"] for r in case):
            curves = [r["curve"] for r in case if r["method"] == method]
            length = max(map(len, curves))
            gaps = 100 * (1 - np.array([[*c, *[c[-1]] * (length - len(c))] for c in curves]))
            x = np.arange(1, length + 1)
            (line,) = axis.plot(x, np.median(gaps, axis=0), label=method)
            low, high = np.percentile(gaps, [10, 90], axis=0)
            axis.fill_between(x, low, high, color=line.get_color(), alpha=0.12, linewidth=0)
        axis.axhline(2, color="gray", linewidth=0.8, linestyle=":")
        axis.set(title=f"load {load}, prior error {error:.0%}", xlabel="engine starts",
                 ylabel="% below the exhaustive best", yscale="symlog", ylim=(0, 100))  # fmt: skip
    axes[0][0].legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path)
