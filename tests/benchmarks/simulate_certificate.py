# ruff: noqa: T201
"""Whether certificates keep their promise: ``python -m tests.benchmarks.simulate_certificate [draws] [--verifier]``.

Calibration sets are drawn from whole populations, pair by pair and by clusters: BANKING77 where `shared data` is (see
``tests/benchmarks/README.md``), the stream of docs_qa, and made-up traffic in which one cluster makes a tenth of all
false hits. Broken: certified although the rate of the whole population is above alpha. With ``--verifier`` only the
hits count that guard and fitted verifier let pass (of the made-up traffic: a share of false hits alone is left).
A grid four times as coarse as the product's keeps the walk and saves time.
"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from workbench.caching.cache_study import CachingParameters
from workbench.caching.notebook import CachingExperiment
from workbench.caching.stream_replay import shadow_hits
from workbench.caching.threshold_certificate import (
    GRID,
    HitCounts,
    count_hits,
    effective_hit_clusters,
    simulate_certificates,
)
from workbench.config import load_settings
from workbench.evalset.traffic import RequestStream
from workbench.inference.embedding import load_embedder
from workbench.retrieval.ingest import IngestVectorCache

ALPHAS = (0.01, 0.02, 0.05, 0.1, 0.2)
ALLOWED = {"pairs": 0.05, "clusters": 0.06}
METHOD = "fixed sequence, cluster-robust"
ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("WORKBENCH_SHARED_DATA", ROOT.parent / "shared" / "data"))
COARSE = GRID[::4]


def made_up(seed: int = 0, m: int = 80, n: int = 8000, *, verified: bool = False) -> HitCounts:
    """Traffic of unequal clusters, and one further cluster, all false, that makes a tenth of all false hits."""
    rng = np.random.default_rng(seed)
    weights = (np.arange(m) + 1.0) ** -0.6
    cluster, scores = rng.choice(m, n, p=weights / weights.sum()), rng.uniform(0.5, 1, n)
    lean = np.exp(0.7 * rng.standard_normal(m))
    false = rng.random(n) < np.clip(0.6 * (1 - scores) ** 1.3 * lean[cluster], 0, 1)
    if verified:  # stops nine false hits of ten and half of the others
        kept = rng.random(n) < np.where(false, 0.1, 0.5)
        cluster, scores, false = cluster[kept], scores[kept], false[kept]
    heavy = rng.choice(scores[false], int(false.sum() / 9))
    return count_hits(
        np.r_[scores, heavy], np.r_[false, np.ones(heavy.size, bool)], np.r_[cluster, np.full(heavy.size, m)], COARSE
    )


def banking() -> HitCounts | None:
    """Nearest earlier questions of BANKING77; those of one intent may share an answer."""
    file = SHARED / "caching" / "banking77" / "stream.jsonl"
    if not file.is_file():
        print(f"banking77: skipped, no {file}")
        return None
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    frame = pl.DataFrame({"pos": [r["pos"] for r in rows], "query": [r["query"] for r in rows]}).with_columns(
        answer_key=pl.Series([r["class_id"] for r in rows]), cluster=pl.Series([r["class_id"] for r in rows]),
        tenant_id=pl.lit("all"),
    )  # fmt: skip
    stream, settings = RequestStream.of(frame), load_settings()
    vectors, _ = IngestVectorCache(settings.cache / "vectors.sqlite").embed(
        stream.queries, load_embedder("minilm", settings)
    )
    found, codes = shadow_hits(stream, vectors), np.unique(np.array(stream.clusters), return_inverse=True)[1]
    return count_hits(np.where(found.exact, -np.inf, found.similarity)[1000:], found.false[1000:], codes[1000:], COARSE)


def populations(*, verified: bool) -> Iterator[tuple[str, HitCounts]]:
    """Whole populations by name."""
    yield "one cluster of a tenth of false hits", made_up(verified=verified)
    if not verified and (found := banking()):
        yield "banking77", found
    bench = CachingExperiment(CachingParameters(verifiers=("fitted",) if verified else ()), load_settings())
    semantic = bench.semantic()
    way = list(semantic.shadows)[-1] if verified else "similarity"
    found = bench.study.counts(semantic.shadows[way], slice(bench.parameters.warmup, None))
    yield f"docs_qa, {way}", HitCounts(COARSE, found.hits[:, ::4], found.false[:, ::4], found.requests)


def main(draws: int, *, verified: bool) -> None:
    kept = True
    for name, counts in populations(verified=verified):
        hits, effective = counts.hits.sum(0)[-1], effective_hit_clusters(counts)[-1]
        print(f"\n{name}: {hits:.0f} hits, {len(counts.hits)} clusters that count as {effective:.0f}")
        for alpha in ALPHAS:
            for trial in simulate_certificates(counts, alpha, 0.95, draws=draws, methods=(METHOD,)):
                allowed = ALLOWED[trial.design]
                good = trial.broken <= allowed
                kept &= good
                told = f"broken {trial.broken:.3f} (at most {allowed:g}), certifies {trial.certified:.2f}"
                print(f"  alpha {alpha:<5g} by {trial.design:9} {told} {'ok' if good else 'NOT'}", flush=True)
    print("\nevery promise kept" if kept else "\na promise was broken")


if __name__ == "__main__":
    numbers = [int(a) for a in sys.argv[1:] if a.isdigit()]
    main(numbers[0] if numbers else 1000, verified="--verifier" in sys.argv)
