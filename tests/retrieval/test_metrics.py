"""Metrics equal ir-measures to 1e-9 once ties are broken the same way, on random and on public runs."""

import ir_measures
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import AP, RR, P, R, nDCG

from workbench.errors import ConfigError
from workbench.retrieval.metrics import measure, measure_all, ndcg_bounds, parse_metric, rank_hits, with_grades

OURS = ("ndcg@10", "ndcg@3", "recall@10", "precision@5", "mrr@10", "map@20")
THEIRS = (nDCG @ 10, nDCG @ 3, R @ 10, P @ 5, RR @ 10, AP @ 20)


def random_case(seed, *, queries=25, ties=True):
    """Runs with ties, unjudged documents, queries without hits; every query has a relevant document."""
    rng = np.random.default_rng(seed)
    documents = [f"d{i:02d}" for i in range(40)]
    qrels, rows = {}, []
    for q in range(queries):
        judged = rng.choice(documents, rng.integers(1, 15), replace=False)
        qrels[f"q{q}"] = {d: int(g) for d, g in zip(judged, rng.integers(0, 4, len(judged)), strict=True)}
        qrels[f"q{q}"][judged[0]] = 2
        for d in rng.choice(documents, rng.integers(0, 30), replace=False):
            rows.append((f"q{q}", d, float(rng.integers(0, 6) if ties else rng.normal())))
    return qrels, pl.DataFrame(rows, schema={"query_id": str, "doc_id": str, "score": float}, orient="row")


def theirs(qrels, run):
    """Per-query values of ir-measures, given our ranks as scores, so that its own tie order cannot differ."""
    judgements = [ir_measures.Qrel(q, d, g) for q, grades in qrels.items() for d, g in grades.items()]
    hits = [ir_measures.ScoredDoc(q, d, -float(r)) for q, d, r in run.select("query_id", "doc_id", "rank").iter_rows()]
    values = {(str(m.measure), m.query_id): m.value for m in ir_measures.iter_calc(THEIRS, judgements, hits)}
    return {o: np.array([values.get((str(t), q), 0.0) for q in qrels]) for o, t in zip(OURS, THEIRS, strict=True)}


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_every_metric_equals_ir_measures_on_random_runs(seed, ties):
    qrels, hits = random_case(seed, ties=ties)
    run = rank_hits(hits)
    ours = measure_all(run, qrels, OURS)
    for metric, values in theirs(qrels, run).items():
        assert np.abs(ours[metric] - values).max() < 1e-9, metric


def test_a_query_without_hits_counts_zero_and_is_not_skipped():
    qrels = {"a": {"x": 1}, "b": {"x": 1}}
    run = rank_hits(pl.DataFrame({"query_id": ["a"], "doc_id": ["x"], "score": [1.0]}))
    assert measure_all(run, qrels, ["ndcg@10"])["ndcg@10"].tolist() == [1.0, 0.0]


def test_measuring_a_run_by_one_split_leaves_it_whole_for_the_next():
    """ranx 0.3.21 takes every question that the first split has not out of the run, which is 0 on the second."""
    run = rank_hits(pl.DataFrame({"query_id": ["a", "b"], "doc_id": ["x", "y"], "score": [1.0, 1.0]}))
    for qrels in ({"a": {"x": 1}}, {"b": {"y": 1}}, {"a": {"x": 1}, "b": {"y": 1}}):
        assert measure_all(run, qrels, ["mrr@10"])["mrr@10"].tolist() == [1.0] * len(qrels)


@pytest.mark.parametrize("metric", OURS)
def test_a_hit_in_the_place_of_a_miss_never_lowers_a_metric(metric):
    """The granular MRR of llama-index-core 0.14.25 falls with each hit behind the first."""
    relevant = [f"d{i:02d}" for i in range(12)]
    values = []
    for found in range(13):
        documents = [*relevant[:found], *(f"miss {i:02d}" for i in range(12 - found))]
        scores = [float(-i) for i in range(12)]
        run = rank_hits(pl.DataFrame({"query_id": ["q"] * 12, "doc_id": documents, "score": scores}))
        values.append(float(measure_all(run, {"q": dict.fromkeys(relevant, 1)}, [metric])[metric][0]))
    assert values == sorted(values)
    assert values[0] == 0
    assert values[-1] == pytest.approx(10 / 12 if metric == "recall@10" else 1)


def test_the_score_as_given_comes_first_then_the_document_id():
    hits = pl.DataFrame({"query_id": ["q"] * 4, "doc_id": ["b", "c", "d", "a"], "score": [0.5, 0.5 + 1e-9, 0.5, 0.4]})
    assert rank_hits(hits)["doc_id"].to_list() == ["c", "b", "d", "a"]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_the_order_of_the_rows_of_a_run_does_not_matter(seed):
    _, hits = random_case(seed)
    assert rank_hits(hits).equals(rank_hits(hits.sample(fraction=1.0, shuffle=True, seed=seed)))


def test_bounds_meet_where_everything_is_judged_and_part_where_not():
    run = rank_hits(pl.DataFrame({"query_id": ["q", "q"], "doc_id": ["x", "y"], "score": [2.0, 1.0]}))
    low, high = ndcg_bounds(with_grades(run, {"q": {"x": 0, "y": 1}}))
    assert low[0] == high[0] == pytest.approx(1 / np.log2(3))
    low, high = ndcg_bounds(with_grades(run, {"q": {"y": 1}}))
    assert low[0] == pytest.approx(1 / np.log2(3))
    assert high[0] == 1.0


def test_judged_share_counts_what_was_found():
    run = rank_hits(pl.DataFrame({"query_id": ["q", "q"], "doc_id": ["x", "y"], "score": [2.0, 1.0]}))
    assert measure(with_grades(run, {"q": {"y": 1}}), "judged@10").tolist() == [0.5]


@pytest.mark.parametrize("name", ["ndcg", "ndcg@0", "NDCG@10", "accuracy@10", "ndcg@-1"])
def test_an_unknown_metric_is_refused_by_name(name):
    with pytest.raises(ConfigError, match="is not one of"):
        parse_metric(name)


def test_a_cutoff_beyond_the_judged_depth_is_refused():
    qrels, hits = random_case(1)
    with pytest.raises(ConfigError, match="needs hits to rank 100"):
        measure(with_grades(rank_hits(hits), qrels, depth=10), "ndcg@100")
