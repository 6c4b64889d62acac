"""What `vllama bench` shows to people."""

from collections.abc import Mapping, Sequence
from typing import Any

from vllama.bench.contest import Block
from vllama.bench.measurement import Measurement, Quantiles, summarize
from vllama.bench.verdicts import LOWER, Result, Verdict
from vllama.bench.wire import Client

DEFINITIONS = """\
TTFT  from the request's bytes handed to the socket to the first chunk with content
ITL   gap between one chunk with content and the next
TPOT  (last content - first content) / (output tokens - 1)
E2E   from the request's bytes handed to the socket to the last chunk with content
tok/s output tokens that arrived in the steady window / its length (the server's own count)
      -: not enough samples for this percentile (p95 needs 72, p99 needs 368)"""
_COLUMNS = (
    "workload", "target", "done", "failed", "tok/s", "req/s",
    "TTFT p50", "p95", "p99", "ITL p50", "p99", "TPOT p50", "E2E p50", "p95", "memory",
)  # fmt: skip
_MIB = 1024**2


def progress(block: Block, number: int, total: int) -> str:
    """One line for a block that has just been measured."""
    shown = summarize(block.run)
    failed = f", {shown.failed} failed" if shown.failed else ""
    return (
        f"{number}/{total}  {block.workload.name}  {block.target}  "
        f"{shown.output_tokens_per_s:.1f} tok/s, {shown.requests_per_s:.2f} req/s{failed}"
    )


def client(used: Client) -> str:
    """What loads, and how much of it it could take."""
    cost_us = 1e6 * used.chunk_cost_s
    return (
        f"client     {used.name}: {cost_us:.1f} us of CPU a streamed chunk here, "
        f"{1 / used.chunk_cost_s:,.0f} chunks/s a process"
    )


def tables(found: Sequence[Result], judged: Sequence[Verdict], document: Mapping[str, Any]) -> str:
    """Figures, doubts, verdicts and what the figures mean."""
    rows = [_COLUMNS, *(_row(r) for r in found)]
    parts = [_aligned(rows), "\n".join(_doubts(found))]
    parts += [_versus(pair, judged, document) for pair in _pairs(judged)]
    return "\n\n".join(part for part in (*parts, DEFINITIONS) if part)


def _pairs(judged: Sequence[Verdict]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((v.candidate, v.baseline) for v in judged))


def _versus(pair: tuple[str, str], judged: Sequence[Verdict], document: Mapping[str, Any]) -> str:
    """One candidate against one baseline: verdicts, what was aimed at, what is not alike."""
    candidate, baseline = pair
    lines = [f"{candidate} against {baseline}"]
    lines += [f"  {_sentence(v)}" for v in judged if (v.candidate, v.baseline) == pair]
    for aim in document.get("aims") or ():
        if aim["baseline"] == baseline:
            ratio = "-" if aim["ratio"] is None else f"{aim['ratio']:.2f}x"
            goal = "faster" if aim["aimed"] == 1 else f"{aim['aimed']:g}x"
            lines.append(f"  aim  {aim['workload']}: {goal}; measured {ratio}: {aim['verdict']}")
    for difference in (document.get("unlike") or {}).get(baseline) or ():
        lines.append(f"  not alike: {difference}")
    return "\n".join(lines)


def _row(result: Result) -> tuple[str, ...]:
    m = result.measurement
    memory = "" if m.peak_memory_bytes is None else f"{m.peak_memory_bytes / _MIB:.0f} MiB"
    return (
        result.workload, result.target, str(m.completed), str(m.failed),
        f"{m.output_tokens_per_s:.1f}", f"{m.requests_per_s:.2f}",
        _at(m.ttft_s, "p50"), _at(m.ttft_s, "p95"), _at(m.ttft_s, "p99"),
        _at(m.itl_s, "p50"), _at(m.itl_s, "p99"), _at(m.tpot_s, "p50"),
        _at(m.e2e_s, "p50"), _at(m.e2e_s, "p95"), memory,
    )  # fmt: skip


def _at(quantiles: Quantiles | None, name: str) -> str:
    value = getattr(quantiles, name, None)
    return "-" if value is None else f"{1000 * value:.1f} ms"


def _aligned(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    left = 2
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _doubts(found: Sequence[Result]) -> list[str]:
    lines = []
    for result in found:
        m: Measurement = result.measurement
        who = f"{result.workload} on {result.target}"
        if m.failures:
            kinds = ", ".join(f"{count} {kind}" for kind, count in m.failures.items())
            lines.append(f"failed: {who}: {kinds}")
        if m.good_share is not None and m.goodput_per_s is not None:
            kept = f"{100 * m.good_share:.3g} % of the requests kept every limit"
            lines.append(f"goodput: {who}: {kept}, {m.goodput_per_s:.2f} req/s")
        lines += [f"suspect: {who}: {doubt}" for doubt in m.suspect]
    return lines


def _sentence(verdict: Verdict) -> str:
    who = f"{verdict.workload}  {verdict.metric}"
    compared = verdict.comparison
    if compared is None:
        return f"{who}: no comparison: {verdict.refused}"
    ci = compared.ci95
    limits = f" (95 % interval {ci[0]:.3f} to {ci[1]:.3f})" if ci else ""
    better = "smaller is better" if verdict.metric in LOWER else "larger is better"
    advice = ""
    if compared.verdict == "undecided" and compared.pairs_needed:
        advice = f"; about {compared.pairs_needed / compared.pairs:.0f} times as long may decide it"
    return f"{who}: {compared.verdict}, {compared.ratio:.3f}x{limits}, {better}{advice}"
