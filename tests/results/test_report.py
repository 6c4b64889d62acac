"""The report shows what its documents say, needs nothing else, and believes no name."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.results import documents
from tests.results.test_regression import one_target, with_blocks
from vllama.errors import UsageError
from vllama.results import markdown, metrics, report
from vllama.results.regression import gate

HOSTILE = "<script>alert(1)</script>\"'$x_{$ & | `rm`"


class Page(HTMLParser):
    """The tags of a page, the text of its table cells, and its other text outside pictures."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self.text = ""
        self._inside: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("td", "svg", "style"):
            self._inside.append(tag)
        if tag == "td":
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        if self._inside and self._inside[-1] == tag:
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        if self._inside == ["td"]:
            self.cells[-1] += data
        if not {"svg", "style"} & set(self._inside):
            self.text += data


def written(tmp_path: Path, tune: Any = None, bench: Any = None, title: str = "toy-4m") -> str:
    path = report.write(tmp_path / "new" / "report.html", tune=tune, bench=bench, title=title)
    return path.read_text()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A report on a tune and a bench; drawing it takes a second, so it is shared."""
    return written(tmp_path_factory.mktemp("whole"), documents.tune(), documents.bench())


def numbers(document: Any) -> Iterator[float]:
    """Every number in a document, however deep."""
    if isinstance(document, dict):
        for inner in document.values():
            yield from numbers(inner)
    elif isinstance(document, list | tuple):
        for inner in document:
            yield from numbers(inner)
    elif isinstance(document, int | float) and not isinstance(document, bool):
        yield float(document)


def readings(number: float) -> set[str]:
    """All the ways in which the report may print a number."""
    scaled = (number, number * 1000, number / 1024**3)
    shown = {metrics.digits(x) for x in scaled} | {metrics.ratio(number).rstrip("×")}
    return shown | {str(number), f"{number:g}", f"{number / 1024**3:.1f}"}


def test_every_figure_of_a_bench_is_in_its_document(tmp_path: Path) -> None:
    bench = documents.bench()
    known = {text for number in numbers(bench) for text in readings(number)}
    page = Page(written(tmp_path, bench=bench))
    figures = [
        figure
        for cell in page.cells
        for figure in re.findall(r"(?<![\w.:-])\d[\d,]*(?:\.\d+)?(?=×|,|\]| ms$| s$|$)", cell)
    ]
    assert len(figures) > 200
    assert [f for f in figures if f not in known] == []


def test_default_against_best_is_told_with_its_interval(whole: str) -> None:
    page = Page(whole)
    assert "Best beats the default in output tokens/s: 1.374×" in page.text
    assert "95 % interval 1.311× to 1.428×" in page.text
    assert "14 trials, 20 engine starts and 403 seconds" in page.text
    assert {"412", "566", "1.375×"} <= set(page.cells)


def test_the_default_may_have_been_best(tmp_path: Path) -> None:
    page = Page(written(tmp_path, tune=documents.tune_without_gain()))
    assert "The default was best: nothing beat it beyond noise." in page.text
    assert "1.004× (95 % interval 0.981× to 1.029×)" in page.text


def test_one_trial_is_enough_for_a_report(tmp_path: Path) -> None:
    page = Page(written(tmp_path, tune=documents.tune_of_one_trial()))
    assert "Only the default was measured" in page.text
    assert "it takes 10 complete trials" in page.text
    assert "so far: 1." in page.text
    assert "No trial failed." in page.text


def test_a_search_in_which_all_failed_says_why(tmp_path: Path) -> None:
    page = Page(written(tmp_path, tune=documents.tune_that_failed()))
    assert "The default could not be measured" in page.text
    assert {"out_of_memory", "no room for the KV cache", "bad_option", "slo"} <= set(page.cells)


def test_failures_ruled_out_options_and_commands_are_there(whole: str) -> None:
    tune, bench = documents.tune(), documents.bench()
    page = Page(whole)
    assert {"n_batch must be a multiple of 32", "needs flash_attn", "timeout"} <= set(page.cells)
    assert "llama-server --model 'toy 4m.gguf' --parallel 12" in page.text
    assert tune["command"] in page.text
    assert bench["command"] in page.text
    assert "first token is not in it" in page.text


def test_few_trials_warn_about_what_mattered(whole: str) -> None:
    assert "Only 11 complete trials: below 30" in whole


def test_the_page_loads_nothing(whole: str) -> None:
    loading = [
        (tag, name, value)
        for tag, attributes in Page(whole).tags
        for name, value in attributes.items()
        if name in ("src", "href", "xlink:href", "srcset", "data")
        and not (value or "").startswith("#")
    ]
    assert loading == []
    assert not re.search(r"@import|url\((?!#)", whole)
    assert {tag for tag, _ in Page(whole).tags}.isdisjoint({"script", "link", "iframe", "img"})
    assert len(whole.encode()) < 2_000_000


def test_both_colour_schemes_reach_the_pictures(whole: str) -> None:
    assert "prefers-color-scheme: dark" in whole
    assert "currentColor" in whole
    assert "#010203" not in whole


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    tune, bench = documents.tune(), documents.bench()
    tune["model"] = tune["command"] = HOSTILE
    tune["trials"][1]["options"] = {HOSTILE: HOSTILE}
    tune["trials"][-1]["failure"]["message"] = HOSTILE
    tune["profile_trials"] = {HOSTILE: 3}
    for result in bench["results"]:
        result["workload"]["name"] = HOSTILE + str(result["workload"]["concurrency"])
        result["target"] += HOSTILE
    html = written(tmp_path, tune, bench, title=HOSTILE)
    assert "<script" not in html
    assert HOSTILE in Page(html).cells
    assert HOSTILE in Page(html).text


def test_a_target_that_showed_nothing_is_told_among_the_failures(tmp_path: Path) -> None:
    bench = documents.bench()
    bench["results"][0] |= {
        "measurement": None,
        "failure": {"kind": "crash", "message": "it died at once"},
    }
    assert "crash: it died at once" in Page(written(tmp_path, bench=bench)).cells


def test_many_workloads_stay_below_two_megabytes(tmp_path: Path) -> None:
    bench = documents.bench()
    bench["results"] *= 10
    for number, result in enumerate(bench["results"]):
        result = bench["results"][number] = {**result, "workload": dict(result["workload"])}
        result["workload"]["name"] = f"w{number // 3}"
    html = written(tmp_path, bench=bench)
    assert "28 more workloads stand in the table" in html
    assert len(html.encode()) < 2_000_000


def test_a_gate_is_told_first(tmp_path: Path) -> None:
    slow = with_blocks(one_target(), 0.9, seed=2)
    found = gate(with_blocks(one_target(), 1.0, seed=1), slow, max_regression=0.05)
    page = Page(written(tmp_path, bench={**slow, "gate": found.to_json()}))
    assert page.text.index("Verdict: regression.") < page.text.rindex("What was measured")
    assert "regression" in page.cells


def test_an_unknown_format_and_no_document_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="format 2"):
        written(tmp_path, tune={**documents.tune(), "format": 2})
    with pytest.raises(UsageError, match="nothing to report"):
        written(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_markdown_summary_of_a_tune_has_verdict_figures_and_failures() -> None:
    text = markdown.summary(documents.tune())
    assert "Best beats the default in output tokens/s: 1.374×" in text
    assert "| concurrent-5-short | output tokens/s | 412 | 566 | 1.375× |" in text
    assert "| 8 | failed | bad\\_option | n\\_batch must be a multiple of 32 |" in text


def test_the_markdown_summary_of_a_bench_has_verdicts_and_rates() -> None:
    text = markdown.summary(documents.bench())
    assert "2 faster, 1 undecided" in text
    assert "| best | 1.704× | 1.663× to 1.747× | faster |" in text


def test_names_cannot_break_a_markdown_table() -> None:
    bench = documents.bench()
    bench["results"][0]["target"] = "a|b\n<script>"
    assert "| a\\|b \\<script\\> |" in markdown.summary(bench)
