# ruff: noqa: T201
"""Embedder times strategy times store on one evalset: ``python -m tests.benchmarks.bench_embedders NAME [STORE ...]``.

``NAME`` is an evalset or a public collection of `WORKBENCH_SHARED_DATA`. Test questions; whole documents; cost as in
decisions. Texts per CPU second are of 100 documents, embedded anew. Of two stores, arms are compared pairwise.
"""

import sys
import time
from collections.abc import Sequence

import numpy as np
import polars as pl

from tests.evalset.small_evalset import shared
from workbench.config import Settings, load_settings
from workbench.evalset.evalset import load_evalset
from workbench.evaluation.compare import compare
from workbench.inference.embedding import LOCAL_EMBEDDERS, Embedder, load_embedder
from workbench.inference.prices import project_prices
from workbench.retrieval.arms import make_arms
from workbench.retrieval.ask_arms import ask_arm, score_arm
from workbench.retrieval.searcher import Searcher

STRATEGIES = ("full_text", "vector", "hybrid_rrf", "rescored:minilm")
SAMPLE = 100


def texts_per_cpu_second(embedder: Embedder, texts: Sequence[str]) -> float:
    started = time.process_time()
    embedder.embed(texts)
    return len(texts) / (time.process_time() - started)


def main(name: str, stores: Sequence[str], settings: Settings) -> None:
    known = (settings.evalsets / name).is_dir()
    evalset = load_evalset(name if known else shared(name), settings=settings)
    test, prices = evalset.split("test"), project_prices(settings.root)
    embedders = {n: load_embedder(n, settings) for n in LOCAL_EMBEDDERS}
    texts = [d.full_text for d in evalset.documents[:: len(evalset.documents) // SAMPLE][:SAMPLE]]
    rate = {n: texts_per_cpu_second(e, texts) for n, e in embedders.items()}
    print("texts per CPU second:", {n: round(r, 1) for n, r in rate.items()}, flush=True)
    manifest = evalset.inputs["corpus"]
    searcher = Searcher(evalset.documents, manifest, settings, embedders, embedders["minilm"])  # type: ignore[arg-type]
    frames = []
    print("| arm | nDCG@10 | USD per 1,000 | p50 ms | p95 ms |\n|---|---|---|---|---|")
    for arm in make_arms(["whole"], STRATEGIES, embedders=[*embedders], stores=stores):
        searcher.prepare(arm)
        found = ask_arm(
            arm.name,
            lambda q: searcher.search(arm, q, 100),  # noqa: B023
            test.queries,
            shared_ms=lambda q: searcher.embedding_ms(arm, q),  # noqa: B023
            found=searcher.found,
        )
        frames.append(score_arm(found, test.queries, test.qrels, ["ndcg@10"]))
        p50, p95 = np.quantile(list(found.latency_ms.values()), [0.5, 0.95])
        cost = searcher.cost_usd_per_1k(arm, test.queries, prices)
        print(f"| {arm.name} | {frames[-1]['value'].mean():.4f} | {cost:.6f} | {p50:.0f} | {p95:.0f} |", flush=True)
    scores = pl.concat(frames)
    for arm in scores["arm"].unique(maintain_order=True):
        if (other := f"{arm} · postgres") in set(scores["arm"]):
            (c,) = compare(scores, [other], reference=arm, margin=0.03, confidence=0.975)
            print(f"{other} - {arm}: {c.mean:+.7f}, 95 % {c.low:+.5f} to {c.high:+.5f}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:] or ["lance"], load_settings())
