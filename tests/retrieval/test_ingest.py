import weakref
from dataclasses import replace

import pytest

from tests.retrieval.stores import KINDS, open_kind
from workbench.errors import StoreError, TenantError
from workbench.records import Document
from workbench.retrieval.chunking import ByStructure, FixedTokens, WholeDocument
from workbench.retrieval.filters import Equals
from workbench.retrieval.ingest import IngestMemo, IngestReport, IngestVectorCache, ingest
from workbench.retrieval.store import ChunkRow
from workbench.testing import HashEmbedder, WordTokenizer

EMBEDDER, TOKENIZER = HashEmbedder(16), WordTokenizer()


def corpus(n: int = 100, tenant_id: str = "a") -> list[Document]:
    return [
        Document(f"d{i}", " ".join(f"word{(i * j) % 97}" for j in range(5 + i % 40)), f"Title {i}", tenant_id)
        for i in range(n)
    ]


class Bench:
    """A store and a cache in one folder, and ingestion with settings that suit a test."""

    def __init__(self, folder, kind="lance", **settings):
        self.store = open_kind(kind, str(folder / "store"), 16)
        self.settings = {
            "chunker": FixedTokens(16, 4),
            "tokenizer": TOKENIZER,
            "embedder": EMBEDDER,
            "vectors": IngestVectorCache(folder / "vectors.sqlite"),
            "batch": 30,
            **settings,
        }

    def ingest(self, documents, **settings) -> IngestReport:
        return ingest(self.store, documents, **{**self.settings, **settings})

    def whole(self, tenant="a") -> set[str]:
        hashes = self.store.for_tenant(tenant).document_hashes()
        assert None not in hashes.values()
        return set(hashes)


@pytest.fixture(params=KINDS)
def bench(request, tmp_path):
    return Bench(tmp_path, request.param)


def test_documents_of_several_tables_are_hashed_once(tmp_path, monkeypatch):
    hashed, own, memo = [], Document.content_hash.fget, IngestMemo()
    monkeypatch.setattr(Document, "content_hash", property(lambda self: hashed.append(self.doc_id) or own(self)))
    one, other = Bench(tmp_path / "one"), Bench(tmp_path / "other")
    changed = replace(corpus()[7], text="another text")
    for bench in (one, other):
        assert bench.ingest(corpus(), memo=memo).added == 100
    assert len(hashed) == 100
    assert other.ingest([*corpus()[:7], changed, *corpus()[8:]], memo=memo).changed == 1
    assert hashed[100:] == ["d7"]
    assert other.ingest(corpus(), chunker=WholeDocument(), memo=memo).changed == 100
    assert one.store.for_tenant("a").document_hashes() != other.store.for_tenant("a").document_hashes()


def test_documents_of_several_tables_are_cut_once_for_each_chunker(tmp_path, monkeypatch):
    cut, own, memo = [], FixedTokens.chunk, IngestMemo()
    monkeypatch.setattr(FixedTokens, "chunk", lambda self, *given: cut.append(given[0].doc_id) or own(self, *given))
    one, other = Bench(tmp_path / "one"), Bench(tmp_path / "other", embedder=HashEmbedder(16, seed=1))
    changed = replace(corpus()[7], text="another text")
    assert one.ingest(corpus(), memo=memo).chunks == other.ingest(corpus(), memo=memo).chunks
    assert len(cut) == 100
    assert other.ingest([*corpus()[:7], changed, *corpus()[8:]], memo=memo).changed == 1
    assert cut[100:] == ["d7"]
    assert other.ingest(corpus(), chunker=FixedTokens(8, 2), memo=memo).changed == 100
    assert len(cut) == 201
    fresh = Bench(tmp_path / "fresh")
    fresh.ingest(corpus())
    doc_ids = [document.doc_id for document in corpus() if document != changed]
    assert one.store.for_tenant("a").documents(doc_ids) == fresh.store.for_tenant("a").documents(doc_ids)


class Watched(list):
    """A list of which one can say whether it is still there."""

    __hash__ = object.__hash__


class LetterTokenizer:
    """Every character, or every second one."""

    def __init__(self, step):
        self.step = step

    def offsets(self, text):
        return [(i, i + self.step) for i in range(0, len(text), self.step)]


def test_each_table_is_cut_by_its_own_tokenizer(tmp_path):
    memo = IngestMemo()
    for i, step in enumerate((1, 2)):
        table, alone = Bench(tmp_path / f"table{i}"), Bench(tmp_path / f"alone{i}")
        assert table.ingest(corpus(), tokenizer=LetterTokenizer(step), memo=memo) == alone.ingest(
            corpus(), tokenizer=LetterTokenizer(step)
        )


@pytest.mark.parametrize("room", [0, 1_000])
def test_no_more_is_kept_for_a_further_table_than_there_is_room(tmp_path, monkeypatch, room):
    cut, own, memo = [], FixedTokens.chunk, IngestMemo(room)
    monkeypatch.setattr(FixedTokens, "chunk", lambda self, *given: cut.append(own(self, *given)) or cut[-1])
    one, other = Bench(tmp_path / "one"), Bench(tmp_path / "other", embedder=HashEmbedder(16, seed=1))
    assert one.ingest(corpus(), memo=memo).chunks == other.ingest(corpus(), memo=memo).chunks
    again = 200 - len(cut)
    assert (again > 0) == (room > 0)
    assert again < 100
    memo.clear()
    assert Bench(tmp_path / "third").ingest(corpus(), memo=memo).added == 100
    assert len(cut) == 200 - again + 100


def test_chunks_of_a_lone_ingest_are_let_go_batch_by_batch(tmp_path, monkeypatch):
    alive, most, own = weakref.WeakSet(), [], FixedTokens.chunk

    def watched(self, document, tokenizer):
        alive.add(made := Watched(own(self, document, tokenizer)))
        most.append(len(alive))
        return made

    monkeypatch.setattr(FixedTokens, "chunk", watched)
    Bench(tmp_path).ingest(corpus())
    assert max(most) <= 2 * 30  # those of one commit may go when those of the next are there


def test_every_document_is_there_with_all_its_chunks(bench):
    report = bench.ingest(corpus())
    assert report.added == len(bench.whole()) == 100
    assert report.chunks == report.embedded == bench.store.for_tenant("a").count() > 100
    document = corpus()[99]
    chunks = FixedTokens(16, 4).chunk(document, WordTokenizer())
    assert bench.store.for_tenant("a").documents(["d99"])["d99"] == tuple(c.text for c in chunks)


def test_chunks_are_found_with_the_fields_of_their_document(bench):
    bench.ingest([Document("d", "join two frames", "merge", "a", "method"), Document("e", "x", "", "a", "class")])
    query = EMBEDDER.embed(["merge\njoin two frames"])[0]
    hits = bench.store.for_tenant("a").vector(query, 5, where=Equals("document_type", "method"))
    assert [(h.doc_id, h.score) for h in hits] == [("d", 1.0)]


def test_second_run_embeds_nothing_and_writes_nothing(bench):
    bench.ingest(corpus())
    before = bench.store.describe()
    assert bench.ingest(corpus()) == IngestReport(0, 0, 100, 0, 0, 0, 0)
    assert bench.store.describe() == before


def test_only_what_changed_is_embedded_again(bench):
    bench.ingest(corpus())
    documents = corpus()
    documents[7] = replace(documents[7], text="quite another text")
    assert bench.ingest(documents) == IngestReport(
        added=0, changed=1, unchanged=99, removed=0, blank=0, chunks=1, embedded=1
    )
    assert bench.store.for_tenant("a").documents(["d7"]) == {"d7": ("Title 7\nquite another text",)}


def test_shorter_text_leaves_no_chunk_of_the_longer(bench):
    documents = corpus()
    bench.ingest(documents)
    long = bench.store.for_tenant("a").documents(["d39"])["d39"]
    documents[39] = replace(documents[39], text="short")
    bench.ingest(documents)
    assert len(long) > 1
    assert bench.store.for_tenant("a").documents(["d39"]) == {"d39": ("Title 39\nshort",)}
    assert len(bench.whole()) == 100


def test_texts_that_trade_places_are_both_written(bench):
    one, two = Document("d1", "first text", tenant_id="a"), Document("d2", "second text", tenant_id="a")
    bench.ingest([one, two])
    report = bench.ingest([replace(one, text=two.text), replace(two, text=one.text)])
    assert (report.changed, report.embedded) == (2, 0)
    assert bench.store.for_tenant("a").documents(["d1", "d2"]) == {"d1": ("second text",), "d2": ("first text",)}


@pytest.mark.parametrize(
    "field", [{"document_type": "class"}, {"title": "Other"}, {"date": __import__("datetime").date(2024, 1, 1)}]
)
def test_changed_field_is_a_changed_document(bench, field):
    bench.ingest(corpus(3))
    assert bench.ingest([replace(corpus(3)[0], **field), *corpus(3)[1:]]).changed == 1


@pytest.mark.parametrize(
    "setting", [{"chunker": WholeDocument()}, {"chunker": ByStructure(16)}, {"embedder": HashEmbedder(16, seed=1)}]
)
def test_another_recipe_changes_every_document(bench, setting):
    bench.ingest(corpus(20))
    assert bench.ingest(corpus(20), **setting).changed == 20
    assert len(bench.whole()) == 20


def test_documents_that_left_the_corpus_go_for_the_tenants_ingested(bench):
    bench.ingest(corpus(10) + corpus(10, "b"))
    report = bench.ingest(corpus(6))
    assert (report.unchanged, report.removed) == (6, 4)
    assert bench.whole("a") == {f"d{i}" for i in range(6)}
    assert len(bench.whole("b")) == 10


def test_pruning_can_be_left_out(bench):
    bench.ingest(corpus(10))
    assert bench.ingest(corpus(6), prune=False).removed == 0
    assert len(bench.whole()) == 10


def test_blank_documents_are_counted_and_leave_nothing(bench):
    documents = corpus(3)
    bench.ingest(documents)
    documents[1] = Document("d1", " \n", "", "a")
    report = bench.ingest(documents, prune=False)
    assert (report.blank, report.removed, report.unchanged) == (1, 1, 2)
    assert bench.whole() == {"d0", "d2"}
    assert bench.ingest(documents) == IngestReport(0, 0, 2, 0, 1, 0, 0)


def lose(store, doc_id: str, position: int) -> None:
    """One chunk is gone, as if a run had died between two of them."""
    digest = store.for_tenant("a").document_hashes()[doc_id]
    texts = store.for_tenant("a").documents([doc_id])[doc_id]
    store.delete_documents("a", [doc_id])
    kept = [(p, text) for p, text in enumerate(texts) if p != position]
    vectors = EMBEDDER.embed([text for _, text in kept])
    store.upsert(
        [
            ChunkRow("a", doc_id, "document", None, p, len(texts), digest, text, vector)
            for (p, text), vector in zip(kept, vectors, strict=True)
        ]
    )


def test_document_that_lacks_a_chunk_is_made_whole(bench):
    bench.ingest(corpus())
    lost = [("d39", 1), ("d38", 0)]
    for doc_id, position in lost:
        lose(bench.store, doc_id, position)
    report = bench.ingest(corpus())
    assert (report.changed, report.unchanged, report.embedded) == (2, 98, 0)
    assert len(bench.whole()) == 100


def test_vectors_are_not_computed_again_for_another_store(bench, tmp_path):
    bench.ingest(corpus())
    other = open_kind("lance", str(tmp_path / "other"), 16)
    assert ingest(other, corpus(), **bench.settings).embedded == 0


def test_progress_counts_documents_to_do(bench):
    bench.ingest(corpus(10))
    seen = []
    bench.ingest(corpus(80), on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(30, 70), (60, 70), (70, 70)]


def test_how_far_embedding_is_within_one_commit_is_told_in_documents(bench, tmp_path):
    seen = []
    bench.ingest(
        corpus(30), vectors=IngestVectorCache(tmp_path / "others.sqlite", batch=8),
        on_progress=lambda *far: seen.append(("written", *far)),
        on_embedded=lambda *far: seen.append(("embedded", *far)),
    )  # fmt: skip
    *embedded, written = seen
    assert written == ("written", 30, 30)
    assert {(what, total) for what, _, total in embedded} == {("embedded", 30)}
    far = [done for _, done, _ in embedded]
    assert far == sorted(far)
    assert far[0] < 10 < far[-1] == 30


def test_document_given_twice_is_a_clear_error(bench):
    with pytest.raises(StoreError, match=r"tenant 'a' has 2 document ids more than once: 'd1', 'd2'"):
        bench.ingest([*corpus(4), *corpus(3)[1:]])
    assert bench.store.describe().rows == 0


def test_two_tenants_may_use_the_same_document_id(bench):
    bench.ingest([Document("readme", "mine", tenant_id="a"), Document("readme", "theirs", tenant_id="b")])
    assert bench.store.for_tenant("a").documents(["readme"]) == {"readme": ("mine",)}
    assert bench.store.for_tenant("b").documents(["readme"]) == {"readme": ("theirs",)}


def test_empty_corpus_is_a_clear_error_and_removes_nothing(bench):
    bench.ingest(corpus(5))
    with pytest.raises(StoreError, match="the corpus has no documents"):
        bench.ingest([])
    assert len(bench.whole()) == 5


def test_document_without_a_tenant_is_refused(bench):
    with pytest.raises(TenantError):
        bench.ingest([Document("d", "text", tenant_id="")])


def test_embedder_of_another_dimension_is_refused(bench):
    with pytest.raises(StoreError, match="takes vectors of 16, encoder 'hash-8-0' makes 8"):
        bench.ingest(corpus(3), embedder=HashEmbedder(8))


def test_what_changes_or_goes_is_told_before_and_after_it_does(bench):
    told = []

    def note(tenant_id, doc_ids):
        there = bench.store.for_tenant("a").documents(["d7"])["d7"][0]
        told.append((tenant_id, tuple(doc_ids), "another" in there, "d99" in bench.whole()))

    bench.ingest([*corpus(), *corpus(3, "b")], on_stale=note)
    assert told == []
    documents = corpus(99)
    documents[7] = replace(documents[7], text="quite another text")
    bench.ingest([*documents, *corpus(3, "b")], on_stale=note)
    changed, gone = ("d7",), ("d99",)
    assert told == [
        ("a", changed, False, True),
        ("a", changed, True, True),
        ("a", gone, True, True),
        ("a", gone, True, False),
    ]
