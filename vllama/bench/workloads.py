"""The loads that have a name, and those that a file describes."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec

from vllama.bench import hub_dataset, replay
from vllama.bench.dataset import texts
from vllama.bench.workload import Workload
from vllama.errors import UsageError
from vllama.settings import Settings
from vllama.traffic import read

LENGTHS = {"short": 50, "long": 500}
OUTPUT_TOKENS = 64
CONCURRENCIES = (1, 5, 10, 50, 100)
WHOLE = "-nostream"
OBSERVED = "observed"
LIMITS = ("ttft", "tpot", "e2e")


def named(
    text: str, traffic: Path | None = None, model: str = "", *, paced: bool = True
) -> tuple[Workload, ...]:
    """The workloads behind a name of the built-in ones, `matrix`, or a JSON file.

    `observed` is what a server noted in the folder `traffic`, of `model` alone when given; not
    `paced` it is sent as fast as it is answered.

    Raises:
        UsageError: neither a name nor a readable file; lists the names.
    """
    if text == OBSERVED and traffic is not None:
        return (replay.of(read(traffic), model).workload(traffic, paced=paced),)
    known = builtin()
    if text == "matrix":
        return tuple(_matrix())
    if text in known:
        return (known[text],)
    if text.startswith(hub_dataset.PREFIX):
        return (_prompts(hub_dataset.fetch(text, Settings.from_environment())),)
    path = Path(text)
    if path.suffix == ".jsonl":
        return (_prompts(path),)
    if path.suffix == ".json" or path.is_file():
        return from_file(path)
    raise UsageError(
        f"no workload is called '{text}'",
        f"There are: matrix, observed, {', '.join(n for n in known if not n.endswith(WHOLE))}; "
        f"each of the sequential and concurrent ones also with '{WHOLE}'; "
        "or a JSON file of workloads, a JSONL file of prompts, or one of the hub: "
        "hub:owner/name/file.jsonl.",
    )


def _prompts(path: Path) -> Workload:
    texts(path)
    return Workload(path.stem, 0, OUTPUT_TOKENS, 8, kind="chat", dataset=str(path.absolute()))


def builtin() -> dict[str, Workload]:
    """Every built-in workload by name. One without a length is the short one."""
    found = {w.name: w for w in _matrix()}
    for concurrency in CONCURRENCIES:
        name = _base(concurrency)
        found[name] = replace(found[f"{name}-short"], name=name)
    found |= {w.name: w for w in _shapes()}
    return found


def closed(concurrency: int, like: Workload) -> Workload:
    """`like` with another number in flight, and a name that says so."""
    if like.replay:
        return replace(
            like, name=f"{like.name}-{concurrency}", concurrency=concurrency, rate_per_s=None,
            duration_s=None,
        )  # fmt: skip
    ending = like.name.removeprefix(_base(like.concurrency))
    return replace(like, name=f"{_base(concurrency)}{ending}", concurrency=concurrency)


def from_file(path: Path) -> tuple[Workload, ...]:
    """Workloads from a JSON file: one object, or a list of them, with `Workload`'s fields.

    Raises:
        UsageError: the file cannot be read or describes no workload; says which field.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(document, dict) and "recorded" in document:
            return (replay.from_file(path),)
        documents = document if isinstance(document, list) else [document]
        loads = [msgspec.convert({"name": path.stem, **d}, Workload) for d in documents]
    except (OSError, ValueError, TypeError, msgspec.ValidationError) as error:
        raise UsageError(f"{path} is no workload: {error}") from error
    for load in loads:
        _check(load, path)
    return tuple(loads)


def _check(load: Workload, path: Path) -> None:
    if load.prompt_tokens < 1 or load.output_tokens < 0 or load.concurrency < 1:
        raise UsageError(f"{path}: '{load.name}' needs at least one prompt token and one in flight")
    if load.shared_prefix_tokens >= load.prompt_tokens:
        raise UsageError(f"{path}: the shared prefix of '{load.name}' leaves nothing of the prompt")
    strange = {name for name, _ in load.slo} - set(LIMITS)
    if strange:
        raise UsageError(f"{path}: no limit is called {sorted(strange)}", f"There are: {LIMITS}.")


def _base(concurrency: int) -> str:
    return "sequential" if concurrency == 1 else f"concurrent-{concurrency}"


def _matrix() -> Iterator[Workload]:
    for stream in (True, False):
        for length, prompt_tokens in LENGTHS.items():
            for concurrency in CONCURRENCIES:
                ending = "" if stream else WHOLE
                yield Workload(
                    name=f"{_base(concurrency)}-{length}{ending}",
                    prompt_tokens=prompt_tokens,
                    output_tokens=OUTPUT_TOKENS,
                    concurrency=concurrency,
                    stream=stream,
                )


def _shapes() -> Iterator[Workload]:
    yield Workload("chat", 400, OUTPUT_TOKENS, 8, shared_prefix_tokens=200, kind="chat", turns=3)
    yield Workload("rag", 1500, OUTPUT_TOKENS, 4, shared_prefix_tokens=1200)
    yield Workload("unique", 500, OUTPUT_TOKENS, 8)
    yield Workload("mixed", 300, OUTPUT_TOKENS, 8, spread=0.8)
    yield Workload("tools", 100, OUTPUT_TOKENS, 4, kind="chat", asks="tool")
    yield Workload("json", 100, OUTPUT_TOKENS, 4, kind="chat", asks="json")
    yield Workload("cancelled", 200, OUTPUT_TOKENS, 8, cancel_share=0.3)
    yield Workload("embed", 100, 0, 8, stream=False, kind="embed")
