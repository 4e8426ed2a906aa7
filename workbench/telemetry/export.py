"""Spans into the state database, and at once to any OTLP back end.

Own code only where the SDK loses spans or waits: what the queue cannot take is counted, a store that cannot be
written is told once, and an endpoint that does not answer holds nobody up at the end for more than a few seconds.
"""

import json
import logging
import os
import threading
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from workbench.state import create_tables, execute_insert, group_commit
from workbench.telemetry.span_tree import SPANS

SCOPE = "workbench"
REMOTE = ("chat", "text_completion", "generate_content", "embeddings")
_QUEUE, _BATCH, _DELAY_MS = 16_384, 512, 300.0
_GRACE_S = 3.0
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_LOG = logging.getLogger(__name__)


class SpanStore(SpanExporter):
    """Writes batches of spans into ``wb_span``; ``lost`` counts those that could not be written."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine, self._ready, self._lock = engine, False, threading.Lock()
        self.taken = self.lost = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Write the spans; a span that is there already is left alone. Never raises: the call goes on without them."""
        self.taken += len(spans)
        try:
            if not self._ready:
                create_tables(self._engine, SPANS)
                self._ready = True
            self._write([_exported_span_row(span) for span in spans])
        except (sa.exc.SQLAlchemyError, OSError, ValueError) as error:
            self.lose(len(spans), f"{type(error).__name__}: {error.__cause__ or error}")
            return SpanExportResult.FAILURE
        return SpanExportResult.SUCCESS

    def _write(self, rows: list[tuple[Any, ...]]) -> None:
        if self._engine.dialect.name == "sqlite":  # one writer: it takes its turn with the calls
            group_commit(self._engine).alone(lambda connection: execute_insert(connection, SPANS, rows, new=True))
        else:
            with self._engine.begin() as connection:
                execute_insert(connection, SPANS, rows, new=True)

    def lose(self, count: int, why: str) -> None:
        """Count spans that will not be stored; the first time, say so."""
        with self._lock:
            first, self.lost = not self.lost, self.lost + count
        if first:
            _LOG.warning(
                "traces are not being stored in %s (%s); calls go on without them, Tracing.lost counts the spans",
                self._engine.url.render_as_string(hide_password=True),
                why,
            )


class ExportQueue(BatchSpanProcessor):
    """The SDK's queue and worker; what does not fit is refused and counted instead of dropped from the other end."""

    def __init__(self, store: SpanStore) -> None:
        super().__init__(store, max_queue_size=_QUEUE, max_export_batch_size=_BATCH, schedule_delay_millis=_DELAY_MS)
        self._store, self._accepted, self._lock, self._closed = store, 0, threading.Lock(), False

    def on_end(self, span: ReadableSpan) -> None:
        """Queue a span that has ended."""
        with self._lock:
            full = self._accepted - self._store.taken >= _QUEUE
            if full or self._closed:
                why = f"{_QUEUE:,} spans are waiting to be written" if full else "Tracing.close() was called before"
                self._store.lose(1, why)
                return
            self._accepted += 1
        super().on_end(span)

    def shutdown(self) -> None:
        """Write what is queued, for 30 s at most."""
        self._closed = True
        super().shutdown()  # type: ignore[no-untyped-call]


class ExportFanOut(BatchSpanProcessor):
    """Sends spans to the OTLP endpoint of the environment in the background; shutting down takes seconds at most."""

    def __init__(self) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        given = {"OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"} & set(os.environ)
        self._exporter = _ExportOnce(OTLPSpanExporter(timeout=None if given else _GRACE_S))
        super().__init__(self._exporter)
        self._closing, self._closed = threading.Event(), threading.Event()
        # started now: no thread can be started while the interpreter ends
        threading.Thread(target=self._watch, name="otlp-watch", daemon=True).start()

    def shutdown(self) -> None:
        """Send what is left, for as long as the endpoint answers."""
        self._closing.set()
        super().shutdown()  # type: ignore[no-untyped-call]
        self._closed.set()

    def _watch(self) -> None:
        self._closing.wait()
        if not self._closed.wait(_GRACE_S):
            self._exporter.shutdown()  # ends its waiting between attempts


class _ExportOnce(SpanExporter):
    """An exporter that may be shut down twice."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter, self._open = exporter, True

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return self._exporter.export(spans) if self._open else SpanExportResult.FAILURE

    def shutdown(self) -> None:
        if self._open:
            self._open = False
            self._exporter.shutdown()


def wants_fan_out() -> bool:
    """Whether the environment names an OTLP endpoint."""
    return any(os.environ.get(name) for name in _ENDPOINTS)


def export_resource() -> Resource:
    """Name of the sender: ``workbench``, unless OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES say otherwise."""
    named = os.environ.get("OTEL_SERVICE_NAME") or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    return Resource.create({} if named else {SERVICE_NAME: SCOPE})


def _exported_span_row(span: ReadableSpan) -> tuple[Any, ...]:
    """Values in the order of the columns."""
    attributes = dict(span.attributes or {})
    top = bool(attributes.pop("wb.top", False))
    events = [{"name": e.name, "at_ns": e.timestamp, "attributes": dict(e.attributes or {})} for e in span.events]
    context: Any = span.context
    return (
        format(context.trace_id, "032x"),
        format(context.span_id, "016x"),
        format(span.parent.span_id, "016x") if span.parent else "",
        top,
        span.name,
        str(attributes.get("gen_ai.operation.name", "")),
        span.status.status_code.name.lower(),
        span.status.description or "",
        span.start_time or 0,
        span.end_time or span.start_time or 0,
        json.dumps(attributes),
        json.dumps(events),
    )
