"""Seeds from earlier studies, and what a tune writes down for later ones."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.tuner.simulated import LOAD, MACHINE, SimulatedBench, slots, subject
from vllama.cli import tune_plan
from vllama.results import report
from vllama.results.sections import of_tune
from vllama.tuner import document, related, samplers, study
from vllama.tuner.subject import Subject
from vllama.tuner.trial import Trial
from vllama.tuner.tuning import Budget, Tuning


async def tuned(about: Subject, *earlier: dict[str, Any], ablate: bool = False) -> Tuning:
    bench = SimulatedBench(lambda o: 1000 + 50 * min(slots(o), 10))
    made = samplers.make("tpe", about.space, 1, about.objective)
    with study.opened(study.MEMORY, about.study, about.space, about.objective, made) as kept:
        tuning = Tuning(kept, bench, about, MACHINE, Budget(8), bench.clock, ablate=ablate)
        async for _ in tuning.run(related.seeds(about, earlier)):
            pass
    return tuning


def written(tuning: Tuning) -> dict[str, Any]:
    outcome = document.Outcome(
        tuning.subject, MACHINE, tuning.trials, tuning.blocks, tuning.judged(),
        tuning.selected(), {}, tuning.stopped, tuning.spent_s, "vllama tune toy",
        ablated=tuning.ablated,
    )  # fmt: skip
    read: dict[str, Any] = json.loads(json.dumps(document.of(outcome)))
    return read


OTHER = replace(LOAD, name="other", concurrency=7)


async def test_the_best_of_an_earlier_study_is_tried_early_and_says_where_it_comes_from() -> None:
    earlier = written(await tuned(subject(None, OTHER)))
    tuning = await tuned(subject(), earlier)
    seeded = [t for t in tuning.trials if t.origin == f"study {earlier['study']}"]
    assert len(seeded) <= 1
    suggested = related.seeds(tuning.subject, [earlier])
    tried = [dict(t.options) for t in tuning.trials]
    for (options,) in suggested.values():
        assert options in tried
    assert suggested or earlier["best"]["options"] in map(dict, tuning.subject.space.seeds)


def fake(about: Subject, **changes: Any) -> dict[str, Any]:
    best = {"options": {"n_parallel": 4, "n_ctx": 8192, "flash_attn": "off", "gone": 7}}
    return {
        "study": "earlier", "model": "toy", "engine": {"name": "llamacpp"},
        "machine": {"fingerprint": MACHINE.fingerprint}, "shape": related.about(about),
        "best": best, **changes,
    }  # fmt: skip


def test_only_what_is_of_this_machine_this_engine_and_a_similar_model_gives_seeds() -> None:
    about = subject()
    (options,) = related.seeds(about, [fake(about)])["study earlier"]
    assert slots(options) == 4
    assert "gone" not in options
    small = {**related.about(about), "parameters": 4_100_000}
    large = {**related.about(about), "parameters": 8_000_000_000}
    assert related.seeds(about, [fake(about, model="near", shape=small)])
    assert not related.seeds(about, [fake(about, model="far", shape=large)])
    assert not related.seeds(about, [fake(about, engine={"name": "vllm"})])
    assert not related.seeds(about, [fake(about, machine={"fingerprint": "elsewhere"})])
    assert not related.seeds(about, [fake(about, study=about.study)])
    assert not related.seeds(about, [fake(about, best=None)])


async def test_an_earlier_winner_is_planted_under_its_name() -> None:
    about = subject()
    tuning = await tuned(about, fake(about))
    (seeded,) = [t for t in tuning.trials if t.origin == "study earlier"]
    assert isinstance(seeded, Trial)
    assert slots(seeded.options) == 4


def test_broken_documents_of_earlier_studies_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "b.json").write_text("[1]")
    (tmp_path / "c.json").write_text('{"study": "c"}')
    assert [d["study"] for d in tune_plan.documents(tmp_path)] == ["c"]


async def test_the_report_says_which_settings_mattered(tmp_path: Path) -> None:
    found = written(await tuned(subject(), ablate=True))
    section = next(s for s in of_tune(found) if s.title == "Which settings mattered")
    rows = section.tables[0].rows
    assert any(r[0].startswith("n_parallel=") and r[3] == "matters" for r in rows)
    page = report.write(tmp_path / "r.html", tune=found, bench=None).read_text()
    assert "Which settings mattered" in page
