"""Retrieval metrics per query, equal to ir-measures once ties are broken the same way.

A run is a frame (query_id, doc_id, rank, score). Documents stand by one rule before anything is measured
(`best_first`): the score as given, highest first; where scores are equal, doc_id ascending. Nothing is rounded here:
probabilities near 0 or 1 differ far behind the point. A store whose index returns noise rounds its own scores.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from workbench.errors import ConfigError
from workbench.evalset.evalset import Qrels

RUN_SCHEMA = {"query_id": pl.String, "doc_id": pl.String, "rank": pl.Int32, "score": pl.Float64}
_NAME = re.compile(r"^(ndcg|recall|precision|mrr|map|judged)@(\d+)$")


def best_first(score: Any, doc_id: Any) -> tuple[Any, Any]:
    """Sort keys of the one tie rule: the score as given, highest first, then the document id, ascending.

    Takes numbers, arrays or polars expressions, so that every list, matrix and frame is ordered alike.

    >>> sorted([("b", 0.9), ("c", 0.99999992), ("a", 0.9)], key=lambda hit: best_first(hit[1], hit[0]))
    [('c', 0.99999992), ('a', 0.9), ('b', 0.9)]
    """
    return -score, doc_id


def rank_hits(hits: pl.DataFrame) -> pl.DataFrame:
    """Order hits (query_id, doc_id, score) by the tie rule; a document keeps its best place only.

    >>> rank_hits(pl.DataFrame({"query_id": ["q"] * 3, "doc_id": ["b", "a", "a"], "score": [1.0, 1.0, 0.5]})).rows()
    [('q', 'a', 1, 1.0), ('q', 'b', 2, 1.0)]
    """
    order = [pl.col("query_id"), *best_first(pl.col("score"), pl.col("doc_id"))]
    return (
        hits.sort(order)
        .unique(["query_id", "doc_id"], keep="first", maintain_order=True)
        .with_columns(rank=pl.int_range(1, pl.len() + 1, dtype=pl.Int32).over("query_id"))
        .select("query_id", "doc_id", "rank", "score")
    )


@dataclass(frozen=True, slots=True, eq=False)
class JudgedRun:
    """A run beside its judgements, as matrices of shape (queries, depth).

    Attributes
    ----------
    query_ids : tuple of str
        One row each: the judged queries, also those for which nothing was found.
    gains : ndarray of float
        Grade of the document at that rank; 0 where it is not relevant, not judged, or nothing was found.
    judged, found : ndarray of bool
        Whether the document has a judgement; whether there is a document.
    ideal : ndarray of float
        All grades of the query, highest first, padded with 0.
    """

    query_ids: tuple[str, ...]
    gains: np.ndarray
    judged: np.ndarray
    found: np.ndarray
    ideal: np.ndarray


def with_grades(run: pl.DataFrame, qrels: Qrels, *, depth: int = 100) -> JudgedRun:
    """Lay a run beside the judgements; queries without a judgement are left out, as every evaluator does."""
    query_ids = tuple(qrels)
    grades = [(q, d, g) for q, judgements in qrels.items() for d, g in judgements.items()]
    table = pl.DataFrame(grades, schema={"query_id": pl.String, "doc_id": pl.String, "grade": pl.Float64}, orient="row")
    rows = pl.DataFrame({"query_id": query_ids, "row": np.arange(len(query_ids), dtype=np.int32)})
    hits = (
        run.lazy()
        .filter(pl.col("rank") <= depth)
        .join(rows.lazy(), on="query_id")
        .join(table.lazy(), on=["query_id", "doc_id"], how="left")
        .select("row", "rank", "grade")
        .collect()
    )
    at = (hits["row"].to_numpy(), hits["rank"].to_numpy() - 1)
    gains = np.zeros((len(query_ids), depth))
    judged, found = np.zeros(gains.shape, bool), np.zeros(gains.shape, bool)
    gains[at] = hits["grade"].fill_null(0).to_numpy()
    judged[at] = hits["grade"].is_not_null().to_numpy()
    found[at] = True
    width = max((len(j) for j in qrels.values()), default=0)
    ideal = np.zeros((len(query_ids), max(width, 1)))
    for i, judgements in enumerate(qrels.values()):
        ideal[i, : len(judgements)] = sorted(judgements.values(), reverse=True)
    return JudgedRun(query_ids, np.maximum(gains, 0), judged, found, np.maximum(ideal, 0))


def measure(run: JudgedRun, metric: str) -> np.ndarray:
    """Values of one metric, shape (queries,), each in [0, 1]; a query with no hit counts 0.

    Parameters
    ----------
    run : JudgedRun
        What `with_grades` returns, at least as deep as the metric's cutoff.
    metric : str
        ``ndcg@k`` (linear gain, log2 discount: Järvelin and Kekäläinen 2002), ``recall@k``, ``precision@k``,
        ``mrr@k``, ``map@k`` (all: grade > 0 is relevant), ``judged@k`` (share of the found that is judged).

    Raises
    ------
    ConfigError
        If the name is not one of these or the run is not deep enough.
    """
    name, k = parse_metric(metric)
    if k > run.gains.shape[1]:
        raise ConfigError(f"{metric} needs hits to rank {k}; the run was judged to rank {run.gains.shape[1]}")
    gains = run.gains[:, :k]
    relevant = gains > 0
    ranks = np.arange(1, k + 1)
    total = np.maximum((run.ideal > 0).sum(1), 1)
    values: np.ndarray
    if name == "ndcg":
        values = dcg(gains) / np.where((best := dcg(run.ideal[:, :k])) > 0, best, 1)
    elif name == "recall":
        values = relevant.sum(1) / total
    elif name == "precision":
        values = relevant.sum(1) / k
    elif name == "mrr":
        values = np.where(relevant, 1 / ranks, 0).max(1, initial=0)
    elif name == "map":
        values = (np.cumsum(relevant, 1) / ranks * relevant).sum(1) / total
    else:
        found = run.found[:, :k].sum(1)
        values = np.where(found > 0, run.judged[:, :k].sum(1) / np.maximum(found, 1), 1.0)
    return values


def ndcg_bounds(run: JudgedRun, k: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of nDCG@k over whatever the unjudged documents may turn out to be, shape (queries,) each.

    Lower: all of them irrelevant. Upper: all of them of the highest grade, against the ideal that is known;
    at most 1.
    """
    unjudged = run.found[:, :k] & ~run.judged[:, :k]
    best = dcg(run.ideal[:, :k])
    if not (best > 0).all():
        raise ConfigError("nDCG needs at least one relevant document for each query")
    high = np.where(unjudged, run.ideal.max(initial=1), run.gains[:, :k])
    return measure(run, f"ndcg@{k}"), np.minimum(dcg(high) / best, 1)


def dcg(gains: np.ndarray) -> np.ndarray:
    """Discounted cumulated gain of each row: sum of gain / log2(rank + 1)."""
    total: np.ndarray = gains @ (1 / np.log2(np.arange(2, gains.shape[1] + 2)))
    return total


def parse_metric(metric: str) -> tuple[str, int]:
    """Split ``ndcg@10`` into its name and cutoff.

    Raises
    ------
    ConfigError
        If it is not a known name with a cutoff of at least 1.
    """
    match = _NAME.match(metric)
    if not match or int(match[2]) < 1:
        raise ConfigError(f"metric {metric!r} is not one of ndcg, recall, precision, mrr, map, judged @k")
    return match[1], int(match[2])


def measure_all(run: pl.DataFrame, qrels: Qrels, metrics: Sequence[str]) -> dict[str, np.ndarray]:
    """Every metric of one run, values in the order of ``qrels``."""
    depth = max(parse_metric(m)[1] for m in metrics)
    judged = with_grades(run, qrels, depth=depth)
    return {m: measure(judged, m) for m in metrics}
