import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.retrieval.tables import EMBEDDER, natural_rows, open_store, row
from workbench.inference.prices import load_prices
from workbench.records import Hit
from workbench.retrieval.arms import make_arm
from workbench.retrieval.filters import Equals
from workbench.retrieval.strategies import RRF, FullText, Hybrid, Question, Vector, Weighted, best_chunks, ordered_hits

# Ties, negative cosines and BM25 scores far from 1 all occur.
SCORES = st.sampled_from([-0.5, 0.0, 0.1, 0.1, 0.25, 0.5, 0.9, 1.0, 3.0, 17.5])


@st.composite
def legs(draw):
    """Two lists of hits over the same few documents, each in the order of its scores."""
    documents = [f"d{i}" for i in range(8)]
    made = []
    for _ in range(2):
        found = draw(st.lists(st.sampled_from(documents), unique=True))
        made.append(ordered_hits(Hit(d, draw(SCORES)) for d in found))
    return made


def as_scores(hits):
    return {h.doc_id: pytest.approx(h.score, abs=1e-12) for h in hits}


@given(legs(), st.integers(1, 100))
def test_rrf_is_the_sum_of_reciprocal_ranks(lists, k):
    expected = {}
    for hits in lists:
        ranks = {h.doc_id: i + 1 for i, h in enumerate(hits)}
        for doc_id, place in ranks.items():
            expected[doc_id] = expected.get(doc_id, 0) + (k + place) ** -1
    assert as_scores(RRF(k).fuse(*lists)) == expected


@given(legs(), st.floats(0, 1))
def test_weighted_fusion_is_the_weighted_sum_of_min_max_scores(lists, weight):
    def scale(hits, doc_id):
        scores = np.array([h.score for h in hits])
        mine = [h.score for h in hits if h.doc_id == doc_id]
        if not mine:
            return 0.0
        return 1.0 if np.ptp(scores) == 0 else (mine[0] - scores.min()) / np.ptp(scores)

    documents = {h.doc_id for hits in lists for h in hits}
    expected = {d: (1 - weight) * scale(lists[0], d) + weight * scale(lists[1], d) for d in documents}
    assert as_scores(Weighted(weight).fuse(*lists)) == expected


@pytest.mark.parametrize("words", [(3.1,), (300.0,), (3.1, 3.1), (3.1, 2.9)])
def test_the_best_of_a_leg_weighs_as_much_as_its_leg_however_few_it_found(words):
    """haystack-ai 3.4.1 lets a lone hit, and hits of equal scores, into the fused list with their raw scores."""
    text = [Hit(f"w{i}", score) for i, score in enumerate(words)]
    vector = [Hit(f"v{i}", score) for i, score in enumerate((0.92, 0.81, 0.74))]
    fused = Weighted(0.6).fuse(text, vector)
    assert fused[0].doc_id == "v0"
    assert {h.doc_id: h.score for h in fused}["w0"] == pytest.approx(0.4)


@given(legs(), st.randoms(use_true_random=False))
def test_fusion_does_not_depend_on_the_order_in_which_it_is_given_things(lists, random):
    """Neither on which leg comes first nor, where scores count, on the order within a leg."""
    text, vector = lists
    assert RRF().fuse(text, vector) == RRF().fuse(vector, text)
    one, other = Weighted(0.25).fuse(text, vector), Weighted(0.75).fuse(vector, text)
    assert [h.doc_id for h in one] == [h.doc_id for h in other]
    shuffled = [random.sample(hits, len(hits)) for hits in lists]
    assert Weighted(0.25).fuse(*shuffled) == one


@given(legs())
def test_a_fused_list_names_every_document_once_by_the_tie_rule(lists):
    for fusion in (RRF(), Weighted(0.5)):
        hits = fusion.fuse(*lists)
        assert sorted(h.doc_id for h in hits) == sorted({h.doc_id for leg in lists for h in leg})
        keys = [(-h.score, h.doc_id) for h in hits]
        assert keys == sorted(keys)


@given(legs())
def test_a_weight_of_zero_or_one_keeps_the_order_of_that_leg(lists):
    for weight, leg in ((0.0, lists[0]), (1.0, lists[1])):
        fused = [h.doc_id for h in Weighted(weight).fuse(*lists) if h.score > 0]
        spread = leg and leg[0].score - leg[-1].score
        scored = [h.doc_id for h in leg if not spread or h.score > leg[-1].score]
        assert fused == scored


@pytest.mark.parametrize(("high", "low"), [(1 + 1e-8, 1.0), (0.99999992, 0.99999981), (4e-7, 3e-7), (-1e-9, -2e-9)])
def test_scores_count_as_given_and_ids_where_they_are_equal(high, low):
    assert [h.doc_id for h in ordered_hits([Hit("a", low), Hit("z", high)])] == ["z", "a"]
    assert [h.doc_id for h in ordered_hits([Hit("z", high), Hit("a", high)])] == ["a", "z"]


def test_fusion_keeps_a_difference_far_behind_the_point():
    """Scores of one leg far below its best: scaled they differ in the eighth decimal."""
    leg = [Hit("top", 1.0), Hit("z", 3e-8), Hit("a", 2e-8), Hit("low", 0.0)]
    assert [h.doc_id for h in Weighted(1.0).fuse([], leg)] == ["top", "z", "a", "low"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """80 documents of natural lengths, and one of three chunks that all fit the same words."""
    long = [row("a", "long", "needle w3 w5", position=i, n_chunks=3) for i in range(3)]
    store = open_store(tmp_path_factory.mktemp("store"), [*natural_rows("a", 80), *long])
    store.index()
    return store


@pytest.fixture(scope="module")
def handle(store):
    return store.for_tenant("a")


def question(text="w3 w5 w8", fan_out=1):
    return Question(text, EMBEDDER.embed([text])[0], fan_out)


def test_chunks_of_one_document_are_one_hit_with_the_best_score(handle):
    hits = FullText().search(handle, question("needle", fan_out=3), 10)
    assert [h.doc_id for h in hits] == ["long"]
    chunks = handle.full_text("w3 w5", 40)
    best = {c.doc_id: max(x.score for x in chunks if x.doc_id == c.doc_id) for c in chunks}
    assert {h.doc_id: h.score for h in best_chunks(chunks)} == best


def test_fan_out_makes_room_for_documents_behind_the_chunks_of_one(handle):
    narrow = Vector().search(handle, question("needle w3 w5"), 3)
    wide = Vector().search(handle, question("needle w3 w5", fan_out=3), 3)
    assert (len(narrow), len(wide)) == (1, 3)


def test_hybrid_fuses_exactly_what_its_legs_return(handle):
    strategy = Hybrid(depth=30)
    asked = question()
    text = FullText().search(handle, asked, 30)
    vector = Vector().search(handle, asked, 30)
    assert strategy.search(handle, asked, 10) == RRF().fuse(text, vector)[:10]


def test_depth_decides_what_fusion_sees(handle):
    asked = question()
    assert Hybrid(depth=5).search(handle, asked, 40) != Hybrid(depth=80).search(handle, asked, 40)
    assert len(Hybrid(depth=5).search(handle, asked, 40)) <= 10


@pytest.mark.parametrize("make", [FullText, Vector, Hybrid])
def test_a_filter_holds_in_every_leg(store, make):
    store.upsert([row("b", f"{kind}{i}", "w3 w5", document_type=kind) for kind in ("class", "method") for i in (0, 1)])
    hits = make(where=Equals("document_type", "class")).search(store.for_tenant("b"), question(), 10)
    assert {h.doc_id for h in hits} == {"class0", "class1"}


def test_a_vector_search_without_a_vector_is_refused(handle):
    for strategy in (Vector(), Hybrid()):
        with pytest.raises(ValueError, match="embed the question first"):
            strategy.search(handle, Question("w3"), 5)


def test_plans_name_every_leg_and_the_fusion(handle):
    assert set(FullText().plan(handle, question())) == {"full_text"}
    assert set(Vector().plan(handle, question())) == {"vector"}
    plan = Hybrid(fusion=Weighted(0.3)).plan(handle, question())
    assert set(plan) == {"full_text", "vector", "fusion"}
    assert plan["fusion"] == "Weighted(weight=0.3)"


def test_a_hybrid_costs_both_legs_and_more_rows_cost_more():
    prices = load_prices()
    arms = [make_arm("whole", "any", s, embedder="minilm") for s in (FullText(), Vector(), Hybrid())]
    text, vector, hybrid = (prices.cost_usd(arm.work(5000)) for arm in arms)
    assert math.isclose(hybrid, text + vector + prices.cost_usd(Hybrid().work(0)[-1:]))
    assert prices.cost_usd(arms[-1].work(50_000)) > hybrid
