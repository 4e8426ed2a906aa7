"""At which number of rows exact search stops meeting a latency limit: measured, and shown."""

import datetime as dt
import os
import platform
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from workbench.codec import from_json, to_json, write_whole
from workbench.config import Settings
from workbench.errors import ConfigError
from workbench.rendering.progress import waiting
from workbench.reports.charts import lines
from workbench.reports.figure import Figure
from workbench.retrieval.indexing import Exact, HnswSq, IvfPq, VectorIndex
from workbench.retrieval.store import ChunkRow, Store, open_table

DIMENSION = 384
LATENT = 32
TENANT = "synthetic"
QUERIES = 100
WARM_UP = 3
BATCH = 50_000
STEPS = (1_000, 10_000, 100_000, 1_000_000)
# Every index with the query knobs under which it is compared.
MEASURED: Sequence[tuple[VectorIndex, dict[str, Any]]] = (
    (Exact(), {}),
    (IvfPq(), {"nprobes": 20, "refine_factor": 10}),
    (HnswSq(), {"ef": 100}),
)


@dataclass(frozen=True, slots=True)
class ScalePoint:
    """One index at one number of rows: 50th and 95th percentile in ms, recall against exact, seconds to build."""

    index: str
    rows: int
    p50_ms: float
    p95_ms: float
    recall_at_10: float
    build_s: float


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

    def crossing(self, limit_ms: float) -> int | None:
        """Smallest measured number of rows at which exact search is over the limit, None if it never is."""
        return min((p.rows for p in self.points if p.index == "exact" and p.p95_ms > limit_ms), default=None)


def measure_scale(max_rows: int, folder: Path) -> Scale:
    """Time every index at 1e3, 1e4, ... rows up to ``max_rows``; tables are made below ``folder`` and removed."""
    folder.mkdir(parents=True, exist_ok=True)
    points: list[ScalePoint] = []
    for rows in [n for n in STEPS if n <= max_rows]:
        with tempfile.TemporaryDirectory(dir=folder) as where, waiting(f"indices of {rows:,} rows"):
            points += _measure(rows, where)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}"
    return Scale(machine, str(dt.datetime.now(dt.UTC).date()), DIMENSION, tuple(points))


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


def _measure(rows: int, where: str) -> list[ScalePoint]:
    rng = np.random.default_rng(0)
    store = fill_store(where, rows, rng)
    asked = synthetic_vectors(QUERIES, rng)
    points: list[ScalePoint] = []
    truth: list[set[str]] = []
    for index, knobs in MEASURED:
        if isinstance(index, IvfPq) and rows < 10_000:
            continue  # too few vectors to train its codes on
        started = time.perf_counter()
        store.index(index)
        built = time.perf_counter() - started
        times, found = time_queries(store, index, knobs, asked)
        truth = truth or found
        recall = float(np.mean([len(a & b) / len(b) for a, b in zip(found, truth, strict=True)]))
        p50, p95 = np.quantile(times, [0.5, 0.95])
        points.append(ScalePoint(index.name, rows, float(p50), float(p95), recall, built))
    return points


def fill_store(where: str | Path, rows: int, rng: np.random.Generator) -> Store:
    """Store of that many synthetic rows of one tenant below ``where``, not indexed yet."""
    store = open_table(where, "rows", dimension=DIMENSION)
    for start in range(0, rows, BATCH):
        vectors = synthetic_vectors(min(BATCH, rows - start), rng)
        store.upsert([ChunkRow(TENANT, str(start + i), "row", None, 0, 1, "", "row", v) for i, v in enumerate(vectors)])
    return store


def time_queries(
    store: Store, index: VectorIndex, knobs: Mapping[str, Any], asked: npt.NDArray[np.float32]
) -> tuple[list[float], list[set[str]]]:
    """Milliseconds of each question's search, and the ten documents it found."""
    handle, times, found = store.for_tenant(TENANT), [], []
    for i, vector in enumerate([*asked[:WARM_UP], *asked]):
        started = time.perf_counter()
        hits = handle.vector(vector, 10, exact=isinstance(index, Exact), **knobs)
        if i >= WARM_UP:
            times.append((time.perf_counter() - started) * 1000)
            found.append({h.doc_id for h in hits})
    return times, found


COMMITTED = Path(__file__).parents[1] / "retrieval" / "scale.json"


def scale_figure(settings: Settings, max_rows: int, *, folder: Path, limit_ms: float | None) -> Figure:
    """Latency of each index against the number of rows, with the limit and what each finds."""
    if max_rows:
        scale = measure_scale(max_rows, settings.cache / "scale")
        scale.save(folder / "scale.json")
    else:
        scale = Scale.load(COMMITTED)
    series: dict[str, list[tuple[float, float]]] = {}
    for point in scale.points:
        series.setdefault(point.index, []).append((point.rows, point.p95_ms))
    caption = f"{_sentence(scale, limit_ms)} Synthetic rows of {scale.dimension} dimensions, one tenant, "
    caption += f"{scale.machine}, measured on {scale.measured_on}."
    figure = lines(series, "rows", "p95 latency, ms", log_x=True, log_y=True, limit=limit_ms)
    return replace(figure, caption=caption)


def _sentence(scale: Scale, limit_ms: float | None) -> str:
    largest = max(p.rows for p in scale.points)
    recalls = ", ".join(f"{p.index} {p.recall_at_10:.2f}" for p in scale.points if p.rows == largest)
    found = f"Recall@10 at {largest:,} rows: {recalls}."
    if limit_ms is None:
        return f"No latency limit is set in gates.toml. {found}"
    crossing = scale.crossing(limit_ms)
    if crossing is None:
        return f"Exact search keeps {limit_ms:g} ms up to {largest:,} rows. {found}"
    faster = [p for p in scale.points if p.rows == crossing and p.p95_ms <= limit_ms]
    best: ScalePoint | None = max(faster, key=lambda p: p.recall_at_10, default=None)
    pays = (
        f"{best.index} keeps it with recall@10 {best.recall_at_10:.2f}" if best else "no index measured here keeps it"
    )
    return f"Exact search passes {limit_ms:g} ms by {crossing:,} rows; {pays}. {found}"
