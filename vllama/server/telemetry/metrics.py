"""`/metrics` for Prometheus: requests, latencies and engines, and the engines' own figures."""

import asyncio
import functools
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
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
        self._http = Counter(
            "http_requests", "HTTP requests", ["route", "method", "status"], **kinds
        )  # fmt: skip
        self._requests = Counter(
            "requests", "Requests to engines, by how they ended", ["model", "outcome"], **kinds
        )
        self._left = Counter(
            "clients_left", "Clients that hung up, by phase", ["model", "phase"], **kinds
        )
        self._retries = Counter("retries", "Requests asked again", ["model"], **kinds)
        self._queue = Histogram(
            "queue_seconds", "Until an engine was free", ["model"], buckets=LONG_S, **kinds
        )
        self._first = Histogram(
            "time_to_first_token_seconds",
            "Until the first words",
            ["model"],
            buckets=LONG_S,
            **kinds,
        )
        self._whole = Histogram(
            "e2e_seconds", "Until the end of the answer", ["model"], buckets=LONG_S, **kinds
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
        self._gaps = _Gaps()
        self._registry.register(self._gaps)
        self._counted_s = 0.0
        # Prometheus' own way from labels to figures takes a lock and builds them anew.
        self._child = functools.lru_cache(4096)(lambda figure, *labels: figure.labels(*labels))

    def answered(self, trace: Trace) -> None:
        """Count one request to an engine."""
        trace.ended_s = time.monotonic()
        model = trace.model
        self._child(self._requests, model, trace.outcome).inc()
        if trace.outcome == "left":
            self._child(self._left, model, trace.phase).inc()
        # Told from the start, zero as well: a rate is known only between two figures.
        self._child(self._retries, model).inc(max(0, trace.attempts - 1))
        if trace.leased_s:
            self._child(self._queue, model).observe(trace.leased_s - trace.began_s)
        if trace.first_s:
            self._child(self._first, model).observe(trace.first_s - trace.began_s)
            self._child(self._whole, model).observe(trace.ended_s - trace.began_s)
            self._gaps.add(model, trace)

    def answered_http(self, route: str, method: str, status: int) -> None:
        """Count one HTTP request, whatever it was for."""
        self._child(self._http, route, method, str(status)).inc()

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


class _Gaps(Collector):
    """Gaps between reads, summed by stream: one addition a stream, not one a token."""

    def __init__(self) -> None:
        self._counts: dict[str, list[int]] = {}
        self._sums: dict[str, float] = {}

    def add(self, model: str, trace: Trace) -> None:
        counts = self._counts.setdefault(model, [0] * len(trace.gaps))
        for i, count in enumerate(trace.gaps):
            counts[i] += count
        self._sums[model] = self._sums.get(model, 0.0) + trace.gaps_s

    def collect(self) -> list[HistogramMetricFamily]:
        """As Prometheus wants it: cumulative."""
        family = HistogramMetricFamily(
            "vllama_inter_token_seconds", "Between one read of a stream and the next",
            labels=["model"],
        )  # fmt: skip
        for model, counts in self._counts.items():
            total, buckets = 0, []
            for bound, count in zip((*map(str, GAPS_S), "+Inf"), counts, strict=True):
                total += count
                buckets.append((bound, float(total)))
            family.add_metric([model], buckets, self._sums[model])
        return [family]


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
