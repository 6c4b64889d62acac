"""The figures as a page."""

from typing import Any

from benchmarks.proxy import others


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
        "to direct in the same run. Figures of 100 streams are medians of several times; tokens/s "
        "are those while all streams are under way, which for one that is slow is when it makes up "
        "for a late beginning.",
        "",
        "| | CPU-s per 1M tokens, 100 streams | added p50 / p99 ms | 400 streams: tokens/s | "
        "all begun after ms | added p50 / p99 ms | CPU µs per call, 1 / 64 in flight | "
        "abort ms: prefill, decode, non-stream | RSS MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        cells = [name]
        for streams in ("streams_100", "streams_400"):
            got, base = row[streams], direct[streams] if direct else {}
            if streams == "streams_100":
                cells.append(str(got["cpu_s_per_million"]))
            else:
                cells += [str(got["tokens_per_s"]), str(got["all_begun_ms"] or "never")]
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
    lines += targets(rows)
    lines += through_vllm(document["vllm"]) if document.get("vllm") else []
    for note in document.get("notes", ()):
        lines += ["", note]
    return "\n".join(lines) + "\n"


def targets(rows: dict[str, Any]) -> list[str]:
    """What `/api/chat` shall reach, held against the others of the same run."""
    ours, direct = rows.get("vllama /api/chat"), rows.get("direct")
    if not ours or not direct:
        return []
    many, full = ours["streams_100"], ours["streams_400"]
    added = [many[k] - direct["streams_100"][k] for k in ("late_p50_ms", "late_p99_ms")]
    held = full["tokens_per_s"] / direct["streams_400"]["tokens_per_s"]
    slowest = max((v if v is not None else 1e9) for v in ours["abort_ms"].values())
    lines = ["", "| target | reached | met |", "|---|---|---|"]
    for what, reached, met in (
        ("at most 30 CPU-s per 1M streamed tokens", many["cpu_s_per_million"],
         many["cpu_s_per_million"] <= 30),
        *_beside_router(many, rows.get(others.ROUTER.name)),
        ("at most 0.6 ms added per token in the median", f"{added[0]:.2f} ms", added[0] <= 0.6),
        ("at most 2 ms added at p99", f"{added[1]:.2f} ms", added[1] <= 2),
        ("holds 400 streams (0.98 of direct)", f"{held:.3f}", held >= 0.98),
        ("at most 250 µs of processor for a whole answer, 64 in flight",
         f"{ours['calls_64']['cpu_us']} µs", ours["calls_64"]["cpu_us"] <= 250),
        ("the engine hears of a client's leaving within 50 ms", f"{slowest} ms", slowest <= 50),
    ):  # fmt: skip
        lines.append(f"| {what} | {reached} | {'yes' if met else 'no'} |")
    return [*lines, "", *_times(ours, rows)]


def _beside_router(
    many: dict[str, Any], router: dict[str, Any] | None
) -> list[tuple[str, str, bool]]:
    """The target that holds wherever a router that only passes on was measured in the same run."""
    if router is None:
        return []
    times = many["cpu_s_per_million"] / router["streams_100"]["cpu_s_per_million"]
    what = "at most 1.4x of what the Rust router takes for a token"
    return [(what, f"{times:.2f}x", times <= 1.4)]


def _times(ours: dict[str, Any], rows: dict[str, Any]) -> list[str]:
    """How many times as much processor each of the others takes, or how much less."""
    told = []
    for name, row in rows.items():
        if name == "direct" or name.startswith("vllama"):
            continue
        token, whole = [
            row[part][figure] / ours[part][figure]
            for part, figure in (("streams_100", "cpu_s_per_million"), ("calls_64", "cpu_us"))
        ]
        told.append(f"{name} {token:.2f}x and {whole:.2f}x")
    return [
        "Processor time depends on the machine; next to vllama's `/api/chat` (which translates), "
        "for a streamed token and for a whole answer with 64 in flight, the others take: "
        + ", ".join(told) + "."
    ]  # fmt: skip


def through_vllm(rows: list[dict[str, Any]]) -> list[str]:
    """The part with a real engine."""
    lines = [
        "",
        "## A real vLLM",
        "",
        "A toy model on this machine's processor, asked directly, through vllama's `/v1` and "
        "through the router in Rust in turns; all of them share its cores. The ratio of tokens/s "
        "and what is added to the first token are the centres of those within pairs of rounds, "
        "with their 95 % intervals. *default*: as vLLM starts; *tuned*: with what `vllama tune` "
        "finds for processors (`dtype=float32`, and the model's work in the scheduler's process).",
        "",
        "| profile | streams | rounds | tokens/s directly | ratio through vllama | router's ratio "
        "| rounds | first token ms directly | added by vllama ms | by the router ms |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        direct = row["direct"]
        cells = [
            row["profile"], row["streams"], row["rounds"], direct["tokens_per_s"],
            _ratio(row, "through"), _ratio(row, "router"), row["first_rounds"],
            direct["ttft_p50_ms"], _added(row, "through"), _added(row, "router"),
        ]  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return lines


def _ratio(row: dict[str, Any], side: str) -> str:
    ratio = row["ratio"].get(side)
    return "{:.3f} [{:.3f}, {:.3f}]".format(*ratio) if ratio else ""


def _added(row: dict[str, Any], side: str) -> str:
    added = row["added_ms"].get(side)
    return "{:+.2f} [{:+.2f}, {:+.2f}]".format(*added) if added else ""
