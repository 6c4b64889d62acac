"""Traffic that was observed, and its replay."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from vllama.bench import replay, workloads
from vllama.bench.prompts import Prompts, Vocabulary
from vllama.bench.workload import Workload
from vllama.errors import UsageError
from vllama.traffic import Notebook, Salt, Seen, read

SYSTEM = "You are the helper of a shop that sells secret garden gnomes. " * 8
VOCABULARY = Vocabulary(tuple(f"w{i}" for i in range(500)), ("w0", "w1"))
LETTERS_A_TOKEN = 4


def seen(at_s: float, prompt: str, output: int = 10, took_s: float = 0.2, salt: Salt | None = None,
         model: str = "toy") -> Seen:  # fmt: skip
    return Seen(
        at_s, took_s, model, stream=True, letters=len(prompt),
        prompt_tokens=len(prompt) // LETTERS_A_TOKEN, output_tokens=output,
        prefix=(salt or SALT).prefix(prompt),
    )  # fmt: skip


SALT = Salt(b"a salt for this test, no other")


def conversation() -> list[Seen]:
    """Two conversations below one system message, and somebody who shares nothing."""
    first = SYSTEM + "user: what does the blue one cost, and is it here before Friday? " * 2
    second = SYSTEM + "user: my gnome has lost its hat in the storm of last night, help! " * 2
    later = first + "assistant: it costs nine. user: and the red one, with the long hat? " * 2
    other = "Translate this letter into French, please: " + "x" * 300
    texts = [first, second, other, later]
    return [seen(100 + 0.25 * i, text, output=10 + i) for i, text in enumerate(texts)]


def replayed(load: Workload, count: int, overhead: int = 0) -> list[list[str]]:
    prompts = Prompts(VOCABULARY, overhead)
    return [prompts.prompt(load, i).text.split() for i in range(count)]


def alike(one: Sequence[str], other: Sequence[str]) -> int:
    """How many words both begin with."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
                min(len(one), len(other)))  # fmt: skip


def test_a_replay_has_the_same_lengths_gaps_and_answers(tmp_path: Path) -> None:
    traffic = conversation()
    load = replay.of(traffic).workload(tmp_path, paced=True)
    assert [len(words) for words in replayed(load, 4)] == [s.prompt_tokens for s in traffic]
    assert [replay.answer_tokens(load, i) for i in range(4)] == [10, 11, 12, 13]
    assert replay.due(load, 0.9) == pytest.approx([0, 0.25, 0.5, 0.75])
    assert load.rate_per_s == pytest.approx(4)
    assert load.longest_prompt_tokens == max(s.prompt_tokens for s in traffic)


def test_prompts_begin_alike_where_the_real_ones_did(tmp_path: Path) -> None:
    load = replay.of(conversation()).workload(tmp_path, paced=True)
    first, second, other, later = replayed(load, 4)
    step = 64 // LETTERS_A_TOKEN
    assert abs(alike(first, second) - len(SYSTEM) / LETTERS_A_TOKEN) <= step
    assert abs(alike(first, later) - len(first)) <= step
    assert alike(first, other) <= 2


def test_another_time_through_has_other_words_of_the_same_structure(tmp_path: Path) -> None:
    load = replay.of(conversation()).workload(tmp_path, paced=True)
    both = replayed(load, 8)
    assert alike(both[0], both[4]) <= 2
    assert alike(both[4], both[7]) == alike(both[0], both[3])


def test_the_words_of_a_template_count_into_the_lengths(tmp_path: Path) -> None:
    load = replay.of(conversation()).workload(tmp_path, paced=True)
    plain, wrapped = replayed(load, 4), replayed(load, 4, overhead=7)
    assert [len(p) - len(w) for p, w in zip(plain, wrapped, strict=True)] == [7] * 4


def test_a_silence_is_not_waited_for_and_the_busiest_stretch_is_taken(tmp_path: Path) -> None:
    quiet = [seen(1000 + 30 * i, f"{i} quiet " * 20, took_s=29.5) for i in range(5)]
    busy = [seen(9000 + 0.5 * i, f"{i} busy " * 20) for i in range(40)]
    found = replay.of([*quiet, *busy])
    assert len(found.requests) == pytest.approx(41, abs=2)
    assert found.span_s < replay.STRETCH_S + 5


def test_not_paced_it_keeps_as_much_in_flight_as_there_was(tmp_path: Path) -> None:
    traffic = [seen(i, f"{i} text " * 30, took_s=2.5) for i in range(10)]
    load = replay.of(traffic).workload(tmp_path, paced=False)
    assert load.rate_per_s is None
    assert load.concurrency == 3


def test_who_left_early_is_given_the_usual_length(tmp_path: Path) -> None:
    told = [seen(i, f"{i} told " * 30) for i in range(3)]
    left = Seen(5.0, 0.1, "toy", stream=True, letters=400, prompt_tokens=0, output_tokens=2)
    assert replay.of([*told, left]).requests[-1].prompt_tokens == pytest.approx(100, rel=0.05)


def test_notes_hold_no_word_of_a_prompt(tmp_path: Path) -> None:
    notebook = Notebook(tmp_path)
    for each in conversation():
        notebook.add(each)
    replay.of(read(tmp_path)).workload(tmp_path, paced=True)
    written = "".join(p.read_text() for p in tmp_path.iterdir()).lower()
    words = {w.strip(".,:!?").lower() for w in SYSTEM.split() if len(w) > 4}
    assert words
    assert not [w for w in words if w in written]
    assert SALT.secret.hex() not in written


def test_the_hashes_of_one_text_differ_with_the_salt() -> None:
    assert Salt().prefix(SYSTEM) != Salt().prefix(SYSTEM)
    assert SALT.prefix(SYSTEM) == SALT.prefix(SYSTEM + "and more")[: len(SALT.prefix(SYSTEM))]


def test_notes_are_bounded_and_lose_the_oldest_first(tmp_path: Path) -> None:
    notebook = Notebook(tmp_path, file_bytes=4000, files=3)
    for i in range(200):
        notebook.add(seen(float(i), SYSTEM))
    assert sum(p.stat().st_size for p in tmp_path.iterdir()) <= 3 * 4000
    kept = read(tmp_path)
    assert kept[-1].at_s == 199
    assert kept[0].at_s > 100


def test_a_line_that_a_kill_cut_is_left_out(tmp_path: Path) -> None:
    Notebook(tmp_path).add(seen(1.0, SYSTEM))
    path = next(tmp_path.iterdir())
    path.write_text(path.read_text() + '{"at_s": 12')
    assert len(read(tmp_path)) == 1


def test_traffic_of_another_model_is_not_taken_for_this_one(tmp_path: Path) -> None:
    notebook = Notebook(tmp_path)
    notebook.add(seen(1.0, SYSTEM, model="other"))
    with pytest.raises(UsageError, match="no traffic of toy"):
        workloads.named("observed", tmp_path, "toy")
    assert workloads.named("observed", tmp_path, "other:latest")[0].name == "observed"


def test_without_any_traffic_it_says_how_to_get_some(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no traffic") as refused:
        workloads.named("observed", tmp_path, "toy")
    assert "--observe" in refused.value.remedy


def test_the_kept_file_is_a_workload_of_its_own(tmp_path: Path) -> None:
    load = replay.of(conversation()).workload(tmp_path, paced=True)
    assert workloads.named(load.replay) == (load,)
    assert "recorded" in json.loads(Path(load.replay).read_text())
