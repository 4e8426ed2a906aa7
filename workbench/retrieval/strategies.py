"""Retrieval strategies as frozen values: each prints itself, searches a tenant's handle, and counts its work.

A strategy never sees a store, only the handle of one tenant. Scores of different strategies do not compare.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from workbench.codec import NEUTRAL
from workbench.inference.prices import Work, price_of_query_embedding
from workbench.records import Hit, ShortRepr
from workbench.retrieval.chunking import Chunker, WholeDocument
from workbench.retrieval.filters import Filter, OneOf
from workbench.retrieval.index_kinds import Exact, FullTextIndex, VectorIndex
from workbench.retrieval.metrics import best_first
from workbench.retrieval.tenant import ChunkHit, Fusion, TenantHandle

# The embedding of the question by the encoder that the arm names.
EMBEDDED = Work("embed_question")


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """A query as strategies see it: the words, and the vector where one was made.

    ``fan_out`` is how many chunks are fetched for each document wanted, because several chunks of one document
    collapse to one hit; 1 where documents are whole. ``itself`` is the document that the question is, "" for none: it
    is no hit, in no leg. ``second`` is the handle and the vector of a second encoder, for a strategy that has one.
    """

    text: str
    vector: np.ndarray | None = None
    fan_out: int = 1
    itself: str = ""
    second: tuple[TenantHandle, np.ndarray] | None = None

    def chunks_for(self, k: int) -> int:
        """Chunks that are fetched where ``k`` documents are wanted."""
        return (k + bool(self.itself)) * self.fan_out

    def best(self, hits: Iterable[ChunkHit], k: int) -> list[Hit]:
        """Best ``k`` documents of these chunks, without the question itself."""
        return [hit for hit in best_chunks(hits) if hit.doc_id != self.itself][:k]


@runtime_checkable
class Strategy(Protocol):
    """One way from a question to ranked documents."""

    @property
    def uses_vectors(self) -> bool:
        """Whether a question must be embedded for it."""

    @property
    def index(self) -> VectorIndex:
        """Vector index that the table must have."""

    def search(self, handle: TenantHandle, question: Question, k: int) -> list[Hit]:
        """Best ``k`` documents of the handle's tenant, best first."""

    def plan(self, handle: TenantHandle, question: Question) -> dict[str, str]:
        """LanceDB's account of each leg: filter, index and knobs in effect."""

    def work(self, rows: int) -> list[Work]:
        """Count what one search costs in a table in which the tenant has ``rows`` rows."""


@dataclass(frozen=True, slots=True, repr=False)
class FullText(ShortRepr):
    """BM25 over the words of the question."""

    where: Filter | None = None
    uses_vectors: ClassVar[bool] = False
    index: ClassVar[VectorIndex] = Exact()

    def search(self, handle: TenantHandle, question: Question, k: int) -> list[Hit]:
        """Best ``k`` documents by BM25; an empty question finds nothing."""
        return question.best(handle.full_text(question.text, question.chunks_for(k), where=self.where), k)

    def plan(self, handle: TenantHandle, question: Question) -> dict[str, str]:
        """Plan of the full-text search."""
        return handle.plan(words=question.text, where=self.where)

    def work(self, rows: int) -> list[Work]:
        """One full-text search."""
        return [Work("full_text", rows)]


@dataclass(frozen=True, slots=True, repr=False)
class Vector(ShortRepr):
    """Cosine similarity of embeddings, by exact scan or an approximate index."""

    index: VectorIndex = Exact()
    where: Filter | None = None
    nprobes: int | None = None
    refine_factor: int | None = None
    ef: int | None = None
    uses_vectors: ClassVar[bool] = True

    def search(self, handle: TenantHandle, question: Question, k: int) -> list[Hit]:
        """Best ``k`` documents by cosine similarity of their nearest chunk."""
        if question.vector is None:
            raise ValueError("a vector strategy was asked without a vector; embed the question first")
        return question.best(handle.vector(question.vector, question.chunks_for(k), **self._knobs()), k)

    def plan(self, handle: TenantHandle, question: Question) -> dict[str, str]:
        """Plan of the vector search."""
        return handle.plan(vector=question.vector, **self._knobs())

    def _knobs(self) -> dict[str, Any]:
        return {
            "where": self.where,
            "nprobes": self.nprobes,
            "refine_factor": self.refine_factor,
            "ef": self.ef,
            "exact": isinstance(self.index, Exact),
        }

    def work(self, rows: int) -> list[Work]:
        """One embedding and one vector search."""
        return [EMBEDDED, Work(f"vector_{self.index.name}", rows)]


@dataclass(frozen=True, slots=True, repr=False)
class Rescored(ShortRepr):
    """The nearest by the arm's own encoder, ordered by a second one: a cheap encoder looks at all, a dear one at few.

    ``embedder`` names the second, ``depth`` is how many documents it sees.
    """

    embedder: str
    first: Vector = Vector()
    depth: int = 100
    uses_vectors: ClassVar[bool] = True

    @property
    def index(self) -> VectorIndex:
        """Index of the first encoder's table; the second's has none."""
        return self.first.index

    def search(self, handle: TenantHandle, question: Question, k: int) -> list[Hit]:
        """Best ``k`` of the first ``depth`` documents, by cosine similarity in the second encoder."""
        if question.second is None:
            raise ValueError("a strategy of two encoders was asked with the vector of one; see Searcher.question")
        found = [hit.doc_id for hit in self.first.search(handle, question, self.depth)]
        if not found:
            return []
        beside, vector = question.second
        chunks = beside.vector(vector, self.depth * question.fan_out, where=OneOf("doc_id", tuple(found)), exact=True)
        return question.best(chunks, k)

    def plan(self, handle: TenantHandle, question: Question) -> dict[str, str]:
        """Plan of the first search, and what orders its hits."""
        return self.first.plan(handle, question) | {"ranker": repr(self)}

    def work(self, rows: int) -> list[Work]:
        """Both embeddings, the first search, and a second one that compares ``depth`` rows."""
        return [*self.first.work(rows), price_of_query_embedding(self.embedder), Work("vector_exact", self.depth)]


@dataclass(frozen=True, slots=True, repr=False)
class RRF(ShortRepr):
    """Reciprocal rank fusion (Cormack, Clarke, Büttcher 2009): sum of 1 / (k + rank)."""

    k: int = 60

    def fuse(self, text: Sequence[Hit], vector: Sequence[Hit]) -> list[Hit]:
        """Documents of both lists by their summed reciprocal ranks.

        >>> [h.doc_id for h in RRF().fuse([Hit("a", 9), Hit("b", 8)], [Hit("b", 0.9), Hit("c", 0.8)])]
        ['b', 'a', 'c']
        """
        return fused_hits(*({hit.doc_id: 1 / (self.k + i) for i, hit in enumerate(leg, 1)} for leg in (text, vector)))


@dataclass(frozen=True, slots=True, repr=False)
class Weighted(ShortRepr):
    """Weighted sum of scores scaled to [0, 1] within each list (Bruch et al. 2023); weight of the vector leg."""

    weight: float = 0.5

    def fuse(self, text: Sequence[Hit], vector: Sequence[Hit]) -> list[Hit]:
        """Documents of both lists by the weighted sum; what a list lacks counts 0 there."""
        weighted = ((text, 1 - self.weight), (vector, self.weight))
        return fused_hits(*({doc_id: weight * s for doc_id, s in scaled_hits(leg).items()} for leg, weight in weighted))


@dataclass(frozen=True, slots=True, repr=False)
class Hybrid(ShortRepr):
    """Full text and vectors, each searched to ``depth`` and fused."""

    vector: Vector = Vector()
    fusion: RRF | Weighted = RRF()
    depth: int = 100
    where: Filter | None = None
    uses_vectors: ClassVar[bool] = True

    @property
    def index(self) -> VectorIndex:
        """Index of the vector leg."""
        return self.vector.index

    def legs(self, handle: TenantHandle, question: Question) -> tuple[list[Hit], list[Hit]]:
        """Full-text and vector hits, each to ``depth``: over-fetched, because fusion sees only what it is given."""
        text = FullText(where=self.where).search(handle, question, self.depth)
        vector = replace(self.vector, where=self.where).search(handle, question, self.depth)
        return text, vector

    def search(self, handle: TenantHandle, question: Question, k: int) -> list[Hit]:
        """Best ``k`` documents of the fused list, which some stores make by themselves where vectors are exact."""
        fusion, hits = self.in_store(question), None
        if fusion is not None and question.vector is not None:
            hits = handle.fused(question.vector, question.text, k, fusion)
        return self.fusion.fuse(*self.legs(handle, question))[:k] if hits is None else hits

    def in_store(self, question: Question) -> Fusion | None:
        """What a store is told that fuses by itself; None for what none does: filters, knobs, graphs, other rules."""
        plain = self.where is None and replace(self.vector, where=None) == Vector()
        fusion = Fusion(question.chunks_for(self.depth), self.depth, question.itself)
        if plain and type(self.fusion) is RRF:
            return replace(fusion, rank_constant=self.fusion.k)
        if plain and type(self.fusion) is Weighted:
            return replace(fusion, weight=self.fusion.weight)
        return None

    def plan(self, handle: TenantHandle, question: Question) -> dict[str, str]:
        """Plans of both legs, and what is done with them."""
        text = FullText(where=self.where).plan(handle, question)
        return text | replace(self.vector, where=self.where).plan(handle, question) | {"fusion": repr(self.fusion)}

    def work(self, rows: int) -> list[Work]:
        """Both legs and the fusion."""
        return [*FullText().work(rows), *self.vector.work(rows), Work("fuse")]


# As many searches for words as one for n-grams is worth: 67 ms of processor time against 7 on the questions of docs_qa.
NGRAM_SEARCHES = 9


@dataclass(frozen=True, slots=True, repr=False)
class Arm(ShortRepr):
    """One candidate of the comparison; printing it gives what builds it again."""

    name: str
    strategy: Strategy
    chunker: Chunker = WholeDocument()
    embedder: str = "minilm"
    text_index: FullTextIndex = FullTextIndex()
    store: str = field(default="lance", metadata={NEUTRAL: "lance"})

    @property
    def embedders(self) -> tuple[str, ...]:
        """Names of the encoders that a question is embedded by; that of full text is there for its table's vectors."""
        second = [self.strategy.embedder] if isinstance(self.strategy, Rescored) else []
        return (self.embedder, *second)

    def work(self, rows: int) -> list[Work]:
        """Count what one request costs; other embedders and stores than the first have rates under their own names."""
        work = [self._named(work) for work in self.strategy.work(rows)]
        further = [w for w in work if w.operation == "full_text"] if self.text_index.tokenizer == "ngram" else []
        return work + further * (NGRAM_SEARCHES - 1)

    def _named(self, work: Work) -> Work:
        if work == EMBEDDED:
            return price_of_query_embedding(self.embedder)
        searched = self.store != "lance" and work.operation.startswith(("full_text", "vector_"))
        return Work(f"{work.operation}:{self.store}", work.rows) if searched else work


def best_chunks(hits: Iterable[ChunkHit]) -> list[Hit]:
    """Documents by the score of their best chunk, in the order of the hits."""
    best: dict[str, float] = {}
    for hit in hits:
        best.setdefault(hit.doc_id, hit.score)
    return [Hit(doc_id, score) for doc_id, score in best.items()]


def fused_hits(text: Mapping[str, float], vector: Mapping[str, float]) -> list[Hit]:
    """Documents of both legs by the sum of their scores; what a leg lacks counts 0 there."""
    return ordered_hits(Hit(doc_id, text.get(doc_id, 0.0) + vector.get(doc_id, 0.0)) for doc_id in {**text, **vector})


def ordered_hits(hits: Iterable[Hit]) -> list[Hit]:
    """Hits by the one tie rule, `workbench.retrieval.metrics.best_first`."""
    return sorted(hits, key=lambda hit: best_first(hit.score, hit.doc_id))


def scaled_hits(hits: Sequence[Hit]) -> dict[str, float]:
    """Scores scaled to [0, 1] by the highest and lowest of the list; a list of equals is all 1."""
    if not hits:
        return {}
    low, high = min(h.score for h in hits), max(h.score for h in hits)
    return {h.doc_id: (h.score - low) / (high - low) if high > low else 1.0 for h in hits}
