"""Ask every question of an arm and score what comes back: one row per arm, item, repeat and metric."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from workbench.errors import WorkbenchError
from workbench.evaluation.compare import SCORES_SCHEMA
from workbench.records import Hit, Query
from workbench.retrieval.metrics import RUN_SCHEMA, Qrels, measure_all, rank

SLICES = ("tenant_id", "feature", "style")


@dataclass(frozen=True, slots=True)
class Answers:
    """What one arm returned: a ranked run, and for each question its time or its error."""

    arm: str
    run: pl.DataFrame
    latency_ms: Mapping[str, float] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)

    @property
    def latency_p95_ms(self) -> float | None:
        """95th percentile over the questions that were timed."""
        return float(np.quantile(list(self.latency_ms.values()), 0.95)) if self.latency_ms else None


def ask(
    arm: str,
    search: Callable[[Query], Iterable[Hit]],
    queries: Sequence[Query],
    *,
    shared_ms: Callable[[Query], float] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Answers:
    """Put every question to an arm, one after the other, timed; an error is kept and the next question asked.

    ``shared_ms`` does what several arms need done once for a question, such as its embedding, and returns the
    milliseconds it took the first time: they count for every arm.
    """
    rows: list[tuple[str, str, float]] = []
    latency, errors = {}, {}
    for i, query in enumerate(queries, 1):
        try:
            before = shared_ms(query) if shared_ms else 0.0
            started = time.perf_counter()
            hits = list(search(query))
        except WorkbenchError as error:
            errors[query.query_id] = f"{type(error).__name__}: {error}"
        else:
            latency[query.query_id] = before + (time.perf_counter() - started) * 1000
            # The arm's own order counts: a strictly falling score keeps it through the tie rule.
            rows += [(query.query_id, hit.doc_id, -float(place)) for place, hit in enumerate(hits)]
        if on_progress:
            on_progress(i, len(queries))
    columns = {"query_id": pl.String, "doc_id": pl.String, "score": pl.Float64}
    run = rank(pl.DataFrame(rows, schema=columns, orient="row")).cast(RUN_SCHEMA)  # type: ignore[arg-type]
    return Answers(arm, run, latency, errors)


def score(
    answers: Answers, queries: Sequence[Query], qrels: Qrels, metrics: Sequence[str], *, cost_usd: float | None = None
) -> pl.DataFrame:
    """Rows of `SCORES_SCHEMA` and one ``slice_*`` column for each of `SLICES`.

    An item that failed keeps its row, with ``error`` and a null value.
    """
    wanted = {q.query_id: qrels[q.query_id] for q in queries}
    values = measure_all(answers.run, wanted, metrics)
    frames = []
    for metric, column in values.items():
        rows = [
            (answers.arm, q.query_id, 0, metric, None if q.query_id in answers.errors else float(value),
             answers.errors.get(q.query_id), q.cluster or q.query_id, q.tenant_id,
             answers.latency_ms.get(q.query_id), cost_usd, q.tenant_id, q.feature, q.style)
            for q, value in zip(queries, column, strict=True)
        ]  # fmt: skip
        schema = SCORES_SCHEMA | {f"slice_{name}": pl.String for name in SLICES}
        frames.append(pl.DataFrame(rows, schema=schema, orient="row"))
    return pl.concat(frames)
