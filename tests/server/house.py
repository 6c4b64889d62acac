"""A whole vllama server for tests: the real application on a real socket, real engines behind."""

import asyncio
import hashlib
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from vllama.engines.engine import Endpoint, Engine
from vllama.machine import Machine
from vllama.model import Model
from vllama.profile import Profile
from vllama.server.app import create_app
from vllama.server.lifecycle.catalogue import Catalogue
from vllama.server.lifecycle.launch import Launcher
from vllama.server.lifecycle.plan import Choose, Plan, Start
from vllama.server.lifecycle.pool import Pool
from vllama.settings import Settings
from vllama.store import names


class Given:
    """An engine that is already there: starting it starts nothing."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self.name = endpoint.engine

    def version(self) -> str:
        return self._endpoint.version

    def accepts(self) -> frozenset[str]:
        return frozenset()

    def default(self, model: Model, machine: Machine) -> Profile:
        return Profile("given", self.name, model.name)

    @asynccontextmanager
    async def start(self, profile: Profile) -> AsyncIterator[Endpoint]:
        yield self._endpoint


class Always:
    """Brings up each model with the engine given for it, or with the one for all."""

    def __init__(self, engines: Mapping[str, Engine], otherwise: Engine | None = None) -> None:
        self._engines = engines
        self._otherwise = otherwise

    def key(self, name: str) -> str:
        return next((key for key in self._engines if names.same(key, name)), name)

    def plan(self, key: str) -> Plan:
        engine = self._engines.get(key) or self._otherwise
        assert engine is not None, key
        return Plan((), others=(Start(engine, Profile("given", engine.name, key)),))


class Small:
    """Launches llama.cpp on one thread, with slots of 4096 tokens, as the recordings had."""

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher

    def key(self, name: str) -> str:
        return self._launcher.key(name)

    def plan(self, key: str) -> Plan:
        plan = self._launcher.plan(key)
        start = plan.starts[0]
        # Who embeds always has one pool, which each text may fill.
        context = 4096 if start.profile.options.get("embeddings") else 8192
        profile = start.profile.with_options(
            n_ctx=context, n_parallel=2, kv_unified=False, threads=1, threads_batch=1
        )
        return replace(plan, starts=(Start(start.engine, profile),))


@dataclass(frozen=True)
class House:
    """A running server."""

    url: str
    pool: Pool

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, timeout=300, trust_env=False)

    async def post(self, path: str, document: Any) -> httpx.Response:
        async with self.client() as client:
            return await client.post(path, json=document)

    async def get(self, path: str, **kwargs: Any) -> httpx.Response:
        async with self.client() as client:
            return await client.get(path, **kwargs)


CHATML = (
    "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n"
    "{{ end }}<|im_start|>assistant\n"
)
STOPS = ["<|im_start|>", "<|im_end|>"]


async def create(client: httpx.AsyncClient, name: str, file: Path, template: str = CHATML) -> None:
    """Make a model of a GGUF file, as Ollama's clients do: upload, then create."""
    data = await asyncio.to_thread(file.read_bytes)
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    (await client.post(f"/api/blobs/{digest}", content=data)).raise_for_status()
    request = {
        "model": name,
        "files": {file.name: digest},
        "template": template,
        "parameters": {"stop": STOPS},
        "stream": False,
    }
    (await client.post("/api/create", json=request)).raise_for_status()


@asynccontextmanager
async def serving(
    choose: Choose, settings: Settings, served: Sequence[str] = (), **kwargs: Any
) -> AsyncIterator[House]:
    """The application with these engines, on a free port of loopback."""
    pool = Pool(choose, max_loaded=8)
    attached = kwargs.pop("attached", None)
    app = create_app(pool, Catalogue(served, attached), settings, **kwargs)
    try:
        async with listening(app) as url:
            yield House(url, pool)
    finally:
        await pool.close()


class _Announced(uvicorn.Server):
    """Says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listens = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listens.set()


@asynccontextmanager
async def listening(app: Any) -> AsyncIterator[str]:
    """The URL of an application that listens on a free port of loopback."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", lifespan="off")
    server = _Announced(config)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    task = asyncio.create_task(server.serve())
    waiting = asyncio.create_task(server.listens.wait())
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        waiting.cancel()
        task.result()
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await task
