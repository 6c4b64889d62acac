"""Bringing a repository's files into the hub's own cache: large ones in parts, and resumed.

The hub's library places files, links and small contents. Its newer versions begin a file anew
when their process was killed, so the bytes of large ones are fetched here.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

import httpx

from vllama import __version__
from vllama.disk import write_whole
from vllama.settings import Settings
from vllama.store import hub_cache
from vllama.store.download import Download
from vllama.store.hub_cache import Repository
from vllama.store.registry import AGAIN, Limits, wait


@dataclass(frozen=True, slots=True)
class File:
    """One file of a repository; `sha256` only of those that the hub keeps as large."""

    name: str
    size: int
    sha256: str = ""


class _Hub:
    """Where the hub gives the bytes of these files of one commit."""

    def __init__(self, urls: Mapping[str, str], settings: Settings, http: httpx.AsyncClient):
        self.base, self._urls, self._http = settings.hub_endpoint, urls, http
        token = settings.hub_token
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    @asynccontextmanager
    async def bytes_from(self, digest: str, start: int, end: int) -> AsyncIterator[httpx.Response]:
        """The answer with these bytes, still to be read."""
        asked = {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
        headers = self._headers | asked
        async with self._http.stream("GET", self._urls[digest], headers=headers) as reply:
            yield reply

    async def log_in(self, _: httpx.Response, /) -> bool:
        """The hub's tokens are the user's: there is no other to ask for."""
        return False


async def fetch(
    files: list[File], repository: Repository, commit: str, settings: Settings, limits: Limits
) -> AsyncGenerator[int, None]:
    """Fetch these files in their order, telling how many bytes of them are here."""
    large = {f"sha256:{f.sha256}": _url(f, repository, commit, settings)
             for f in files if f.sha256}  # fmt: skip
    done = 0
    agent, timeout = {"User-Agent": f"vllama/{__version__}"}, httpx.Timeout(limits.stall_s)
    async with httpx.AsyncClient(timeout=timeout, follow_redirects=True, headers=agent) as http:
        hub = _Hub(large, settings, http)
        for file in files:
            if file.sha256:
                # The library's own name for the blob of a large file.
                blob = hub_cache.folder(repository, settings) / "blobs" / file.sha256
                download = Download(f"sha256:{file.sha256}", file.size, blob, hub, limits)
                async with aclosing(download.run()) as counts:
                    async for count in counts:
                        yield done + count
            # A large one is here by now: the library links it into the snapshot.
            await _placed(file.name, repository, commit, settings, limits)
            done += file.size
            yield done


def name_revision(repository: Repository, commit: str, settings: Settings) -> None:
    """Let the revision's name mean this commit; until then it means what it meant before."""
    if repository.revision != commit:
        path = hub_cache.folder(repository, settings) / "refs" / repository.revision
        write_whole(path, commit)


def _url(file: File, repository: Repository, commit: str, settings: Settings) -> str:
    from huggingface_hub import hf_hub_url

    return hf_hub_url(repository.id, file.name, revision=commit, endpoint=settings.hub_endpoint)


async def _placed(
    name: str, repository: Repository, commit: str, settings: Settings, limits: Limits
) -> None:
    """Put a file into the snapshot, again if the hub is busy."""
    from huggingface_hub.errors import HfHubHTTPError

    for attempt in range(1, limits.tries + 1):
        try:
            return await asyncio.to_thread(_place, name, repository, commit, settings)
        except HfHubHTTPError as error:
            reply = error.response
            if attempt == limits.tries or getattr(reply, "status_code", 0) not in AGAIN:
                raise
            await wait(attempt, reply.headers.get("retry-after", ""), limits)
    return None


def _place(name: str, repository: Repository, commit: str, settings: Settings) -> None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    hf_hub_download(
        repository.id,
        name,
        revision=commit,
        cache_dir=settings.hub_cache,
        endpoint=settings.hub_endpoint,
        token=settings.hub_token or False,
    )
