"""Hybrid search in one statement of PostgreSQL ranks as two searches that are fused here, ties and all."""

import numpy as np
import pytest

from tests.retrieval.tables import natural_rows, open_store, row
from workbench.errors import StoreError
from workbench.records import Hit
from workbench.retrieval.indexing import Hnsw
from workbench.retrieval.reuse import FoundBefore
from workbench.retrieval.strategies import RRF, Hybrid, Question, Vector, Weighted
from workbench.retrieval.tenant import Equals, Fusion

FUSIONS = (RRF(), RRF(1), Weighted(), Weighted(0.3), Weighted(1.0))
IDS = ("a", "B", "Z", "é", "ß", "_", "10", "9", "a-b", "ab", "A", "日", "🙂", "b c")


def tied_rows(tenant, seed=0, n=120):
    """Chunks of few texts and few directions, so that nearly every score is shared by many; ids of all scripts."""
    rng = np.random.default_rng(seed)
    texts = ["join frames", "join", "frames frames", "sort", "join sort frames", "sort the the rows"]
    directions = rng.integers(-1, 2, (6, 16)).astype(np.float32)
    directions[:, 0] = 1
    return [
        row(
            tenant,
            f"{IDS[i % len(IDS)]}{i // 3 // len(IDS) or ''}",
            texts[rng.integers(len(texts))],
            directions[rng.integers(len(directions))],
            position=i // len(IDS) % 3,
            n_chunks=3,
        )
        for i in range(n)
    ]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    rows = tied_rows("tied") + tied_rows("few", 1, 5) + natural_rows("natural", 400)
    store = open_store(tmp_path_factory.mktemp("fused"), rows, kind="postgres")
    store.index()
    return store


def both_ways(store, tenant, hybrid, question, k):
    """Hits of one statement, and of two searches."""
    handle = store.for_tenant(tenant)
    assert handle.fused(question.vector, question.text, 1, hybrid.in_store(question)) is not None
    return hybrid.search(handle, question, k), hybrid.fusion.fuse(*hybrid.legs(handle, question))[:k]


@pytest.mark.parametrize("fusion", FUSIONS, ids=repr)
@pytest.mark.parametrize("tenant", ["tied", "few", "natural", "empty"])
def test_one_statement_ranks_and_scores_as_two_searches(store, tenant, fusion):
    rng, found = np.random.default_rng(3), 0
    for words in ("join frames", "sort rows", "w2 w7 w30 w100", "nothing like it", "the", "", "quote \" ' -sort"):
        for depth, fan_out, itself in ((3, 1, ""), (10, 1, "a"), (7, 3, "B"), (100, 1, "")):
            question = Question(words, rng.integers(-1, 2, 16) + 0.25, fan_out, itself)
            one, two = both_ways(store, tenant, Hybrid(fusion=fusion, depth=depth), question, 8)
            assert one == two, (words, depth, fan_out, itself)
            assert itself not in {hit.doc_id for hit in one}
            found += len(one)
    assert (found > 0) == (tenant != "empty")


def test_ties_do_reach_over_the_end_of_both_legs(store):
    """Else the test above would not see what a limit without them loses."""
    handle, question = store.for_tenant("tied"), Question("join frames", np.ones(16))
    for hits in (handle.full_text(question.text, 120), handle.vector(question.vector, 120, exact=True)):
        assert hits[9].score == hits[10].score


def test_filters_and_knobs_are_left_to_two_searches(store):
    handle, question = store.for_tenant("tied"), Question("join", np.ones(16))
    graph, ours = Vector(Hnsw()), type("Ours", (RRF,), {"fuse": lambda *_: [Hit("own rule", 1.0)]})()
    for hybrid in (Hybrid(where=Equals("doc_id", "a")), Hybrid(graph), Hybrid(Vector(ef=200)), Hybrid(fusion=ours)):
        assert hybrid.in_store(question) is None
    assert Hybrid(fusion=ours).search(handle, question, 5) == [Hit("own rule", 1.0)]
    narrowed = Hybrid(where=Equals("doc_id", "a"))
    assert {hit.doc_id for hit in narrowed.search(handle, question, 5)} == {"a"}
    with pytest.raises(StoreError, match="no knob 'nprobes'"):
        Hybrid(vector=Vector(nprobes=3)).search(handle, question, 5)


def test_searches_that_arms_share_are_made_one_by_one(store):
    found, fusion = FoundBefore(), Fusion(3, 3, rank_constant=60)
    handle = store.for_tenant("tied").remembering(found)
    assert len(handle.fused(np.ones(16), "join", 3, fusion) or []) == 3
    with found.shared():
        assert handle.fused(np.ones(16), "join", 3, fusion) is None


def test_lancedb_searches_both(tmp_path):
    store = open_store(tmp_path, natural_rows("a", 30))
    store.index()
    assert store.for_tenant("a").fused(np.ones(16), "w2", 3, Fusion(3, 3, rank_constant=60)) is None
    assert len(Hybrid().search(store.for_tenant("a"), Question("w2", np.ones(16)), 3)) == 3


def test_one_statement_refuses_what_two_searches_refuse(tmp_path):
    store = open_store(tmp_path, natural_rows("a", 3), kind="postgres")
    for vector, said in ((np.zeros(16), "finite, non-zero"), (np.ones(3), "vector of 16"), (np.ones(16), "its index")):
        with pytest.raises(StoreError, match=said):
            Hybrid().search(store.for_tenant("a"), Question("w2", vector), 3)
