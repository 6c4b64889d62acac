"""A hub on a loopback port: enough of its API for the hub's own library to pull and to push."""

import hashlib
import json
import re
import threading
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "c" * 40


@dataclass
class Hub:
    """What it holds, how it behaves, and what was asked of it."""

    port: int = 0
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    token: str = ""
    codes: list[int] = field(default_factory=list)
    cut_after: list[int] = field(default_factory=list)
    slow: threading.Event | None = None
    # Answers of one file alone, each used up as it happens; the names of files with wrong bytes.
    file_codes: dict[str, list[int]] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)
    commit: str = COMMIT
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def fetched(self) -> list[str]:
        """The files whose bytes were asked for, in their order."""
        return [p.rpartition("/")[2] for m, p, _ in self.asked if m == "GET" and "/resolve/" in p]


@contextmanager
def running() -> Iterator[Hub]:
    """The hub, for as long as the block lasts."""
    state = Hub()

    class Handler(_Handler):
        hub = state

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.port = server.server_address[1]
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield state
    finally:
        if state.slow is not None:
            state.slow.set()
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.hub.asked.append((self.command, self.path, self.headers.get("Range", "")))
        if self.hub.codes:
            return self._json(self.hub.codes.pop(0), {"error": "not now"})
        info = re.match(r"/api/models/([^/]+/[^/?]+)(?:/revision/([^/?]+))?", self.path)
        file = re.match(r"/(?:datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/([^?]+)", self.path)
        match = info or file
        if match is None or match[1] not in self.hub.repositories:
            return self._error(401, "RepoNotFound")
        if match[2] not in (None, "main", self.hub.commit):
            return self._error(404, "RevisionNotFound")
        wanted = self.hub.token
        is_known = not wanted or self.headers.get("Authorization") == f"Bearer {wanted}"
        if match[1] in self.hub.gated and not is_known:
            return self._error(403, "GatedRepo")
        files = self.hub.repositories[match[1]]
        if info:
            listed = [_listed(name, data) for name, data in files.items()]
            return self._json(200, {"id": info[1], "sha": self.hub.commit, "siblings": listed})
        assert file is not None
        if file[3] not in files:
            return self._error(404, "EntryNotFound")
        if self.command == "GET" and self.hub.file_codes.get(file[3]):
            return self._json(self.hub.file_codes[file[3]].pop(0), {}, {"Retry-After": "0"})
        return self._file(files[file[3]], is_wrong=file[3] in self.hub.changed)

    def do_POST(self) -> None:
        self.hub.asked.append((self.command, self.path, ""))
        raw = self._body()
        if self.hub.token and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            return self._json(401, {"error": "who are you"})
        if self.path == "/api/repos/create":
            document = json.loads(raw)
            name = f"{document.get('organization') or 'me'}/{document['name']}"
            self.hub.repositories.setdefault(name, {})
            return self._json(200, {"url": f"{self.hub.url}/{name}", "id": name})
        if "/preupload/" in self.path:
            asked = json.loads(raw)["files"]
            modes = [{"path": f["path"], "shouldIgnore": False,
                      "uploadMode": "lfs" if f["size"] > 100_000 else "regular"}
                     for f in asked]  # fmt: skip
            return self._json(200, {"files": modes})
        if self.path.endswith("/info/lfs/objects/batch"):
            objects = [{"oid": o["oid"], "size": o["size"], "actions": {"upload": {
                        "href": f"{self.hub.url}/lfs/{o['oid']}"}}}
                       for o in json.loads(raw)["objects"]]  # fmt: skip
            return self._json(200, {"transfer": "basic", "objects": objects})
        commit = re.match(r"/api/models/([^/]+/[^/]+)/commit/", self.path)
        if commit:
            self._commit(commit[1], raw)
            return self._json(200, {"commitUrl": f"{self.hub.url}/{commit[1]}/commit/{COMMIT}",
                                    "commitOid": COMMIT, "success": True})  # fmt: skip
        return self._json(404, {})

    def do_PUT(self) -> None:
        data = self._body()
        oid = self.path.rpartition("/")[2]
        assert hashlib.sha256(data).hexdigest() == oid
        self.hub.objects[oid] = data
        self._json(200, {})

    def log_message(self, *_: Any) -> None:
        pass

    def _commit(self, name: str, raw: bytes) -> None:
        files = self.hub.repositories[name]
        for line in raw.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            whole = b""
            while size := int(self.rfile.readline(), 16):
                whole += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return whole
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _file(self, data: bytes, is_wrong: bool) -> None:
        etag = hashlib.sha256(data).hexdigest()
        data = bytes(len(data)) if is_wrong else data
        whole, code = len(data), 200
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked:
            end = int(asked[2]) + 1 if asked[2] else whole
            data, code = data[int(asked[1]) : end], 206
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Repo-Commit", self.hub.commit)
        if asked:
            self.send_header(
                "Content-Range", f"bytes {asked[1]}-{int(asked[1]) + len(data) - 1}/{whole}"
            )
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.hub.cut_after and len(data) > 1 << 20:
            self.wfile.write(data[: self.hub.cut_after.pop(0)])
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
        elif self.hub.slow is not None and len(data) > 500_000:
            half = len(data) // 2
            self.wfile.write(data[:half])
            self.wfile.flush()
            self.hub.slow.wait(30)
            self.wfile.write(data[half:])
        else:
            self.wfile.write(data)

    def _error(self, code: int, kind: str) -> None:
        self._json(code, {"error": kind}, {"X-Error-Code": kind, "X-Error-Message": kind})

    def _json(self, code: int, document: Any, headers: dict[str, str] | None = None) -> None:
        raw = json.dumps(document).encode()
        self.send_response(code)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(raw)


def _listed(name: str, data: bytes) -> dict[str, Any]:
    """A file as the hub tells of it; large ones come with their digest."""
    told: dict[str, Any] = {"rfilename": name, "size": len(data)}
    if len(data) > 1 << 20:
        digest = hashlib.sha256(data).hexdigest()
        told["lfs"] = {"sha256": digest, "size": len(data), "pointerSize": 100}
    return told
