"""What the tenant handle costs over bare LanceDB: ``pytest -m bench -s tests/benchmarks/bench_store.py``.

Both do the same search on the same table in one run, turn and turn about; the median of the ratios of each
pair does not depend on how busy the machine is.
"""

import sys
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import pytest

from tests.retrieval.tables import EMBEDDER, natural_rows, open_store

PAIRS = 300
GOAL = 1.10


def paired_ratio(name: str, ours: Callable[[int], object], bare: Callable[[int], object]) -> float:
    """Median over pairs of our time by that of LanceDB; who goes first alternates."""
    ratios, times = [], {ours: [], bare: []}
    for i in range(PAIRS + 20):
        for search in (ours, bare) if i % 2 else (bare, ours):
            start = time.perf_counter()
            search(i)
            times[search].append(time.perf_counter() - start)
        ratios.append(times[ours][-1] / times[bare][-1])
    ms = {search: 1e3 * median(values[20:]) for search, values in times.items()}
    ratio = median(ratios[20:])
    sys.stdout.write(f"\n{name}: handle {ms[ours]:.2f} ms, LanceDB {ms[bare]:.2f} ms, ratio {ratio:.3f}")
    return ratio


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    rows = [r for i, n in enumerate((8000, 1000, 200)) for r in natural_rows("abc"[i], n, seed=i)]
    store = open_store(tmp_path_factory.mktemp("bench"), rows)
    store.index()
    return store


def unit(i: int) -> np.ndarray:
    return np.random.default_rng(i).standard_normal(EMBEDDER.dimension).astype(np.float32)


def words(i: int) -> str:
    return " ".join(f"w{w}" for w in np.random.default_rng(i).integers(2, 400, 5))


def bare_vector(table, tenant: str, k: int) -> Callable[[int], object]:
    from lancedb.expr import col, lit

    def search(i):
        query = table.search(unit(i), vector_column_name="vector").distance_type("cosine")
        query = query.where(col("tenant_id") == lit(tenant)).limit(k)
        return query.select(["chunk_id", "doc_id", "position", "_distance"]).to_list()

    return search


def bare_text(table, tenant: str, k: int) -> Callable[[int], object]:
    from lancedb.expr import col, lit

    def search(i):
        query = table.search(words(i), query_type="fts").where(col("tenant_id") == lit(tenant)).limit(k)
        return query.select(["chunk_id", "doc_id", "position", "_score"]).to_list()

    return search


@pytest.mark.bench
@pytest.mark.parametrize("tenant", ["a", "c"])
@pytest.mark.parametrize("k", [10, 100])
def test_handle_adds_little_to_a_search(store, tenant, k):
    handle = store.for_tenant(tenant)
    at = f"tenant {tenant}, k={k}"
    near, match = bare_vector(store._table, tenant, k), bare_text(store._table, tenant, k)
    assert paired_ratio(f"vector, {at}", lambda i: handle.vector(unit(i), k), near) < GOAL
    assert paired_ratio(f"words, {at}", lambda i: handle.full_text(words(i), k), match) < GOAL
