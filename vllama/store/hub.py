"""Pulling from and pushing to the Hugging Face hub, into and out of the hub's own cache."""

import asyncio
import fnmatch
import re
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from vllama.settings import Settings
from vllama.store import hub_cache, hub_files, names
from vllama.store.blobs import check_space
from vllama.store.errors import TransferFailed
from vllama.store.hub_cache import Repository
from vllama.store.hub_files import File
from vllama.store.reference import Name
from vllama.store.registry import Limits

Status: TypeAlias = dict[str, Any]
_WANTED = ("*.json", "*.jinja", "*.safetensors", "*.model", "*.txt", "*.tiktoken")
_UNWANTED = ("original/*", "onnx/*", "openvino/*", "consolidated*.safetensors", "*/checkpoint-*",
             "flax_*", "tf_*", "training_args*", "coreml/*", ".*")  # fmt: skip
# Fetched last: a repository without it is never taken for a whole one.
_LAST = "config.json"


@dataclass(frozen=True, slots=True)
class _Plan:
    """What of a repository is fetched."""

    commit: str
    files: tuple[File, ...]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


async def pull(
    repository: Repository, settings: Settings, limits: Limits
) -> AsyncGenerator[Status]:
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
    here = plan.size - sum(file.size for file in missing)
    check_space(settings.hub_cache, plan.size - here)
    told = {
        "status": f"pulling {plan.commit[:12]}",
        "digest": f"commit:{plan.commit}",
        "total": plan.size,
    }
    yield {**told, "completed": here}
    fetched = hub_files.fetch(missing, repository, plan.commit, settings, limits)
    with _errors(repository, settings):
        async with aclosing(fetched) as counts:
            async for count in counts:
                yield {**told, "completed": min(here + count, plan.size)}
    hub_files.name_revision(repository, plan.commit, settings)
    yield {**told, "completed": plan.size}
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
    known = {s.rfilename: File(s.rfilename, int(s.size or 0), _sha256(s.lfs))
             for s in info.siblings or ()}  # fmt: skip
    chosen = _needed(list(known), repository)
    return _Plan(str(info.sha), tuple(known[name] for name in chosen))


def _sha256(large: Any) -> str:
    """The digest of a file that the hub keeps as large; nothing else may name a blob."""
    found = str(getattr(large, "sha256", "") or "")
    return found if re.fullmatch(r"[0-9a-f]{64}", found) else ""


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


def _missing(plan: _Plan, repository: Repository, settings: Settings) -> list[File]:
    """What is not here yet; the configuration comes last."""
    snapshot = hub_cache.snapshot(Repository(repository.id, plan.commit), settings)
    missing = [f for f in plan.files if snapshot is None or not (snapshot / f.name).exists()]
    return sorted(missing, key=lambda f: (f.name == _LAST, f.name))


def _upload(repository: Repository, path: Path, settings: Settings) -> None:
    from huggingface_hub import HfApi

    api = HfApi(endpoint=settings.hub_endpoint, token=settings.hub_token or False)
    api.create_repo(repository.id, exist_ok=True)
    if path.is_dir():
        api.upload_folder(repo_id=repository.id, folder_path=path, ignore_patterns=[".*"])
    else:
        file = path.name if path.suffix == ".gguf" else "model.gguf"
        api.upload_file(path_or_fileobj=path, path_in_repo=file, repo_id=repository.id)


@contextmanager
def _errors(
    repository: Repository, settings: Settings, what: str = "pull model manifest"
) -> Iterator[None]:
    """What the hub's library raises, as what to do about it."""
    from huggingface_hub import errors

    page = f"{settings.hub_endpoint}/{repository.id}"
    try:
        yield
    except TransferFailed as error:
        raise TransferFailed(
            error.message, error.status, _REMEDIES.get(error.status, error.remedy)
        ) from error
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
