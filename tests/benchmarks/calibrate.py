"""Write the rates of ``workbench/inference/prices.toml``: processor time of each counted operation.

Run by hand on a quiet machine: ``python -m tests.benchmarks.calibrate``. Processor time, not wall time, so that
other work on the machine disturbs it little; two sizes of one real corpus give the fixed part and the slope.
"""

import datetime as dt
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from workbench.config import load_settings
from workbench.evalset.corpus import load_corpus
from workbench.inference import prices
from workbench.inference.embedding import load_embedder
from workbench.records import Document
from workbench.retrieval.arms import make_arms
from workbench.retrieval.rerank import FEATURES, LearnedRanker
from workbench.retrieval.searcher import Searcher
from workbench.retrieval.strategies import RRF, Hybrid, Question

QUESTIONS = (
    "drop rows with missing values in some columns",
    "read a csv file in pieces because it does not fit in memory",
    "join two tables on the nearest timestamp",
    "TypeError cannot convert float NaN to integer",
    "rolling mean over the last seven days per customer",
    "write partitioned parquet files with zstd compression",
)
REPEATS = 40
SIZES = {"small": 600, "large": 5900}


def cpu_ms(call: Callable[[str], object]) -> float:
    """Median processor milliseconds of one call over all questions, all threads of the process counted."""
    times = []
    for _ in range(REPEATS):
        started = time.process_time()
        for text in QUESTIONS:
            call(text)
        times.append((time.process_time() - started) * 1000 / len(QUESTIONS))
    return float(np.median(times))


def main() -> None:
    settings = load_settings()
    documents, manifest = load_corpus(settings.evalsets / "docs_qa", settings)
    embedder = load_embedder("minilm", settings)
    corpus: list[Document] = []
    for name, size in SIZES.items():
        corpus += [replace(d, tenant_id=name) for d in documents[:: len(documents) // size][:size]]
    searcher = Searcher(corpus, f"calibration {manifest}", settings, embedder, embedder)  # type: ignore[arg-type]
    vectors = {text: embedder.embed([text])[0] for text in QUESTIONS}
    rates: dict[str, tuple[float, float]] = {"embed_query": (cpu_ms(lambda text: embedder.embed([text])), 0.0)}
    names = ["full_text", "vector", "vector_ivf_pq", "vector_hnsw_sq"]
    for arm in make_arms(["whole"], names):
        searcher.prepare(arm)
        cost, rows = [], []
        for tenant in SIZES:
            handle = searcher.handle(arm, tenant)
            cost.append(cpu_ms(lambda text: arm.strategy.search(handle, Question(text, vectors[text]), 100)))  # noqa: B023
            rows.append(handle.count())
        slope = max(0.0, (cost[1] - cost[0]) / (rows[1] - rows[0]) * 1000)
        key = arm.strategy.work(0)[-1].operation
        rates[key] = (max(0.0, cost[0] - slope * rows[0] / 1000), slope)
    hybrid = Hybrid()
    handle = searcher.handle(make_arms(["whole"], ["hybrid_rrf"])[0], "large")
    legs = {t: hybrid.legs(handle, Question(t, vectors[t])) for t in QUESTIONS}
    both = cpu_ms(lambda t: hybrid.legs(handle, Question(t, vectors[t])))
    ranker = LearnedRanker((1.0,) * len(FEATURES))
    rates["fuse"] = (cpu_ms(lambda t: RRF().fuse(*legs[t])), 0.0)
    ranked = cpu_ms(lambda t: ranker.search(handle, Question(t, vectors[t]), 100))
    rates["rerank_learned"] = (max(0.0, ranked - both), 0.0)
    write(rates)


def write(rates: dict[str, tuple[float, float]]) -> None:
    path = Path(prices.__file__).with_name("prices.toml")
    head = path.read_text(encoding="utf-8").split("\n[operations", 1)[0].rstrip("\n").splitlines()
    head = [f'version = "{dt.datetime.now(dt.UTC).date()}"' if line.startswith("version") else line for line in head]
    blocks = [
        f"\n[operations.{name}]\nfixed_ms = {fixed:.4f}\nper_1k_rows_ms = {slope:.4f}"
        for name, (fixed, slope) in rates.items()
    ]
    path.write_text("\n".join([*head, *blocks]) + "\n", encoding="utf-8")
    print("\n".join(blocks))  # noqa: T201


if __name__ == "__main__":
    main()
