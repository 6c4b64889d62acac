"""`vllama results` and `vllama report`: from what lies on the disk to what people look at."""

import csv
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.cli.test_main import vllama
from tests.results import documents
from tests.results.test_ledger import FAILED, MEASURED
from tests.results.test_trend import course
from vllama.profile import Profile
from vllama.results.ledger import Ledger
from vllama.results.record import Record


@pytest.fixture
def home(tmp_path: Path) -> Path:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    for record in (MEASURED, FAILED):
        ledger.append(record)
    return tmp_path


def test_the_list_names_what_was_measured_and_what_failed(home: Path) -> None:
    shown = vllama("results", home=home).stdout.splitlines()
    assert "83.9 tok/s" in shown[0]
    assert "out_of_memory" in shown[1]


def test_a_record_is_shown_whole(home: Path) -> None:
    shown = json.loads(vllama("results", "show", "1", home=home).stdout)
    assert Record.from_json(shown) == MEASURED
    missing = vllama("results", "show", "7", home=home)
    assert missing.returncode == 2
    assert "no record 7" in missing.stderr


def test_the_list_can_be_filtered_and_read_by_programs(home: Path) -> None:
    document = json.loads(
        vllama("results", "--workload", "concurrent-5-short", "--json", home=home).stdout
    )
    assert [r["number"] for r in document["records"]] == [1]
    assert vllama("results", "--model", "nothing", home=home).stdout == ""


def test_export_writes_one_row_a_record(home: Path, tmp_path: Path) -> None:
    target = tmp_path / "all.csv"
    assert vllama("results", "export", "--csv", str(target), home=home).returncode == 0
    with target.open() as file:
        rows = list(csv.DictReader(file))
    assert [r["kind"] for r in rows] == ["measurement", "trial"]
    assert rows[0]["measurement.output_tokens_per_s"] == "83.9"
    assert rows[0]["profile.options.n_batch"] == "512"
    assert vllama("results", "export", home=home).returncode == 2


def test_export_to_parquet_comes_back_as_it_was(home: Path, tmp_path: Path) -> None:
    import pandas as pd

    target = tmp_path / "all.parquet"
    assert vllama("results", "export", "--parquet", str(target), home=home).returncode == 0
    table = pd.read_parquet(target)
    assert list(table["kind"]) == ["measurement", "trial"]
    assert table["measurement.output_tokens_per_s"][0] == 83.9


def test_prune_drops_what_is_old_and_keeps_what_it_cannot_read(home: Path) -> None:
    ledger = Ledger(home / "ledger.jsonl")
    with ledger.path.open("a") as file:
        file.write('{"format":99}\n')
    recent = datetime.now(UTC) - timedelta(days=1)
    ledger.append(replace(MEASURED, started_at=recent, ended_at=recent))
    old = len(ledger.path.read_text().splitlines())
    done = vllama("results", "prune", "--older-than", "30", home=home)
    expected = sum(
        r.started_at < datetime.now(UTC) - timedelta(days=30) for r in (MEASURED, FAILED)
    )
    assert f"removed {expected} records" in done.stderr
    assert len(ledger.path.read_text().splitlines()) == old - expected
    assert '{"format":99}' in ledger.path.read_text()


def test_the_trend_marks_where_a_metric_changed(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    for record in course([100.0, 101.0, 99.5, 100.5, 80.0, 81.0, 79.5, 80.5]):
        ledger.append(record)
    shown = vllama("results", "trend", home=tmp_path).stdout
    marked = [line for line in shown.splitlines() if "changed" in line]
    assert len(marked) == 1
    assert "80.0" in marked[0]
    assert "0.80" in marked[0]


def test_ten_thousand_lines_are_listed_without_a_thousand_times_the_work(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.append(MEASURED)
    line = ledger.path.read_bytes()
    ledger.path.write_bytes(line * 10_000)
    shown = vllama("results", "--limit", "3", home=tmp_path).stdout.splitlines()
    assert [row.split()[0] for row in shown] == ["9998", "9999", "10000"]


def test_a_writer_killed_at_any_moment_leaves_whole_records(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    writer = (
        "import sys; from pathlib import Path\n"
        "from tests.results.test_ledger import MEASURED; from vllama.results.ledger import Ledger\n"
        "ledger = Ledger(Path(sys.argv[1]))\n"
        "while True: ledger.append(MEASURED); print('.', flush=True)\n"
    )
    for rounds in range(1, 4):
        child = subprocess.Popen(
            [sys.executable, "-c", writer, str(path)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        for _ in range(5 * rounds):
            child.stdout.readline()
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()
    found = list(Ledger(path).read())
    assert len(found) >= 30
    assert set(map(repr, found)) == {repr(MEASURED)}


def test_a_report_is_made_of_files(tmp_path: Path) -> None:
    (tmp_path / "tune.json").write_text(json.dumps(documents.tune()))
    (tmp_path / "bench.json").write_text(json.dumps(documents.bench()))
    page, text, table = (tmp_path / n for n in ("r.html", "r.md", "r.csv"))
    done = vllama(
        "report", str(tmp_path / "tune.json"), str(tmp_path / "bench.json"),
        "--html", str(page), "--markdown", str(text), "--csv", str(table), home=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "1.374×" in page.read_text()
    assert "1.374×" in text.read_text()
    with table.open() as file:
        assert len(list(csv.DictReader(file))) == 11 * 2 + 3 + 12


def test_a_report_takes_the_newest_study_or_one_by_its_name(tmp_path: Path) -> None:
    studies = tmp_path / "studies"
    studies.mkdir()
    (studies / "toy.json").write_text(json.dumps(documents.tune()))
    page = tmp_path / "r.html"
    for words in (["report"], ["report", "toy"]):
        assert vllama(*words, "--html", str(page), home=tmp_path).returncode == 0
        assert "toy-4m" in page.read_text()
        page.unlink()


@pytest.mark.parametrize("content", ["{", "[]", '{"format":1}'])
def test_a_report_of_something_else_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.json").write_text(content)
    done = vllama("report", str(tmp_path / "x.json"), home=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_report_of_nothing_says_what_to_do(tmp_path: Path) -> None:
    done = vllama("report", home=tmp_path)
    assert done.returncode == 2
    assert "vllama tune" in done.stderr
    named = vllama("report", "nosuch", home=tmp_path)
    assert named.returncode == 2
    assert "nosuch" in named.stderr


def test_a_bench_is_kept_in_the_home_and_in_a_repository_where_asked(
    tmp_path: Path, toy: Path
) -> None:
    profile = Profile("mine", "simulator", str(toy), {"time_scale": 0.2})
    (tmp_path / "mine.json").write_text(json.dumps(profile.to_json()))
    repository = tmp_path / "results"
    done = vllama(
        "bench", str(toy), "--profile", str(tmp_path / "mine.json"), "--workload", "concurrent-5",
        "--requests", "15", "--record", str(repository), home=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (path,) = repository.glob("*/*.jsonl")
    assert path.name == f"{toy.name}.jsonl"
    kept = list(Ledger(path).read())
    assert kept == list(Ledger(tmp_path / "ledger.jsonl").read())
    assert {r.machine for r in kept} == {path.parent.name}
    assert all(r.profile == profile and r.engine == "simulator" for r in kept)
    assert sum(r.measurement.completed for r in kept if r.measurement) == 15
