"""A small model that the user names may guess ahead, where an engine is faster for it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import installed
from tests.tuner import machines as on
from vllama.bench.rig import Rig
from vllama.cli import main
from vllama.machine import Machine
from vllama.profile import Profile, Scalar
from vllama.settings import Settings
from vllama.store import names
from vllama.tuner.attempt import Rung, attempt
from vllama.tuner.knobs_llamacpp import DRAFTED, DRAFTING
from vllama.tuner.objective import Objective
from vllama.tuner.space import Space, build
from vllama.tuner.study import Ask
from vllama.tuner.subject import Subject

CPU = on.machine()
DRAFT = replace(on.model(on.TOY), name="small", gguf=Path("/models/small.gguf"))


def space(drafted: bool = True, weight_bytes: int = 0, **default: str) -> Space:
    shape = replace(on.TOY, weight_bytes=weight_bytes or on.TOY.weight_bytes)
    return build(
        on.model(on.TOY), CPU, engine="llamacpp", version="b1",
        accepts=on.LLAMACPP_TAKES | {"spec_type", "model_draft", "spec_draft_n_max"},
        default=Profile("default", "llamacpp", "some/model", options=default),
        load=(on.chat(),), draft=replace(DRAFT, shape=shape) if drafted else None,
    )  # fmt: skip


def choices(of: Space) -> dict[str, tuple[object, ...]]:
    return {k.name: k.choices for k in of.knobs}


def test_a_named_draft_is_a_seed_and_a_choice_beside_none() -> None:
    found = space()
    assert choices(found)["spec_type"] == ("none", DRAFTING)
    launched = found.launch({"spec_type": DRAFTING})
    assert launched["model_draft"] == "/models/small.gguf"
    assert launched["spec_draft_n_max"] == DRAFTED
    assert any(seed.get("spec_type") == DRAFTING for seed in found.seeds)


def test_without_a_named_draft_nothing_drafts() -> None:
    found = space(drafted=False)
    assert not {"spec_type", "spec_draft_n_max"} & choices(found).keys()
    assert any("--draft" in r.reason for r in found.ruled_out if r.option == "model_draft")


def test_how_much_is_drafted_is_not_searched_where_nothing_drafts() -> None:
    assert space().check(space().launch({"spec_draft_n_max": 8})) is not None
    both: dict[str, Scalar] = {"spec_draft_n_max": 8, "spec_type": DRAFTING}
    assert space().check(space().launch(both)) is None


def test_a_draft_that_the_memory_does_not_hold_is_ruled_out() -> None:
    found = space(weight_bytes=10**12)
    assert found.check(found.launch({"spec_type": DRAFTING, "n_parallel": 4})) is not None


def test_a_model_that_brings_its_own_draft_keeps_it() -> None:
    found = space(model_draft="/models/own.gguf", spec_type=DRAFTING)
    assert found.launch({}) == {}
    assert any("its own" in r.reason for r in found.ruled_out if r.option == "model_draft")


def vllm_space(gib: float = 24) -> Space:
    draft = replace(DRAFT, safetensors=Path("/models/small"))
    return build(
        on.model(on.TOY), on.machine(gib=gib), engine="vllm", version="0.32.0",
        accepts=on.VLLM_TAKES, default=Profile("default", "vllm", "some/model"),
        load=(on.chat(64),), draft=draft,
    )  # fmt: skip


def test_a_named_draft_is_a_seed_and_a_choice_of_vllm_too() -> None:
    found = vllm_space()
    assert choices(found)["spec_method"] == ("none", "draft_model")
    assert found.launch({"spec_method": "draft_model", "spec_tokens": 5}) == {
        "spec_method": "draft_model", "spec_model": "/models/small", "spec_tokens": 5,
    }  # fmt: skip
    assert any(seed.get("spec_model") == "/models/small" for seed in found.seeds)


def test_the_memory_of_a_draft_counts_on_vllm_too() -> None:
    fit = vllm_space().fit
    assert fit is not None
    drafting = {"spec_method": "draft_model"}
    room, alone = fit.verdict(drafting).kv_tokens, fit.verdict({}).kv_tokens
    # The draft is as large as the model: half as many tokens have room.
    assert 0.45 < room / alone < 0.51


def test_a_draft_that_the_engine_cannot_read_is_refused(
    toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gguf = next(toy.glob("*.gguf"))
    words = ["tune", str(toy), "--engine", "vllm", "--draft", str(gguf), "--dry-run"]
    assert main(words) == 2
    assert "is not there as safetensors" in capsys.readouterr().err


def test_a_draft_that_was_named_is_in_the_space_of_a_tune(
    toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["tune", str(toy), "--engine", "llamacpp", "--draft", str(toy)]
    assert main([*words, "--dry-run", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    knobs = {k["name"]: k["choices"] for k in document["knobs"]}
    assert DRAFTING in knobs["spec_type"]
    assert document["seeds"][1]["model_draft"].endswith(".gguf")


@pytest.mark.llamacpp
async def test_a_real_llamacpp_is_measured_with_the_draft(
    toy: Path, settings: Settings, machine: Machine
) -> None:
    """The toy drafts for itself, so every guess is right."""
    engine = installed("llamacpp", settings)
    model = names.resolve(str(toy), settings)
    default = engine.default(model, machine).with_options(threads=1)
    found = build(
        model, machine, engine="llamacpp", version=engine.version(), accepts=engine.accepts(),
        default=default, load=(on.chat(1),), draft=model,
    )  # fmt: skip
    launch = found.launch({"spec_type": DRAFTING})
    assert launch["model_draft"] == str(model.gguf)
    about = Subject(default, (on.chat(1),), Objective("throughput"), found)
    trial = await attempt(Rig(engine), about, Ask(1, launch, "seed"), (Rung(0.5),))
    assert trial.state == "complete", trial.failure
    assert any("draft-simple" in word.lower().replace("_", "-") for word in trial.command)
