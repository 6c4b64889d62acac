"""Pictures of measurements, as SVG that lies within a page and takes its colours of it."""

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vllama.results import metrics
from vllama.results.search import THROUGHPUT, Trial, best_so_far, front

# Drawn in this colour and then replaced, so that text and axes follow the page's scheme.
_INK = "#010203"
_FAILED = "#d0463b"
# Seen on white and on near-black alike, and told apart by the colour-blind.
_COLOURS = ("#3b82d6", "#d9822b", "#2a9d6f", "#a05fc4", "#c2507a", "#8a8a2b")
_OWN_COLOURS = {"default": _COLOURS[0], "best": _COLOURS[1]}
_MARKERS = ("s", "D", "^", "v", "P")
_SHOWN = ("p50", "p95", "p99")
_STYLE: Any = {
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.grid": True,
    "figure.constrained_layout.use": True,
    "font.size": 10.0,
    "grid.alpha": 0.15,
    "grid.color": _INK,
    "legend.fontsize": 9.0,
    "legend.framealpha": 0.0,
    "svg.fonttype": "none",
    "svg.hashsalt": "vllama",
    "text.color": _INK,
    "text.parse_math": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
}
_NO_METADATA: Any = {"Date": None, "Creator": None, "Format": None, "Type": None}


def progress(search: Sequence[Trial], metric: str) -> str:
    """Each trial's value, the best so far, and the failed ones at the foot."""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure()
        values = {t.number: t.value for t in search if t.complete and t.value is not None}
        axes.scatter(list(values), list(values.values()), color=_COLOURS[0], label="trial")
        steps = best_so_far(search, lower=metrics.lower_is_better(metric))
        last = max(t.number for t in search)
        axes.step(
            [n for n, _ in steps] + [last],
            [v for _, v in steps] + [steps[-1][1]],
            where="post",
            color=_COLOURS[1],
            label="best so far",
        )
        failed = [t.number for t in search if not t.complete]
        if failed:
            foot = axes.get_ylim()[0]
            axes.scatter(
                failed, [foot] * len(failed), marker="x", color=_FAILED, label="not counted"
            )
        axes.set_xlabel("trial")
        axes.set_ylabel(metrics.label(metric))
        axes.set_xlim(min(t.number for t in search) - 0.5, last + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        _legend(figure, axes)
        return _svg(figure)


def bars(rows: Mapping[str, Mapping[str, float]], bounds: Mapping[tuple[str, str], Any]) -> str:
    """Output tokens/s by workload and target; `bounds` are 95 % intervals where known."""
    targets = list(dict.fromkeys(t for values in rows.values() for t in values))
    colours = _colours(targets)
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(height=1.3 + 0.32 * len(rows) * len(targets))
        step = 0.8 / len(targets)
        for place, target in enumerate(targets):
            for at, (workload, values) in enumerate(rows.items()):
                if target not in values:
                    continue
                y = at + (place - (len(targets) - 1) / 2) * step
                named = _short(target) if workload == _first_with(rows, target) else "_"
                colour = colours[target]
                axes.barh(y, values[target], height=step * 0.85, color=colour, label=named)
                if bounds.get((workload, target)):
                    axes.plot(bounds[workload, target], [y, y], color=_INK, marker="|")
        axes.set_yticks(range(len(rows)), [_short(workload) for workload in rows])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(metrics.label(THROUGHPUT))
        _legend(figure, axes)
        return _svg(figure)


def by_concurrency(lines: Mapping[str, Sequence[tuple[int, float]]]) -> str:
    """Output tokens/s over requests in flight, a line each."""
    colours = _colours(lines)
    with mpl.rc_context(_STYLE):
        figure, axes = _figure()
        for name, points in lines.items():
            x, y = zip(*sorted(points), strict=True)
            axes.plot(x, y, marker="o", color=colours[name], label=_short(name))
        ticks = sorted({x for points in lines.values() for x, _ in points})
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [str(t) for t in ticks])
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.set_xlabel("requests in flight")
        axes.set_ylabel(metrics.label(THROUGHPUT))
        _legend(figure, axes)
        return _svg(figure)


def latencies(measured: Mapping[str, Mapping[str, Any]]) -> str:
    """Quantiles of TTFT, ITL, TPOT and E2E, a panel each and a line for each target."""
    kinds = [k for k in metrics.LATENCIES if any(m.get(k) for m in measured.values())]
    colours = _colours(measured)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(4.8, 1.5 + 1.5 * ((len(kinds) + 1) // 2)))
        grid = figure.subplots((len(kinds) + 1) // 2, 2, squeeze=False).flatten()
        for axes, kind in zip(grid, kinds, strict=False):
            for name, measurement in measured.items():
                values = {q: metrics.value(measurement, f"{kind}.{q}") for q in _SHOWN}
                known = {q: 1000 * v for q, v in values.items() if v is not None}
                colour = colours[name]
                axes.plot(
                    list(known), list(known.values()), marker="o", color=colour, label=_short(name)
                )
            axes.set_title(f"{metrics.LATENCIES[kind]}, ms", fontsize=10)
            axes.set_ylim(bottom=0)
        for axes in grid[len(kinds) :]:
            axes.set_visible(False)
        _legend(figure, grid[0])
        return _svg(figure)


def pareto(points: Sequence[tuple[float, float]], names: Mapping[int, str], latency: str) -> str:
    """Throughput against `latency` (seconds): the front, and some points by name."""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure()
        kept = front(points)
        axes.scatter(
            [p[0] for p in points], [p[1] * 1000 for p in points], color=_COLOURS[0], label="trial"
        )
        axes.plot(
            [points[i][0] for i in kept],
            [points[i][1] * 1000 for i in kept],
            color=_COLOURS[1],
            label="not beaten in both",
        )
        for place, (index, name) in enumerate(names.items()):
            x, y = points[index]
            colour, marker = _COLOURS[2 + place % 4], _MARKERS[place % len(_MARKERS)]
            axes.scatter([x], [y * 1000], s=70, marker=marker, color=colour, zorder=3, label=name)
        axes.set_xlabel(f"{metrics.label(THROUGHPUT)} (more is better)")
        axes.set_ylabel(f"{metrics.label(latency)}, ms (less is better)")
        _legend(figure, axes)
        return _svg(figure)


def importance(shares: Sequence[tuple[str, float]]) -> str:
    """The share that each option explains."""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(height=1.0 + 0.32 * len(shares))
        axes.barh([_short(n) for n, _ in shares], [100 * s for _, s in shares], color=_COLOURS[0])
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("explains, % of the order of the trials")
        return _svg(figure)


def _figure(height: float = 3.2) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.8, height))
    return figure, figure.subplots()


def _first_with(rows: Mapping[str, Mapping[str, float]], target: str) -> str:
    return next(workload for workload, values in rows.items() if target in values)


def _legend(figure: Figure, axes: Axes) -> None:
    """Above the picture, where it hides nothing."""
    handles, names = axes.get_legend_handles_labels()
    columns = 3 if sum(map(len, names)) < 36 else 2 if sum(map(len, names)) < 70 else 1
    figure.legend(handles, names, loc="outside upper left", ncols=columns)


def _short(name: str) -> str:
    """A name that leaves room for the picture; tables show it whole."""
    return name if len(name) <= 32 else f"{name[:20]}…{name[-11:]}"


def _colours(names: Iterable[str]) -> dict[str, str]:
    """Default and best look the same in every picture; others take the colours that are left."""
    others = [n for n in names if n not in _OWN_COLOURS]
    return _OWN_COLOURS | {n: _COLOURS[2 + i % (len(_COLOURS) - 2)] for i, n in enumerate(others)}


def _svg(figure: Figure) -> str:
    """The bare `<svg>` element, its ink being the colour of the text around it."""
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata=_NO_METADATA)
    whole = out.getvalue()
    return whole[whole.index("<svg") :].replace(_INK, "currentColor")
