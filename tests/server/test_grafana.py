"""The Grafana dashboard asks only for what a serving vllama tells."""

import asyncio
import json
from pathlib import Path

import httpx
import promql_parser
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.server.fakes import until
from tests.server.faults import served_again
from tests.server.running import serving
from tests.server.test_faults_attached import foreign
from vllama.settings import Settings

DASHBOARD = Path(__file__).parent.parent.parent / "examples" / "grafana" / "vllama.json"
# What Grafana fills in.
VARIABLES = {"$__rate_interval": "1m", "$model": ".*"}


def expressions() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    found = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    for name, value in VARIABLES.items():
        found = [expression.replace(name, value) for expression in found]
    return found


def test_the_dashboard_has_the_form_that_grafana_reads() -> None:
    document = json.loads(DASHBOARD.read_text())
    assert document["schemaVersion"] >= 36
    assert document["uid"]
    assert document["title"]
    variables = {each["name"] for each in document["templating"]["list"]}
    assert {"source", "model"} <= variables
    ids = [panel["id"] for panel in document["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in document["panels"]:
        place = panel["gridPos"]
        columns = range(place["x"], place["x"] + place["w"])
        cells = {(x, y) for x in columns for y in range(place["y"], place["y"] + place["h"])}
        assert max(columns) < 24, panel["title"]
        assert not cells & taken, f"{panel['title']} lies over another"
        taken |= cells
        assert panel["datasource"] == {"type": "prometheus", "uid": "${source}"}


def asked(expression: str) -> dict[str, set[str]]:
    """The series that an expression reads, each with the labels it names."""
    series: dict[str, set[str]] = {}
    labels: set[str] = set()

    def visit(node: object) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            assert node.name is not None
            series[node.name] = {matcher.name for matcher in node.matchers.matchers}
        elif isinstance(node, promql_parser.MatrixSelector):
            visit(node.vector_selector)
        elif isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            labels.update(node.modifier.labels)

    promql_parser.walk(promql_parser.parse(expression), visit)
    return {name: named | labels for name, named in series.items()}


@pytest.mark.llamacpp
async def test_every_series_and_label_of_the_dashboard_is_told(
    toy: Path, settings: Settings
) -> None:
    wanted: dict[str, set[str]] = {}
    for expression in expressions():
        found = asked(expression)
        assert found, expression
        for name, labels in found.items():
            wanted.setdefault(name, set()).update(labels)
    async with (
        foreign(settings) as (theirs, _),
        serving(str(toy), "--attach", f"m={theirs.base_url}", settings=settings) as running,
    ):
        await served_again(running, "m")
        assert (await running.chat(toy.name)).status_code == 200
        async with running.stream(toy.name, tokens=3000) as response:
            await anext(response.aiter_lines())
        told: dict[str, set[str]] = {}

        def is_told() -> bool:
            page = httpx.get(f"{running.url}/metrics", trust_env=False, timeout=60).text
            for family in text_string_to_metric_families(page):
                for sample in family.samples:
                    told.setdefault(sample.name, set()).update(sample.labels)
            return wanted.keys() <= told.keys()

        try:
            await asyncio.wait_for(until(is_told), 20)
        except TimeoutError:
            pytest.fail(f"nobody tells {sorted(wanted.keys() - told.keys())}")
        missing = {name: labels - told[name] for name, labels in wanted.items()}
        assert not {name: labels for name, labels in missing.items() if labels}
