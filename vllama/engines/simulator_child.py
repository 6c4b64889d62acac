"""The simulator's process: starts up like a vLLM, then serves until SIGTERM.

A program: `python -m vllama.engines.simulator_child JSON`, the JSON holding `model`, `port`
and `options`.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from vllama.engines import simulator_http as http
from vllama.engines.simulator_answer import Planner, PrefixCache, Refused
from vllama.engines.simulator_clock import Clockwork
from vllama.engines.simulator_faults import Faults
from vllama.engines.simulator_ollama import VERSION, Ollama
from vllama.engines.simulator_openai import OpenAI
from vllama.engines.simulator_text import Script
from vllama.engines.simulator_world import WORLDS, Limits, World
from vllama.errors import EngineFailed

BEAT_S = 0.2
_STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


def main() -> int:
    """Start, serve, and end as the options say."""
    given = json.loads(sys.argv[1])
    options: dict[str, Any] = given["options"]
    faults = Faults.of(options)
    world = WORLDS[str(options.get("world", "small"))]
    try:
        limits = start_up(world, options, faults)
    except EngineFailed as failed:
        print(f"ERROR (EngineCore) {failed.kind} in phase {failed.phase}: {failed.message}")
        print("RuntimeError: Engine core initialization failed. See root cause above", flush=True)
        return 1
    if faults.taken_port and not Path(faults.taken_port).exists():
        Path(faults.taken_port).touch()
        print("OSError: [Errno 98] address already in use", flush=True)
        return 1
    if faults.start.startswith("exit"):
        print("ERROR something went wrong", flush=True)
        return 0 if faults.start == "exit0" else 1
    if faults.start == "fatal":
        print("ERROR (EngineCore) torch.OutOfMemoryError: CUDA out of memory", flush=True)
    while faults.start in ("hang", "fatal"):
        time.sleep(1)
    try:
        return asyncio.run(_Server(given, world, limits, faults).run())
    except OSError as error:
        print(f"OSError: {error}", flush=True)
        return 1


def start_up(world: World, options: dict[str, Any], faults: Faults) -> Limits:
    """Say what a vLLM says while it starts, and take as long as asked."""
    if faults.ignore_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if faults.orphan:
        subprocess.Popen([sys.executable, "-I", "-S", "-c", _STUBBORN])
    until = time.monotonic() + faults.start_s
    limits = world.limits(options)
    faults.breaks_start("load")
    _say(f"Model loading took {world.weight_bytes / 2**30:.2f} GiB memory and 0.01 seconds")
    while time.monotonic() < until:
        _say("Loading safetensors checkpoint shards")
        time.sleep(min(BEAT_S, max(0.0, until - time.monotonic())))
    faults.breaks_start("profile")
    kv_bytes = limits.kv_cache_tokens * world.kv_bytes_per_token * limits.kv_bytes_factor
    _say(f"Available KV cache memory: {kv_bytes / 2**30:.2f} GiB")
    times = limits.kv_cache_tokens / limits.max_model_len
    _say(
        f"GPU KV cache size: {limits.kv_cache_tokens:,} tokens, Maximum concurrency for"
        f" {limits.max_model_len:,} tokens per request: {times:.2f}x"
    )
    faults.breaks_start("graph")
    _say(f"Graph capturing finished in 0 secs, took {limits.graph_cap / 8 * 6e6 / 2**30:.2f} GiB")
    _say("init engine (profile, create kv cache, warmup model) took 0.01 seconds")
    return limits


class _Server:
    """Both surfaces on one port."""

    def __init__(self, given: dict[str, Any], world: World, limits: Limits, faults: Faults) -> None:
        options = given["options"]
        self._port = int(given["port"])
        self._faults = faults
        self._limits = limits
        self._requests = 0
        self._sleeps: bool | None = False if options.get("enable_sleep_mode") is True else None
        cache = PrefixCache(bool(options.get("enable_prefix_caching", True)))
        self._planner = Planner(
            Script.read(str(options.get("script", ""))),
            max_model_len=limits.max_model_len,
            answer_tokens=int(options.get("answer_tokens", 32)),
            cache=cache,
        )
        self._clock = Clockwork(
            world, limits, faults,
            scale=float(options.get("time_scale", 1.0)),
            seed=int(options.get("seed", 0)),
            crash=self._crash,
        )  # fmt: skip
        self._openai = OpenAI(self._clock, self._planner, faults, given["model"])
        self._ollama = Ollama(self._clock, self._planner, faults, given["model"])

    async def run(self) -> int:
        """Serve until told to stop."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        if not self._faults.ignore_sigterm and sys.platform != "win32":
            loop.add_signal_handler(signal.SIGTERM, stop.set)
        server = await http.serve(self._handle, "127.0.0.1", self._port)
        clock = loop.create_task(self._clock.run())
        _say(f"Starting the simulated server on http://127.0.0.1:{self._port}")
        while self._faults.start == "unhealthy":
            _say("still warming up")
            await asyncio.sleep(BEAT_S)
        await stop.wait()
        server.close()
        clock.cancel()
        await http.swallow(clock)
        return 0

    async def _handle(self, request: http.Request, answer: http.Answer) -> None:
        try:
            await self._route(request, answer)
        except Refused as refused:
            answer.send(refused.status, refused.document, refused.headers)

    async def _route(self, request: http.Request, answer: http.Answer) -> None:
        path = request.path.partition("?")[0]
        if path in ("/v1/completions", "/v1/chat/completions"):
            await self._admit()
            await self._openai.complete(request, answer, chat="chat" in path)
        elif path in ("/api/generate", "/api/chat"):
            await self._admit()
            await self._ollama.answer(request, answer, chat="chat" in path)
        elif path == "/health":
            is_healthy = self._faults.start != "unhealthy"
            answer.send(200 if is_healthy else 503, "")
        elif self._sleeps is not None and path in ("/sleep", "/wake_up", "/is_sleeping"):
            self._sleep(path, answer)
        elif (document := self._document(path, request)) is not None:
            answer.send(200, document)
        else:
            raise Refused(404, {"detail": "Not Found"})

    def _sleep(self, path: str, answer: http.Answer) -> None:
        if path == "/wake_up" and self._faults.wake == "die":
            self._crash()
        if path == "/wake_up" and self._faults.wake == "refuse":
            raise Refused(500, {"detail": "Internal Server Error"})
        if path != "/is_sleeping":
            self._sleeps = path == "/sleep"
        answer.send(200, {"is_sleeping": self._sleeps})

    def _document(self, path: str, request: http.Request) -> object | None:
        body = request.json()
        match path:
            case "/metrics":
                return self._openai.metrics()
            case "/v1/models":
                return self._openai.models()
            case "/version":
                return {"version": "simulated"}
            case "/tokenize":
                return self._openai.tokenize(body)
            case "/v1/embeddings":
                return self._openai.embeddings(body)
            case "/reset_prefix_cache":
                self._planner.cache.reset()
                return {"success": True}
            case "/":
                return "Ollama is running"
            case "/api/version":
                return {"version": VERSION}
            case "/api/tags":
                return self._ollama.tags()
            case "/api/ps":
                return self._ollama.ps()
            case "/api/embed":
                return self._ollama.embed(body)
        return None

    async def _admit(self) -> None:
        """Count a request, and do to it what is its turn."""
        if self._sleeps:
            # As vLLM's: its memory is not there.
            self._crash()
        self._requests += 1
        number, faults = self._requests, self._faults
        if faults.out_of_memory == "run":
            print("ERROR (EngineCore) torch.OutOfMemoryError: CUDA out of memory in phase run")
            self._crash()
        if faults.crash_after and number > faults.crash_after:
            self._crash()
        if faults.hang_after and number > faults.hang_after:
            await asyncio.Event().wait()
        if faults.refuses(number):
            error = {"message": "refused by fault", "type": "overloaded", "code": faults.status}
            headers = {"retry-after": faults.retry_after} if faults.retry_after else None
            raise Refused(faults.status, {"error": error}, headers)

    def _crash(self) -> None:
        print("ERROR (EngineCore) RuntimeError: CUDA error: an illegal memory access", flush=True)
        os._exit(self._faults.crash_status)


def _say(line: str) -> None:
    print(f"INFO {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
