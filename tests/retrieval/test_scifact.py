"""Parity on a public collection: SciFact's test split through our store, arms and metrics."""

from dataclasses import replace

import ir_measures
import numpy as np
import polars as pl
import pytest
from ir_measures import AP, RR, P, R, nDCG

from tests.evalset.small_evalset import shared
from tests.retrieval.stores import pgvector_url
from workbench.config import load_settings
from workbench.evalset.evalset import load_evalset
from workbench.evaluation.compare import compare
from workbench.inference.embedding import load_embedder
from workbench.retrieval.arms import make_arms
from workbench.retrieval.ask_arms import ask_arm, score_arm
from workbench.retrieval.metrics import measure_all, rank_hits
from workbench.retrieval.searcher import Searcher

# 5,183 abstracts are embedded where no cache has them: once, by one worker (`tests.conftest.ON_ONE_WORKER`)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
NAMES = ("full_text", "vector", "hybrid_rrf")
METRICS = {
    "ndcg@10": nDCG @ 10,
    "recall@10": R @ 10,
    "recall@100": R @ 100,
    "precision@10": P @ 10,
    "mrr@10": RR @ 10,
    "map@100": AP @ 100,
}


@pytest.fixture(scope="module")
def evalset():
    return load_evalset(shared("scifact"), settings=load_settings())


@pytest.fixture(scope="module")
def answers(evalset):
    """Answers of each arm by its name, and the hits behind them with their own scores."""
    return answers_of(evalset, load_settings(), "lance")


def answers_of(evalset, settings, store):
    test, embedder, found = evalset.split("test"), load_embedder("minilm", settings), {}
    searcher = Searcher(evalset.documents, evalset.inputs["corpus"], settings, {"minilm": embedder}, embedder)
    for name, arm in zip(NAMES, make_arms(["whole"], NAMES, stores=[store]), strict=True):
        searcher.prepare(arm)
        told = name if store == "lance" else f"{name} in {store}"
        hits = {q.query_id: searcher.search(arm, q, 100) for q in test.queries}
        found[name] = ask_arm(told, lambda query, hits=hits: hits[query.query_id], test.queries), hits
        if name == "hybrid_rrf" and store == "postgres":
            with searcher.found.shared():  # where both legs are searched, and fused here
                assert hits == {q.query_id: searcher.search(arm, q, 100) for q in test.queries}
    return found


@pytest.fixture(scope="module")
def scores(evalset, answers):
    test = evalset.split("test")
    return pl.concat([score_arm(a, test.queries, test.qrels, list(METRICS)) for a, _ in answers.values()])


def mean(scores, arm, metric="ndcg@10"):
    return scores.filter((pl.col("arm") == arm) & (pl.col("metric") == metric))["value"].mean()


def test_the_collection_is_the_one_that_was_published(evalset):
    test = evalset.split("test")
    judged = sum(len(grades) for grades in test.qrels.values())
    assert (len(evalset.documents), len(test.queries), judged) == (5183, 300, 339)


@pytest.mark.parametrize(("arm", "published"), [("full_text", 0.684), ("vector", 0.645)])
def test_each_leg_scores_what_is_known_of_it(scores, arm, published):
    assert mean(scores, arm) == pytest.approx(published, abs=0.01)


def test_hybrid_is_better_than_full_text_by_a_paired_interval(scores):
    assert mean(scores, "hybrid_rrf") >= 0.71
    ndcg = scores.filter(pl.col("metric") == "ndcg@10")
    (found,) = compare(ndcg, ["hybrid_rrf"], reference="full_text", margin=0.02, confidence=0.975)
    assert found.low > 0, "the two-sided 95 % interval must lie above 0"


def test_the_same_arms_in_postgresql(evalset, scores):
    """Vectors to the last hit; words by another stemmer and fused lists within a margin of 0.03, by their intervals."""
    test = evalset.split("test")
    settings = replace(load_settings(), store_url=pgvector_url())
    found = answers_of(evalset, settings, "postgres")
    theirs = [score_arm(answer, test.queries, test.qrels, ["ndcg@10"]) for answer, _ in found.values()]
    both = pl.concat([scores.filter(pl.col("metric") == "ndcg@10"), *theirs])
    assert mean(both, found["vector"][0].arm) == mean(both, "vector")
    for name in ("full_text", "hybrid_rrf"):
        (claim,) = compare(both, [found[name][0].arm], reference=name, margin=0.03, confidence=0.975)
        assert -0.03 < claim.low < claim.high < 0.03, name


@pytest.mark.parametrize("arm", NAMES)
def test_every_metric_equals_ir_measures(evalset, answers, arm):
    qrels, (answer, _) = evalset.split("test").qrels, answers[arm]
    ours = measure_all(answer.run, qrels, list(METRICS))
    ranked = {(q, d): -float(r) for q, d, r in answer.run.select("query_id", "doc_id", "rank").iter_rows()}
    for metric, values in _theirs(qrels, ranked).items():
        assert np.abs(ours[metric] - values).max() < 1e-9, metric


@pytest.mark.parametrize(("arm", "at_most"), [("full_text", 3), ("vector", 3), ("hybrid_rrf", 30)])
def test_ir_measures_own_order_of_ties_matters_for_fused_scores_alone(evalset, answers, arm, at_most):
    """Given scores in place of ranks it scores 15 of 300 hybrid queries otherwise, mean nDCG@10 +0.0037, no others."""
    qrels, (answer, hits) = evalset.split("test").qrels, answers[arm]
    ours = measure_all(answer.run, qrels, ["ndcg@10"])["ndcg@10"]
    theirs = _theirs(qrels, {(q, h.doc_id): h.score for q, found in hits.items() for h in found})["ndcg@10"]
    assert (np.abs(ours - theirs) > 1e-9).sum() <= at_most
    assert abs(ours.mean() - theirs.mean()) < 0.005


@pytest.mark.parametrize("arm", NAMES)
def test_an_arm_returns_its_hits_in_the_order_of_the_one_tie_rule(answers, arm):
    answer, hits = answers[arm]
    rows = [(q, h.doc_id, h.score) for q, found in hits.items() for h in found]
    frame = pl.DataFrame(rows, schema={"query_id": str, "doc_id": str, "score": float}, orient="row")
    columns = ["query_id", "doc_id", "rank"]
    assert rank_hits(frame).select(columns).equals(answer.run.select(columns))


def _theirs(qrels, scored):
    judgements = [ir_measures.Qrel(q, d, g) for q, grades in qrels.items() for d, g in grades.items()]
    run = [ir_measures.ScoredDoc(q, d, s) for (q, d), s in scored.items()]
    found = {(str(m.measure), m.query_id): m.value for m in ir_measures.iter_calc(METRICS.values(), judgements, run)}
    return {ours: np.array([found.get((str(m), q), 0.0) for q in qrels]) for ours, m in METRICS.items()}
