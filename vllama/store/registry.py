"""Speaking with an Ollama registry: its manifests, its blobs, its tokens and its errors."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urljoin

import httpx

from vllama import __version__, durations
from vllama.store import login
from vllama.store.errors import TransferFailed
from vllama.store.login import Login
from vllama.store.manifest import MANIFEST_TYPE
from vllama.store.reference import Name

AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Limits:
    """How hard a transfer tries. A part is `part_bytes`, larger when there would be too many.

    A connection that brings nothing for `stall_s` is given up and the part goes on anew;
    only `tries` in a row that bring nothing at all end the transfer.
    """

    part_bytes: int = 100 << 20
    parts: int = 16
    streams: int = 8
    stall_s: float = 30.0
    tries: int = 6
    wait_s: float = 1.0
    longest_wait_s: float = 30.0


_SIGN_IN = (
    "Ollama's registry knows users by ~/.ollama/id_ed25519 (`ollama signin`), others by the"
    " password that `docker login` has noted."
)


class Registry:
    """One model's place at its registry."""

    def __init__(self, name: Name, client: httpx.AsyncClient, limits: Limits, login: Login) -> None:
        self.name, self.limits, self._client, self._login = name, limits, client, login
        self.base = f"{name.scheme}://{name.host}/v2/{name.namespace}/{name.model}"
        self._authorization = ""

    @classmethod
    @asynccontextmanager
    async def open(cls, name: Name, limits: Limits, login: Login) -> AsyncIterator[Self]:
        """Connections for one transfer."""
        timeout = httpx.Timeout(limits.stall_s)
        headers = {"User-Agent": f"vllama/{__version__}"}
        async with httpx.AsyncClient(
            timeout=timeout, follow_redirects=True, headers=headers
        ) as client:
            yield cls(name, client, limits, login)

    async def manifest(self) -> bytes:
        """The manifest's own bytes.

        Raises:
            TransferFailed: in Ollama's words.
        """
        try:
            reply = await self.request(
                "GET", f"/manifests/{self.name.tag}", headers={"Accept": MANIFEST_TYPE}
            )
        except TransferFailed as error:
            raise TransferFailed(
                f"pull model manifest: {error.message}", error.status, error.remedy
            ) from error
        return reply.content

    async def request(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
        passes: frozenset[int] = frozenset(),
    ) -> httpx.Response:
        """A whole answer; with a token if one is wanted, again if the registry is busy.

        `passes` are codes that are answers, not errors.
        """
        url = path if "://" in path else self.base + path
        for attempt in range(1, self.limits.tries + 1):
            try:
                reply = await self._client.request(
                    method, url, headers=self._with_token(headers), content=content
                )
            except httpx.HTTPError as error:
                if attempt == self.limits.tries or isinstance(error, httpx.ConnectError):
                    raise unreachable(method, url, error) from error
                await wait(attempt, "", self.limits)
                continue
            if reply.status_code == 401 and attempt == 1 and await self.log_in(reply):
                continue
            if reply.status_code in AGAIN and attempt < self.limits.tries:
                await wait(attempt, reply.headers.get("retry-after", ""), self.limits)
                continue
            if reply.is_success or reply.status_code in passes:
                return reply
            raise refused(reply.status_code, reply.text)
        raise TransferFailed(f"{url}: too many tries")

    @asynccontextmanager
    async def bytes_from(self, digest: str, start: int, end: int) -> AsyncIterator[httpx.Response]:
        """A blob's bytes from `start` to before `end`, still to be read."""
        headers = self._with_token(
            {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
        )
        url = f"{self.base}/blobs/{digest}"
        async with self._client.stream("GET", url, headers=headers) as reply:
            yield reply

    async def log_in(self, reply: httpx.Response, /) -> bool:
        """Find what a 401 says is needed, a password or a token; whether there is a new one."""
        scheme, _, rest = reply.headers.get("www-authenticate", "").partition(" ")
        password, found = self._login.password(self.name.host), ""
        if scheme.lower() == "basic":
            found = password
        elif scheme.lower() == "bearer":
            token = await self._token(dict(re.findall(r'(\w+)="([^"]*)"', rest)), password)
            found = f"Bearer {token}" if token else ""
        is_new = bool(found) and found != self._authorization
        self._authorization = found
        return is_new

    async def _token(self, asked: dict[str, str], password: str) -> str:
        """A token from where the challenge says; signed or with the password where there is one."""
        realm = asked.get("realm", "")
        if not realm:
            return ""
        url = login.question(urljoin(self.base, realm), asked, time.time())
        known = password or self._login.signature(url, self.name.host)
        try:
            answer = await self._client.get(url, headers={"Authorization": known} if known else {})
            document: Any = answer.json() if answer.is_success else {}
        except (httpx.HTTPError, ValueError):
            return ""
        return str(document.get("token") or document.get("access_token") or "")

    def _with_token(self, headers: Mapping[str, str] | None) -> dict[str, str]:
        found = dict(headers or {})
        known = self._authorization
        return found | ({"Authorization": known} if known else {})


async def wait(attempt: int, asked: str, limits: Limits) -> None:
    """Longer each time, or as long as the other side says in Retry-After."""
    seconds = durations.retry_after_s(asked)
    if seconds is None:
        seconds = limits.wait_s * 2 ** (attempt - 1)
    await asyncio.sleep(min(seconds, limits.longest_wait_s))


def refused(code: int, body: str) -> TransferFailed:
    """What a registry's error becomes."""
    if code == 404:
        return TransferFailed("file does not exist", 404)
    if code in (401, 403):
        return TransferFailed(f"{code}: {body}", code, _SIGN_IN)
    return TransferFailed(f"{code}: {body}")


def unreachable(method: str, url: str, error: httpx.HTTPError) -> TransferFailed:
    """A failed connection, in the words of Go."""
    parts = httpx.URL(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    address = f"{parts.host}:{port}"
    text, remedy = str(error) or type(error).__name__, ""
    if isinstance(error, httpx.ConnectError):
        if "WRONG_VERSION_NUMBER" in text:
            text = "http: server gave HTTP response to HTTPS client"
            remedy = "If it is to be trusted without TLS, use --insecure."
        elif "refused" in text or "111" in text or "attempts failed" in text:
            text = f"dial tcp {address}: connect: connection refused"
        elif "Name or service" in text or "getaddrinfo" in text or "name resolution" in text:
            text = f"dial tcp: lookup {parts.host}: no such host"
        else:
            text = f"dial tcp {address}: {text}"
    return TransferFailed(f'{method.title()} "{url}": {text}', remedy=remedy)
