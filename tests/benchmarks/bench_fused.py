# ruff: noqa: T201
"""Hybrid search in one statement of PostgreSQL against two searches: ``python -m tests.benchmarks.bench_fused``.

Turn and turn about on one table, by milliseconds of processor time of this process and of its session in the server
(which other work on the machine disturbs little), and by the median ratio of the wall times of each pair. The server is
that of ``WORKBENCH_STORE_URL``, on this machine.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import sqlalchemy as sa

from workbench.config import load_settings
from workbench.retrieval.postgres_server import drop_server_table, pgvector_url
from workbench.retrieval.scale import DIMENSION, synthetic_texts, synthetic_vectors
from workbench.retrieval.store import ChunkRow, open_table
from workbench.retrieval.strategies import RRF, Hybrid, Question, Weighted

TENANTS = (200, 1_500, 6_000, 30_000)
QUESTIONS, PASSES, WORDS, ASKED = 30, 2, 50, 6


def cpu_s(session: int) -> float:
    """Processor time of this process and of one session of the server."""
    used = Path(f"/proc/{session}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return time.process_time() + (int(used[11]) + int(used[12])) / os.sysconf("SC_CLK_TCK")


def timed(ways: list[Callable[[Question], object]], questions: list[Question], session: int) -> list[tuple[float, ...]]:
    """Processor ms, and all wall times, of each way."""
    cpu, wall = [0.0] * len(ways), [list[float]() for _ in ways]
    for turn in range(PASSES):
        for place in np.roll(range(len(ways)), turn):
            began = cpu_s(session)  # a whole pass: the server's clock ticks a hundred times a second
            for question in questions:
                started = time.perf_counter()
                ways[place](question)
                wall[place].append(time.perf_counter() - started)
            cpu[place] += cpu_s(session) - began
    return [(1000 * c / len(w), *w) for c, w in zip(cpu, wall, strict=True)]


def main() -> None:
    url, name, rng = pgvector_url(load_settings()), f"bench_fused_{os.getpid()}", np.random.default_rng(0)
    store = open_table(url, name, dimension=DIMENSION)
    try:
        for n in TENANTS:
            vectors, texts = synthetic_vectors(n, rng), synthetic_texts(n, WORDS, rng)
            store.upsert([ChunkRow(str(n), f"d{i}", "m", None, 0, 1, "", texts[i], vectors[i]) for i in range(n)])
        store.index()
        asked = zip(synthetic_texts(QUESTIONS, ASKED, rng), synthetic_vectors(QUESTIONS, rng), strict=True)
        questions = [Question(*pair) for pair in asked]
        with store._sessions._engine.connect() as connection:  # type: ignore[attr-defined]
            session = connection.execute(sa.select(sa.func.pg_backend_pid())).scalar_one()
        print("| rows of the tenant | fusion | two searches, CPU ms | one statement | wall, one / two |")
        print("|---|---|---|---|---|")
        for n in TENANTS:
            handle = store.for_tenant(str(n))
            for hybrid in (Hybrid(), Hybrid(fusion=Weighted())):
                ways = [
                    lambda q: hybrid.fusion.fuse(*hybrid.legs(handle, q))[:10],  # noqa: B023
                    lambda q: hybrid.search(handle, q, 10),  # noqa: B023
                ]
                two, one = timed(ways, questions, session)
                ratio = median(b / a for a, b in zip(two[1:], one[1:], strict=True))
                kind = "ranks" if isinstance(hybrid.fusion, RRF) else "scores"
                print(f"| {n:,} | {kind} | {two[0]:.1f} | {one[0]:.1f} | {ratio:.2f} |", flush=True)
    finally:
        drop_server_table(url, name)


if __name__ == "__main__":
    main()
