"""What may change answers wins only if it hardly changes them."""

import math
import shutil
import struct
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.conftest import installed
from tests.tuner.simulated import LOAD, MACHINE, OPTIONS, SimulatedBench, slots, subject
from tests.tuner.test_ladder import Slots
from vllama import gguf
from vllama.bench import continuation
from vllama.bench.continuation import Continuation
from vllama.bench.rig import Rig, Session
from vllama.cli import main
from vllama.errors import EngineFailed, UsageError
from vllama.machine import Machine
from vllama.profile import Scalar
from vllama.settings import Settings
from vllama.store import names
from vllama.tuner import accuracy, document, samplers, space, study
from vllama.tuner.accuracy import FEWEST_COMPARED, PROMPTS, TOKENS, Gate, likeness, text
from vllama.tuner.knobs_vllm_cpu import WORKER
from vllama.tuner.ladder import Aids
from vllama.tuner.subject import Subject
from vllama.tuner.trial import LIVE, Trial
from vllama.tuner.tuning import Budget, Tuning

SAME = Continuation(("a",) * TOKENS, (-0.5,) * TOKENS)
OTHER = Continuation(("b",) * TOKENS, (-0.5,) * TOKENS)
LOSSY = {"cache_type_k": "q8_0"}


def lossy_subject(allow: bool = True) -> Subject:
    plain = subject()
    found = space.build(
        plain.space.ground.model, MACHINE, engine="llamacpp", version="1",
        accepts=OPTIONS | {"cache_type_k"}, default=plain.default, load=(LOAD,),
        allow_lossy=allow,
    )  # fmt: skip
    return replace(plain, space=found, accuracy=text() if allow else None)


def is_lossy(options: Mapping[str, Scalar]) -> bool:
    return options.get("cache_type_k", "f16") != "f16"


def fastest_when_lossy(options: Mapping[str, Scalar]) -> float:
    faster = 2.0 if is_lossy(options) else 1.0
    return faster * (1000 + 50 * min(slots(options), 10))


async def tuned(
    lossy_says: Continuation, default_says: Continuation = SAME, steering: Slots | None = None
) -> Tuning:
    async def listen(session: Session, prompts: Sequence[str]) -> Sequence[Continuation]:
        caches = {word for word in session.endpoint.command if word.startswith("--cache_type_k=")}
        is_default = caches <= {"--cache_type_k=f16"}
        return [default_says if is_default else lossy_says] * len(prompts)

    bench, about = SimulatedBench(fastest_when_lossy), lossy_subject()
    sampler = samplers.make("tpe", about.space, 1, about.objective)
    with study.opened(study.MEMORY, about.study, about.space, about.objective, sampler) as kept:
        aids = Aids(steering=steering, listen=listen)
        tuning = Tuning(kept, bench, about, MACHINE, Budget(20), bench.clock, aids)
        async for _ in tuning.run():
            pass
    return tuning


async def test_what_answers_like_the_default_may_win_and_its_profile_says_how_like() -> None:
    tuning = await tuned(SAME)
    assert is_lossy(tuning.judged().options)
    best = tuning.selected()["best"].profile
    assert best.provenance["accuracy"]["agreement"] == 1.0
    assert best.provenance["accuracy"]["tokens"] == PROMPTS * TOKENS
    assert best.provenance["accuracy"]["text"] == "built-in"


async def test_the_fastest_does_not_win_when_it_answers_otherwise() -> None:
    tuning = await tuned(OTHER)
    shut_out = [t for t in tuning.trials if is_lossy(t.options)]
    assert shut_out
    assert all(t.state == "failed" for t in shut_out)
    assert {t.failure.kind for t in shut_out if t.failure} == {"accuracy"}
    assert not any(is_lossy(b.options) for b in tuning.blocks)
    for chosen in tuning.selected().values():
        assert not is_lossy(chosen.profile.options)
        assert "accuracy" not in chosen.profile.provenance


@pytest.mark.parametrize("says", [SAME, OTHER])
async def test_of_settings_that_share_a_lossy_start_all_or_none_pass(says: Continuation) -> None:
    tuning = await tuned(says, steering=Slots())
    shared = [t for t in tuning.trials if is_lossy(t.options) and LIVE in t.facts]
    siblings = [t for t in shared if not t.has_own_start]
    assert shared
    if says is SAME:
        assert siblings
        assert all(t.facts["accuracy_agreement"] == 1.0 for t in shared if t.measurements)
    else:
        assert not siblings
        assert {t.failure.kind for t in shared if t.failure} == {"accuracy"}


async def test_nothing_lossy_wins_where_the_default_says_nothing() -> None:
    tuning = await tuned(SAME, default_says=Continuation())
    assert any(t.complete for t in tuning.trials)
    assert not any(t.complete for t in tuning.trials if is_lossy(t.options))


async def test_the_document_tells_the_likeness_of_each_lossy_trial_only() -> None:
    tuning = await tuned(SAME)
    verdict, selected = tuning.judged(), tuning.selected()
    whole = document.of(document.Outcome(
        tuning.subject, MACHINE, tuning.trials, tuning.blocks, verdict, selected, {}, "", 1.0,
    ))  # fmt: skip
    told = {is_lossy(t["options"]): t["accuracy"] for t in whole["trials"]}
    assert told[False] is None
    assert told[True]["shift"] == 0.0


def test_a_study_with_another_text_shares_no_trials(tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("Words of my own, and more of them. " * 20)
    about = lossy_subject()
    assert replace(about, accuracy=text(str(mine))).study != about.study
    assert text(str(mine)).name == "mine.txt"


def test_a_trial_keeps_what_the_default_said() -> None:
    trial = Trial(0, {}, "complete", said=(SAME, OTHER))
    assert Trial.from_json(trial.to_json()) == trial


def test_tokens_after_the_first_that_differs_are_not_compared() -> None:
    half = Continuation(("a", "a", "b", "a"), (-0.5,) * 4)
    found = likeness([half], [SAME])
    assert found.tokens == 3
    assert found.agreement == pytest.approx(2 / 3)


def test_an_engine_that_is_surer_than_the_default_is_not_like_it() -> None:
    sure = Continuation(("a",) * TOKENS, (math.log(0.9),) * TOKENS)
    unsure = Continuation(("a",) * TOKENS, (math.log(0.8),) * TOKENS)
    found = likeness([sure] * PROMPTS, [unsure] * PROMPTS)
    assert found.agreement == 1.0
    assert found.shift == pytest.approx(0.1)
    assert "10.0%" in found.broken


def test_too_few_tokens_prove_nothing() -> None:
    few = [SAME] * (FEWEST_COMPARED // TOKENS - 1)
    assert "could be compared" in likeness(few, few).broken
    assert likeness([SAME] * PROMPTS, [SAME] * PROMPTS).broken == ""


def test_vllms_and_llamacpps_ways_to_tell_probabilities_are_read_alike() -> None:
    columns = {"tokens": ["a", "b"], "token_logprobs": [-0.1, None], "text_offset": [0, 1]}
    rows = {"content": [{"token": "a", "logprob": -0.1}, {"token": "b", "logprob": -math.inf}]}
    assert continuation.read(columns) == continuation.read(rows)


def test_the_prompts_begin_alike_and_grow_to_the_whole_text() -> None:
    prompts = text().prompts
    assert len(prompts) == PROMPTS
    assert all(b.startswith(a) and len(b) > len(a) for a, b in pairwise(prompts))


@pytest.mark.parametrize("content", [b"too short", b"\xff\xfe\xff"])
def test_a_text_that_tells_nothing_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="--accuracy-text"):
        text(str(path))


def test_a_text_without_lossy_options_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", "toy", "--accuracy-text", "some.txt"]) == 2
    assert "--allow-lossy" in capsys.readouterr().err


@pytest.fixture
def unsure(toy: Path, tmp_path: Path) -> Path:
    """The toy with its last norm made small: as it is, it is so sure that nothing shows."""
    source = next(toy.glob("*f16.gguf"))
    raw, tensors = bytearray(source.read_bytes()), gguf.read(source).tensors
    start = len(raw) - max(t.offset + t.bytes for t in tensors)
    norm = next(t for t in tensors if t.name == "output_norm.weight")
    small = struct.pack(f"<{norm.elements}f", *[0.03] * norm.elements)
    raw[start + norm.offset : start + norm.offset + norm.bytes] = small
    path = tmp_path / "unsure.gguf"
    path.write_bytes(raw)
    return path


async def heard(
    settings: Settings, file: Path, machine: Machine, cache: str = "f16"
) -> Sequence[Continuation]:
    engine = installed("llamacpp", settings)
    profile = engine.default(names.resolve(str(file), settings), machine)
    wanted = profile.with_options(threads=1, n_ctx=8192, cache_type_k=cache, cache_type_v=cache)
    async with Rig(engine).started(wanted) as session:
        return await accuracy.over_http(session, text().prompts)


async def test_a_real_llamacpp_is_like_itself_and_less_so_the_smaller_its_cache(
    settings: Settings, unsure: Path, machine: Machine
) -> None:
    default = await heard(settings, unsure, machine)
    again = likeness(await heard(settings, unsure, machine), default)
    assert (again.agreement, again.shift, again.broken) == (1.0, 0.0, "")
    assert again.tokens == PROMPTS * TOKENS
    eight = likeness(await heard(settings, unsure, machine, "q8_0"), default)
    four = likeness(await heard(settings, unsure, machine, "q4_0"), default)
    assert 0 < eight.shift < four.shift


@pytest.fixture
def unsure_folder(toy: Path, tmp_path: Path) -> Path:
    """The same in the form that vLLM reads."""
    folder = tmp_path / "unsure"
    shutil.copytree(toy, folder, ignore=shutil.ignore_patterns("*.gguf"))
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    tensors["model.norm.weight"] = np.full_like(tensors["model.norm.weight"], 0.03)
    save_file(tensors, weights, {"format": "pt"})
    return folder


@pytest.mark.vllm
async def test_a_real_vllm_tells_how_far_rounded_weights_change_its_answers(
    settings: Settings, unsure_folder: Path, machine: Machine
) -> None:
    engine = installed("vllm", settings)
    default = engine.default(names.resolve(str(unsure_folder), settings), machine)
    said = []
    for dtype in ("auto", "bfloat16"):
        quick = default.with_options(
            dtype=dtype, max_model_len=4096, kv_cache_memory_bytes="64M", enforce_eager=True
        )
        async with Rig(engine).started(replace(quick, environment={WORKER: "0"})) as session:
            said.append(await accuracy.over_http(session, text().prompts))
    exact, rounded = said
    assert all(-20 < p < 0 for each in exact for p in each.logprobs)
    found = likeness(rounded, exact)
    assert 0.5 < found.agreement <= 1
    assert 0 < found.shift < 0.1


async def test_a_gate_of_a_real_engine_refuses_what_is_not_the_default_s(
    settings: Settings, toy: Path, machine: Machine
) -> None:
    """The default's answers are made up here, so nothing real can be like them."""
    about = lossy_subject()
    default = Trial(0, {}, "complete", said=(OTHER,) * PROMPTS)
    gate = Gate(text(), about.space.knobs, lambda: [default])
    engine = installed("llamacpp", settings)
    profile = engine.default(names.resolve(str(toy), settings), machine)
    wanted = profile.with_options(threads=1, n_ctx=8192, cache_type_k="q8_0")
    async with Rig(engine).started(wanted) as session:
        with pytest.raises(EngineFailed, match="default's") as caught:
            await gate.passed(session, Trial(1, LOSSY, "failed"))
    assert caught.value.kind == "accuracy"
