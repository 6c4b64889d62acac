"""A registry on a loopback port that can misbehave in every way a test asks for."""

import hashlib
import json
import re
import threading
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

_TYPE = "application/vnd.ollama.image."


@dataclass
class Registry:
    """What it holds, how it behaves, and what was asked of it."""

    port: int = 0
    manifests: dict[str, bytes] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    # Behaviour, each used up as it happens.
    cut_after: list[int] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)
    blob_codes: list[int] = field(default_factory=list)
    retry_after: str = "0"
    stalls: list[threading.Event] = field(default_factory=list)
    has_ranges: bool = True
    token: str = ""
    # Who gets a token, or is served at once: whoever sends this, or signs with this public key.
    password: str = ""
    public_key: bytes = b""
    realm: str = ""
    realm_asked: list[str] = field(default_factory=list)
    uploads: dict[str, bytes] = field(default_factory=dict)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def put(self, name: str, layers: list[tuple[str, bytes]]) -> str:
        """Offer `namespace/model:tag`; its full name."""
        listed = [self._layer(_TYPE + kind, data) for kind, data in layers]
        config = self._layer("application/vnd.docker.container.image.v1+json",
                             b'{"model_format":"gguf"}')  # fmt: skip
        document = {"schemaVersion": 2, "config": config, "layers": listed}
        path, _, tag = name.partition(":")
        self.manifests[f"{path}/manifests/{tag}"] = json.dumps(document).encode()
        return f"{self.host}/{name}"

    def ranges(self) -> list[str]:
        return [headers for method, path, headers in self.asked if method == "GET" and headers]

    def _layer(self, media: str, data: bytes) -> dict[str, Any]:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self.blobs[digest] = data
        return {"mediaType": media, "digest": digest, "size": len(data)}


@contextmanager
def running() -> Iterator[Registry]:
    """The registry, for as long as the block lasts."""
    state = Registry()

    class Handler(_Handler):
        registry = state

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        for event in state.stalls:
            event.set()
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    registry: Registry
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._asked()
        if self.path.startswith("/token"):
            if not self._is_known():
                return self._reply(403, b"nobody knows you")
            return self._reply(200, json.dumps({"token": self.registry.token}).encode())
        if self._is_refused():
            return None
        path = self.path.removeprefix("/v2/")
        if path in self.registry.manifests:
            return self._reply(200, self.registry.manifests[path])
        digest = path.rpartition("/blobs/")[2]
        if digest not in self.registry.blobs:
            return self._reply(404, b"not here")
        return self._blob(self.registry.blobs[digest])

    def do_HEAD(self) -> None:
        self._asked()
        if not self._is_refused():
            digest = self.path.rpartition("/blobs/")[2]
            self._reply(200 if digest in self.registry.blobs else 404, b"")

    def do_POST(self) -> None:
        self._asked()
        self._body()
        if not self._is_refused():
            place = f"/v2/upload/{len(self.registry.uploads)}"
            self.registry.uploads[place] = b""
            self._reply(202, b"", {"Location": place})

    def do_PATCH(self) -> None:
        self._asked()
        data = self._body()
        if not self._is_refused():
            self.registry.uploads[self.path] += data
            self._reply(202, b"", {"Location": self.path})

    def do_PUT(self) -> None:
        self._asked()
        data = self._body()
        if self._is_refused():
            return
        if "/manifests/" in self.path:
            self.registry.manifests[self.path.removeprefix("/v2/")] = data
        else:
            place, _, query = self.path.partition("?digest=")
            digest = query.replace("%3A", ":")
            self.registry.blobs[digest] = self.registry.uploads[place]
        self._reply(201, b"")

    def log_message(self, *_: Any) -> None:
        pass

    def _asked(self) -> None:
        self.registry.asked.append((self.command, self.path, self.headers.get("Range", "")))

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _is_refused(self) -> bool:
        wanted = self.registry.token
        if not wanted and self.registry.password and not self._is_known():
            self._reply(401, b"who are you", {"WWW-Authenticate": 'Basic realm="r"'})
            return True
        if wanted and self.headers.get("Authorization") != f"Bearer {wanted}":
            place = self.registry.realm or f"http://{self.registry.host}/token"
            realm = f'Bearer realm="{place}",service="r",scope="s t"'
            self._reply(401, b"who are you", {"WWW-Authenticate": realm})
            return True
        is_blob = self.command == "GET" and "/blobs/" in self.path
        codes = self.registry.blob_codes if is_blob else self.registry.codes
        if codes:
            self._reply(codes.pop(0), b"not now", {"Retry-After": self.registry.retry_after})
            return True
        return False

    def _is_known(self) -> bool:
        """Whether the password is right, or the signature over this very question."""
        told = self.headers.get("Authorization", "")
        self.registry.realm_asked.append(told)
        if self.registry.password:
            return told == f"Basic {b64encode(self.registry.password.encode()).decode()}"
        if not self.registry.public_key:
            return True
        public, _, signature = told.partition(":")
        if public.encode() != self.registry.public_key.split()[1]:
            return False
        nothing = b64encode(hashlib.sha256(b"").hexdigest().encode()).decode()
        signed = f"GET,http://{self.registry.host}{self.path},{nothing}"
        key = load_ssh_public_key(self.registry.public_key)
        assert isinstance(key, Ed25519PublicKey)
        try:
            key.verify(b64decode(signature), signed.encode())
        except InvalidSignature:
            return False
        asked = parse_qs(urlsplit(self.path).query)
        return asked["scope"] == ["s", "t"] and {"ts", "nonce", "service"} <= set(asked)

    def _blob(self, data: bytes) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        code = 206 if asked and self.registry.has_ranges else 200
        if asked and code == 206:
            data = data[int(asked[1]) : int(asked[2]) + 1]
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.registry.cut_after:
            self.wfile.write(data[: self.registry.cut_after.pop(0)])
            self.wfile.flush()
            if self.registry.stalls:
                self.registry.stalls[0].wait(60)
            self.close_connection = True
            self.connection.close()
        else:
            self.wfile.write(data)

    def _reply(self, code: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
