"""OpenTelemetry, when it is installed and told where to send: a span for each request.

The client's trace goes on through it to the engine. Without it, what the client sent of its
trace is passed to the engine as it is.
"""

import logging
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from vllama.server.relay.exchange import Pairs

log = logging.getLogger(__name__)
WHERE = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
CONTEXT = (b"traceparent", b"tracestate")


class Span(Protocol):
    """One request's time, on its way to who collects them."""

    @property
    def context(self) -> Pairs:
        """The headers that make the engine's spans its children."""
        ...

    def end(self, facts: Mapping[str, object]) -> None:
        """The request is over."""
        ...


class Tracer(Protocol):
    """Begins a span for each request."""

    def begin(self, method: str, path: str, context: Pairs) -> Span:
        """`context` is what the client sent of its own trace."""
        ...


class Passed:
    """Keeps no times, and passes on the client's trace."""

    def begin(self, method: str, path: str, context: Pairs) -> "Passing":  # noqa: ARG002
        """Nothing is measured."""
        return Passing(context)


class Passing:
    """A request that nobody traces here."""

    def __init__(self, context: Pairs) -> None:
        self.context = context

    def end(self, facts: Mapping[str, object]) -> None:
        """Nobody is told."""


class Spans:
    """Sends spans with a tracer of OpenTelemetry."""

    def __init__(self, tracer: Any, propagator: Any, kind: Any) -> None:
        self._tracer = tracer
        self._propagator = propagator
        self._kind = kind

    def begin(self, method: str, path: str, context: Pairs) -> "Open":
        """A child of the client's span, if it sent one."""
        sent = {name.decode(): value.decode("latin-1") for name, value in context}
        span = self._tracer.start_span(
            f"{method} {path}", context=self._propagator.extract(sent), kind=self._kind
        )
        return Open(span, self._propagator)


class Open:
    """A span of OpenTelemetry that has begun."""

    def __init__(self, span: Any, propagator: Any) -> None:
        from opentelemetry.trace import set_span_in_context

        self._span = span
        carrier: dict[str, str] = {}
        propagator.inject(carrier, set_span_in_context(span))
        self.context: Pairs = tuple((k.encode(), v.encode()) for k, v in carrier.items())

    def end(self, facts: Mapping[str, object]) -> None:
        """Say what became of it."""
        self._span.set_attributes(
            {
                "http.request.method": facts["method"],
                "url.path": facts["path"],
                "http.response.status_code": facts["status"],
                "client.address": facts["client"],
                "vllama.request_id": facts["request_id"],
            }
        )
        self._span.end()


def sent_context(headers: Iterable[tuple[bytes, bytes]]) -> Pairs:
    """What a request's headers say of its trace."""
    return tuple((name, value) for name, value in headers if name in CONTEXT)


def spans(environment: Mapping[str, str]) -> Tracer:
    """What sends them; what passes the client's trace on when nobody wants them."""
    if not any(environment.get(name) for name in WHERE):
        return Passed()
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
    except ImportError:
        log.warning("spans are wanted (OTEL_...) but not installed: pip install 'vllama[otel]'")
        return Passed()
    provider = TracerProvider(resource=Resource.create({"service.name": "vllama"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    tracer = provider.get_tracer("vllama")
    return Spans(tracer, TraceContextTextMapPropagator(), SpanKind.SERVER)
