# ruff: noqa: T201
"""Measure both stores at growing numbers of rows: ``python -m tests.benchmarks.bench_scale OUT.json [MAX_ROWS]``.

What ``workbench run retrieval --profile full`` measures, saved after each step, so that a step that takes too long can
be stopped and what was measured kept; steps that ``OUT.json`` has are not measured again. The committed measurement is
``workbench/retrieval/scale.json``.
"""

import sys
import time
from dataclasses import replace
from pathlib import Path

from workbench.config import load_settings
from workbench.retrieval.postgres_server import pgvector_url
from workbench.retrieval.scale import DIMENSION, STEPS, Scale, measure_scale_step, scale_day, scale_machine


def main(out: Path, max_rows: int) -> None:
    settings = load_settings()
    places = {"lance": settings.cache / "scale", "postgres": pgvector_url(settings)}
    scale = Scale.load(out) if out.is_file() else Scale(scale_machine(), scale_day(), DIMENSION, ())
    for rows in [n for n in STEPS if n <= max_rows]:
        for kind, place in places.items():
            if any(p.store == kind and p.rows == rows for p in scale.points):
                continue
            started = time.perf_counter()
            scale = replace(scale, points=(*scale.points, *measure_scale_step(kind, place, rows)))
            scale.save(out)
            print(f"{kind}, {rows:,} rows: {time.perf_counter() - started:.0f} s, {scale_machine()}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if sys.argv[2:] else STEPS[-1])
