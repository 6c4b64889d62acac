"""The hub's own cache, read in place: which repositories are here, and where."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vllama.settings import Settings

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_REPOSITORY = re.compile(rf"({_PART}(?:/{_PART})?)(?:@([A-Za-z0-9][A-Za-z0-9._/-]{{0,99}}))?")
_SHARD = re.compile(r"-(\d{5})-of-\d{5}$")
# Ollama's own order of preference when a tag does not say which quantisation.
_PREFERRED = ("Q4_K_M", "Q4_0", "Q4_K_S", "Q5_K_M", "Q8_0", "F16", "BF16")


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository on the hub. `quant` picks one GGUF file of several."""

    id: str
    revision: str = "main"
    quant: str = ""


def parse(text: str) -> Repository | None:
    """`owner/name[@revision]`, also behind `hf.co/` and with `:QUANT`; None for other names."""
    plain = re.sub(r"^(https?://)?(www\.)?(hf\.co|huggingface\.co)/", "", text)
    plain, _, quant = plain.partition(":")
    match = _REPOSITORY.fullmatch(plain)
    if match is None or ".." in plain:
        return None
    return Repository(match[1], match[2] or "main", "" if quant == "latest" else quant)


def folder(repository: Repository, settings: Settings) -> Path:
    """Where the cache keeps a repository, whether or not it is there."""
    return settings.hub_cache / f"models--{repository.id.replace('/', '--')}"


def snapshot(repository: Repository, settings: Settings) -> Path | None:
    """The folder of a repository's files at its revision, if anything of it is here."""
    home = folder(repository, settings)
    named = home / "refs" / repository.revision
    try:
        commit = named.read_text("utf-8").strip() if named.is_file() else repository.revision
    except (OSError, ValueError):
        return None
    path = home / "snapshots" / commit
    # A revision named `..` must not lead out of the cache.
    inside = path.parent == home / "snapshots" and commit not in ("", ".", "..", "main")
    return path if inside and path.is_dir() else None


def cached(settings: Settings) -> Iterator[str]:
    """What is in the cache, by name: repositories, and each GGUF file of one as `hf.co/…:QUANT`."""
    for path in sorted(settings.hub_cache.glob("models--*")):
        name = path.name.removeprefix("models--").replace("--", "/")
        here = snapshot(Repository(name), settings)
        files = [] if here is None else [p.name for p in here.rglob("*.gguf")]
        if here is None or not files or (here / "config.json").exists():
            yield name
        models = [f for f in files if _is_first(f) and "mmproj" not in f.lower()]
        yield from (f"hf.co/{name}:{_quant_of(f)}" for f in sorted(models))


def choose_gguf(files: Sequence[str], quant: str) -> str | None:
    """The GGUF file for a quantisation, of a split one its first part; None if there is none."""
    whole = [f for f in sorted(files) if f.lower().endswith(".gguf") and _is_first(f)]
    models = [f for f in whole if "mmproj" not in Path(f).name.lower()]
    if quant:
        return next((f for f in models if has_quant(f, quant)), None)
    ranked = [f for q in _PREFERRED for f in models if has_quant(f, q)]
    return next(iter([*ranked, *models]), None)


def has_quant(file: str, quant: str) -> bool:
    """Whether a file's name carries a quantisation, as a word: Q4_K is not in Q4_K_M."""
    stem = _SHARD.sub("", file.rpartition(".")[0])
    return (
        re.search(rf"(^|[^a-z0-9]){re.escape(quant.lower())}($|[^a-z0-9_])", stem.lower())
        is not None
    )


def _quant_of(file: str) -> str:
    """The quantisation that a file's name carries, else `latest`."""
    words = re.split(r"[-.]", _SHARD.sub("", file.rpartition(".")[0]))
    return next((w for w in reversed(words) if is_quant(w)), "latest")


def is_quant(tag: str) -> bool:
    """Whether a tag reads like a GGUF quantisation, such as `Q4_K_M`."""
    return re.fullmatch(r"(?i)(i?q\d\w*|[bf]*f?(16|32)|mxfp4\w*|tq\d_\d)", tag) is not None


def shards(file: str, files: Sequence[str]) -> list[str]:
    """All parts of a GGUF file that is split, or the file alone."""
    stem = file.rpartition(".")[0]
    if not _SHARD.search(stem):
        return [file]
    head = _SHARD.sub("", stem)
    return [f for f in sorted(files) if _SHARD.sub("", f.rpartition(".")[0]) == head]


def _is_first(file: str) -> bool:
    match = _SHARD.search(file.rpartition(".")[0])
    return match is None or match[1] == "00001"
