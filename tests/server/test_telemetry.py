"""What can be scraped and logged, on a serving process with the simulator below it."""

import json
import re
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.server.faults import Simulated
from tests.server.running import serving
from vllama.server.lifecycle.trace import Trace
from vllama.server.telemetry.relabel import Families
from vllama.settings import Settings


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (s.name, tuple(sorted(s.labels.items()))): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }


async def test_a_scrape_tells_requests_latencies_engines_and_the_engines_own_figures(
    toy: Path, settings: Settings
) -> None:
    simulated = Simulated(toy, settings)
    words = simulated.words()
    async with (
        serving(*words, "--preload", "--json-logs", settings=settings) as running,
        httpx.AsyncClient(trust_env=False) as client,
    ):
        for stream in (True, False):
            assert (await running.chat(simulated.name, stream=stream)).status_code == 200
        await client.get(f"{running.url}/no/such/path", headers={"x-request-id": "mine"})
        answer = await client.get(f"{running.url}/metrics", headers={"x-request-id": "mine"})
        assert answer.headers["x-request-id"] == "mine"
        found = samples(answer.text)
        model = ("model", words[0])
        assert found["vllama_requests_total", (model, ("outcome", "ok"))] == 2
        assert found["vllama_time_to_first_token_seconds_count", (model,)] == 2
        assert found["vllama_inter_token_seconds_count", (model,)] >= 1
        assert found["vllama_retries_total", (model,)] == 0
        assert found["vllama_engines", (model,)] == 1
        chats = (("method", "POST"), ("route", "/api/chat"), ("status", "200"))
        assert found["vllama_http_requests_total", chats] == 2
        other = (("method", "GET"), ("route", "other"), ("status", "404"))
        assert found["vllama_http_requests_total", other] == 1
        assert any(
            name.startswith("vllm:") and ("vllama_model", words[0]) in labels
            for name, labels in found
        )
        assert (await client.get(f"{running.url}/readyz")).text == "ok"
        logged = [json.loads(line) for line in running.text.splitlines() if '"path"' in line]
        assert [line["status"] for line in logged if line["path"] == "/api/chat"] == [200, 200]
        assert re.fullmatch("[0-9a-f]{16}", logged[0]["request_id"])


def test_pages_of_several_engines_become_one_that_describes_each_family_once() -> None:
    page = '# HELP x_total Things\n# TYPE x_total counter\nx_total{a="1"} 2\nbare 3\nnonsense{\n'
    families = Families()
    families.add(page, {"vllama_model": 'a"b'})
    families.add(page, {"vllama_model": "c"})
    text = families.text()
    assert text.count("# TYPE x_total") == 1
    assert 'x_total{vllama_model="a\\"b",a="1"} 2' in text
    assert 'bare{vllama_model="c"} 3' in text
    assert "nonsense" not in text


def test_a_trace_knows_how_far_its_request_came() -> None:
    trace = Trace("m")
    assert trace.phase == "queue"
    trace.leased()
    assert trace.phase == "prefill"
    trace.read()
    trace.read()
    assert trace.phase == "decode"
    assert sum(trace.gaps) == 1
