"""The Grafana dashboard is one that Grafana loads, and asks only for what vllama tells."""

import asyncio
import json
import re
from itertools import combinations, product
from pathlib import Path
from typing import Any

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
COLUMNS = 24
# Since this one, a source of data is named by type and uid, as here.
SCHEMA_WITH_SOURCES = 36


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return found


def expressions() -> list[str]:
    found = [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]
    for name, value in VARIABLES.items():
        found = [expression.replace(name, value) for expression in found]
    return [*found, *listed()]


def listed() -> list[str]:
    """The series whose labels fill the variables."""
    queries = [each["query"] for each in dashboard()["templating"]["list"]]
    return re.findall(r"label_values\((.+), model\)", " ".join(queries))


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


def test_it_is_whole_and_of_grafanas_classic_model() -> None:
    board = dashboard()
    assert board["schemaVersion"] >= SCHEMA_WITH_SOURCES
    # Grafana gives the number, and keeps the uid, when it imports one.
    assert "id" not in board
    assert re.fullmatch(r"[\w-]{1,40}", board["uid"])
    assert board["title"]
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in board["panels"]:
        assert panel["title"]
        letters = [target["refId"] for target in panel["targets"]]
        assert letters
        assert len(set(letters)) == len(letters), panel["title"]


def cells(panel: dict[str, Any]) -> set[tuple[int, int]]:
    """The places on the grid that a panel covers."""
    at = panel["gridPos"]
    assert min(at["x"], at["y"]) >= 0
    assert min(at["w"], at["h"]) >= 1
    assert at["x"] + at["w"] <= COLUMNS, panel["title"]
    return set(product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])))


def test_no_panel_lies_over_another() -> None:
    for one, other in combinations(dashboard()["panels"], 2):
        assert not cells(one) & cells(other), (one["title"], other["title"])


def test_every_variable_is_there_and_filled_when_the_dashboard_opens() -> None:
    board = dashboard()
    variables = {each["name"]: each for each in board["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps([board["panels"], board["templating"]])))
    assert {name for name in used if not name.startswith("__")} == variables.keys()
    for each in variables.values():
        if each["type"] == "query":
            # Else Grafana keeps the values of whoever saved it last: here none.
            assert each["refresh"] in (1, 2)
            assert each["allValue"] == VARIABLES["$model"]
    [source] = [name for name, each in variables.items() if each["type"] == "datasource"]
    for each in [*board["panels"], variables["model"]]:
        assert each["datasource"] == {"type": "prometheus", "uid": f"${{{source}}}"}


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
