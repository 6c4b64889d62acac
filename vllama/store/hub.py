"""Pulling from and pushing to the Hugging Face hub, into and out of the hub's own cache."""

import asyncio
import fnmatch
import threading
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from vllama.settings import Settings
from vllama.store import hub_cache, names
from vllama.store.blobs import check_space
from vllama.store.errors import TransferFailed
from vllama.store.hub_cache import Repository
from vllama.store.reference import Name

Status: TypeAlias = dict[str, Any]
_TICK_S = 0.1
_WANTED = ("*.json", "*.jinja", "*.safetensors", "*.model", "*.txt", "*.tiktoken")
_UNWANTED = ("original/*", "onnx/*", "openvino/*", "consolidated*.safetensors", "*/checkpoint-*",
             "flax_*", "tf_*", "training_args*", "coreml/*", ".*")  # fmt: skip
# Fetched last: a repository without it is never taken for a whole one.
_LAST = "config.json"


@dataclass(frozen=True, slots=True)
class _Plan:
    """What of a repository is fetched."""

    commit: str
    files: tuple[tuple[str, int], ...]

    @property
    def size(self) -> int:
        return sum(size for _, size in self.files)


class _Stopped(Exception):
    """Nobody waits for this transfer any more."""


async def pull(repository: Repository, settings: Settings) -> AsyncGenerator[Status]:
    """Fetch the files that an engine needs, telling how it goes.

    Raises:
        TransferFailed: what the hub refuses, and what to do about it.
        StorageError: the disk has no room for it.
    """
    yield {"status": "pulling manifest"}
    if settings.hub_offline:
        if hub_cache.snapshot(repository, settings) is None:
            raise TransferFailed(
                f"{repository.id} is not in the hub's cache, and HF_HUB_OFFLINE is set", 404
            )
        yield {"status": "success"}
        return
    with _errors(repository, settings):
        plan = await asyncio.to_thread(_plan, repository, settings)
    missing = _missing(plan, repository, settings)
    check_space(settings.hub_cache, sum(size for _, size in missing))
    short = plan.commit[:12]
    told = {"status": f"pulling {short}", "digest": f"commit:{plan.commit}", "total": plan.size}
    stop, counted = threading.Event(), _Counter(plan.size - sum(size for _, size in missing))
    work = asyncio.ensure_future(
        asyncio.to_thread(_fetch, repository, settings, plan, missing, _bar(stop, counted))
    )
    try:
        while not work.done():
            yield {**told, "completed": min(counted.value, plan.size)}
            await asyncio.wait({work}, timeout=_TICK_S)
        with _errors(repository, settings):
            await work
    finally:
        stop.set()
        await asyncio.gather(work, return_exceptions=True)
    yield {**told, "completed": plan.size}
    yield {"status": "writing manifest"}
    yield {"status": "success"}


async def push(name: Name, settings: Settings) -> AsyncGenerator[Status]:
    """Give a model's files to a repository of the user's, made if it is not there.

    Raises:
        TransferFailed: what the hub refuses, and what to do about it.
    """
    repository = Repository(f"{name.namespace}/{name.model}")
    yield {"status": "retrieving manifest"}
    model = names.resolve(name.shown, settings)
    yield {"status": f"pushing {repository.id}"}
    with _errors(repository, settings, "push model"):
        await asyncio.to_thread(_upload, repository, model.path, settings)
    yield {"status": "pushing manifest"}
    yield {"status": "success"}


def _plan(repository: Repository, settings: Settings) -> _Plan:
    from huggingface_hub import HfApi

    api = HfApi(endpoint=settings.hub_endpoint, token=settings.hub_token or False)
    info = api.model_info(repository.id, revision=repository.revision, files_metadata=True)
    sizes = {s.rfilename: int(s.size or 0) for s in info.siblings or ()}
    chosen = _needed(list(sizes), repository)
    return _Plan(str(info.sha), tuple((f, sizes[f]) for f in chosen))


def _needed(files: Sequence[str], repository: Repository) -> list[str]:
    """The files an engine needs: safetensors with what describes them, or one GGUF model."""
    tensors = [f for f in files if f.endswith(".safetensors") and not _is_unwanted(f)]
    if tensors and not repository.quant:
        return [f for f in files if _is_wanted(f)]
    chosen = hub_cache.choose_gguf(files, repository.quant)
    if chosen is None:
        what = f"GGUF file of {repository.quant}" if repository.quant else "safetensors or GGUF"
        have = ", ".join(sorted(f for f in files if f.endswith(".gguf"))) or "no GGUF at all"
        raise TransferFailed(f"{repository.id} has no {what}", 404, f"It has {have}.")
    return hub_cache.shards(chosen, files)


def _is_wanted(file: str) -> bool:
    return any(fnmatch.fnmatch(file, w) for w in _WANTED) and not _is_unwanted(file)


def _is_unwanted(file: str) -> bool:
    return any(fnmatch.fnmatch(file, w) for w in _UNWANTED)


def _missing(plan: _Plan, repository: Repository, settings: Settings) -> list[tuple[str, int]]:
    snapshot = hub_cache.snapshot(Repository(repository.id, plan.commit), settings)
    there = {f for f, _ in plan.files if snapshot is not None and (snapshot / f).exists()}
    return [(f, size) for f, size in plan.files if f not in there]


def _fetch(
    repository: Repository,
    settings: Settings,
    plan: _Plan,
    missing: Sequence[tuple[str, int]],
    bar: type[Any],
) -> None:
    from huggingface_hub import hf_hub_download

    ordered = sorted((f for f, _ in missing), key=lambda f: (f == _LAST, f))
    for file in ordered or [f for f, _ in plan.files][:1]:
        hf_hub_download(
            repository.id,
            file,
            revision=repository.revision,
            cache_dir=settings.hub_cache,
            endpoint=settings.hub_endpoint,
            token=settings.hub_token or False,
            tqdm_class=bar,
        )


def _upload(repository: Repository, path: Path, settings: Settings) -> None:
    from huggingface_hub import HfApi

    api = HfApi(endpoint=settings.hub_endpoint, token=settings.hub_token or False)
    api.create_repo(repository.id, exist_ok=True)
    if path.is_dir():
        api.upload_folder(repo_id=repository.id, folder_path=path, ignore_patterns=[".*"])
    else:
        file = path.name if path.suffix == ".gguf" else "model.gguf"
        api.upload_file(path_or_fileobj=path, path_in_repo=file, repo_id=repository.id)


class _Counter:
    def __init__(self, value: int) -> None:
        self.value = value


def _bar(stop: threading.Event, counted: _Counter) -> type[Any]:
    """A progress bar that is not shown: it counts, and ends the transfer when told to."""
    from tqdm.auto import tqdm  # type: ignore[import-untyped,unused-ignore]

    class Bar(tqdm):  # type: ignore[type-arg,misc,unused-ignore]
        def __init__(self, *args: Any, **options: Any) -> None:
            options.pop("name", None)
            super().__init__(*args, **{**options, "disable": True})
            counted.value += int(options.get("initial") or 0)

        def update(self, n: float | None = 1) -> bool | None:
            if stop.is_set():
                raise _Stopped
            counted.value += int(n or 0)
            return None

    return Bar


@contextmanager
def _errors(
    repository: Repository, settings: Settings, what: str = "pull model manifest"
) -> Iterator[None]:
    """What the hub's library raises, as what to do about it."""
    from huggingface_hub import errors

    page = f"{settings.hub_endpoint}/{repository.id}"
    try:
        yield
    except errors.GatedRepoError as error:
        raise TransferFailed(
            f"{what}: {repository.id} is gated", 403,
            f"Accept its conditions at {page}, then set HF_TOKEN to a token of that account.",
        ) from error  # fmt: skip
    except errors.RevisionNotFoundError as error:
        raise TransferFailed(
            f"{what}: {repository.id} has no revision {repository.revision}", 404
        ) from error
    except errors.RepositoryNotFoundError as error:
        if what != "pull model manifest":
            raise TransferFailed(f"{what}: not allowed", 401, _REMEDIES[401]) from error
        hint = "" if settings.hub_token else " A private one needs HF_TOKEN."
        raise TransferFailed(
            f"{what}: file does not exist", 404,
            f"There is no repository {repository.id} at {settings.hub_endpoint}.{hint}",
        ) from error  # fmt: skip
    except errors.HfHubHTTPError as error:
        code = getattr(error.response, "status_code", 500)
        remedy = _REMEDIES.get(code, "")
        raise TransferFailed(f"{what}: {code}: {error}", code, remedy) from error
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) == 28:
            from vllama.store.blobs import full

            raise full(settings.hub_cache, error) from error  # type: ignore[arg-type]
        raise TransferFailed(f"{what}: {error}") from error
    except Exception as error:
        if "httpx" not in type(error).__module__ and "httpcore" not in type(error).__module__:
            raise
        raise TransferFailed(f"{what}: {settings.hub_endpoint}: {error}") from error


_REMEDIES = {
    401: "Set HF_TOKEN to a token of the hub that may do this.",
    403: "The token may not do this: check its permissions.",
    429: "The hub asks to wait; a token in HF_TOKEN raises the limit.",
}
