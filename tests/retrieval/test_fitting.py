"""Fitted arms learn on dev alone, and on dev they are scored without the fold of the question asked."""

from dataclasses import replace

import numpy as np
import pytest

from tests.retrieval.tiny import open_bench
from workbench.records import Hit
from workbench.retrieval.fitting import FOLDS, FittedArm, fit_arms, fit_weight
from workbench.retrieval.lance import LanceRows
from workbench.retrieval.metrics import measure, rank, with_grades
from workbench.retrieval.rerank import LearnedRanker
from workbench.retrieval.strategies import Hybrid, Question, Weighted

NAMES = ["hybrid_weighted", "reranked"]


class Watched:
    """A searcher that remembers which questions it was asked."""

    def __init__(self, inner):
        self.inner, self.asked = inner, set()

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def question(self, arm, query):
        self.asked.add(query.query_id)
        return self.inner.question(arm, query)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return open_bench(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def dev(bench):
    return bench.evalset.split("dev")


@pytest.fixture(scope="module")
def fitted(bench, dev):
    searcher = Watched(bench.searcher)
    arms, unfit = fit_arms(searcher, ["whole"], NAMES, dev, embedder="minilm")
    assert unfit == {}
    return dict(zip(NAMES, arms, strict=True)), searcher.asked


def test_what_a_fit_found_is_not_searched_for_again_on_dev(tmp_path, monkeypatch):
    bench, made = open_bench(tmp_path, strategies=["hybrid_rrf", "hybrid_weighted"]), []
    for name in ("nearest", "matching"):
        search = getattr(LanceRows, name)
        monkeypatch.setattr(
            LanceRows,
            name,
            lambda self, *given, search=search, **knobs: made.append(1) or search(self, *given, **knobs),
        )
    arms = bench.prepare()
    assert len(made) >= 2 * len(bench.evalset.split("dev").queries)
    made.clear()
    dev = bench.score(arms, "dev")
    assert made == []
    assert all(len(answers.latency_ms) == len(dev.part.queries) for answers in dev.answers.values())
    assert min(min(answers.latency_ms.values()) for answers in dev.answers.values()) > 0


def test_fitting_never_sees_a_test_question(bench, dev, fitted):
    _, asked = fitted
    assert asked == {q.query_id for q in dev.queries}
    assert not asked & {q.query_id for q in bench.evalset.split("test").queries}


def test_each_dev_family_has_a_strategy_that_was_fitted_without_it(bench, dev, fitted):
    """Wrong judgements of one family move the strategies of every other one, and not its own."""
    arms, _ = fitted
    family = dev.queries[0].cluster
    mine = {q.query_id for q in dev.queries if q.cluster == family}
    spoiled = {q: {d: 2 - g for d, g in grades.items()} if q in mine else grades for q, grades in dev.qrels.items()}
    ((again,), _) = fit_arms(bench.searcher, ["whole"], ["reranked"], replace(dev, qrels=spoiled), embedder="minilm")
    before, after = arms["reranked"].held_out, again.held_out
    assert set(before) == {q.cluster for q in dev.queries}
    same = {cluster for cluster in before if before[cluster] == after[cluster]}
    assert family in same
    assert len(same) <= -(-len(before) // FOLDS), "only the clusters of its own fold do not notice"
    assert again.arm != arms["reranked"].arm


def test_on_dev_the_held_out_strategy_is_asked_and_elsewhere_the_fitted_one(bench, dev, fitted):
    arms, _ = fitted
    backwards = {c: LearnedRanker((-1.0, *[0.0] * 7)) for c in arms["reranked"].held_out}
    candidate = FittedArm(arms["reranked"].arm, backwards)
    on_dev = bench.score([candidate], "dev").answers["whole · reranked"].run
    query = dev.queries[0]
    held_out = replace(candidate.arm, strategy=backwards[query.cluster])
    expected = [h.doc_id for h in bench.searcher.search(held_out, query, 5)]
    assert on_dev.filter(query_id=query.query_id, rank=1)["doc_id"].to_list() == expected[:1]
    on_test = bench.score([candidate], "test")
    asked = on_test.part.queries[0]
    hits = bench.searcher.search(candidate.arm, asked, 5)
    assert on_test.answers["whole · reranked"].run.filter(query_id=asked.query_id)["doc_id"][0] == hits[0].doc_id


def test_what_was_fitted_is_part_of_the_print_of_the_arm(fitted):
    arms, _ = fitted
    assert "Weighted(weight=" in repr(arms["hybrid_weighted"].arm) or "Weighted()" in repr(arms["hybrid_weighted"].arm)
    assert "LearnedRanker((" in repr(arms["reranked"].arm)


def test_the_fitted_weight_has_the_best_mean_ndcg_of_all_weights():
    rng = np.random.default_rng(0)
    legs, qrels = {}, {}
    for q in range(20):
        documents = [f"d{i:02d}" for i in range(15)]
        leg = [[Hit(d, float(s)) for d, s in zip(documents, rng.normal(size=15), strict=True)] for _ in range(2)]
        legs[f"q{q:02d}"] = (Question("x"), *leg)
        qrels[f"q{q:02d}"] = {d: int(g) for d, g in zip(documents, rng.integers(0, 3, 15), strict=True)} | {"d00": 2}

    def ndcg(weight):
        import polars as pl

        rows = [(q, h.doc_id, h.score) for q, (_, t, v) in legs.items() for h in Weighted(weight).fuse(t, v)]
        frame = pl.DataFrame(rows, schema={"query_id": str, "doc_id": str, "score": float}, orient="row")
        return measure(with_grades(rank(frame), qrels), "ndcg@10").mean()

    found = fit_weight(legs, qrels)
    assert isinstance(found, Hybrid)
    assert ndcg(found.fusion.weight) == pytest.approx(max(ndcg(round(0.05 * i, 2)) for i in range(21)))


def test_weights_are_compared_in_the_order_of_the_fused_list():
    """Right documents lead by the eighth decimal on the vector leg alone: only its whole weight puts them first."""
    vector = [Hit("z", 1.0), Hit("a", 1 - 1e-8), Hit("low", 0.0)]
    text = [Hit("a", 1.0), Hit("z", 1 - 1e-12), Hit("low", 0.0)]
    found = fit_weight({"q": (Question("x"), text, vector)}, {"q": {"z": 1}})
    assert found.fusion.fuse(text, vector)[0].doc_id == "z"


def test_few_families_are_enough_and_one_is_told(bench, dev):
    families = sorted({q.cluster for q in dev.queries})
    for count in (2, 3):
        few = replace(dev, queries=tuple(q for q in dev.queries if q.cluster in families[:count]))
        ((arm,), _) = fit_arms(bench.searcher, ["whole"], ["hybrid_weighted"], few, embedder="minilm")
        assert set(arm.held_out) == set(families[:count])
    one = replace(dev, queries=tuple(q for q in dev.queries if q.cluster == families[0]))
    arms, unfit = fit_arms(bench.searcher, ["whole"], ["hybrid_weighted"], one, embedder="minilm")
    assert arms == []
    why = "fitting 'hybrid_weighted' needs at least two question families on dev, found 1"
    assert unfit == {"whole · hybrid_weighted": why}


def test_a_ranker_that_no_question_teaches_is_named_and_the_others_are_fitted(bench, dev):
    """Where everything that is found is relevant there is nothing to tell it from."""
    found = {d.doc_id: 1 for d in bench.searcher.documents}
    all_right = replace(dev, qrels={q.query_id: found for q in dev.queries})
    arms, unfit = fit_arms(bench.searcher, ["whole"], NAMES, all_right, embedder="minilm")
    assert [a.arm.name for a in arms] == ["whole · hybrid_weighted"]
    assert list(unfit) == ["whole · reranked"]
    assert "nothing to fit a ranker on" in unfit["whole · reranked"]


def test_nothing_to_fit_asks_nothing(bench, dev):
    searcher = Watched(bench.searcher)
    assert fit_arms(searcher, ["whole"], [], dev, embedder="minilm") == ([], {})
    assert searcher.asked == set()
