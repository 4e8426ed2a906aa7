import sys

import numpy as np
import pytest

from tests.retrieval.tables import EMBEDDER, natural_rows, open_store
from workbench.errors import ConfigError
from workbench.records import Hit
from workbench.retrieval.rerank import FEATURES, CrossEncoderRanker, LearnedRanker, fit_ranker, rerank_features
from workbench.retrieval.strategies import Hybrid, Question

# Counts how often the question's words stand in the text: what a cross-encoder would do better.
STAND_IN = """class CrossEncoder:
    def __init__(self, model):
        assert model in ("some/model", "saturated/model")
        self.saturated = model == "saturated/model"

    def predict(self, pairs):
        if self.saturated:  # the later, the better
            return [1 - (len(pairs) - 1 - i) * 2**-24 for i in range(len(pairs))]
        return [sum(text.split().count(word) for word in question.split()) for question, text in pairs]
"""


def cases(n=40, seed=0):
    """Questions whose relevant document is high on the text leg and anywhere on the vector leg."""
    rng = np.random.default_rng(seed)
    legs, qrels = {}, {}
    for q in range(n):
        documents = [f"lib.name{i}" for i in rng.permutation(20)]
        text = [Hit(d, float(20 - i)) for i, d in enumerate(documents[:12])]
        vector = [Hit(d, 1 - i / 50) for i, d in enumerate(rng.permutation(documents).tolist()[:12])]
        legs[f"q{q}"] = (Question("nothing in common"), text, vector)
        qrels[f"q{q}"] = {documents[int(rng.integers(0, 3))]: 1, documents[-1]: 0}
    return legs, qrels


def first_relevant(ranker, legs, qrels):
    """Mean rank of the first relevant document among the candidates of each question, by the ranker's weights."""
    ranks = []
    for query_id, (question, text, vector) in legs.items():
        names, rows = rerank_features(question, text, vector)
        order = np.argsort(-(rows @ np.array(ranker.weights)), kind="stable")
        relevant = [qrels[query_id].get(names[i], 0) > 0 for i in order]
        ranks.append(relevant.index(True) if True in relevant else len(relevant))
    return np.mean(ranks)


def test_features_are_scaled_within_the_question_and_named_in_order():
    text, vector = [Hit("pkg.read_csv", 9.0), Hit("pkg.b", 5.0)], [Hit("pkg.b", 0.8), Hit("pkg.c", 0.2)]
    names, rows = rerank_features(Question("how to read a csv file"), text, vector)
    assert names == ["pkg.b", "pkg.c", "pkg.read_csv"]
    table = {n: dict(zip(FEATURES, row, strict=True)) for n, row in zip(names, rows.tolist(), strict=True)}
    assert table["pkg.read_csv"] == {
        "text score": 1.0,
        "vector score": 0.0,
        "cosine": 0.2,
        "text rank": 1 / 11,
        "vector rank": 0.0,
        "in both": 0.0,
        "id overlap": 1.0,
        "id length": 2.0,
    }
    assert table["pkg.b"]["in both"] == 1.0
    assert table["pkg.b"]["cosine"] == 0.8


def test_no_candidates_make_no_rows():
    names, rows = rerank_features(Question("x"), [], [])
    assert (names, rows.shape) == ([], (0, len(FEATURES)))


def test_a_fitted_ranker_is_better_on_questions_it_has_not_seen():
    ranker = fit_ranker(*cases(), first=Hybrid())
    legs, qrels = cases(seed=1)
    flat = LearnedRanker((0.0,) * len(FEATURES))
    assert first_relevant(ranker, legs, qrels) < 2 < 5 < first_relevant(flat, legs, qrels)
    assert ranker.weights[FEATURES.index("text rank")] > abs(ranker.weights[FEATURES.index("vector rank")])


def test_the_order_of_questions_and_judgements_does_not_change_the_fit():
    legs, qrels = cases()
    one = fit_ranker(legs, qrels, first=Hybrid())
    other = fit_ranker(dict(reversed(legs.items())), dict(reversed(qrels.items())), first=Hybrid())
    assert np.allclose(one.weights, other.weights, atol=1e-4)


def test_without_a_relevant_candidate_there_is_nothing_to_fit():
    legs, qrels = cases(3)
    with pytest.raises(ConfigError, match="nothing to fit a ranker on"):
        fit_ranker(legs, {q: {"elsewhere": 1} for q in qrels}, first=Hybrid())


@pytest.fixture(scope="module")
def handle(tmp_path_factory):
    store = open_store(tmp_path_factory.mktemp("store"), natural_rows("a", 60))
    store.index()
    return store.for_tenant("a")


def question(text="w3 w5"):
    return Question(text, EMBEDDER.embed([text])[0])


def test_a_learned_ranker_orders_the_candidates_of_both_legs_by_its_weights(handle):
    """With weight on the cosine alone it must find what the vector leg finds, in that order."""
    weights = tuple(float(name == "cosine") for name in FEATURES)
    first = Hybrid(depth=60)
    hits = LearnedRanker(weights, first).search(handle, question(), 10)
    assert [h.doc_id for h in hits] == [h.doc_id for h in first.vector.search(handle, question(), 10)]
    assert set(LearnedRanker(weights, first).plan(handle, question())) == {"full_text", "vector", "fusion", "ranker"}


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """The package, as far as it is needed here; gone again afterwards."""
    (tmp_path / "sentence_transformers.py").write_text(STAND_IN, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("sentence_transformers", None)


@pytest.mark.usefixtures("stand_in")
def test_a_cross_encoder_orders_the_first_hits_by_its_own_score(handle):
    hits = CrossEncoderRanker("some/model", Hybrid(), depth=20).search(handle, question(), 10)
    texts = handle.documents([h.doc_id for h in hits])
    counts = [sum(texts[h.doc_id][0].split().count(w) for w in ("w3", "w5")) for h in hits]
    assert counts == sorted(counts, reverse=True) == [h.score for h in hits]
    candidates = {h.doc_id for h in Hybrid().search(handle, question(), 20)}
    assert {h.doc_id for h in hits} <= candidates


@pytest.mark.usefixtures("stand_in")
def test_saturated_scores_of_a_cross_encoder_still_order(handle):
    """A sigmoid in float32 close to 1: neighbours differ in the eighth decimal."""
    first = [h.doc_id for h in Hybrid().search(handle, question(), 20)]
    hits = CrossEncoderRanker("saturated/model", Hybrid(), depth=20).search(handle, question(), 20)
    assert [h.doc_id for h in hits] == first[::-1]
    assert hits[-1].score == 1 - 19 * 2**-24


def test_a_cross_encoder_without_its_package_says_what_to_install(handle, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)  # as where it is not installed
    with pytest.raises(ConfigError, match="reranker 'absent/model' needs: pip install sentence-transformers"):
        CrossEncoderRanker("absent/model").search(handle, question(), 5)
