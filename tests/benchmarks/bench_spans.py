# ruff: noqa: T201
"""What tracing costs: ``python -m tests.benchmarks.bench_spans [--rows 1000 10000 100000 1000000] [--spans 5000]``.

``call``: what a caller waits for one span, with the store in the background, against the SDK's own span that goes
nowhere; the same with content, with an OTLP endpoint that refuses, and with a database that is locked.
``growth``: spans of ten to a trace written in batches until so many rows are there: rows a second for the last part,
bytes a row, and how long it takes then to load one trace and to list the latest.
``--url`` measures another state database, where ``wb_span`` is emptied.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import sqlalchemy as sa

from workbench.state import create_tables, open_engine
from workbench.telemetry.export import SpanStore
from workbench.telemetry.span_tree import SPANS
from workbench.telemetry.spans import Tracing
from workbench.telemetry.traces import latest_traces, load_trace

ASKED = {"gen_ai.request.model": "steady/chat-medium", "gen_ai.usage.input_tokens": 812, "wb.cost_usd": 0.00042}
MESSAGES = [{"role": "user", "parts": [{"type": "text", "content": "how do i join two frames? " * 40}]}]
BATCH = 500


def per_call_us(one: Callable[[], object], spans: int) -> tuple[float, float]:
    """Median and 99th percentile in microseconds."""
    for _ in range(200):
        one()
    times = []
    for _ in range(spans):
        started = time.perf_counter()
        one()
        times.append(1e6 * (time.perf_counter() - started))
    return median(times), sorted(times)[int(0.99 * len(times))]


def spanning(tracing: Tracing, content: Any = None) -> Callable[[], None]:
    def one() -> None:
        with tracing.span("chat steady/chat-medium", "chat", ASKED) as span:
            if content is not None:
                span.content("gen_ai.input.messages", content)

    return one


def bare() -> Callable[[], None]:
    from opentelemetry.sdk.trace import TracerProvider

    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("bench")

    def one() -> None:
        with tracer.start_as_current_span("chat") as span:
            span.set_attributes(ASKED)

    return one


def call(folder: Path, url: str, spans: int) -> None:
    print(f"{'per span':<28}{'p50 us':>9}{'p99 us':>9}{'written/s':>12}{'lost':>7}{'close s':>9}")
    print("{:<28}{:9.0f}{:9.0f}".format("SDK, kept nowhere", *per_call_us(bare(), spans)))
    for name in ("stored", "stored, content", "OTLP endpoint refuses", *(["database locked"] if not url else [])):
        engine = open_engine(url or f"sqlite:///{folder / 'call.sqlite'}")
        create_tables(engine, SPANS)
        if name.startswith("OTLP"):
            os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = "http://127.0.0.1:9"
        tracing = Tracing(engine)
        os.environ.pop("OTEL_EXPORTER_OTLP_ENDPOINT", None)
        lock = engine.begin() if name.startswith("database") else None
        if lock is not None:
            lock.__enter__()
        started = time.perf_counter()
        p50, p99 = per_call_us(spanning(tracing, MESSAGES if "content" in name else None), spans)
        if lock is not None:
            lock.__exit__(None, None, None)
        tracing.flush()
        rate = spans / (time.perf_counter() - started)
        started = time.perf_counter()
        tracing.close()
        print(f"{name:<28}{p50:9.0f}{p99:9.0f}{rate:12,.0f}{tracing.lost:7,}{time.perf_counter() - started:9.2f}")
        engine.dispose()


def ended_spans(count: int) -> Sequence[Any]:
    """Finished SDK spans, ten to a trace."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    kept = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(kept))
    tracer = provider.get_tracer("workbench")
    for _ in range(count // 10):
        with tracer.start_as_current_span("invoke_workflow answer", attributes={"wb.top": True}):
            for _ in range(9):
                with tracer.start_as_current_span("chat m", attributes=ASKED | {"gen_ai.input.messages": "x" * 400}):
                    pass
    return kept.get_finished_spans()


def growth(folder: Path, url: str, marks: Sequence[int]) -> None:
    engine = open_engine(url or f"sqlite:///{folder / 'growth.sqlite'}")
    create_tables(engine, SPANS)
    with engine.begin() as connection:
        connection.execute(sa.delete(SPANS))
    store = SpanStore(engine)
    print(f"\n{'rows':>10}{'insert/s':>11}{'bytes/row':>11}{'load ms':>9}{'list ms':>9}{'unknown ms':>12}")
    written = 0
    for mark in marks:
        spent, part = 0.0, 0
        while written < mark:
            spans = ended_spans(min(BATCH, mark - written))
            started = time.perf_counter()
            store.export(spans)
            spent, part, written = spent + time.perf_counter() - started, part + len(spans), written + len(spans)
        ids = [str(row[0]) for row in latest_traces(engine, 20).rows]
        size = 0 if url else sum(path.stat().st_size for path in folder.glob("growth.sqlite*"))
        load = took_ms(lambda i, ids=ids: load_trace(engine, ids[i % len(ids)]))
        listed = took_ms(lambda i: latest_traces(engine))
        print(f"{written:10,}{part / spent:11,.0f}{size / written:11,.0f}{load:9.2f}{listed:9.2f}", end="")
        print(f"{took_ms(lambda i: absent(engine)):12.2f}", flush=True)
    assert store.lost == 0


def absent(engine: sa.Engine) -> None:
    from workbench.errors import TraceError

    try:
        load_trace(engine, "f" * 32, wait_s=0)
    except TraceError:
        return


def took_ms(ask: Callable[[int], object]) -> float:
    times = []
    for i in range(21):
        started = time.perf_counter()
        ask(i)
        times.append(1e3 * (time.perf_counter() - started))
    return median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="*", default=[1_000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--spans", type=int, default=5_000)
    parser.add_argument("--url", default="")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        call(Path(folder), given.url, given.spans)
        growth(Path(folder), given.url, given.rows)


if __name__ == "__main__":
    main()
