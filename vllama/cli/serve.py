"""`vllama serve`: models with their tuned profiles, behind Ollama's API and OpenAI's."""

import argparse
import asyncio
import contextlib
import functools
import logging
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vllama.cli.sizes import size
from vllama.errors import UsageError
from vllama.settings import Address, Settings

if TYPE_CHECKING:
    from vllama.machine import Machine
    from vllama.server.lifecycle.catalogue import Catalogue
    from vllama.server.lifecycle.dormitory import Dormitory
    from vllama.server.lifecycle.launch import Launcher
    from vllama.server.lifecycle.pool import Pool
    from vllama.server.telemetry.shapes import Shapes
    from vllama.server.web.serving import Server
    from vllama.server.workers.crew import Workers
    from vllama.server.workers.owner import Owner

log = logging.getLogger("vllama.serve")
DRAIN_S = 30.0
LOADED_PER_GPU = 3


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("models", nargs="*", metavar="MODEL", help="more load when asked for")
    parser.add_argument("--profile", default="best", help="best, another name, or a file")
    parser.add_argument("--host", help="address to listen on (default: OLLAMA_HOST)")
    parser.add_argument("--port", type=int, help="port to listen on; 0 takes a free one")
    parser.add_argument("--engine", default="auto", help="auto, vllm or llamacpp")
    parser.add_argument(
        "--preload", action="store_true", help="load the MODELs before the first request"
    )
    attach = "a model that somebody else runs; several URLs are replicas"
    parser.add_argument(
        "--attach", action="append", default=[], metavar="NAME=URL[,URL...]", help=attach
    )
    replicas = "processes for one model, a GPU each"
    parser.add_argument("--replicas", type=int, default=1, metavar="N", help=replicas)
    parser.add_argument(
        "--api-key-file", type=Path, metavar="FILE", help="keys to ask for, one a line"
    )
    parser.add_argument(
        "--insecure", action="store_true", help="listen beyond this computer without a key"
    )
    parser.add_argument(
        "--max-body", type=size, metavar="SIZE",
        help="largest request body (default: 256M); uploads of models have no limit",
    )  # fmt: skip
    parser.add_argument("--json-logs", action="store_true", help="one JSON object a line")
    parser.add_argument(
        "--force", action="store_true", help="use a profile made for another machine"
    )
    parser.add_argument(
        "--watch", action="store_true", help="change to newly tuned profiles at once"
    )
    parser.add_argument(
        "--observe", action="store_true",
        help="note lengths and times of requests, never their text, for `tune --workload observed`",
    )  # fmt: skip
    parser.add_argument(
        "--no-sleep", action="store_true",
        help="stop engines that make room, also those that could sleep (vLLM on GPUs)",
    )  # fmt: skip
    workers = "processes that serve, when one core is not enough; one of them owns the engines"
    parser.add_argument("--workers", type=int, default=1, metavar="N", help=workers)
    drain = "how long requests may finish when it is told to stop"
    parser.add_argument("--drain", type=float, default=DRAIN_S, metavar="SECONDS", help=drain)


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C."""
    from vllama import hardware
    from vllama.server.lifecycle.catalogue import Catalogue
    from vllama.server.lifecycle.launch import Launcher
    from vllama.server.telemetry.logs import configure
    from vllama.server.web import fast_loop, serving
    from vllama.store import commit

    configure(json=args.json_logs)
    settings = Settings.from_environment()
    host = args.host or settings.address.host
    port = settings.address.port if args.port is None else args.port
    keys = _keys(args.api_key_file)
    if not keys and not args.insecure and not _is_local(host):
        raise UsageError(
            f"{host} can be reached from other computers, and no key is asked for",
            "Give --api-key-file FILE, or --insecure if that is what you want.",
        )
    serving.raise_file_limit()
    # First of all: nothing is started for an address that cannot be had.
    listener = serving.listen(host, port)
    settings = replace(settings, address=Address("http", host, listener.getsockname()[1]))
    commit.tidy(settings, time.time())
    machine = hardware.visible(settings.environment)
    catalogue = Catalogue(_references(args.models, settings), _attached(args.attach))
    launcher = Launcher(
        catalogue, settings, machine,
        profile=args.profile, wanted=args.engine, force=args.force, replicas=args.replicas,
        sleeps=not args.no_sleep,
    )  # fmt: skip
    for each in catalogue.served:
        launcher.plan(each)
    serve = _serve(args, settings, machine, catalogue, launcher, listener, keys)
    return fast_loop.run(serve)


async def _serve(
    args: argparse.Namespace,
    settings: Settings,
    machine: "Machine",
    catalogue: "Catalogue",
    launcher: "Launcher",
    listener: socket.socket,
    keys: frozenset[str],
) -> int:
    from vllama.server.app import create_app
    from vllama.server.lifecycle import room
    from vllama.server.lifecycle.pool import Pool
    from vllama.server.lifecycle.renewal import Renewal
    from vllama.server.telemetry import metrics as figures
    from vllama.server.telemetry.observed import Observed
    from vllama.server.telemetry.tracing import spans
    from vllama.server.web import serving
    from vllama.server.web.serving import Server
    from vllama.server.workers.crew import Workers
    from vllama.server.workers.owner import Owner

    telemetry = figures.Telemetry()
    pool = Pool(
        launcher,
        observer=telemetry,
        keep_alive_s=settings.keep_alive_s,
        max_loaded=settings.max_loaded_models or LOADED_PER_GPU * max(1, len(machine.gpus)),
        budget_bytes=room.budget_bytes(machine),
        max_waiting=settings.max_queue,
        dormitory=_dormitory(args, machine),
    )
    shapes = _shapes(args, settings)
    pool.shapes = shapes
    server: Server | Workers
    serve: Callable[[], Awaitable[None]]
    async with contextlib.AsyncExitStack() as stack:
        if args.workers > 1:
            home = stack.enter_context(tempfile.TemporaryDirectory(prefix="vllama-"))
            owner = Owner(pool, telemetry, Path(home) / "owner", expected=args.workers)
            await stack.enter_async_context(owner)
            told = {**_told(args, settings, catalogue, keys), "owner": str(owner.path)}
            if shapes is not None:
                told["salt"] = shapes.salt.secret.hex()
            server = Workers(args.workers, listener, told)
            serve = functools.partial(_with_workers, server, owner, settings)
        else:
            app = create_app(pool, catalogue, settings, api_keys=keys, max_body_bytes=args.max_body)
            app.router.routes.extend(figures.routes(telemetry, pool))
            seen = Observed(
                app, telemetry=telemetry, tracer=spans(settings.environment),
                routes=[path for each in app.router.routes if (path := getattr(each, "path", ""))],
                logs=args.json_logs or args.verbose,
            )  # fmt: skip
            server = Server(seen, drain_s=args.drain, ready=lambda: _say_ready(settings))
            serve = functools.partial(server.serve, [listener])
        renewal = Renewal(pool, settings.home / "profiles", watch=args.watch)
        came = serving.on_signals(server.stop, renewal.now)
        try:
            if args.preload:
                await _preload(pool, catalogue, server)
            async with renewal:
                await serve()
        finally:
            await pool.close()
    return 130 if came[:1] == [signal.SIGINT] else 0


async def _with_workers(workers: "Workers", owner: "Owner", settings: Settings) -> None:
    running = asyncio.ensure_future(workers.run())
    arrived = asyncio.ensure_future(owner.arrived.wait())
    await asyncio.wait({running, arrived}, return_when=asyncio.FIRST_COMPLETED)
    if arrived.done():
        _say_ready(settings)
    arrived.cancel()
    await running


def _told(
    args: argparse.Namespace, settings: Settings, catalogue: "Catalogue", keys: frozenset[str]
) -> dict[str, object]:
    """What a worker has to know."""
    return {
        "served": catalogue.served, "attached": catalogue.attached, "keys": sorted(keys),
        "address": [settings.address.host, settings.address.port], "drain_s": args.drain,
        "max_body_bytes": args.max_body, "json_logs": args.json_logs,
        "level": logging.getLogger("vllama").level,
    }  # fmt: skip


def _dormitory(args: argparse.Namespace, machine: "Machine") -> "Dormitory":
    from vllama import hardware
    from vllama.server.lifecycle import beds
    from vllama.server.lifecycle.dormitory import Dormitory

    if args.no_sleep:
        return Dormitory()
    return Dormitory(hardware.available_bytes, machine.memory_bytes * beds.RESERVE)


def _shapes(args: argparse.Namespace, settings: Settings) -> "Shapes | None":
    """What notes the shape of the traffic, where that is wanted."""
    from vllama.server.telemetry.shapes import Shapes
    from vllama.traffic import Notebook, Salt

    if not args.observe:
        return None
    folder = settings.home / "traffic"
    log.info("noting lengths and times of requests, never their text, in %s", folder)
    return Shapes(Notebook(folder), Salt())


async def _preload(pool: "Pool", catalogue: "Catalogue", server: "Server | Workers") -> None:
    loads = asyncio.ensure_future(
        asyncio.gather(*(pool.preload(name) for name in (*catalogue.served, *catalogue.attached)))
    )
    while not loads.done() and not server.should_exit:
        await asyncio.wait({loads}, timeout=0.1)
    if server.should_exit:
        loads.cancel()
        return
    loads.result()


def _is_local(host: str) -> bool:
    import ipaddress

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _say_ready(settings: Settings) -> None:
    # A full disk below stderr is no reason not to serve.
    with contextlib.suppress(OSError):
        print(f"vllama is ready on {settings.address.url}", file=sys.stderr, flush=True)


def _references(models: list[str], settings: Settings) -> list[str]:
    from vllama.store import names

    return [names.resolve(each, settings).name for each in models]


def _attached(words: list[str]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for word in words:
        name, equals, urls = word.partition("=")
        if not name or not equals or not all(u.startswith("http") for u in urls.split(",")):
            raise UsageError(
                f"--attach {word}: not NAME=URL[,URL...]", "Such as big=http://10.0.0.5:8000."
            )
        found[name] = tuple(urls.split(","))
    return found


def _keys(path: Path | None) -> frozenset[str]:
    if path is None:
        return frozenset()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UsageError(f"--api-key-file {path}: {error.strerror}") from error
    keys = frozenset(line.strip() for line in lines if line.strip() and not line.startswith("#"))
    if not keys:
        raise UsageError(f"--api-key-file {path} holds no key", "Write one key a line into it.")
    return keys
