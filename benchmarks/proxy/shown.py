"""The figures as a page."""

from typing import Any


def table(document: dict[str, Any]) -> str:
    """The figures as a page."""
    rows = document["rows"]
    direct = rows.get("direct")
    lines = [
        "# What vllama costs between client and engine",
        "",
        f"Measured by `make bench-proxy` on {document['machine']['cpu']}, "
        f"{document['machine']['cores']} cores (engine and client on one, the proxy on another), "
        f"load average {document['machine']['load_before']} before. Latencies are what is added "
        "to direct in the same run.",
        "",
        "| | CPU-s per 1M tokens, 100 streams | added p50 / p99 ms | 400 streams: tokens/s | "
        "added p50 / p99 ms | CPU µs per call, 1 / 64 in flight | abort ms: prefill, decode, "
        "non-stream | RSS MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        cells = [name]
        for streams in ("streams_100", "streams_400"):
            got, base = row[streams], direct[streams] if direct else {}
            if streams == "streams_100":
                cells.append(str(got["cpu_s_per_million"]))
            else:
                cells.append(str(got["tokens_per_s"]))
            late = [
                got[k] - (base.get(k, 0) if name != "direct" else 0)
                for k in ("late_p50_ms", "late_p99_ms")
            ]
            cells.append(f"{late[0]:.2f} / {late[1]:.2f}")
        cells.append(f"{row['calls_1']['cpu_us']} / {row['calls_64']['cpu_us']}")
        cells.append(", ".join("never" if v is None else str(v) for v in row["abort_ms"].values()))
        cells.append(str(row.get("rss_mb", "")))
        lines.append("| " + " | ".join(cells) + " |")
    unfinished = [
        f"{name} ({n} streams: {row[key]['unfinished']} cut off)"
        for name, row in rows.items()
        for n, key in ((100, "streams_100"), (400, "streams_400"))
        if row[key].get("unfinished")
    ]
    if unfinished:
        lines += ["", "Too slow to finish in twice the time: " + ", ".join(unfinished) + "."]
    ours, plain = rows.get("vllama /api/chat"), rows.get("FastAPI + httpx")
    if ours and plain:
        cheaper = (
            plain["streams_100"]["cpu_s_per_million"] / ours["streams_100"]["cpu_s_per_million"]
        )
        calls = plain["calls_64"]["cpu_us"] / ours["calls_64"]["cpu_us"]
        lines += [
            "",
            f"Against the plain proxy, vllama uses {cheaper:.1f}x less processor for a streamed "
            f"token and {calls:.1f}x less for a whole answer with 64 in flight.",
        ]
    lines += through_vllm(document["vllm"]) if document.get("vllm") else []
    for note in document.get("notes", ()):
        lines += ["", note]
    return "\n".join(lines) + "\n"


def through_vllm(rows: list[dict[str, Any]]) -> list[str]:
    """The part with a real engine."""
    lines = [
        "",
        "## A real vLLM",
        "",
        "A toy model on this machine's processor, asked directly and through vllama's `/v1` in "
        "turns; medians over the rounds.",
        "",
        "| streams | rounds | tokens/s directly | through vllama | ratio | first token ms directly "
        "| through vllama | added |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        direct, through = row["direct"], row["through"]
        cells = [
            row["streams"], row["rounds"], direct["tokens_per_s"], through["tokens_per_s"],
            f"{through['tokens_per_s'] / max(1, direct['tokens_per_s']):.3f}",
            direct["ttft_p50_ms"], through["ttft_p50_ms"],
            f"{through['ttft_p50_ms'] - direct['ttft_p50_ms']:+.2f}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return lines
