"""OpenTelemetry, on a serving process: spans sent to a real receiver, and the trace passed on."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.fakes import until, upstream
from tests.server.running import chat, serving
from tests.server.test_faults_clients import ANSWER, sized
from vllama.settings import Settings

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
SENT = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "shop=1"}


@dataclass
class Engine:
    """An engine that others run, which notes the head of each request for words."""

    heads: list[dict[str, str]] = field(default_factory=list)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while raw := await reader.readline():
                head = {"": raw.decode()}
                while (line := (await reader.readline()).decode().strip()) != "":
                    name, _, value = line.partition(": ")
                    head[name.lower()] = value
                await reader.readexactly(int(head.get("content-length", 0)))
                if head[""].startswith("POST"):
                    self.heads.append(head)
                    writer.write(ANSWER)
                else:
                    writer.write(sized({"data": [{"id": "m"}]}))

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()


@dataclass
class Collector:
    """A receiver of OTLP over HTTP."""

    bodies: list[bytes] = field(default_factory=list)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        async def take(body: bytes, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.bodies.append(body)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

        async with upstream(take) as url:
            yield url

    def spans(self) -> dict[str, tuple[Any, dict[str, object]]]:
        """The spans received, by name, each with its attributes."""
        import gzip

        from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

        found: dict[str, tuple[Any, dict[str, object]]] = {}
        for body in self.bodies:
            plain = gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body
            sent = trace_service_pb2.ExportTraceServiceRequest.FromString(plain)
            for resource in sent.resource_spans:
                told = {a.key: a.value.string_value for a in resource.resource.attributes}
                assert told["service.name"] == "vllama"
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        values = {
                            a.key: a.value.string_value or a.value.int_value
                            for a in span.attributes
                        }
                        found[span.name] = span, values
        return found


@pytest.mark.parametrize("more", [(), ("--workers", "2")], ids=["alone", "workers"])
async def test_a_request_is_a_span_between_its_clients_and_its_engines(
    settings: Settings, more: tuple[str, ...]
) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="not installed")
    engine, collector = Engine(), Collector()
    async with engine.running() as url, collector.running() as where:
        told = {"OTEL_EXPORTER_OTLP_ENDPOINT": where, "OTEL_BSP_SCHEDULE_DELAY": "50"}
        async with (
            serving("--attach", f"m={url}", *more, settings=settings, environment=told) as running,
            httpx.AsyncClient(base_url=running.url, trust_env=False, timeout=120) as client,
        ):
            body = chat("m", 1, stream=False)
            headers = {**SENT, "x-request-id": "mine"}
            answer = await client.post("/api/chat", json=body, headers=headers)
            assert answer.status_code == 200, answer.text
            await client.get("/api/version")
            names = ("POST /api/chat", "GET /api/version")
            await until(lambda: all(name in collector.spans() for name in names))
    span, told_of_it = collector.spans()["POST /api/chat"]
    assert span.kind == span.SPAN_KIND_SERVER
    assert told_of_it == {
        "http.request.method": "POST",
        "url.path": "/api/chat",
        "http.response.status_code": 200,
        "client.address": "127.0.0.1",
        "vllama.request_id": "mine",
    }
    assert span.end_time_unix_nano >= span.start_time_unix_nano > 0
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert engine.heads[0]["traceparent"] == f"00-{TRACE}-{span.span_id.hex()}-01"
    assert engine.heads[0]["tracestate"] == "shop=1"
    # A request without a trace begins one of its own.
    other, _ = collector.spans()["GET /api/version"]
    assert other.trace_id != span.trace_id
    assert other.parent_span_id == b""


@pytest.mark.parametrize("is_wanted", [True, False])
async def test_serving_works_without_opentelemetry_and_passes_the_trace_on(
    settings: Settings, tmp_path: Path, is_wanted: bool
) -> None:
    # What stands first on the path is imported first: here the package is not to be had.
    missing = tmp_path / "opentelemetry"
    missing.mkdir()
    (missing / "__init__.py").write_text("raise ImportError('not installed')\n")
    told = {"PYTHONPATH": str(tmp_path)}
    if is_wanted:
        told["OTEL_EXPORTER_OTLP_ENDPOINT"] = "http://127.0.0.1:9"
    engine = Engine()
    async with (
        engine.running() as url,
        serving("--attach", f"m={url}", settings=settings, environment=told) as running,
        httpx.AsyncClient(base_url=running.url, trust_env=False, timeout=120) as client,
    ):
        answer = await client.post("/api/chat", json=chat("m", 1, stream=False), headers=SENT)
        assert answer.status_code == 200, json.dumps([answer.text, running.text])
        assert ("pip install 'vllama[otel]'" in running.text) == is_wanted
    assert {name: engine.heads[0][name] for name in SENT} == SENT
