"""Ollama beside us: which model is the same there, what is matched, and what was aimed at."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vllama import store
from vllama.bench.contest import Target
from vllama.bench.verdicts import Verdict
from vllama.bench.workload import Workload
from vllama.engines import engine
from vllama.engines.attached import Attached
from vllama.errors import EngineFailed, EngineMissing, ModelError
from vllama.profile import Profile
from vllama.settings import Settings

SHIPPED = "ollama"
MATCHED = "ollama-matched"
SIDES = (SHIPPED, MATCHED)
# The loads that vllama promises something for, and how many times Ollama's rate it aims at.
AIMS = {
    "sequential-short-nostream": 5.0,
    "concurrent-5-short-nostream": 2.0,
    "concurrent-50-short-nostream": 1.0,
    "concurrent-5-short": 2.0,
}
_UNKNOWN = "not known"
_METRIC = "output_tokens_per_s"
_TIMEOUT_S = 600.0


def with_alone(loads: Sequence[Workload], alone: Workload) -> list[Workload]:
    """The loads, with one request at a time among them: there Ollama may win, and it is shown."""
    if any(w.concurrency == 1 and w.rate_per_s is None for w in loads):
        return list(loads)
    return [replace(alone, seed=loads[0].seed), *loads]


def targets(
    url: str, name: str, settings: Settings, first: Target, most_in_flight: int
) -> list[Target]:
    """Ollama as it ships (or as it runs at `url`), and matched to `first` where we start it.

    Raises:
        EngineMissing: none runs and none is installed.
        EngineFailed: the one at `url` does not answer, or has no such model.
    """
    if url:
        there = name or same_model(url, first, settings)
        server = Attached(url, there, "ollama")
        return [Target(SHIPPED, server, server.profile(there), launched=False)]
    found = engine("ollama", settings)
    try:
        found.version()
    except EngineMissing as missing:
        raise EngineMissing(
            missing.message, f"{missing.remedy} Or say where one runs: --vs-ollama URL."
        ) from missing
    model = name or same_model(settings.address.url, first, settings) or first.profile.model
    shipped = Profile(SHIPPED, "ollama", model)
    matched = replace(shipped, name=MATCHED).with_options(**matching(first, most_in_flight))
    return [Target(SHIPPED, found, shipped), Target(MATCHED, found, matched)]


def matching(first: Target, most_in_flight: int) -> dict[str, int | str]:
    """Ollama's options that come nearest to the profile of `first`."""
    options = first.profile.options
    context = options.get("max_model_len") or options.get("n_ctx")
    slots = int(options.get("n_parallel", 1))
    wanted: dict[str, int | str] = {"num_parallel": most_in_flight}
    if isinstance(context, int) and context > 0:
        wanted["context_length"] = context if "max_model_len" in options else context // slots
    if options.get("flash_attn") in ("on", True) or first.profile.engine == "vllm":
        wanted["flash_attention"] = 1
    if isinstance(kv := options.get("cache_type_k"), str):
        wanted["kv_cache_type"] = kv
    return wanted


def same_model(url: str, first: Target, settings: Settings) -> str:
    """The name there of the same weights: the same GGUF file, else the same name; else empty."""
    here = first.profile.model
    listed = [str(m.get("name", "")) for m in _ask(url, "/api/tags").get("models") or ()]
    try:
        gguf = store.resolve(here, settings).gguf
    except ModelError:
        gguf = None
    if gguf is not None and listed:
        digest = _digest(gguf)
        for name in listed:
            modelfile = str(_ask(url, "/api/show", {"model": name}).get("modelfile", ""))
            if re.search(rf"^FROM .*sha256[-:]{digest}", modelfile, re.MULTILINE):
                return name
    return next((n for n in listed if n.removesuffix(":latest") == here), "")


def bring(url: str, first: Target, settings: Settings) -> str:
    """Give Ollama the very file that is measured here; its name there.

    Raises:
        EngineFailed: there is no GGUF file, or Ollama does not take it.
    """
    import httpx

    gguf = store.resolve(first.profile.model, settings).gguf
    if gguf is None:
        raise EngineFailed(
            f"{first.profile.model} has no GGUF file that Ollama could be given",
            "Name the model that it has with --ollama-model.",
        )
    digest = f"sha256:{_digest(gguf)}"
    name = f"vllama-bench-{digest[7:19]}"
    try:
        with httpx.Client(base_url=url, trust_env=False, timeout=_TIMEOUT_S) as client:
            if client.head(f"/api/blobs/{digest}").status_code != 200:
                with gguf.open("rb") as file:
                    client.post(f"/api/blobs/{digest}", content=file).raise_for_status()
            body = {"model": name, "files": {gguf.name: digest}, "stream": False}
            client.post("/api/create", json=body).raise_for_status()
    except httpx.HTTPError as error:
        raise EngineFailed(f"Ollama at {url} did not take {gguf}: {error}") from error
    return name


@dataclass(frozen=True, slots=True)
class Aim:
    """One promise and what was reached; `word` is reached, missed, undecided or no comparison."""

    workload: str
    against: str
    aimed: float
    ratio: float | None
    word: str

    def to_json(self) -> dict[str, Any]:
        """For the document."""
        return {
            "workload": self.workload,
            "baseline": self.against,
            "aimed": self.aimed,
            "ratio": self.ratio,
            "verdict": self.word,
        }


def aims(judged: Sequence[Verdict]) -> list[Aim]:
    """What was aimed at, next to what was measured."""
    found = []
    for verdict in judged:
        aimed = AIMS.get(verdict.workload)
        if aimed is None or verdict.baseline not in SIDES or verdict.metric != _METRIC:
            continue
        compared = verdict.comparison
        ratio, word = None, "no comparison"
        if compared is not None:
            ratio = compared.ratio
            low, high = compared.ci95 or (0.0, float("inf"))
            word = "reached" if low >= aimed else "missed" if high < aimed else "undecided"
        found.append(Aim(verdict.workload, verdict.baseline, aimed, ratio, word))
    return found


def differences(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], shown: Mapping[str, Any]
) -> list[str]:
    """What is not alike between two targets of a document, in words."""
    details = shown.get("details") or {}
    pairs = (
        ("weights", ours.get("weights"), details.get("quantization_level")),
        ("context of one sequence", _context(ours), _context(theirs)),
        ("sequences at once", _slots(ours), _slots(theirs)),
    )
    told = [(what, str(here or _UNKNOWN), str(there or _UNKNOWN)) for what, here, there in pairs]
    return [
        f"{what}: {here} here, {there} there"
        for what, here, there in told
        if here != there or here == _UNKNOWN
    ]


def shown(url: str | None, model: str) -> dict[str, Any]:
    """What Ollama says of a model; empty when it is gone."""
    return _ask(url, "/api/show", {"model": model}) if url else {}


def _context(target: Mapping[str, Any]) -> object:
    facts, options = target.get("facts") or {}, target.get("options") or {}
    return facts.get("n_ctx_slot") or facts.get("max_model_len") or options.get("context_length")


def _slots(target: Mapping[str, Any]) -> object:
    options = {**(target.get("facts") or {}), **(target.get("options") or {})}
    names = ("n_parallel", "max_num_seqs", "num_parallel")
    return next((options[name] for name in names if name in options), None)


def _ask(url: str, path: str, body: object = None) -> dict[str, Any]:
    import httpx

    try:
        with httpx.Client(base_url=url, trust_env=False, timeout=30) as client:
            answer = client.get(path) if body is None else client.post(path, json=body)
            document = answer.json()
    except (httpx.HTTPError, ValueError):
        return {}
    return document if isinstance(document, dict) and answer.status_code == 200 else {}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
