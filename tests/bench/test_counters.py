"""The server's own counters: read from either engine, and held against what was promised."""

import pytest

from tests.bench.serving import Call, completes, scripted
from vllama.bench.counters import between, doubt, read
from vllama.bench.workload import Workload

PAGE = """\
# HELP vllm:prefix_cache_queries_total Queried tokens.
# TYPE vllm:prefix_cache_queries_total counter
vllm:prefix_cache_queries_total{engine="0",model_name="m"} 1000.0
vllm:prefix_cache_queries_total{engine="1",model_name="m"} 500.0
vllm:prefix_cache_hits_total{engine="0",model_name="m"} 3e2
vllm:kv_cache_usage_perc{engine="0"} 0.25
something_else 4
"""


def test_counters_are_summed_over_engines_and_called_by_our_names() -> None:
    assert read(PAGE) == {
        "prefix_queried_tokens": 1500.0,
        "prefix_hit_tokens": 300.0,
        "kv_cache_share": 0.25,
    }
    assert read("llamacpp:prompt_tokens_total 7\n") == {"prompt_tokens": 7.0}
    assert read("<html>not here</html>") == {}


def test_only_what_the_load_added_counts() -> None:
    before = {"prefix_queried_tokens": 1000.0, "prefix_hit_tokens": 900.0, "kv_cache_share": 0.9}
    found = between(before, read(PAGE) | {"prefix_hit_tokens": 1000.0})
    assert found["prefix_hit_share"] == pytest.approx(0.2)
    assert found["kv_cache_share"] == 0.25


@pytest.mark.parametrize(
    ("share", "reason"),
    [(0.6, "from before"), (0.5, ""), (0.3, ""), (0.2, "off, or too small"), (0.0, "off, or")],
)
def test_hits_that_are_not_those_of_the_prompts_are_told(share: float, reason: str) -> None:
    found = doubt({"prefix_hit_share": share}, 100, 50)
    assert reason in found
    assert bool(found) == bool(reason)


def test_prompts_that_share_nothing_need_no_hits() -> None:
    assert doubt({"prefix_hit_share": 0.0}, 100, 0) == ""
    assert doubt({"prefix_hit_share": 0.9}, 100, 0, 100) == ""
    assert doubt({}, 100, 50) == ""


async def test_a_server_that_knew_the_prompts_makes_the_run_suspect() -> None:
    hits = 0

    async def knows(call: Call) -> None:
        nonlocal hits
        if call.path != "/metrics":
            return await completes(call)
        hits += 900
        return call.whole_text(
            f"vllm:prefix_cache_queries_total {hits / 0.9}\nvllm:prefix_cache_hits_total {hits}\n"
        )

    async with scripted(knows) as server, server.session() as session:
        shown = await session.measure(Workload("w", 20, 4, requests=4))
    assert shown.counters["prefix_hit_share"] == pytest.approx(0.9)
    assert "it knew them from before" in shown.suspect[0]
