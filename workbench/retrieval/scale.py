"""Until how many rows a store meets a latency limit, told from a measurement and never beyond it.

Stores are timed on synthetic rows: searches, builds, disk and memory, at numbers of rows that grow. ``scale.json`` is
the committed measurement.
"""

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

from workbench.codec import from_json, to_json, write_whole
from workbench.errors import ConfigError
from workbench.inference.encoders import give_back_memory
from workbench.rendering.numbers import counted
from workbench.rendering.progress import waiting
from workbench.rendering.table import Column, Table
from workbench.reports.charts import lines
from workbench.reports.figure import Figure
from workbench.retrieval.index_kinds import Exact, Hnsw, HnswSq, IvfPq, VectorIndex
from workbench.retrieval.postgres_server import drop_server_table, server_memory_mb, server_process_mb, table_disk_mb
from workbench.retrieval.store import ChunkRow, Store, open_table
from workbench.retrieval.tenant import ChunkHit, TenantHandle

FULL_TEXT = "full_text"
STORES = {"postgres": "PostgreSQL", "lance": "LanceDB"}
NEAR_EXACT = 0.95  # recall@10 from which an index stands for exact search
MONTH_S = 30 * 86_400
COMMITTED = Path(__file__).with_name("scale.json")


@dataclass(frozen=True, slots=True)
class ScalePoint:
    """One index of one store at one number of rows: latency in ms, recall@10 against exact search, seconds to build.

    ``recall_at_10`` is None for words. ``tenant_rows`` is that of a small tenant who was asked in place of the one who
    has nearly all ``rows``. ``per_s`` are requests a second of several clients, ``disk_mb`` is the whole table with
    this index, ``memory_mb`` what searching the table has added to the process and to the store's server, without the
    files that the system keeps in memory by itself; None where that was not measured.
    """

    index: str
    rows: int
    p50_ms: float
    p95_ms: float
    recall_at_10: float | None
    build_s: float
    store: str = "lance"
    tenant_rows: int | None = None
    per_s: float | None = None
    disk_mb: float | None = None
    memory_mb: float | None = None

    @property
    def name(self) -> str:
        """Index and store, named as arms are."""
        return self.index if self.store == "lance" else f"{self.index} · {self.store}"


@dataclass(frozen=True, slots=True)
class Until:
    """Rows up to which a limit is kept: ``low`` keeps it as measured, ``high`` no longer, ``about`` lies between.

    ``low`` is 0 if nothing measured keeps it; ``high`` is None if everything does, and ``about`` in both cases.
    """

    low: int
    about: float | None
    high: int | None

    def __str__(self) -> str:
        if self.high is None:
            return f"with no end seen up to {counted(self.low, 'row')}" if self.low else "as long as nobody measures it"
        if self.about is None:
            return f"under {counted(self.high, 'row')}, the least measured"
        return f"until about {float(f'{self.about:.1g}'):,.0f} rows ({self.low:,} to {self.high:,})"


@dataclass(frozen=True, slots=True)
class Scale:
    """A measurement with its machine and day."""

    machine: str
    measured_on: str
    dimension: int
    points: tuple[ScalePoint, ...]

    def save(self, path: Path) -> None:
        """Write the measurement as JSON."""
        write_whole(path, to_json(self))

    @classmethod
    def load(cls, path: Path) -> "Scale":
        """Read a committed measurement.

        Raises
        ------
        ConfigError
            If there is none, or it is none.
        """
        if not path.is_file():
            raise ConfigError(
                f"no committed measurement at {path}; measure with: workbench run retrieval --profile full"
            )
        return from_json(cls, path.read_bytes(), f"{path} is no measurement")

    def until(self, store: str, kind: str, limit_ms: float) -> Until:
        """Rows of one tenant up to which p95 keeps a limit, for ``vector``, ``full_text`` or ``hybrid`` search.

        Between two numbers of rows p95 is taken to grow as a power of the rows.
        """
        low, high, before = 0, None, 0.0
        for rows, p95_ms in sorted(self._best(store, kind, "p95_ms").items()):
            if p95_ms > limit_ms:
                high = rows
                break
            low, before = rows, p95_ms
        if high is None or not low:
            return Until(low, None, high)
        after = self._best(store, kind, "p95_ms")[high]
        share = math.log(limit_ms / before) / math.log(after / before)
        return Until(low, low * (high / low) ** share, high)

    def per_second(self, store: str, rows: int) -> tuple[float, float, int, int] | None:
        """Least and most hybrid searches a second at the numbers of rows around ``rows``, and these; None beyond."""
        rates = {n: 1 / seconds for n, seconds in self._best(store, "hybrid", "per_s").items()}
        above, below = [n for n in rates if n >= rows], [n for n in rates if n <= rows]
        if not above:
            return None
        ends = max(below, default=min(above)), min(above)
        return min(rates[n] for n in ends), max(rates[n] for n in ends), *ends

    def _best(self, store: str, kind: str, of: str) -> dict[int, float]:
        """Least p95 in ms, or seconds of one request under load, by rows; a hybrid search is the sum of both legs.

        Of vector indices those count that find nearly what exact search does.
        """
        if kind == "hybrid":
            words, vectors = (self._best(store, leg, of) for leg in (FULL_TEXT, "vector"))
            return {rows: words[rows] + vectors[rows] for rows in words.keys() & vectors.keys()}
        found: dict[int, float] = {}
        for p in self.points:
            good = p.recall_at_10 is None if kind == FULL_TEXT else (p.recall_at_10 or 0.0) >= NEAR_EXACT
            if p.store == store and p.tenant_rows is None and good:
                value = p.p95_ms if of == "p95_ms" else 1 / p.per_s if p.per_s else math.inf
                found[p.rows] = min(value, found.get(p.rows, math.inf))
        return found


def scale_figure(scale: Scale, *, limit_ms: float | None, rows: int, requests_per_month: int | None) -> Figure:
    """Latency of each index of each store against the number of rows, with what follows for a corpus.

    Parameters
    ----------
    scale : Scale
        A measurement.
    limit_ms : float or None
        95th percentile to keep.
    rows : int
        Rows of the largest tenant of the corpus.
    requests_per_month : int or None
        How many there are.
    """
    series: dict[str, list[tuple[float, float]]] = {}
    for p in scale.points:
        if p.tenant_rows is None:
            series.setdefault(p.name, []).append((p.rows, p.p95_ms))
    figure = lines(series, "rows", "p95 latency, ms", log_x=True, log_y=True, limit=limit_ms)
    told = [*_scale_kept(scale, limit_ms, rows, requests_per_month), _scale_recalls(scale)]
    told.append(
        f"Synthetic rows of {counted(scale.dimension, 'dimension')}, {scale.machine}, measured on {scale.measured_on}."
    )
    return replace(figure, caption=" ".join(told), data=scale_points_table(scale))


def _scale_kept(scale: Scale, limit_ms: float | None, rows: int, requests_per_month: int | None) -> list[str]:
    """How far each store goes within the limit, hybrid searches first: what it is to stay on PostgreSQL."""
    if limit_ms is None:
        return ["No latency limit is set in gates.toml."]
    measured = {store: name for store, name in STORES.items() if any(p.store == store for p in scale.points)}
    stays = [
        f"{name} {scale.until(s, 'hybrid', limit_ms)}{_scale_rate_told(scale, s, rows)}" for s, name in measured.items()
    ]
    asked = f" and {requests_per_month / MONTH_S:.2g} requests a second" if requests_per_month else ""
    told = [
        f"Hybrid searches at a p95 of {limit_ms:g} ms: stay on {'; '.join(stays)}.",
        f"Yours: {counted(rows, 'row')} in the largest tenant{asked}.",
    ]
    for leg, kind in {"Vectors": "vector", "Words": FULL_TEXT}.items():
        each = (f"{name} {scale.until(store, kind, limit_ms)}" for store, name in measured.items())
        told.append(f"{leg} alone: {'; '.join(each)}.")
    return told


def _scale_rate_told(scale: Scale, store: str, rows: int) -> str:
    """Requests a second of a store at the rows of a corpus."""
    if (found := scale.per_second(store, rows)) is None:
        return f" (requests a second were not measured at {counted(rows, 'row')})"
    least, most, low, high = found
    at = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    return f", or {least:.0f} to {most:.0f} requests a second (at {at} rows)"


def _scale_recalls(scale: Scale) -> str:
    """What each index finds in the largest table it was measured in, and the least that a small tenant found."""
    told = []
    for name in dict.fromkeys(p.name for p in scale.points if p.recall_at_10 is not None and p.index != "exact"):
        mine = [p for p in scale.points if p.name == name]
        last = max(p.rows for p in mine)
        (large,) = (p.recall_at_10 for p in mine if p.rows == last and p.tenant_rows is None)
        small = min((p.recall_at_10 or 0.0 for p in mine if p.tenant_rows is not None), default=None)
        told.append(
            f"{name} {large:.2f} at {counted(last, 'row')}"
            + ("" if small is None else f", {small:.2f} in small tenants")
        )
    return f"Recall@10: {'; '.join(told)}." if told else ""


def scale_points_table(scale: Scale) -> Table:
    """Everything measured, one row for each index, number of rows and tenant."""
    columns = (
        Column("index"), Column("rows", "count"), Column("tenant's rows", "count"),
        Column("p50 ms", "number", digits=1), Column("p95 ms", "number", digits=1),
        Column("recall@10", "number", digits=3), Column("requests/s", "number", digits=0),
        Column("build s", "number", digits=1), Column("disk MB", "number", digits=0),
        Column("memory MB", "number", digits=0),
    )  # fmt: skip
    rows = tuple(
        (p.name, p.rows, p.tenant_rows or p.rows, p.p50_ms, p.p95_ms, p.recall_at_10, p.per_s, p.build_s, p.disk_mb,
         p.memory_mb)
        for p in scale.points
    )  # fmt: skip
    return Table(columns, rows, f"Measured on {scale.measured_on}, {scale.machine}")


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
                points += measure_scale_step(kind, place, rows)
    return Scale(scale_machine(), scale_day(), DIMENSION, tuple(points))


def scale_day() -> str:
    """Day of a measurement."""
    return str(dt.datetime.now(dt.UTC).date())


def scale_machine() -> str:
    """Return what figures depend on: processor, cores, system, and how busy it is."""
    busy = f", load {os.getloadavg()[0]:.0f}" if hasattr(os, "getloadavg") else ""
    return f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}{busy}"


def measure_scale_step(kind: str, place: str | Path, rows: int) -> list[ScalePoint]:
    """One store at one number of rows: full text, then each index, by each tenant."""
    rng = np.random.default_rng(0)
    points: list[ScalePoint] = []
    with _measured_scale_table(kind, place) as table:
        fill_scale_store(table.store, rows, rng)
        table.idle_mb = table.memory_mb()
        vectors, words = synthetic_vectors(QUERIES, rng), synthetic_texts(QUERIES, ASKED_WORDS, rng)
        for index, knobs in MEASURED[kind]:
            if not _LEAST.get(index.name, 0) <= rows <= _MOST.get(index.name, rows):
                continue
            table.build(index)
            if isinstance(index, Exact):
                points += table.timed(FULL_TEXT, rows, lambda handle, i: handle.full_text(words[i], 10))
            points += table.timed(index.name, rows, _scale_vector_search(vectors, index, knobs))
    return points


def _scale_vector_search(vectors: npt.NDArray[np.float32], index: VectorIndex, knobs: Mapping[str, Any]) -> Search:
    return lambda handle, i: handle.vector(vectors[i], 10, exact=isinstance(index, Exact), **knobs)


@dataclass(slots=True)
class _MeasuredScale:
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
            handle = self.store.for_tenant(_scale_tenant(n))
            times, found = time_scale_queries(lambda i: search(handle, i))  # noqa: B023
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
            handle, done = self.store.for_tenant(_scale_tenant(rows)), 0
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
            return table_disk_mb(self.place, self.name)
        return sum(f.stat().st_size for f in Path(self.place).rglob("*") if f.is_file()) / 1e6

    def memory_mb(self) -> float | None:
        """Megabytes of this process, and of the store's server if it has one here; None where none can tell."""
        gc.collect()
        give_back_memory()  # what was freed before must not hide what comes
        ours = server_process_mb(os.getpid())
        theirs = server_memory_mb(self.place) if self.kind == "postgres" else 0.0
        return None if ours is None or theirs is None else ours + theirs


@contextmanager
def _measured_scale_table(kind: str, place: str | Path) -> Iterator[_MeasuredScale]:
    """An empty table at a place, which is removed in the end."""
    if kind == "postgres":
        name = f"scale_{os.getpid()}"
        try:
            yield _MeasuredScale(kind, str(place), open_table(place, name, dimension=DIMENSION), name)
        finally:
            drop_server_table(str(place), name)
        return
    Path(place).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place) as folder:
        yield _MeasuredScale(kind, folder, open_table(folder, "rows", dimension=DIMENSION), "rows")


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


def fill_scale_store(store: Store, rows: int, rng: np.random.Generator) -> None:
    """Write so many rows of one tenant, with those of the small tenants among them."""
    smaller = [n for n in SMALL_TENANTS if n < rows]
    owners = rng.permutation(np.repeat([_scale_tenant(n) for n in (rows, *smaller)], [rows, *smaller]))
    for start in range(0, len(owners), BATCH):
        own = owners[start : start + BATCH].tolist()
        vectors, texts = synthetic_vectors(len(own), rng), synthetic_texts(len(own), WORDS, rng)
        store.upsert([
            ChunkRow(tenant, str(start + i), "row", None, 0, 1, "", texts[i], vectors[i])
            for i, tenant in enumerate(own)
        ])  # fmt: skip


def _scale_tenant(rows: int) -> str:
    return f"tenant of {rows}"


def time_scale_queries(search: Callable[[int], list[ChunkHit]]) -> tuple[list[float], list[set[str]]]:
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
