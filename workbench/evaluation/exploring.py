"""Beside the decision: the frontier of cost and quality, slices, and the questions worth reading."""

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from workbench.evaluation.claims import ArmFacts
from workbench.evaluation.compare import MIN_CLUSTERS, compare, item_clusters, item_values, mean_interval
from workbench.evaluation.gate import changed_items
from workbench.evaluation.summary import FrontierPoint, ItemCase, SliceRow
from workbench.records import Query

MAX_CASES = 12


def frontier_points(scores: pl.DataFrame, facts: Sequence[ArmFacts], *, split: str) -> list[FrontierPoint]:
    """Every arm in the plane of cost and quality; ``scores`` holds one metric of one split.

    An arm is on the frontier when none is both cheaper and better, and tied when the simultaneous two-sided 95 %
    bounds of its difference from the one with the best mean include 0.
    """
    items, codes = item_clusters(scores)
    names = [f.name for f in facts]
    quality = {n: mean_interval(item_values(scores, n, items, missing=0.0), codes) for n in names}
    top = max(names, key=lambda n: quality[n][0])
    differences = {d.arm: d for d in compare(scores, names, reference=top, margin=1.0, confidence=0.975)}
    out = []
    for f in facts:
        mean, low, high = quality[f.name]
        beaten = any(
            other.cost_usd_per_1k <= f.cost_usd_per_1k
            and quality[other.name][0] >= mean
            and (other.cost_usd_per_1k, -quality[other.name][0]) != (f.cost_usd_per_1k, -mean)
            for other in facts
        )
        d = differences.get(f.name)
        tied = d is None or d.low <= 0 <= d.high
        latency, cost = f.latency_p95_ms, f.cost_usd_per_1k
        out.append(FrontierPoint(f.name, mean, low, high, cost, latency, not beaten, tied, split))
    return out


def slice_rows(scores: pl.DataFrame, arms: Sequence[str]) -> list[SliceRow]:
    """Mean of each arm inside each value of each ``slice_*`` column; no interval under 30 clusters."""
    out = []
    for column in [c for c in scores.columns if c.startswith("slice_")]:
        present = sorted(v for v in scores[column].unique().to_list() if v)
        for value in present if len(present) > 1 else ():  # one slice would be everything again
            part = scores.filter(pl.col(column) == value)
            items, codes = item_clusters(part)
            enough = codes.max() + 1 >= MIN_CLUSTERS
            for arm in arms:
                values = item_values(part, arm, items, missing=0.0)
                mean, *ends = mean_interval(values, codes)
                low, high = ends if enough else (None, None)
                out.append(SliceRow(column.removeprefix("slice_"), value, arm, len(items), mean, low, high))
    return out


def changed_cases(
    before: pl.DataFrame | None, scores: pl.DataFrame, arms: Sequence[str], cases: Mapping[str, ItemCase]
) -> tuple[ItemCase, ...]:
    """Items whose score is another than that of the accepted run."""
    if before is None:
        return ()
    known = set(before["arm"].unique())
    moved = sorted({item for arm in arms if arm in known for item in changed_items(before, scores, arm)})
    return tuple(cases[item] for item in moved[:MAX_CASES] if item in cases)


def item_cases(
    scores: pl.DataFrame,
    queries: Sequence[Query],
    *,
    expected: Mapping[str, Sequence[str]],
    returned: Mapping[str, Mapping[str, Sequence[str]]],
) -> dict[str, ItemCase]:
    """One case an item: the question, what was expected, and what each arm returned, by item id."""
    values: dict[str, dict[str, float | None]] = {}
    for arm, item, value in scores.select("arm", "item_id", "value").iter_rows():
        values.setdefault(item, {})[arm] = value
    return {
        q.query_id: ItemCase(
            item_id=q.query_id,
            question=q.text,
            expected=tuple(expected[q.query_id]),
            returned={arm: tuple(hits.get(q.query_id, ())) for arm, hits in returned.items()},
            values=values.get(q.query_id, {}),
        )
        for q in queries
    }


def worst_regressions(cases: Mapping[str, ItemCase], *, reference: str, arm: str) -> tuple[ItemCase, ...]:
    """Items on which an arm loses most against the reference; of equals the first by id."""

    def loss(case: ItemCase) -> float:
        return (case.values.get(reference) or 0.0) - (case.values.get(arm) or 0.0)

    losing = [c for c in cases.values() if loss(c) > 0]
    return tuple(sorted(losing, key=lambda c: (-loss(c), c.item_id))[:MAX_CASES])


def mean_by_arm(scores: pl.DataFrame, metric: str) -> dict[str, float]:
    """Mean of one metric for each arm over the items that were measured."""
    rows = scores.filter(pl.col("metric") == metric).group_by("arm").agg(pl.col("value").mean())
    return {arm: float(value) if value is not None else float(np.nan) for arm, value in rows.iter_rows()}
