"""The guard before all routes: foreign hosts and origins, keys, and paths with a slash too many.

Pure ASGI: a middleware that wraps bodies would hide the client's leaving.
"""

import fnmatch
import functools
import hmac
import ipaddress
import re
import socket
from collections.abc import Callable, Iterable, Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vllama.server.relay.downlink import carry
from vllama.server.relay.exchange import Reply
from vllama.server.web.service import form_of
from vllama.uplink import Headers

_METHODS = b"GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"
_HEADERS = (
    b"Authorization,Content-Type,User-Agent,Accept,X-Requested-With,X-Api-Key,Anthropic-Version,"
    b"OpenAI-Beta,X-Stainless-Arch,X-Stainless-Async,X-Stainless-Custom-Poll-Interval,"
    b"X-Stainless-Helper-Method,X-Stainless-Lang,X-Stainless-Os,X-Stainless-Package-Version,"
    b"X-Stainless-Poll-Helper,X-Stainless-Retry-Count,X-Stainless-Runtime,"
    b"X-Stainless-Runtime-Version,X-Stainless-Timeout"
)
_AGE = b"43200"
_LOCAL_SUFFIXES = (".localhost", ".local", ".internal")
_DEFAULT_ORIGINS = (
    *(
        f"{scheme}://{host}{port}"
        for host in ("localhost", "127.0.0.1", "0.0.0.0")
        for scheme in ("http", "https")
        for port in ("", ":*")
    ),
    *("app://*", "file://*", "tauri://*", "vscode-webview://*", "vscode-file://*"),
)
# What needs no key: whether the server lives. Kubernetes' probes have none to give.
_OPEN = frozenset({"/", "/health", "/livez", "/readyz"})


class Guard:
    """`bound_to` is the address that is listened on; `allow` says which methods a path knows."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        bound_to: str,
        origins: Sequence[str] = (),
        keys: Iterable[str] = (),
        allow: Callable[[str], Sequence[str]],
    ) -> None:
        self._app = app
        self._checks_host = _is_loopback(bound_to)
        self._any_origin = "*" in origins
        self._origins = (*origins, *_DEFAULT_ORIGINS)
        self._keys = [key.encode() for key in keys]
        self._allow = allow

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Turn away, redirect, or hand on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        refused = self._turned_away(scope, headers)
        if refused is not None:
            await _reply(send, refused)
            return
        shared = self._cors(scope, headers)
        if isinstance(shared, Reply):
            await _reply(send, shared)
            return
        redirect = self._redirect(scope) or self._unauthorised(scope, headers)
        if redirect is not None:
            headers_ = [*redirect.headers, *shared]
            await _reply(send, Reply(redirect.status, redirect.body, headers_))
            return
        if shared:
            carry(scope, shared)
            send = _adding(send, shared)
        await self._app(scope, receive, send)

    def _turned_away(self, _scope: Scope, headers: dict[bytes, bytes]) -> Reply | None:
        if self._checks_host and not is_local_host(headers.get(b"host", b"").decode("latin-1")):
            return Reply(403, b"")
        return None

    def _cors(self, scope: Scope, headers: dict[bytes, bytes]) -> Headers | Reply:
        """The headers for the answer, or the answer to a preflight or a foreign origin."""
        origin = headers.get(b"origin", b"").decode("latin-1")
        host = headers.get(b"host", b"").decode("latin-1")
        if not origin or origin in (f"http://{host}", f"https://{host}"):
            return []
        allowed = self._any_origin or any(_matches(origin, each) for each in self._origins)
        is_options = scope["method"] == "OPTIONS"
        allow = ", ".join(self._allow(scope["path"])).encode()
        if not allowed:
            return Reply(403, b"", [(b"allow", allow)] if is_options and allow else [])
        echo = b"*" if self._any_origin else origin.encode("latin-1")
        shared: Headers = [(b"access-control-allow-origin", echo)]
        if not self._any_origin:
            shared.append((b"vary", b"Origin"))
        if not is_options:
            return shared
        preflight: Headers = [
            (b"access-control-allow-methods", _METHODS),
            (b"access-control-allow-headers", _HEADERS),
            (b"access-control-max-age", _AGE),
        ]
        if allow:
            preflight.append((b"allow", allow))
        return Reply(204, b"", [*shared, *preflight])

    def _redirect(self, scope: Scope) -> Reply | None:
        path: str = scope["path"]
        if "//" not in path and not path.endswith("/"):
            return None
        clean = re.sub(r"/{2,}", "/", path)
        is_doubled = clean != path
        plain = clean.rstrip("/") or "/"
        if path == plain or not self._allow(plain):
            return None
        status = 301 if is_doubled or scope["method"] in ("GET", "HEAD") else 307
        query = scope.get("query_string", b"")
        target = plain.encode("utf-8") + (b"?" + query if query else b"")
        headers: Headers = [(b"location", target)]
        body = b""
        if scope["method"] in ("GET", "HEAD"):
            headers.append((b"content-type", b"text/html; charset=utf-8"))
            body = b'<a href="%b">Moved Permanently</a>.\n\n' % target.replace(b'"', b"%22")
        return Reply(status, body, headers)

    def _unauthorised(self, scope: Scope, headers: dict[bytes, bytes]) -> Reply | None:
        if not self._keys or scope["path"] in _OPEN:
            return None
        kind, _, token = headers.get(b"authorization", b"").partition(b" ")
        given = token.strip() if kind.lower() == b"bearer" else headers.get(b"x-api-key", b"")
        # Every key is compared, so that the time tells nothing.
        if sum(hmac.compare_digest(given, key) for key in self._keys):
            return None
        message = "unauthorized" if not given else "invalid API key"
        reply = form_of(scope["path"]).reply(401, message)
        return Reply(401, reply.body, [*reply.headers, (b"www-authenticate", b"Bearer")])


@functools.lru_cache(256)
def is_local_host(header: str) -> bool:
    """Whether a Host header is one by which a browser may speak to a loopback server."""
    host = header.strip()
    name = re.sub(r":\d+$", "", host) if not host.endswith("]") else host
    name = name.strip("[]")
    if not name or name.lower() in ("localhost", socket.gethostname().lower()):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name.lower().endswith(_LOCAL_SUFFIXES)
    return address.is_loopback or address.is_private or address.is_unspecified


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _matches(origin: str, pattern: str) -> bool:
    if "*" not in pattern:
        return origin == pattern
    return fnmatch.fnmatchcase(origin, pattern.replace("[", "[[]"))


def _adding(send: Send, headers: Headers) -> Send:
    async def add(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *headers]}
        await send(message)

    return add


async def _reply(send: Send, reply: Reply) -> None:
    headers = [*reply.headers, (b"content-length", b"%d" % len(reply.body))]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})
