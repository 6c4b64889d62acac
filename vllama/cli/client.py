"""The server that `OLLAMA_HOST` names, as the client commands see it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vllama.errors import VllamaError
from vllama.settings import Settings

_CHUNK = 1 << 20


class ServerGone(VllamaError):
    """Nobody listens there."""


class ServerRefused(VllamaError):
    """The server answered with an error; `status` is its HTTP status, 200 within a stream."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Client:
    """Ollama's API. Answers are plain documents; an error is raised with the server's text."""

    def __init__(self, settings: Settings) -> None:
        import httpx

        self.url = settings.address.url.replace("//0.0.0.0", "//127.0.0.1")
        key = settings.environment.get("OLLAMA_API_KEY")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        # A model that loads is silent for minutes; who asked may press Ctrl-C.
        timeout = httpx.Timeout(None, connect=10)
        self._http = httpx.Client(base_url=self.url, headers=headers, timeout=timeout)

    def get(self, path: str) -> dict[str, Any]:
        """The document at `path`."""
        return self._whole("GET", path)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to `body`; empty where the server says nothing."""
        return self._whole("POST", path, body)

    def delete(self, path: str, body: dict[str, Any]) -> None:
        """Ask for something to be removed."""
        self._whole("DELETE", path, body)

    def stream(self, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The objects of a streamed answer, as they come."""
        import httpx

        try:
            with self._http.stream("POST", path, json=body) as reply:
                if reply.status_code >= 400:
                    reply.read()
                    raise _refused(reply.text, reply.status_code)
                for line in reply.iter_lines():
                    if line.strip():
                        document = json.loads(line)
                        if "error" in document:
                            raise ServerRefused(str(document["error"]), 200)
                        yield document
        except httpx.HTTPError as error:
            raise self._gone(error) from error

    def has_blob(self, digest: str) -> bool:
        """Whether the server holds these bytes."""
        import httpx

        try:
            return self._http.head(f"/api/blobs/{digest}").status_code == 200
        except httpx.HTTPError as error:
            raise self._gone(error) from error

    def put_blob(self, digest: str, path: Path) -> None:
        """Give the server a file."""
        import httpx

        def pieces() -> Iterator[bytes]:
            with path.open("rb") as file:
                while piece := file.read(_CHUNK):
                    yield piece

        try:
            reply = self._http.post(f"/api/blobs/{digest}", content=pieces())
        except httpx.HTTPError as error:
            raise self._gone(error) from error
        if reply.status_code >= 400:
            raise _refused(reply.text, reply.status_code)

    def _whole(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        import httpx

        try:
            reply = self._http.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise self._gone(error) from error
        if reply.status_code >= 400:
            raise _refused(reply.text, reply.status_code)
        document = json.loads(reply.text) if reply.text.strip() else {}
        return document if isinstance(document, dict) else {}

    def _gone(self, error: Exception) -> ServerGone:
        return ServerGone(
            f"no server answers at {self.url}: {error}",
            "Start one with `vllama serve`, or set OLLAMA_HOST to where it runs.",
        )


def _refused(text: str, status: int) -> ServerRefused:
    try:
        message = str(json.loads(text)["error"])
    except (ValueError, KeyError, TypeError):
        message = text.strip() or f"the server answered {status}"
    return ServerRefused(message, status)
