"""`make test-gpu` as far as it goes without a card, and `make report` on what it would write."""

import argparse
import importlib
import json
from pathlib import Path

import pytest

from benchmarks import gpu, report
from tests.results import documents
from tests.tuner import machines
from vllama import toy
from vllama.bench import workloads
from vllama.cli import COMMANDS, Command
from vllama.engines.engine import Engine
from vllama.machine import Machine
from vllama.settings import Settings
from vllama.store import names
from vllama.toy.size import LIKE_QWEN_1_5B, Size
from vllama.tuner.fit import Fit

SERVE, ASKED = gpu.serving(Path("results"))
STEPS = [*gpu.plan(Path("results"), ollama=True), SERVE, *ASKED]


@pytest.mark.parametrize("step", STEPS, ids=lambda s: " ".join(s.words[:1]))
def test_every_command_of_the_loop_is_one_that_vllama_has(step: gpu.Step) -> None:
    name, *rest = step.words
    assert name in COMMANDS
    command: Command = importlib.import_module(f"vllama.cli.{name}")
    parser = argparse.ArgumentParser(exit_on_error=False)
    command.arguments(parser)
    args = parser.parse_args(rest)
    for load in getattr(args, "workload", None) or ():
        assert workloads.named(load)
    assert getattr(args, "json", False) == (step.save is not None)


def test_ollama_takes_part_only_where_it_is_installed() -> None:
    assert [s.beside for s in STEPS if s.beside] == [("ollama", "serve")]
    assert not any(s.beside for s in gpu.plan(Path("results"), ollama=False))


def test_without_a_card_it_fails_and_says_so_but_still_shows_its_plan(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = machines.machine()
    monkeypatch.setattr("vllama.hardware.visible", lambda _: here)
    assert gpu.main([]) == 1
    assert "no CUDA here" in capsys.readouterr().err
    assert gpu.main(["--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("vllama ") >= len(STEPS) - 1
    assert "nothing of this can run" in shown


def test_the_model_has_as_many_weights_as_the_real_one() -> None:
    assert LIKE_QWEN_1_5B.parameters == 1_543_714_304


def test_what_was_predicted_is_held_against_each_log() -> None:
    card = machines.machine(machines.gpu())
    ground = machines.vllm_space(card, machines.chat(16), shape=machines.QWEN_8B).ground
    fit = Fit.of(ground)
    told = fit.verdict({}).kv_tokens
    facts = {"kv_cache_tokens": int(told / 1.25)}
    silent = {"name": "silent", "options": {}, "facts": {}}
    (row,) = gpu.predictions(
        fit, {"targets": [{"name": "best", "options": {}, "facts": facts}, silent]}
    )
    assert (row["target"], row["predicted"]) == ("best", told)
    assert row["off"] == pytest.approx(0.25, abs=0.001)


@pytest.mark.llamacpp
async def test_a_vocabulary_beyond_the_tokenizers_is_never_drawn(
    tmp_path: Path, settings: Settings, machine: Machine
) -> None:
    import httpx

    from vllama.engines import engine

    size = Size(2, 256, 512, 2, 1, head_size=128, vocabulary=6000)
    made = toy.make(tmp_path / "wide", size=size)
    shape = names.resolve(str(made), settings).shape
    assert (shape.vocabulary, shape.head_size, shape.parameters) == (6000, 128, size.parameters)
    real: Engine = engine("llamacpp", settings)
    profile = real.default(names.resolve(str(made), settings), machine)
    async with (
        real.start(profile.with_options(n_ctx=512, threads=1)) as endpoint,
        httpx.AsyncClient(base_url=endpoint.base_url, timeout=60) as client,
    ):
        body = {"prompt": "the cat", "max_tokens": 40, "temperature": 0}
        answer = (await client.post("/v1/completions", json=body)).json()
    assert answer["usage"]["completion_tokens"] == 40
    assert "unused" not in answer["choices"][0]["text"]


def test_the_table_of_results_shows_what_the_files_say(tmp_path: Path) -> None:
    folder = tmp_path / "1x-some-card"
    folder.mkdir()
    bench, tune = documents.bench(), documents.tune()
    (folder / "gpu-bench.json").write_text(json.dumps(bench))
    (folder / "gpu-tune.json").write_text(json.dumps(tune))
    ratios = {
        "model": "m", "relative_to": "engine", "results": [
            {"target": "vllama", "workload": {"name": "w"}, "measurement": None, "blocks": [
                {"metrics": {"output_tokens_per_s": x}} for x in (0.5, 2.0, 1.331)]}
        ]}  # fmt: skip
    (folder / "serving.json").write_text(json.dumps(ratios))
    kv = [{"target": "best", "options": {}, "predicted": 1030, "log": 1000, "off": 0.03}]
    (folder / "gpu-kv.json").write_text(json.dumps({"model": "m", "kv": kv}))
    (folder / "notes.md").write_text("# What else was seen\n")
    written = report.build(tmp_path)
    assert [p.name for p in written] == ["gpu-bench.html", "gpu-tune.html", "README.md"]
    table = (tmp_path / "README.md").read_text()
    for result in bench["results"]:
        assert f"| {result['workload']['name']} | {result['target']} |" in table
    assert "| w | vllama / engine | 1.100× | – |" in table
    assert "| best | 1,030 | 1,000 | +3.0% |" in table
    assert "(1x-some-card/notes.md): What else was seen" in table
    assert table == (report.build(tmp_path) and (tmp_path / "README.md").read_text())
