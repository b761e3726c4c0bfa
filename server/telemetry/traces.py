"""OpenTelemetry traces, if the standard `OTEL_…` variables ask for them: `sluiceway[otel]`.

Each stream has a span, below it each attempt, and below that each phase. The stream's span follows the `traceparent`
of its request. The upstream gets a `traceparent` that names the attempt's span. No attribute holds anything of a
prompt or an answer.
"""

import asyncio
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import structlog

from server.aio.threads import run_in_thread
from server.core.lifecycle import State
from server.core.records import Beginning, Ending
from server.core.timing import Phases
from server.telemetry.logs import cause, shown_reason

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
PROPAGATED = ("traceparent", "tracestate")
CLOSING = 5.0  # seconds for the last spans to be sent
log = structlog.get_logger("sluiceway.traces")


def wanted(environ: Mapping[str, str]) -> bool:
    """Whether the environment names a place to send traces to, and does not switch them off."""
    off = environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or environ.get("OTEL_TRACES_EXPORTER") == "none"
    return not off and any(environ.get(name) for name in ENDPOINTS)


def traces(environ: Mapping[str, str]) -> "Traces | None":
    """Return the maker of spans, or None if nobody wants them or OpenTelemetry is not installed.

    `environ` is the process's environment, which OpenTelemetry reads, too.
    """
    if not wanted(environ):
        return None
    try:
        return Traces(environ)
    except ImportError:
        log.warning("no traces: OTEL_… is set, but sluiceway[otel] is not installed")
        return None


class Traces:
    """Makes the spans of streams, and sends them from a thread of its own in batches. Raises ImportError."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 — an extra
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

        named = environ.get("OTEL_SERVICE_NAME") or "service.name" in environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
        resource = Resource.create({} if named else {"service.name": "sluiceway"})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("sluiceway")

    def begin(self, beginning: Beginning, headers: Mapping[str, str], *, taken_over: bool = False) -> "StreamSpan":
        """Begin the span of a stream. `headers` are the headers of its request that are passed on."""
        return StreamSpan(self._tracer, beginning, headers, started=time.time() if taken_over else beginning.created)

    async def close(self) -> None:
        """Send the last spans, for at most CLOSING seconds. If an exporter hangs, its thread is left behind."""
        try:
            async with asyncio.timeout(CLOSING):
                await run_in_thread(self._provider.shutdown, name="traces")
        except TimeoutError:
            pass
        except Exception as error:  # noqa: BLE001 — foreign code must not keep the gateway from closing the rest
            log.warning("last spans lost", **cause(error))


class StreamSpan:
    """The span of one stream, from its request to its ending. Times are in seconds since the epoch."""

    def __init__(self, tracer: "Tracer", beginning: Beginning, headers: Mapping[str, str], *, started: float) -> None:
        from opentelemetry.trace import SpanKind, set_span_in_context  # noqa: PLC0415
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        self._tracer = tracer
        self._propagator = TraceContextTextMapPropagator()
        self._passed = {name: value for name, value in headers.items() if name not in PROPAGATED}
        attributes = {
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": beginning.model,
            "sluiceway.stream.id": beginning.id,
            "sluiceway.request.id": beginning.request_id,
        }
        parent = self._propagator.extract(headers)
        self._span = tracer.start_span(
            "stream", context=parent, kind=SpanKind.SERVER, attributes=attributes, start_time=_nanoseconds(started)
        )
        self._context = set_span_in_context(self._span)

    def attempt(self, target: str) -> "AttemptSpan":
        """Begin the span of an attempt at a target."""
        from opentelemetry.trace import SpanKind, set_span_in_context  # noqa: PLC0415

        attributes = {"gen_ai.operation.name": "chat", "sluiceway.target": target}
        span = self._tracer.start_span("attempt", context=self._context, kind=SpanKind.CLIENT, attributes=attributes)
        context = set_span_in_context(span)
        headers = dict(self._passed)
        self._propagator.inject(headers, context)
        return AttemptSpan(self._tracer, span, context, headers)

    def end(self, ending: Ending | None, facts: Mapping[str, Any]) -> None:
        """End the span. Without an ending the stream goes on in another process."""
        for name, value in facts.items():
            self._span.set_attribute(f"sluiceway.{name}", value)
        if ending is not None:
            usage = ending.usage or {}
            attributes = {
                "sluiceway.target": ending.target,
                "sluiceway.state": ending.state.value,
                "sluiceway.reason": shown_reason(ending),
                "sluiceway.recoveries": ending.recoveries,
                "sluiceway.ttft_ms": ending.ttft_ms,
                "sluiceway.usage.measured": usage.get("measured"),
                "gen_ai.usage.input_tokens": usage.get("prompt_tokens"),
                "gen_ai.usage.output_tokens": usage.get("completion_tokens"),
            }
            self._span.set_attributes({name: value for name, value in attributes.items() if value is not None})
            if ending.state is State.FAILED:
                _failed(self._span, ending.reason)
        self._span.end()


class AttemptSpan:
    """The span of one attempt. `headers` go upstream with it."""

    def __init__(self, tracer: "Tracer", span: "Span", context: "Context", headers: Mapping[str, str]) -> None:
        self.headers = headers
        self._tracer = tracer
        self._span = span
        self._context = context

    def end(self, phases: Phases, error: str | None) -> None:
        """End the span with its phases. `error` is the code of its failure, or None."""
        since = time.time() - time.monotonic()
        for name, (start, end) in phases.spans().items():
            span = self._tracer.start_span(name, context=self._context, start_time=_nanoseconds(since + start))
            span.end(_nanoseconds(since + end))
        if error is not None:
            _failed(self._span, error)
        self._span.end()


def _failed(span: "Span", kind: str) -> None:
    """Mark a span as failed by a code. A message is left out: it may quote a prompt or an answer."""
    from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415

    span.set_attribute("error.type", kind)
    span.set_status(Status(StatusCode.ERROR))


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
