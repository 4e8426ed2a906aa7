"""What a look-up costs beside a matrix product and LanceDB: ``pytest -m bench -s tests/benchmarks/bench_cache.py``.

The encoder's time is left out everywhere. numpy searches the same vectors as one matrix, LanceDB the same rows with a
filter on the tenant that all of them meet; both without the check that the cache makes of what it serves. All take
turns in one run, so that their ratio does not depend on how busy the machine is. Set OPENBLAS_NUM_THREADS=1: on busy
cores two threads wait for each other much longer than one needs.
"""

import sys
import time
import tracemalloc
from collections.abc import Callable
from statistics import median

import numpy as np
import pytest

from tests.caching.caches import USE, WHO, answer, ask
from workbench.caching.cache import SemanticCache
from workbench.caching.cache_entries import ENTRIES, SCOPES, entry_checksum
from workbench.caching.scope import Scope, exact_scope_json
from workbench.records import content_hash
from workbench.state import open_engine

DIMENSION = 384
GOAL = "under 3 ms up to 10,000 entries, at 100,000 within twice numpy's time"


class Ready:
    """Vectors of ``q<i>`` that are there already; ``near <i>`` is close to ``q<i>``, ``far <i>`` to nothing."""

    encoder_id, dimension = "ready", DIMENSION

    def __init__(self, n: int):
        vectors = np.random.default_rng(n).standard_normal((n, DIMENSION)).astype(np.float32)
        self.vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def vector(self, text: str) -> np.ndarray:
        kind, number = text.split()
        own = self.vectors[int(number) % len(self.vectors)]
        noise = np.random.default_rng(int(number)).standard_normal(DIMENSION).astype(np.float32)
        made = {"q": own, "near": own + noise / 100, "far": noise}[kind]
        return made / np.linalg.norm(made)

    def embed(self, texts):
        return np.array([self.vector(text) for text in texts])


def filled(folder, n: int) -> tuple[SemanticCache, Ready]:
    """A cache with n entries, written in bulk in the form in which `keep` writes them."""
    engine, ready = open_engine(f"sqlite:///{folder}/state-{n}.sqlite"), Ready(n)
    cache = SemanticCache(engine, embedder=ready, threshold=0.8, max_entries=2 * n)
    key = Scope.of(ask("x"), WHO, USE, encoder=ready.encoder_id).key
    now, said = cache._entries.now_us(), {"text": "answer", "model": "m", "usage": None, "tool_calls": []}
    rows = []
    for i in range(n):
        payload = exact_scope_json({"intent": f"q {i}", "response": said, "cost_nanos": 1})
        question, vector = content_hash(exact_scope_json(f"q {i}")), ready.vectors[i].tobytes()
        row = {"scope": key, "version": i + 1, "question": question, "vector": vector, "payload": payload}
        rows.append(
            row | {"created_us": now, "used_us": now, "sha256": entry_checksum(key, question, vector, payload, now)}
        )
    facts = {"tenant_id": '"acme"', "corpus_version": '"v1"', "version": n, "removed": 0, "entries": n}
    with engine.begin() as connection:
        connection.execute(ENTRIES.insert(), rows)
        connection.execute(SCOPES.insert(), {"scope": key, **facts})
    return cache, ready


def lance_table(folder, ready: Ready):
    import lancedb
    import pyarrow as pa

    n = len(ready.vectors)
    columns = {
        "tenant_id": pa.array(["acme"] * n),
        "entry": pa.array(range(n)),
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(ready.vectors.ravel()), DIMENSION),
    }
    return lancedb.connect(folder / f"lance-{n}").create_table("entries", pa.table(columns))


def timed(searches: dict[str, Callable[[int], object]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each search, turn and turn about."""
    times: dict[str, list[float]] = {name: [] for name in searches}
    for i in range(rounds + 5):
        for name in sorted(searches, key=lambda name: hash((name, i))):
            start = time.perf_counter()
            searches[name](i)
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: values[5:] for name, values in times.items()}


def searches_of(cache: SemanticCache, ready: Ready, table, rounds: int) -> dict[str, Callable[[int], object]]:
    n, matrix = len(ready.vectors), ready.vectors.copy()
    asked = {kind: [ready.vector(f"{kind} {i * 97}") for i in range(rounds + 5)] for kind in ("near", "far")}
    for kind in asked:
        for i in range(rounds + 5):
            cache._embed(f"{kind} {i * 97}")

    def plain(i: int) -> int:
        cosines = matrix @ asked["near"][i]
        return int(cosines.argmax())

    def lance(i: int) -> object:
        found = table.search(asked["near"][i]).distance_type("cosine").where("tenant_id = 'acme'")
        return found.select(["entry", "_distance"]).limit(1).to_list()

    def ours(kind: str, served: bool) -> Callable[[int], object]:
        def search(i: int) -> None:
            hit = cache.find(ask(f"{kind} {i * 97 if kind != 'q' else i * 97 % n}"), WHO, USE)
            assert (hit is not None) == served

        return search

    return {
        "numpy": plain,
        "lancedb": lance,
        "near hit": ours("near", True),
        "miss": ours("far", False),
        "same question": ours("q", True),
    }


@pytest.mark.bench
@pytest.mark.parametrize("n", [1_000, 10_000, 100_000])
def test_a_look_up_costs_little_over_the_bare_search(tmp_path, n):
    rounds = 60 if n < 100_000 else 20
    tracemalloc.start()
    cache, ready = filled(tmp_path, n)
    before, start = tracemalloc.get_traced_memory()[0], time.perf_counter()
    cache.find(ask("far 1"), WHO, USE)
    load_s, grown = time.perf_counter() - start, tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    times = timed(searches_of(cache, ready, lance_table(tmp_path, ready), rounds), rounds)
    sys.stdout.write(
        f"\n{n:,} entries: first look-up {load_s:.2f} s (traced), {grown / n:,.0f} bytes an entry in memory\n"
    )
    for name, values in times.items():
        ratio = median(a / b for a, b in zip(values, times["numpy"], strict=True))
        p50, p95 = np.percentile(values, [50, 95])
        sys.stdout.write(f"  {name:14s} p50 {p50:8.3f} ms  p95 {p95:8.3f} ms  {ratio:7.2f} x numpy\n")
    ratio = median(a / b for a, b in zip(times["near hit"], times["numpy"], strict=True))
    assert n < 100_000 or ratio < 2, GOAL
    cache._entries._engine.dispose()


@pytest.mark.bench
@pytest.mark.parametrize("n", [1_000, 10_000, 100_000])
def test_an_insert_costs_the_same_however_many_there_are(tmp_path, n):
    cache, _ = filled(tmp_path, n)
    cache.find(ask("far 1"), WHO, USE)
    times = []
    for i in range(n, n + 300):
        start = time.perf_counter()
        cache.keep(ask(f"far {i}"), answer("x"), WHO, USE, cost_nanos=1, since=cache.moment())
        times.append(1e3 * (time.perf_counter() - start))
    p50, p95 = np.percentile(times, [50, 95])
    sys.stdout.write(
        f"\n{n:,} entries: keep p50 {p50:.2f} ms, p95 {p95:.2f} ms, {1e3 / np.mean(times):,.0f} a second\n"
    )
    assert cache.find(ask(f"far {n}"), WHO, USE)
    cache._entries._engine.dispose()
