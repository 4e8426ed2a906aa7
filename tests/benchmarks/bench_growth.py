# ruff: noqa: T201
"""How seconds and memory grow with the input: ``python -m tests.benchmarks.bench_growth [KIND ...] [--sizes N ...]``.

``routing``: all steps of the notebook on so many prompts of two models. ``caching``: the same on so many requests,
``tenants`` with ten times the tenants where there are ten times the requests. ``spans``: written in batches, then the
latest traces listed and loaded. ``ledger``: rows written, then tables of costs. ``retrieval``: documents
ingested into LanceDB and indexed, then 100 searches of either leg.

Each size is a process of its own. Seconds are of processor time; memory is the peak above what the process had when
its inputs were there. ``grew`` is how many times as much the last size took for ten times as much of the size before:
up to 10 is linear or better.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

Measured = dict[str, float]
LEAST = {"routing": 200, "caching": 300, "tenants": 300, "spans": 1_000, "ledger": 1_000, "retrieval": 300}
UNITS = {"routing": "prompts", "caching": "requests", "tenants": "requests", "spans": "spans", "ledger": "rows",
         "retrieval": "rows"}  # fmt: skip
BATCH, SEARCHES, DIMENSION = 500, 100, 384


def routing(folder: Path, n: int) -> Callable[[], object]:
    from tests.routing.routing_tables import planted
    from tests.routing.test_notebook import open_bench, project, run_all

    settings = project(folder, planted(n))
    policies = ["random", "length", "complexity", "boosting", "logistic_words", "knn_words"]
    return lambda: run_all(open_bench(settings, policies=policies, draws=2000))


def caching(folder: Path, n: int, *, tenants: int = 4) -> Callable[[], object]:
    """Requests of 60 intents a tenant, one in twenty of which needs another answer than its like."""
    import polars as pl

    from tests.caching.test_notebook import judge, open_bench, word
    from tests.evalset.small_evalset import settings_in

    rng, rows = np.random.default_rng(0), list[tuple[Any, ...]]()
    for pos in range(n):
        intent, tenant = int(rng.integers(60)), int(rng.integers(tenants))
        text = " ".join([*(word(intent, c) for c in rng.choice(list("abcdef"), 4)), word(int(rng.integers(n)), "x")])
        rows.append((pos, text, f"a{intent if rng.random() < 0.95 else rng.integers(60)}", f"t{tenant}", f"c{intent}"))
    target = settings_in(folder).evalsets / "tiny"
    target.mkdir(parents=True)
    columns = ["pos", "query", "answer_key", "tenant_id", "cluster"]
    pl.DataFrame(rows, schema=columns, orient="row").write_parquet(target / "stream.parquet")
    (target / "gates.toml").write_text("[caching]\nalpha = 0.2\n", encoding="utf-8")

    def steps() -> None:
        bench = open_bench(folder, warmup=n // 5, draws=20)
        bench.scopes(judge(bench)[2])

    return steps


def spans(folder: Path, n: int) -> Callable[[], object]:
    from tests.benchmarks.bench_spans import ended_spans
    from workbench.state import create_tables, open_engine
    from workbench.telemetry.export import SpanStore
    from workbench.telemetry.span_tree import SPANS
    from workbench.telemetry.traces import latest_traces, load_trace

    engine, batch = open_engine(f"sqlite:///{folder / 'state.sqlite'}"), ended_spans(BATCH)
    create_tables(engine, SPANS)
    del batch

    def steps() -> None:
        store = SpanStore(engine)
        for _ in range(n // BATCH):
            store.export(ended_spans(BATCH))
        for row in latest_traces(engine, 20).rows:
            load_trace(engine, str(row[0]))

    return steps


def ledger(folder: Path, n: int) -> Callable[[], object]:
    from tests.telemetry.rows import row
    from workbench.costs import tables
    from workbench.costs.spend import load_spend, spend_spikes
    from workbench.costs.unit_economics import customer_margins
    from workbench.inference.budgets import Budgets
    from workbench.state import open_engine
    from workbench.telemetry.ledger import Ledger

    engine = open_engine(f"sqlite:///{folder / 'state.sqlite'}")
    book = Ledger(engine)
    Budgets(engine)

    def made(i: int) -> Any:
        who = {"tenant_id": f"t{i // 10 % 7}", "user_id": f"u{i // 10 % 5000}", "feature": f"f{i % 3}"}
        when = {"started": f"2026-11-{1 + i // 50 % 28:02}T{i // 7 % 24:02}:30:00+00:00", "trace_id": f"t{i // 30}"}
        return row(f"{i:08}", 0, i, **who, **when, model_asked=f"local/m{i % 3}", fresh_tokens=900 + i % 97)

    def steps() -> None:
        for start in range(0, n, BATCH):
            book.add([made(i) for i in range(start, start + BATCH)])
        spend = load_spend(book)
        for name in ("matrix", "gaps", "unit", "token", "waste"):
            getattr(tables, f"{name}_table")(spend)
        tables.spend_table(spend, "day", "model")
        tables.customer_margins_table(customer_margins(spend.matrix(), {}))
        spend_spikes(spend, "user")

    return steps


def retrieval(folder: Path, n: int) -> Callable[[], object]:
    from workbench.records import Document
    from workbench.retrieval.chunking import WholeDocument
    from workbench.retrieval.ingest import IngestVectorCache, ingest
    from workbench.retrieval.scale import ASKED_WORDS, WORDS, synthetic_texts
    from workbench.retrieval.store import open_table
    from workbench.testing import HashEmbedder, WordTokenizer

    rng, embedder = np.random.default_rng(0), HashEmbedder(DIMENSION)
    texts, asked = synthetic_texts(n, WORDS, rng), synthetic_texts(SEARCHES, ASKED_WORDS, rng)
    documents = [Document(f"d{i}", text, "", "acme") for i, text in enumerate(texts)]
    points = embedder.embed(asked)

    def steps() -> None:
        store = open_table(folder / "tables", "rows", dimension=DIMENSION)
        vectors = IngestVectorCache(folder / "vectors.sqlite")
        ingest(store, documents, chunker=WholeDocument(), tokenizer=WordTokenizer(), embedder=embedder,
               vectors=vectors, batch=2048)  # fmt: skip
        store.index()
        handle = store.for_tenant("acme")
        assert all(handle.vector(point, 10) for point in points)
        assert any([handle.full_text(text, 10) for text in asked])  # rare words are in few rows

    return steps


MADE: Mapping[str, Callable[[Path, int], Callable[[], object]]] = {
    "routing": routing, "caching": caching, "spans": spans, "ledger": ledger, "retrieval": retrieval,
    "tenants": lambda folder, n: caching(folder, n, tenants=max(4 * n // LEAST["tenants"], 1)),
}  # fmt: skip


def memory_mb(name: str) -> float:
    """``VmRSS``, or ``VmHWM`` for the peak, of this process."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def measure(kind: str, n: int) -> Measured:
    """One size in this process, which must be a fresh one."""
    with tempfile.TemporaryDirectory() as folder:
        steps = MADE[kind](Path(folder), n)
        with suppress(OSError):  # where the kernel refuses, the peak is that of the inputs too
            Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
        before, wall, cpu = memory_mb("VmRSS"), time.perf_counter(), time.process_time()
        steps()
        took = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
        return took | {"mb": memory_mb("VmHWM") - before}


def measured_apart(kind: str, n: int) -> Measured:
    """The same in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_growth", "--child", kind, str(n)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kinds", nargs="*", default=list(LEAST))
    parser.add_argument("--sizes", nargs="*", type=int, default=[1, 10, 100])
    given = parser.parse_args(arguments)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.0f}\n")
    print("| what | CPU s | grew | MB | grew |\n|---|---|---|---|---|")
    for kind in given.kinds:
        found = [measured_apart(kind, LEAST[kind] * times) for times in given.sizes]
        told = ["; ".join(f"{LEAST[kind] * times:,}" for times in given.sizes) + f" {UNITS[kind]} ({kind})"]
        for name, form in (("cpu", "{:.1f}"), ("mb", "{:,.0f}")):
            values = [each[name] for each in found]
            grew = (b / a for a, b in pairwise(values) if a > 0)
            told += ["; ".join(map(form.format, values)), "; ".join(f"{times:.1f}" for times in grew)]
        print(f"| {' | '.join(told)} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(measure(sys.argv[2], int(sys.argv[3]))))
    else:
        main(sys.argv[1:])
