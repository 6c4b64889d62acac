"""The ledger only grows, and what it holds can be repeated."""

import json
import logging
import multiprocessing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from vllama.bench.measurement import Measurement, Quantiles
from vllama.bench.workload import Workload
from vllama.errors import RecordBroken, StorageError
from vllama.profile import Profile
from vllama.results.ledger import Ledger
from vllama.results.record import Failure, Record

START = datetime(2026, 11, 24, 6, 30, tzinfo=UTC)
MEASURED = Record(
    kind="measurement",
    profile=Profile("best", "llamacpp", "toy-4m", {"n_batch": 512, "flash_attn": True}),
    machine="cpu-2c-24gb-x86_64",
    engine="llamacpp",
    engine_version="2026.10.1",
    vllama_version="0.1.0",
    seed=7,
    started_at=START,
    ended_at=START + timedelta(seconds=31),
    workload=Workload("concurrent-5-short", 50, 64, concurrency=5, requests=40, seed=7),
    measurement=Measurement(
        duration_s=30.5,
        completed=40,
        failed=1,
        requests_per_s=1.31,
        output_tokens_per_s=83.9,
        total_tokens_per_s=149.5,
        prompt_tokens=2000,
        output_tokens=2560,
        ttft_s=Quantiles(0.12, 0.11, 0.2, None),
        itl_s=Quantiles(0.01, 0.009, 0.02, 0.03),
        tpot_s=None,
        e2e_s=Quantiles(0.8, 0.7, 0.9, None),
        failures={"reset": 1},
        suspect=("short window",),
    ),
    git_commit="29b029b",
)
FAILED = replace(
    MEASURED,
    kind="trial",
    workload=None,
    measurement=None,
    failure=Failure("out_of_memory", "no room for the cache", "load"),
    study="toy-4m",
    trial=3,
)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "home" / "ledger.jsonl")


@pytest.mark.parametrize("record", [MEASURED, FAILED], ids=["measured", "failed"])
def test_a_record_comes_back_as_it_was(ledger: Ledger, record: Record) -> None:
    ledger.append(record)
    assert list(ledger.read()) == [record]


def test_no_file_is_an_empty_ledger(ledger: Ledger) -> None:
    assert list(ledger.read()) == []


def test_every_cut_of_the_last_line_costs_only_that_line(ledger: Ledger) -> None:
    ledger.append(MEASURED)
    whole = ledger.path.read_bytes()
    ledger.append(FAILED)
    both = ledger.path.read_bytes()
    for cut in range(len(whole) + 1, len(both) - 1, 37):
        ledger.path.write_bytes(both[:cut])
        assert list(ledger.read()) == [MEASURED]


def test_after_a_torn_line_the_next_record_is_whole(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    ledger.append(MEASURED)
    torn = ledger.path.read_bytes() + b'{"format":1,"kind":"tri'
    ledger.path.write_bytes(torn)
    ledger.append(FAILED)
    with caplog.at_level(logging.WARNING):
        assert list(ledger.read()) == [MEASURED, FAILED]
    assert "line 2 set aside" in caplog.text
    assert ledger.path.read_bytes().startswith(torn), "what was there is never changed"


def test_a_last_line_that_lacks_only_its_end_is_read(ledger: Ledger) -> None:
    ledger.append(MEASURED)
    ledger.path.write_bytes(ledger.path.read_bytes().rstrip(b"\n"))
    ledger.append(FAILED)
    assert list(ledger.read()) == [MEASURED, FAILED]


def test_a_newer_format_is_passed_over_with_a_warning(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    ledger.append(MEASURED)
    with ledger.path.open("a") as file:
        file.write(json.dumps({**MEASURED.to_json(), "format": 2}) + "\n")
    ledger.append(FAILED)
    with caplog.at_level(logging.WARNING):
        assert list(ledger.read()) == [MEASURED, FAILED]
    assert "newer vllama" in caplog.text


def test_keys_that_a_later_version_adds_do_no_harm() -> None:
    assert Record.from_json({**MEASURED.to_json(), "weather": "rain"}) == MEASURED


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"seed": "seven"}, "seed"),
        ({"profile": {"format": 1}}, "name"),
        ({"kind": "guess"}, "kind"),
        ({"measurement": None}, "either a measurement or a failure"),
        ({"started_at": "2026-11-24T06:30:00"}, "time zone"),
        ({"format": 0}, "format 0"),
    ],
)
def test_what_is_no_record_says_why(change: dict[str, object], says: str) -> None:
    with pytest.raises(RecordBroken, match=says):
        Record.from_json({**MEASURED.to_json(), **change})


def test_a_line_that_is_no_object_is_set_aside(ledger: Ledger) -> None:
    ledger.append(MEASURED)
    with ledger.path.open("ab") as file:
        file.write(b"[1]\n\xff\xfe\n\n")
    ledger.append(FAILED)
    assert list(ledger.read()) == [MEASURED, FAILED]


def test_a_ledger_that_cannot_be_written_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="VLLAMA_HOME"):
        Ledger(tmp_path / "file" / "ledger.jsonl").append(MEASURED)


def _write_many(path: Path, seed: int) -> None:
    ledger = Ledger(path)
    for number in range(60):
        ledger.append(replace(FAILED, seed=seed, trial=number))


def test_two_writers_lose_and_mix_nothing(ledger: Ledger) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_many, args=(ledger.path, seed)) for seed in (1, 2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    records = list(ledger.read())
    for seed in (1, 2):
        assert [r.trial for r in records if r.seed == seed] == list(range(60))


def test_ten_thousand_lines_are_read_whole(ledger: Ledger) -> None:
    ledger.append(MEASURED)
    ledger.path.write_bytes(ledger.path.read_bytes() * 10_000)
    assert sum(1 for _ in ledger.read()) == 10_000


def test_what_was_written_in_format_1_is_read_for_ever() -> None:
    kept = Path(__file__).parent / "formats" / "1.jsonl"
    assert list(Ledger(kept).read()) == [MEASURED, FAILED]
