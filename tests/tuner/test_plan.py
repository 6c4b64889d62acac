"""`vllama plan`: the answers people ask for, of machines that need not be here."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests import headers
from tests.tuner import machines as on
from vllama.cli import main
from vllama.model import Model
from vllama.tuner import gpus
from vllama.tuner.outlook import Outlook, look


def outlook(
    gpu: str, engine: str = "vllm", model: Model | None = None, context_tokens: int = 0
) -> Outlook:
    here = gpus.named(gpu)
    return look(model or on.model(on.QWEN_8B), here, engine, context_tokens=context_tokens)


def test_an_8b_has_room_for_many_on_a_large_card() -> None:
    found = outlook("H100", context_tokens=8192)
    assert found.verdict.fits
    assert 40 <= found.sequences <= 60
    assert [r.concurrency for r in found.rates] == [1, 256]
    alone, crowd = (r.prediction for r in found.rates)
    assert crowd.output_tokens_per_s > 10 * alone.output_tokens_per_s
    assert not found.advice


def test_what_does_not_fit_says_what_would() -> None:
    found = outlook("RTX 4090")
    assert not found.verdict.fits
    assert (found.sequences, found.rates) == (0, ())
    assert 20_000 < found.longest_tokens < 40_960
    assert any(f"--context {found.longest_tokens}" in a for a in found.advice)
    again = outlook("RTX 4090", context_tokens=found.longest_tokens)
    assert again.verdict.fits


def test_the_smallest_card_that_holds_it_is_named() -> None:
    advice = " ".join(outlook("RTX 3060").advice)
    card = next(c for c in gpus.known() if f"one {c.name} (" in advice)
    assert outlook(card.name).verdict.fits
    smaller = [c for c in gpus.known() if c.memory_bytes < card.memory_bytes]
    assert not any(outlook(c.name).verdict.fits for c in smaller if c.vendor == "nvidia")


def test_several_cards_share_the_model() -> None:
    large = on.model(replace(on.QWEN_8B, heads=64, layers=80, weight_bytes=141 * 10**9))
    assert not outlook("H100", model=large).verdict.fits
    found = outlook("H100x4", model=large)
    assert found.options["tensor_parallel_size"] == 4
    assert found.verdict.fits


def test_more_memory_or_bandwidth_never_promises_less() -> None:
    order = [outlook(name, context_tokens=4096) for name in ("RTX 3090", "A100 80GB", "H200")]
    assert [o.sequences for o in order] == sorted(o.sequences for o in order)
    alone = [o.rates[0].prediction.output_tokens_per_s for o in order]
    assert alone == sorted(alone)


def test_an_apple_serves_gguf_in_its_share_of_the_memory() -> None:
    found = outlook("M2 Max", "llamacpp", context_tokens=8192)
    assert found.verdict.fits
    assert found.options["n_ctx"] == int(found.options["n_parallel"]) * 8192
    assert not outlook("M1", "llamacpp").verdict.fits


@pytest.mark.parametrize("card", [c.name for c in gpus.known()])
def test_every_known_card_gets_an_answer(card: str) -> None:
    found = outlook(card, context_tokens=4096)
    document = found.to_json()
    assert json.loads(json.dumps(document)) == document
    assert bool(document["expected"]) == document["fits"]
    for rate in document["expected"]:
        assert 0 < rate["low"] < rate["output_tokens_per_s"] < rate["high"]


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    config = headers.LLAMA_8B
    return headers.write(tmp_path / "llama", config, headers.dense(config), shards=4)


def test_the_command_prints_one_document(llama: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(llama), "--gpu", "A100", "--context", "8k", "--json"]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert document["format"] == 1
    assert document["weights_bytes"] == 2 * document["parameters"] == 2 * 8_030_261_248
    assert document["kv_bytes_per_token"] == 131072
    assert document["context_tokens"] == 8192
    assert document["sequences_at_context"] == document["kv_capacity_tokens"] // 8192
    assert document["expected"][0]["concurrency"] == 1


def test_the_command_says_no_by_its_exit_code(
    llama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(llama), "--gpu", "RTX 3060"]) == 1
    out = capsys.readouterr().out
    assert "fits       no: weights" in out
    assert "advice" in out


def test_the_concurrency_asked_for_is_the_one_told(
    llama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(llama), "--gpu", "H100x2", "--concurrency", "17", "--quiet"]) == 0
    assert "at 17 " in capsys.readouterr().out


def test_wrong_use_is_told_as_such(llama: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(llama), "--gpu", "RTX 9999"]) == 2
    assert main(["plan", str(llama), "--engine", "llamacpp"]) == 2
    with pytest.raises(SystemExit):
        main(["plan", str(llama), "--context", "-5"])
    assert "There are: " in capsys.readouterr().err


def test_this_machine_is_the_default(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(toy), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["fits"]
