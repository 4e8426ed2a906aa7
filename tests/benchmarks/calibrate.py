"""Write the rates of ``workbench/inference/prices.toml``: processor time of each counted operation.

Run by hand on a quiet machine: ``python -m tests.benchmarks.calibrate``; with ``later`` it writes those of
``rates.toml``, of further encoders and of PostgreSQL, whose server's processor time counts too. Processor time, not
wall time, so that other work on the machine disturbs it little; two sizes of one real corpus give the fixed part and
the slope.
"""

import datetime as dt
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import psycopg

from workbench.config import load_settings
from workbench.evalset.corpus import load_corpus
from workbench.inference import prices
from workbench.inference.embedding import LOCAL_EMBEDDERS, load_embedder
from workbench.records import Document
from workbench.retrieval.arms import make_arms
from workbench.retrieval.postgres_server import pgvector_url
from workbench.retrieval.rerank import FEATURES, LearnedRanker
from workbench.retrieval.searcher import Searcher
from workbench.retrieval.strategies import RRF, Arm, Hybrid, Question

QUESTIONS = (
    "drop rows with missing values in some columns",
    "read a csv file in pieces because it does not fit in memory",
    "join two tables on the nearest timestamp",
    "TypeError cannot convert float NaN to integer",
    "rolling mean over the last seven days per customer",
    "write partitioned parquet files with zstd compression",
)
REPEATS = 40
Rates = dict[str, tuple[float, float]]
SIZES = {"small": 600, "large": 5900}


def cpu_ms(call: Callable[[str], object], without: Callable[[str], object] | None = None) -> float:
    """Median processor milliseconds of one call over all questions, all threads of the process counted.

    ``without`` is the part of it that is not meant: both are timed turn and turn about, and the difference counts.
    """

    def once(measured: Callable[[str], object]) -> float:
        started = time.process_time()
        for text in QUESTIONS:
            measured(text)
        return (time.process_time() - started) * 1000 / len(QUESTIONS)

    return float(np.median([once(call) - (once(without) if without else 0.0) for _ in range(REPEATS)]))


def both_ms(url: str) -> Callable[[Callable[[str], object]], float]:
    """`cpu_ms` of a store in PostgreSQL: the mean of our processor time and that of its server, which is another's."""
    with psycopg.connect(url) as connection:
        folder = Path(connection.execute("show data_directory").fetchone()[0])  # type: ignore[index]
    postmaster = (folder / "postmaster.pid").read_text(encoding="utf-8").split()[0]

    def ticks() -> int:
        stats = [p.read_text(encoding="utf-8").rpartition(")")[2].split() for p in Path("/proc").glob("[0-9]*/stat")]
        return sum(int(s[11]) + int(s[12]) for s in stats if s[1] == postmaster)

    def measure(call: Callable[[str], object]) -> float:
        call(QUESTIONS[0])  # sessions are open before the clock starts
        ours, theirs = time.process_time(), ticks()
        for text in QUESTIONS * REPEATS:
            call(text)
        spent = time.process_time() - ours + (ticks() - theirs) / os.sysconf("SC_CLK_TCK")
        return 1000 * spent / (len(QUESTIONS) * REPEATS)

    return measure


def search_rates(
    searcher: Searcher, arms: Sequence[Arm], vectors: Mapping[str, np.ndarray], ms: Callable[..., float]
) -> Rates:
    """Fixed part and slope of one search of each arm, by the operation that it is counted as."""
    rates: Rates = {}
    for arm in arms:
        searcher.prepare(arm)
        cost, rows = [], []
        for tenant in SIZES:
            handle = searcher.handle(arm, tenant)
            cost.append(ms(lambda text: arm.strategy.search(handle, Question(text, vectors[text]), 100)))  # noqa: B023
            rows.append(handle.count())
        slope = max(0.0, (cost[1] - cost[0]) / (rows[1] - rows[0]) * 1000)
        rates[arm.work(0)[-1].operation] = (max(0.0, cost[0] - slope * rows[0] / 1000), slope)
    return rates


def main() -> None:
    settings = load_settings()
    documents, manifest = load_corpus(settings.evalsets / "docs_qa", settings)
    embedder = load_embedder("minilm", settings)
    corpus: list[Document] = []
    for name, size in SIZES.items():
        corpus += [replace(d, tenant_id=name) for d in documents[:: len(documents) // size][:size]]
    made = (settings, {"minilm": embedder}, embedder)
    searcher = Searcher(corpus, f"calibration {manifest}", *made)  # type: ignore[arg-type]
    vectors = {text: embedder.embed([text])[0] for text in QUESTIONS}
    if sys.argv[1:] == ["later"]:
        later: Rates = {}
        for name in (n for n in LOCAL_EMBEDDERS if n != "minilm"):
            other = load_embedder(name, settings)
            later[f"embed_query:{name}"] = (cpu_ms(lambda text: other.embed([text])), 0.0)  # noqa: B023
        arms = make_arms(["whole"], ["full_text", "vector", "vector_hnsw"], stores=["postgres"])
        write(later | search_rates(searcher, arms, vectors, both_ms(pgvector_url(settings))), "rates.toml")
        return
    rates: Rates = {"embed_query": (cpu_ms(lambda text: embedder.embed([text])), 0.0)}
    arms = make_arms(["whole"], ["full_text", "vector", "vector_ivf_pq", "vector_hnsw_sq"])
    rates |= search_rates(searcher, arms, vectors, cpu_ms)
    hybrid = Hybrid()
    handle = searcher.handle(make_arms(["whole"], ["hybrid_rrf"])[0], "large")
    legs = {t: hybrid.legs(handle, Question(t, vectors[t])) for t in QUESTIONS}
    ranker = LearnedRanker((1.0,) * len(FEATURES))
    rates["fuse"] = (cpu_ms(lambda t: RRF().fuse(*legs[t])), 0.0)
    beyond = cpu_ms(
        lambda t: ranker.search(handle, Question(t, vectors[t]), 100),
        lambda t: hybrid.legs(handle, Question(t, vectors[t])),
    )
    rates["rerank_learned"] = (max(0.0, beyond), 0.0)
    write(rates, "prices.toml")


def write(rates: Rates, name: str) -> None:
    path = Path(prices.__file__).with_name(name)
    head = path.read_text(encoding="utf-8").split("\n[operations", 1)[0].rstrip("\n").splitlines()
    head = [f'version = "{dt.datetime.now(dt.UTC).date()}"' if line.startswith("version") else line for line in head]
    blocks = [
        f"\n[operations.{name if name.isidentifier() else json.dumps(name)}]\n"
        f"fixed_ms = {fixed:.4f}\nper_1k_rows_ms = {slope:.4f}"
        for name, (fixed, slope) in rates.items()
    ]
    path.write_text("\n".join([*head, *blocks]) + "\n", encoding="utf-8")
    print("\n".join(blocks))  # noqa: T201


if __name__ == "__main__":
    main()
