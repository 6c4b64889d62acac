"""`/metrics` for Prometheus: requests, latencies and engines, and the engines' own figures."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vllama.errors import VllamaError
from vllama.server.lifecycle.pool import Pool
from vllama.server.lifecycle.runner import Lease
from vllama.server.lifecycle.trace import GAPS_S, Trace
from vllama.server.relay import relay
from vllama.server.relay.exchange import Call
from vllama.server.telemetry.relabel import Families
from vllama.server.telemetry.tallies import Spread, Tally

log = logging.getLogger("vllama.requests")
KIND = "text/plain; version=0.0.4; charset=utf-8"
# An engine that is slow to tell its figures must not hold up those of the others.
ASK_S = 2.0
LONG_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Telemetry:
    """Counts what it hears. Also the `Observer` of the relay."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        kinds: dict[str, Any] = {"registry": self._registry, "namespace": "vllama"}
        by_end = ["model", "outcome"]
        self._http = self._tally("http_requests", "HTTP requests", ["route", "method", "status"])
        self._requests = self._tally("requests", "Requests to engines, by how they ended", by_end)
        self._left = self._tally(
            "clients_left", "Clients that hung up, by phase", ["model", "phase"]
        )
        self._retries = self._tally("retries", "Requests asked again", ["model"])
        self._queue = self._spread("queue", "Until an engine was free", LONG_S)
        self._first = self._spread("time_to_first_token", "Until the first words", LONG_S)
        self._whole = self._spread("e2e", "Until the end of the answer", LONG_S)
        self._gaps = self._spread(
            "inter_token", "Between one read of a stream and the next", GAPS_S
        )
        self._overhead = Counter(
            "overhead_cpu_seconds", "Processor time of this process: what serving costs", **kinds
        )
        self._tasks = Gauge("tasks", "Tasks of this process's event loop", **kinds)
        self._up = Gauge("engines", "Engines that answer", ["model"], **kinds)
        self._running = Gauge("running", "Requests that have an engine", ["model"], **kinds)
        self._waiting = Gauge("waiting", "Requests that wait for a turn", ["model"], **kinds)
        self._loading = Gauge("loading", "Requests that wait for an engine to start", **kinds)
        self._parked = Gauge("parked", "1 while it is left alone", ["model"], **kinds)
        self._restarts = Gauge(
            "engine_failures", "Crashes, hangs, failed starts", ["model"], **kinds
        )
        self._asleep = Gauge("asleep", "Engines that sleep", ["model"], **kinds)
        self._sleeps = Gauge("sleeps", "Times an engine went to sleep", ["model"], **kinds)
        self._wakes = Gauge("wakes", "Times one was woken", ["model", "outcome"], **kinds)
        self._counted_s = 0.0

    def _tally(self, name: str, text: str, labels: Sequence[str]) -> Tally:
        found = Tally(f"vllama_{name}", text, labels)
        self._registry.register(found)
        return found

    def _spread(self, name: str, text: str, bounds_s: Sequence[float]) -> Spread:
        found = Spread(f"vllama_{name}_seconds", text, bounds_s)
        self._registry.register(found)
        return found

    def answered(self, trace: Trace) -> None:
        """Count one request to an engine."""
        trace.ended_s = time.monotonic()
        model = trace.model
        self._requests.add(model, trace.outcome)
        if trace.outcome == "left":
            self._left.add(model, trace.phase)
        self._retries.add(model, count=max(0, trace.attempts - 1))
        if trace.leased_s:
            self._queue.add(model, trace.leased_s - trace.began_s)
        if trace.first_s:
            self._first.add(model, trace.first_s - trace.began_s)
            self._whole.add(model, trace.ended_s - trace.began_s)
            self._gaps.add_all(model, trace.gaps, trace.gaps_s)

    def answered_http(self, route: str, method: str, status: int) -> None:
        """Count one HTTP request, whatever it was for."""
        self._http.add(route, method, str(status))

    def own(self) -> bytes:
        """What this process has counted, without a look at any engine."""
        self._spent()
        return generate_latest(self._registry)

    async def page(self, pool: Pool) -> bytes:
        """Everything there is to scrape now."""
        self._look(pool)
        families = Families()
        families.add(generate_latest(self._registry).decode(), {})
        leases = [
            (one.key, str(number), replica)
            for one in pool.running()
            for number, replica in enumerate(one.fleet.replicas)
        ]
        texts = await asyncio.gather(
            *(_figures(Lease(r.endpoint, r.uplinks, r.profile, 0.0, r.death)) for _, _, r in leases)
        )
        for (model, number, _), text in zip(leases, texts, strict=True):
            families.add(text, {"vllama_model": model, "replica": number})
        return families.text().encode()

    def _spent(self) -> None:
        used_s = time.process_time()
        self._overhead.inc(used_s - self._counted_s)
        self._counted_s = used_s
        self._tasks.set(len(asyncio.all_tasks()))

    def _look(self, pool: Pool) -> None:
        for gauge in (
            self._up, self._running, self._waiting, self._parked, self._restarts, self._asleep,
        ):  # fmt: skip
            gauge.clear()
        self._spent()
        self._loading.set(pool.loading)
        for one in pool.loaded():
            self._up.labels(one.name).set(one.replicas)
            self._running.labels(one.name).set(one.users - one.waiting)
            self._waiting.labels(one.name).set(one.waiting)
        for key, standing in pool.standings().items():
            self._restarts.labels(key).set(standing.restarts)
            self._parked.labels(key).set(1 if standing.parked_s(pool.now_s) else 0)
            self._asleep.labels(key).set(pool.asleep(key))
            self._sleeps.labels(key).set(standing.sleeps)
            self._wakes.labels(key, "ok").set(standing.wakes)
            self._wakes.labels(key, "failed").set(standing.failed_wakes)


async def _figures(lease: Lease) -> str:
    try:
        async with asyncio.timeout(ASK_S):
            reply = await relay.fetch(lease, Call(b"/metrics", b"", b"GET", ()))
    except (VllamaError, TimeoutError):
        return ""
    return reply.body.decode(errors="replace") if reply.status == 200 else ""


def routes(
    telemetry: Telemetry, pool: Pool, page: Callable[[], Awaitable[bytes]] | None = None
) -> list[Route]:
    """`/metrics`, and whether this process lives and would take a request.

    `page` is where the figures come from when they are not this process's alone.
    """

    async def metrics(_request: Request) -> Response:
        found = await page() if page is not None else await telemetry.page(pool)
        return Response(found, media_type=KIND)

    async def live(_request: Request) -> Response:
        return Response("ok")

    async def ready(_request: Request) -> Response:
        # It asks for no key, so it names no models: /metrics does.
        if left_alone := pool.left_alone():
            return Response(f"models that keep failing and are left alone: {len(left_alone)}", 503)
        return Response("ok")

    return [Route("/metrics", metrics), Route("/livez", live), Route("/readyz", ready)]


def log_request(trace: Mapping[str, object]) -> None:
    """One line for one request."""
    log.info("%(method)s %(path)s %(status)s", trace, extra=dict(trace))
