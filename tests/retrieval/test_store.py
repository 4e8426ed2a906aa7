from dataclasses import replace
from datetime import date

import numpy as np
import pytest

from tests.retrieval.stores import KINDS
from tests.retrieval.tables import EMBEDDER, natural_rows, open_store, random_rows, row
from workbench.errors import StoreError, TenantError
from workbench.retrieval.filters import Between, Equals, OneOf
from workbench.retrieval.index_kinds import Exact, FullTextIndex, HnswSq, IvfPq
from workbench.retrieval.lance import POINTS_AT_ONCE
from workbench.retrieval.store import open_table
from workbench.retrieval.tenant import ChunkHit, bm25_of, cosine_of


@pytest.fixture(scope="module", params=KINDS)
def filled(request, tmp_path_factory):
    rows = random_rows("a", 600) + random_rows("b", 300, seed=1)
    store = open_store(tmp_path_factory.mktemp("store"), rows, kind=request.param)
    store.index()
    return store


@pytest.fixture(params=KINDS)
def opened(request, tmp_path):
    """Open the test's own table, in a store of each kind, with these rows added."""
    return lambda rows=(): open_store(tmp_path, rows, kind=request.param)


def unit(seed: int) -> np.ndarray:
    vector = np.random.default_rng(seed).standard_normal(EMBEDDER.dimension)
    return vector / np.linalg.norm(vector)


def test_vector_hits_are_the_nearest_by_cosine(filled):
    rows = random_rows("a", 600)
    query = unit(7)
    cosines = np.array([r.vector for r in rows]) @ query
    best = np.argsort(-cosines)[:10]
    hits = filled.for_tenant("a").vector(query, 10)
    assert [h.doc_id for h in hits] == [rows[i].doc_id for i in best]
    assert [h.score for h in hits] == pytest.approx(cosines[best], abs=2e-6)


def test_vector_need_not_be_normalised(filled):
    handle = filled.for_tenant("a")
    assert [h.doc_id for h in handle.vector(unit(3) * 7, 5)] == [h.doc_id for h in handle.vector(unit(3), 5)]


def test_hits_stand_in_order_of_score(filled):
    handle = filled.for_tenant("a")
    for hits in (handle.vector(unit(1), 50), handle.full_text("join merge common", 50)):
        assert len(hits) == 50
        assert hits == sorted(hits, key=lambda h: (-h.score, h.doc_id, h.position))


@pytest.mark.parametrize("where", [None, OneOf("document_type", ("class",))])
@pytest.mark.parametrize("exact", [True, False])
def test_many_vectors_find_what_each_finds_alone(filled, exact, where):
    points = [unit(seed) for seed in range(POINTS_AT_ONCE + 1)]
    for tenant in ("a", "b", "nobody"):
        handle = filled.for_tenant(tenant)
        alone = [handle.vector(point, 400, where=where, exact=exact) for point in points]
        assert handle.vectors(points, 400, where=where, exact=exact) == alone
        assert handle.vectors(points[:1], 5) == [handle.vector(points[0], 5)]
    assert handle.vectors([], 5) == []


@pytest.mark.parametrize(
    ("index", "knobs"),
    [(IvfPq(partitions=4, sub_vectors=4), {"nprobes": 2, "refine_factor": 3}), (HnswSq(), {"ef": 40})],
)
def test_many_vectors_walk_an_index_as_each_does_alone_and_a_small_tenant_is_not_starved(tmp_path, index, knobs):
    store = open_store(tmp_path, random_rows("a", 1500) + random_rows("b", 4, seed=1))
    store.index(index)
    points = [unit(seed) for seed in range(30)]
    for tenant, k in (("a", 20), ("b", 10)):
        handle = store.for_tenant(tenant)
        found = handle.vectors(points, k, **knobs)
        assert found == [handle.vector(point, k, **knobs) for point in points]
        assert {len(hits) for hits in found} == {20 if tenant == "a" else 4}
    assert handle.vectors(points, 2, **knobs) == [handle.vector(point, 2, **knobs) for point in points]


def test_ties_go_by_document_then_position_even_at_the_cut(opened):
    names = [f"d{i:02d}" for i in range(30)]
    order = np.random.default_rng(0).permutation(names)
    rows = [row("a", name, "same words here", position=p, n_chunks=2) for name in order for p in (1, 0)]
    store = opened(rows)
    store.index()
    expected = [(name, p) for name in names for p in (0, 1)][:7]
    handle = store.for_tenant("a")
    for hits in (
        handle.vector(rows[0].vector, 7),
        handle.full_text("words", 7),
        *handle.vectors([rows[0].vector] * 2, 7),
    ):
        assert [(h.doc_id, h.position) for h in hits] == expected


def test_filters_narrow_before_neighbours_are_counted(filled):
    where = Equals("document_type", "class") & Between("date", date(2024, 7, 1), None)
    kept = {r.doc_id for r in random_rows("a", 600) if r.document_type == "class" and r.date >= date(2024, 7, 1)}
    handle = filled.for_tenant("a")
    for hits in (handle.vector(unit(2), 600, where=where), handle.full_text("common", 600, where=where)):
        assert {h.doc_id for h in hits} == kept


def test_filter_by_document(filled):
    hits = filled.for_tenant("a").vector(unit(2), 10, where=OneOf("doc_id", ["doc5", "doc7", "nope"]))
    assert {h.doc_id for h in hits} == {"doc5", "doc7"}


def test_string_is_no_filter(filled):
    with pytest.raises(StoreError, match="where takes Equals"):
        filled.for_tenant("a").vector(unit(0), 3, where="1 = 1")


@pytest.mark.parametrize("words", ["", "   ", "the of and", "!?", "zzzunknown"])
def test_words_that_mean_nothing_find_nothing(filled, words):
    assert filled.for_tenant("a").full_text(words, 5) == []


def test_quotes_and_operators_are_only_words(filled):
    handle = filled.for_tenant("a")
    assert handle.full_text('"join merge" AND -sort (', 5) == handle.full_text("join merge and sort", 5)


def test_stemming_is_a_choice_of_the_index(tmp_path):
    store = open_store(tmp_path, [row("a", "d", "joining frames")])
    found = {}
    for stem in (True, False):
        store.index(full_text=FullTextIndex(stem=stem))
        found[stem] = len(store.for_tenant("a").full_text("joined", 5))
    assert found == {True: 1, False: 0}


def test_full_text_without_an_index_is_an_error(opened):
    handle = opened([row("a", "d", "text")]).for_tenant("a")
    with pytest.raises(StoreError, match=r"call Store\.index\(\) first"):
        handle.full_text("text", 3)


def test_documents_are_the_tenants_own(opened):
    mine = [row("a", "d", f"part {p}", position=p, n_chunks=3) for p in (2, 0, 1)]
    theirs = row("b", "d", "secret")
    handle = opened([*mine, theirs]).for_tenant("a")
    assert handle.documents(["d", "x"]) == {"d": ("part 0", "part 1", "part 2")}
    assert handle.documents([]) == {}
    assert handle.count() == 3


def test_chunk_keys_differ_by_tenant_document_and_position():
    rows = [row(t, d, "text", position=p) for t in ("a", "b") for d in ("a", "d") for p in (0, 1)]
    assert len({r.chunk_id for r in rows}) == len(rows)


def test_store_itself_cannot_be_searched(filled):
    public = {name for name in dir(filled) if not name.startswith("_")}
    writing = {"open", "upsert", "delete_documents", "delete_stale", "index", "optimize", "describe"}
    assert public == writing | {"dimension", "for_tenant"}


@pytest.mark.parametrize("tenant", ["", "  ", None, 3, b"a", "\ud800"])
def test_no_tenant_no_handle(filled, tenant):
    with pytest.raises(TenantError):
        filled.for_tenant(tenant)


@pytest.mark.parametrize(
    ("vector", "knobs"),
    [
        (np.zeros(16), {}),
        (np.full(16, np.nan), {}),
        (np.ones(15), {}),
        (np.ones((1, 16)), {}),
        (np.ones(16), {"nprobes": 0}),
        (np.ones(16), {"refine_factor": -1}),
        (np.ones(16), {"ef": 4}),
    ],
)
def test_search_that_means_nothing_is_an_error(filled, vector, knobs):
    handle = filled.for_tenant("a")
    with pytest.raises(StoreError):
        handle.vector(vector, 5, **knobs)
    with pytest.raises(StoreError):
        handle.vectors([vector], 5, **knobs)


def test_writing_a_row_again_replaces_it(opened):
    store = opened([row("a", "d", "old words")])
    store.upsert([row("a", "d", "new words")])
    assert store.for_tenant("a").documents(["d"]) == {"d": ("new words",)}


def test_equal_document_ids_of_two_tenants_do_not_meet(opened):
    store = opened([row("a", "readme", "mine")])
    store.upsert([row("b", "readme", "theirs")])
    store.delete_documents("b", ["readme"])
    assert store.for_tenant("a").documents(["readme"]) == {"readme": ("mine",)}
    assert store.for_tenant("b").count() == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"vector": np.ones(15, np.float32)}, "vectors of 16"),
        ({"vector": np.zeros(16, np.float32)}, "zero or not finite"),
        ({"vector": np.full(16, np.inf, np.float32)}, "zero or not finite"),
        ({"text": None}, "'text' (with null values|of document .* no text)"),
        ({"position": 2**40}, "turn rows into columns"),
        ({"tenant_id": ""}, "a tenant is a non-empty string"),
    ],
)
def test_row_that_does_not_fit_writes_nothing(opened, change, said):
    store = opened()
    good = row("a", "d", "text")
    with pytest.raises((StoreError, TenantError), match=said):
        store.upsert([good, replace(row("a", "e", "text"), **change)])
    assert store.describe().rows == 0


def test_row_given_twice_is_an_error(opened):
    with pytest.raises(StoreError, match="twice"):
        opened([row("a", "d", "x"), row("a", "d", "y")])


def test_what_an_earlier_text_left_goes(opened):
    old = [row("a", d, f"{d} {p}", position=p, n_chunks=3, content_hash=f"{d}1") for d in "de" for p in range(3)]
    store = opened([*old, *(replace(r, tenant_id="b") for r in old)])
    store.upsert([row("a", "d", "short", content_hash="d2")])
    assert store.for_tenant("a").document_hashes() == {"d": None, "e": "e1"}
    assert store.delete_stale("a", {"d": "d2", "e": "e1"}) == 2
    assert store.for_tenant("a").document_hashes() == {"d": "d2", "e": "e1"}
    assert store.for_tenant("b").document_hashes() == {"d": "d1", "e": "e1"}


def test_document_that_lacks_a_chunk_is_not_whole(opened):
    store = opened([row("a", "d", "x", position=p, n_chunks=3) for p in (0, 2)])
    assert store.for_tenant("a").document_hashes() == {"d": None}


def test_another_vector_index_takes_the_place_of_the_first(tmp_path):
    store = open_store(tmp_path, random_rows("a", 400))
    kinds = []
    for vector in (IvfPq(partitions=4, sub_vectors=4), HnswSq(), IvfPq(partitions=2, sub_vectors=4), Exact()):
        store.index(vector)
        kinds.append([i.kind for i in store.describe().indices if i.columns == ("vector",)])
    assert kinds == [["IvfPq"], ["IvfHnswSq"], ["IvfPq"], []]


def test_plan_shows_which_index_and_knobs_are_in_effect(tmp_path):
    store = open_store(tmp_path, random_rows("a", 400))
    store.index(IvfPq(partitions=4, sub_vectors=4))
    handle, query = store.for_tenant("a"), unit(1)
    plan = handle.plan(vector=query, words="join", nprobes=3, refine_factor=5, k=10)
    assert "minimum_nprobes=3, maximum_nprobes=None" in plan["vector"]
    assert "k=50" in plan["vector"]
    assert "MatchQuery: column=text" in plan["full_text"]
    assert "ANNSubIndex" not in handle.plan(vector=query, exact=True)["vector"]


def test_knobs_of_an_index_change_what_is_found(tmp_path):
    store = open_store(tmp_path, random_rows("a", 2000))
    handle, query = store.for_tenant("a"), unit(1)
    truth = handle.vector(query, 20)
    store.index(IvfPq(partitions=8, sub_vectors=4))
    coarse, fine = handle.vector(query, 20, nprobes=8), handle.vector(query, 20, nprobes=8, refine_factor=20)
    assert handle.vector(query, 20, exact=True) == truth == fine
    assert len({h.doc_id for h in coarse} & {h.doc_id for h in truth}) < 20
    assert all(-1 <= h.score <= 1 for h in coarse)


def test_narrow_search_of_a_graph_is_allowed_down_to_k(tmp_path):
    store = open_store(tmp_path, random_rows("a", 500))
    store.index(HnswSq())
    assert len(store.for_tenant("a").vector(unit(1), 10, ef=10, refine_factor=3)) == 10


def test_too_few_rows_for_the_index_is_said(tmp_path):
    store = open_store(tmp_path, random_rows("a", 100))
    with pytest.raises(StoreError, match="learns 256 codes from the vectors, and the table has 100"):
        store.index(IvfPq())


def test_empty_table_cannot_be_indexed(opened):
    with pytest.raises(StoreError, match="ingest documents first"):
        opened().index()


def test_describe_counts_rows_that_no_index_has_yet(tmp_path):
    store = open_store(tmp_path, random_rows("a", 300))
    store.index(HnswSq())
    store.upsert(random_rows("b", 40))
    state = store.describe()
    assert state.rows == 340
    assert {(i.name, i.rows, i.rows_unindexed) for i in state.indices} == {
        (name, 300, 40) for name in ("tenant_id_btree", "document_type_bitmap", "date_btree", "text_fts", "vector_ann")
    }
    assert len(store.for_tenant("b").full_text("common", 100)) == 40
    store.optimize()
    assert all(i.rows_unindexed == 0 for i in store.describe().indices)
    assert len(store.for_tenant("b").full_text("common", 100)) == 40


def test_handle_sees_what_another_connection_wrote(tmp_path):
    reader = open_store(tmp_path).for_tenant("a")
    open_store(tmp_path, [row("a", "d", "text")])
    assert reader.count() == 1


def test_table_of_another_dimension_is_refused(tmp_path):
    open_store(tmp_path)
    with pytest.raises(StoreError, match="asked for with vectors of 8 and has vectors of 16"):
        open_table(tmp_path, "chunks", dimension=8)


def test_table_of_another_shape_is_refused(tmp_path):
    import lancedb
    import pyarrow as pa

    lancedb.connect(str(tmp_path)).create_table("chunks", pa.table({"x": [1]}))
    with pytest.raises(StoreError, match="columns x"):
        open_store(tmp_path)


def test_name_that_cannot_be_a_table_is_refused(tmp_path):
    with pytest.raises(StoreError, match="Invalid table name"):
        open_table(tmp_path, "../up", dimension=4)


def test_store_in_memory_works(tmp_path):
    handle = open_store("memory://", [row("a", "d", "text")]).for_tenant("a")
    assert handle.vector(EMBEDDER.embed(["text"])[0], 2) == [ChunkHit(row("a", "d", "text").chunk_id, "d", 0, 1.0)]


def fuse(legs: list[list[ChunkHit]], k: int) -> dict[str, float]:
    scores: dict[str, float] = {}
    for leg in legs:
        for rank, hit in enumerate(leg, 1):
            scores[hit.chunk_id] = scores.get(hit.chunk_id, 0) + 1 / (60 + rank)
    return dict(sorted(scores.items(), key=lambda item: -item[1])[:k])


def test_fusing_both_legs_equals_the_hybrid_search_of_lancedb(tmp_path):
    from lancedb.expr import col, lit
    from lancedb.rerankers import RRFReranker

    store = open_store(tmp_path, natural_rows("a", 400) + natural_rows("b", 400, seed=1))
    store.index()
    handle = store.for_tenant("a")
    for seed, words in enumerate(["w7 w30 w4 w9", "w11 w12 w3 w8", "w21 w5 w2 w6 w10"]):
        legs = [handle.vector(unit(9010 + seed), 100), handle.full_text(words, 100)]
        assert [len({h.score for h in leg}) for leg in legs] == [100, 100], "LanceDB leaves ties in any order"
        search = store._table.search(query_type="hybrid").vector(unit(9010 + seed)).text(words)
        search = search.distance_type("cosine").where(col("tenant_id") == lit("a"))
        theirs = search.rerank(RRFReranker(K=60)).limit(100).to_arrow().slice(0, 10)
        ours = fuse(legs, 10)
        assert list(ours.values()) == pytest.approx(theirs["_relevance_score"].to_pylist(), abs=1e-7)
        assert set(ours) == set(theirs["chunk_id"].to_pylist())


@pytest.mark.parametrize("size", [3e-5, 0.2, 7.0, 12.5, 130.0, 5000.0])
def test_bm25_keeps_what_float32_carries_whatever_its_size(size):
    """The last bit is noise and ties; a difference of a few in a million counts, between small scores too."""
    below = float(np.nextafter(np.float32(size), np.float32(0)))
    assert bm25_of(below) == bm25_of(float(np.float32(size))) == pytest.approx(size, rel=1e-6)
    assert bm25_of(size * (1 - 5e-6)) < bm25_of(size)


def test_the_noise_of_a_cosine_does_not_order_documents():
    """A float32 distance is off by about 1e-7, however little is left of it after 1 - distance."""
    assert [cosine_of(d) for d in (0.99999994, 1.0, 1.0000001)] == [0.0, 0.0, 0.0]
    assert [cosine_of(d) for d in (0.89999998, 0.9, 0.899997)] == [0.1, 0.1, 0.100003]
    assert [cosine_of(d) for d in (-2e-5, 2.00003)] == [1.0, -1.0]
    assert str(cosine_of(1.0000001)) == "0.0"


def test_scores_leave_the_store_rounded(filled):
    handle = filled.for_tenant("a")
    text, vector = handle.full_text("join merge", 50), handle.vector(unit(1), 50)
    assert [float(f"{h.score:.7g}") for h in text] == [h.score for h in text]
    assert [round(h.score, 6) for h in vector] == [h.score for h in vector]
