"""Stores timed on synthetic rows: searches, builds, disk and memory, at numbers of rows that grow."""

import datetime as dt
import gc
import math
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from workbench.inference.encoders import give_back
from workbench.rendering.numbers import counted
from workbench.rendering.progress import waiting
from workbench.retrieval.indexing import Exact, Hnsw, HnswSq, IvfPq, VectorIndex
from workbench.retrieval.postgres_server import disk_mb, drop_table, process_mb, server_memory_mb
from workbench.retrieval.scale import FULL_TEXT, Scale, ScalePoint
from workbench.retrieval.store import ChunkRow, Store, open_table
from workbench.retrieval.tenant import ChunkHit, TenantHandle

DIMENSION = 384
LATENT = 32
SMALL_TENANTS = (10, 1_000)  # rows of those beside the one that has nearly all
QUERIES = 100
WARM_UP = 3
BATCH = 50_000
STEPS = (1_000, 6_000, 30_000, 100_000, 1_000_000)
WORDS, ASKED_WORDS, VOCABULARY = 20, 4, 20_000
CLIENTS, CLIENTS_S = 4, 4.0
PASSES, PASSES_S = 5, 5.0  # as many as begin within so many seconds: other work on the machine comes and goes
# Every index of each store with the query knobs under which it is compared.
MEASURED: Mapping[str, Sequence[tuple[VectorIndex, dict[str, Any]]]] = {
    "lance": ((Exact(), {}), (IvfPq(), {"nprobes": 20, "refine_factor": 10}), (HnswSq(), {"ef": 100})),
    "postgres": ((Exact(), {}), (Hnsw(), {"ef": 100})),
}
_LEAST = {"ivf_pq": 6_000}  # below, there are too few vectors to train its codes on
_MOST = {"hnsw_sq": 100_000}  # above, it takes half an hour to build

Search = Callable[[TenantHandle, int], list[ChunkHit]]


def measure_scale(max_rows: int, places: Mapping[str, str | Path]) -> Scale:
    """``measure_scale(100_000, {"lance": folder})``: every index of each store at each of `STEPS` up to ``max_rows``.

    ``places`` are URLs or folders by the name of the store; tables are made there and removed. Beside the tenant that
    is timed there are small ones, which search must not starve. Vectors have 384 dimensions, texts 20 words.
    """
    points: list[ScalePoint] = []
    for rows in [n for n in STEPS if n <= max_rows]:
        for kind, place in places.items():
            with waiting(f"indices of {counted(rows, 'row')} in {kind}"):
                points += measure_step(kind, place, rows)
    return Scale(machine(), today(), DIMENSION, tuple(points))


def today() -> str:
    """Day of a measurement."""
    return str(dt.datetime.now(dt.UTC).date())


def machine() -> str:
    """Return what figures depend on: processor, cores, system, and how busy it is."""
    busy = f", load {os.getloadavg()[0]:.0f}" if hasattr(os, "getloadavg") else ""
    return f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}{busy}"


def measure_step(kind: str, place: str | Path, rows: int) -> list[ScalePoint]:
    """One store at one number of rows: full text, then each index, by each tenant."""
    rng = np.random.default_rng(0)
    points: list[ScalePoint] = []
    with _measured_table(kind, place) as table:
        fill_store(table.store, rows, rng)
        table.idle_mb = table.memory_mb()
        vectors, words = synthetic_vectors(QUERIES, rng), synthetic_texts(QUERIES, ASKED_WORDS, rng)
        for index, knobs in MEASURED[kind]:
            if not _LEAST.get(index.name, 0) <= rows <= _MOST.get(index.name, rows):
                continue
            table.build(index)
            if isinstance(index, Exact):
                points += table.timed(FULL_TEXT, rows, lambda handle, i: handle.full_text(words[i], 10))
            points += table.timed(index.name, rows, _vector_search(vectors, index, knobs))
    return points


def _vector_search(vectors: npt.NDArray[np.float32], index: VectorIndex, knobs: Mapping[str, Any]) -> Search:
    return lambda handle, i: handle.vector(vectors[i], 10, exact=isinstance(index, Exact), **knobs)


@dataclass(slots=True)
class _Measured:
    """A table that is measured: ``idle_mb`` before any search, ``truth`` what exact search found for each tenant."""

    kind: str
    place: str
    store: Store
    name: str
    built_s: float = 0.0
    idle_mb: float | None = None
    truth: dict[str, list[set[str]]] = field(default_factory=dict)

    def build(self, index: VectorIndex) -> None:
        """Build an index, and clear away what it replaces."""
        started = time.perf_counter()
        self.store.index(index)
        self.built_s = time.perf_counter() - started
        self.store.optimize(keep=timedelta(milliseconds=1))

    def timed(self, name: str, rows: int, search: Search) -> list[ScalePoint]:
        """Ask for every tenant, then by several clients at once for the large one; memory is what searches added."""
        points: list[ScalePoint] = []
        for n in (rows, *(small for small in SMALL_TENANTS if small < rows)):
            handle = self.store.for_tenant(_tenant(n))
            times, found = time_queries(lambda i: search(handle, i))  # noqa: B023
            truth = self.truth.setdefault(handle.tenant_id, found) if name != FULL_TEXT else []
            recall = float(np.mean([len(a & b) / len(b) for a, b in zip(found, truth, strict=True)])) if truth else None
            p50, p95 = (float(q) for q in np.quantile(times, [0.5, 0.95]))
            points.append(ScalePoint(name, rows, p50, p95, recall, self.built_s, self.kind, None if n == rows else n))
        per_s, after = self._per_second(search, rows), self.memory_mb()
        memory = None if self.idle_mb is None or after is None else max(0.0, after - self.idle_mb)
        points[0] = replace(points[0], per_s=per_s, disk_mb=self._disk_mb(), memory_mb=memory)
        return points

    def _per_second(self, search: Search, rows: int) -> float:
        """Searches a second of `CLIENTS` that each ask again as soon as they are answered."""

        def client(first: int) -> int:
            handle, done = self.store.for_tenant(_tenant(rows)), 0
            while time.perf_counter() < end:
                search(handle, (first + done) % QUERIES)
                done += 1
            return done

        started = time.perf_counter()
        end = started + CLIENTS_S
        with ThreadPoolExecutor(CLIENTS) as pool:
            total = sum(pool.map(client, range(0, QUERIES, QUERIES // CLIENTS)))
        return total / (time.perf_counter() - started)

    def _disk_mb(self) -> float:
        if self.kind == "postgres":
            return disk_mb(self.place, self.name)
        return sum(f.stat().st_size for f in Path(self.place).rglob("*") if f.is_file()) / 1e6

    def memory_mb(self) -> float | None:
        """Megabytes of this process, and of the store's server if it has one here; None where none can tell."""
        gc.collect()
        give_back()  # what was freed before must not hide what comes
        ours = process_mb(os.getpid())
        theirs = server_memory_mb(self.place) if self.kind == "postgres" else 0.0
        return None if ours is None or theirs is None else ours + theirs


@contextmanager
def _measured_table(kind: str, place: str | Path) -> Iterator[_Measured]:
    """An empty table at a place, which is removed in the end."""
    if kind == "postgres":
        name = f"scale_{os.getpid()}"
        try:
            yield _Measured(kind, str(place), open_table(place, name, dimension=DIMENSION), name)
        finally:
            drop_table(str(place), name)
        return
    Path(place).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place) as folder:
        yield _Measured(kind, folder, open_table(folder, "rows", dimension=DIMENSION), "rows")


def synthetic_vectors(n: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Unit vectors, float32, shape (n, 384), that fill only 32 directions and gather around 200 centres.

    Text embeddings do the like; independent noise in all dimensions would make every index look bad.
    """
    shape = np.random.default_rng(0)  # the same centres and directions for every batch
    centres = shape.standard_normal((200, LATENT), np.float32)
    directions = shape.standard_normal((LATENT, DIMENSION), np.float32)
    latent = centres[rng.integers(0, len(centres), n)] + 0.7 * rng.standard_normal((n, LATENT), np.float32)
    vectors: npt.NDArray[np.float32] = latent @ directions + 0.5 * rng.standard_normal((n, DIMENSION), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def synthetic_texts(n: int, words: int, rng: np.random.Generator) -> list[str]:
    """Texts of so many words on average, as often as Zipf and Mandelbrot have them: the commonest in one text of 7."""
    weights = 1 / (np.arange(VOCABULARY) + 20)
    lengths = rng.integers(words // 2, words + words // 2 + 1, n)  # of one length, most scores would be equal
    drawn = iter(rng.choice(VOCABULARY, lengths.sum(), p=weights / weights.sum()).tolist())
    return [" ".join(f"w{word}" for word in islice(drawn, length)) for length in lengths.tolist()]


def fill_store(store: Store, rows: int, rng: np.random.Generator) -> None:
    """Write so many rows of one tenant, with those of the small tenants among them."""
    smaller = [n for n in SMALL_TENANTS if n < rows]
    owners = rng.permutation(np.repeat([_tenant(n) for n in (rows, *smaller)], [rows, *smaller]))
    for start in range(0, len(owners), BATCH):
        own = owners[start : start + BATCH].tolist()
        vectors, texts = synthetic_vectors(len(own), rng), synthetic_texts(len(own), WORDS, rng)
        store.upsert([
            ChunkRow(tenant, str(start + i), "row", None, 0, 1, "", texts[i], vectors[i])
            for i, tenant in enumerate(own)
        ])  # fmt: skip


def _tenant(rows: int) -> str:
    return f"tenant of {rows}"


def time_queries(search: Callable[[int], list[ChunkHit]]) -> tuple[list[float], list[set[str]]]:
    """Milliseconds of each question's search in the quickest of a few passes, and the documents it found."""
    for i in range(WARM_UP):
        search(i)
    best, found, began = [math.inf], list[set[str]](), time.perf_counter()
    for _ in range(PASSES):
        times, found = list[float](), []
        for i in range(QUERIES):
            started = time.perf_counter()
            hits = search(i)
            times.append((time.perf_counter() - started) * 1000)
            found.append({h.doc_id for h in hits})
        best = min(best, times, key=sum)
        if time.perf_counter() - began > PASSES_S:
            break
    return best, found
