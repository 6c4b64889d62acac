"""OpenTelemetry, when it is installed and told where to send: a span for each request."""

import logging
from collections.abc import Mapping
from typing import Any

log = logging.getLogger(__name__)
WHERE = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


class Spans:
    """Sends spans with a tracer of OpenTelemetry."""

    def __init__(self, tracer: Any) -> None:
        self._tracer = tracer

    def __call__(self, facts: dict[str, object], began_ns: int) -> None:
        """One request is over."""
        span = self._tracer.start_span(
            f"{facts['method']} {facts['path']}",
            start_time=began_ns,
            attributes={
                "http.request.method": facts["method"],
                "url.path": facts["path"],
                "http.response.status_code": facts["status"],
                "client.address": facts["client"],
                "vllama.request_id": facts["request_id"],
            },
        )
        span.end(end_time=began_ns + int(float(str(facts["seconds"])) * 1e9))


def spans(environment: Mapping[str, str]) -> Spans | None:
    """What sends them, or None when nobody wants them."""
    if not any(environment.get(name) for name in WHERE):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        log.warning("spans are wanted (OTEL_...) but opentelemetry-exporter-otlp is not installed")
        return None
    provider = TracerProvider(resource=Resource.create({"service.name": "vllama"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Spans(provider.get_tracer("vllama"))
