# ruff: noqa: T201
"""Ingest by two workers of Ray against one process: ``python -m tests.benchmarks.bench_ray [EMBEDDER] [DOCUMENTS]``.

Short documents into tables of LanceDB, in blocks, turn and turn about in this process and by Ray, and the last block
once more while a worker is killed. The tables must be equal, row by row and bit by bit.
"""

import os
import signal
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np

from workbench.config import load_settings
from workbench.inference.embedding import LOCAL_EMBEDDERS, Embedder, load_embedder
from workbench.inference.encoders import MiniLM
from workbench.inference.ray_embedding import TASK, RayEmbedder
from workbench.records import Document
from workbench.retrieval.chunking import WholeDocument
from workbench.retrieval.ingest import IngestVectorCache, ingest
from workbench.retrieval.scale import synthetic_texts
from workbench.retrieval.store import open_table

WORKERS, BLOCKS = 2, 5


def table_of(documents: list[Document], embedder: Embedder, tokenizer: MiniLM, batch: int) -> tuple[list[tuple], float]:
    """Every row that ingestion leaves, and its seconds."""
    with tempfile.TemporaryDirectory() as folder:
        store = open_table(folder, "rows", dimension=embedder.dimension)
        vectors = IngestVectorCache(Path(folder) / "vectors.sqlite", batch=batch)
        started = time.perf_counter()
        ingest(store, documents, chunker=WholeDocument(), tokenizer=tokenizer, embedder=embedder, vectors=vectors,
               batch=batch)  # fmt: skip
        took = time.perf_counter() - started
        rows = store._table.to_arrow().select(["chunk_id", "text", "vector"]).to_pylist()  # type: ignore[attr-defined]
    return sorted((row["chunk_id"], row["text"], tuple(row["vector"])) for row in rows), took


def workers() -> list[int]:
    """Processes of our Ray that embed."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((process / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
            above = int(Path(f"/proc/{parent}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
            if above == os.getpid() and (process / "cmdline").read_bytes().startswith(b"ray::_embed"):
                found.append(int(process.name))
        except (OSError, ValueError, IndexError):
            continue
    return found


def kill_one(killed: list[int], wait_s: float) -> None:
    """Kill a worker in the middle of its work."""
    end = time.monotonic() + 300
    while time.monotonic() < end and not killed:
        if found := workers():
            time.sleep(wait_s)
            os.kill(found[0], signal.SIGKILL)
            killed.append(found[0])
        time.sleep(0.2)


def main(name: str, n: int) -> None:
    settings = load_settings()
    texts = [f"{i} {text}" for i, text in enumerate(synthetic_texts(n, 8, np.random.default_rng(0)))]
    documents = [Document(f"d{i}", text) for i, text in enumerate(texts)]
    alone, tokenizer = load_embedder(name, settings), MiniLM(settings.cache / "weights")
    by_ray = RayEmbedder(alone, partial(LOCAL_EMBEDDERS[name], settings.cache / "weights"), WORKERS)
    print(f"{n:,} documents, {name}, load {os.getloadavg()[0]:.0f}", flush=True)
    started = time.perf_counter()
    by_ray.embed(texts[: WORKERS * (TASK + 1)])
    print(f"start of Ray and its models: {time.perf_counter() - started:.1f} s", flush=True)
    ratios, equal, parts, killed = list[float](), list[bool](), np.array_split(np.arange(n), BLOCKS), list[int]()
    for turn, part in enumerate(parts):
        own, tables = [documents[i] for i in part], {}
        for way in (alone, by_ray) if turn % 2 else (by_ray, alone):
            tables[way is alone] = table_of(own, way, tokenizer, by_ray.batch)
        (expected, one_s), (found, ray_s) = tables[True], tables[False]
        ratios.append(one_s / ray_s)
        equal.append(found == expected and len(expected) == len(own))
        print(f"{len(own):,}: one process {one_s:.1f} s, Ray {ray_s:.1f} s, equal: {equal[-1]}", flush=True)
    ratio = np.median(ratios)
    print(f"throughput by one process's {ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f}), all equal: {all(equal)}")
    threading.Thread(target=kill_one, args=(killed, 1.0), daemon=True).start()
    found, ray_s = table_of(own, by_ray, tokenizer, by_ray.batch)
    print(f"killed: {len(killed)}; {ray_s:.1f} s, {len(found):,} rows, equal: {found == expected}", flush=True)
    by_ray.close()


if __name__ == "__main__":
    main(sys.argv[1] if sys.argv[1:] else "minilm", int(sys.argv[2]) if sys.argv[2:] else 20_000)
