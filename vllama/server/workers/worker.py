"""One of several processes that serve: this module, told what to do on stdin.

It listens on a socket that it was given, borrows engines from the owner, and ends when the
owner does.
"""

import asyncio
import contextlib
import json
import logging
import signal
import socket
import sys
from dataclasses import replace

from vllama.server.app import create_app
from vllama.server.lifecycle.catalogue import Catalogue
from vllama.server.telemetry import metrics as figures
from vllama.server.telemetry.logs import configure
from vllama.server.telemetry.observed import Observed
from vllama.server.telemetry.shapes import Shapes
from vllama.server.telemetry.tracing import spans
from vllama.server.web import fast_loop
from vllama.server.web.serving import Server, raise_file_limit
from vllama.server.workers.borrowed import Borrowed
from vllama.server.workers.letters import LIMIT, Letter, Line
from vllama.settings import Address, Settings
from vllama.traffic import Notebook, Salt


def main() -> int:
    """Serve until SIGTERM, or until the owner has gone."""
    told = json.loads(sys.stdin.readline())
    configure(json=told["json_logs"])
    logging.getLogger("vllama").setLevel(told["level"])
    raise_file_limit()
    fast_loop.run(_serve(told))
    return 0


async def _serve(told: Letter) -> None:
    listener = socket.socket(fileno=told["listener"])
    settings = replace(Settings.from_environment(), address=Address("http", *told["address"]))
    attached = {name: tuple(urls) for name, urls in told["attached"].items()}
    catalogue = Catalogue(told["served"], attached)
    counts = figures.Telemetry()
    line = Line(*await asyncio.open_unix_connection(told["owner"], limit=LIMIT))
    pool = Borrowed(line, counts)
    if "salt" in told:
        notebook = Notebook(settings.home / "traffic")
        pool.shapes = Shapes(notebook, Salt(bytes.fromhex(told["salt"])))
    app = create_app(
        pool, catalogue, settings, api_keys=told["keys"], max_body_bytes=told["max_body_bytes"]
    )
    app.router.routes.extend(figures.routes(counts, pool, pool.figures))
    paths = [path for each in app.router.routes if (path := getattr(each, "path", ""))]
    tracer = spans(settings.environment)
    seen = Observed(app, telemetry=counts, tracer=tracer, routes=paths, logs=told["json_logs"])
    server = Server(seen, drain_s=told["drain_s"], ready=lambda: None)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, server.stop)
    # Ctrl-C reaches the whole group: the owner decides, and says SIGTERM.
    loop.add_signal_handler(signal.SIGINT, lambda: None)
    hearing = asyncio.create_task(pool.listen())

    def abandoned(_: "asyncio.Task[None]") -> None:
        # The engines went with the owner: there is nothing to wait for.
        server.stop()
        server.stop()

    hearing.add_done_callback(abandoned)
    await server.serve([listener])
    hearing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await hearing


if __name__ == "__main__":
    sys.exit(main())
