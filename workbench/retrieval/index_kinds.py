"""Which indices a table has: frozen values, so that an index can be an arm of a comparison.

`Exact` is of every store, `IvfPq` and `HnswSq` of LanceDB, `Hnsw` of PostgreSQL. Distances are cosine everywhere, in
the index and in every query: with another metric in the index LanceDB would fall back to a scan, or change results on
the day the index is built.
"""

from dataclasses import dataclass
from typing import ClassVar

from workbench.records import ShortRepr

TEXT_INDEX = "text_fts"
VECTOR_INDEX = "vector_ann"
NGRAM = (2, 3)


@dataclass(frozen=True, slots=True, repr=False)
class Exact(ShortRepr):
    """No vector index: every vector of the tenant is compared. The reference for all others."""

    name: ClassVar[str] = "exact"
    deterministic: ClassVar[bool] = True
    min_rows: ClassVar[int] = 1


@dataclass(frozen=True, slots=True, repr=False)
class IvfPq(ShortRepr):
    """Inverted lists of product-quantised vectors: smallest, and needs ``refine_factor`` to be accurate.

    ``partitions`` and ``sub_vectors`` of None leave the number to LanceDB (from rows and dimension).
    """

    name: ClassVar[str] = "ivf_pq"
    deterministic: ClassVar[bool] = False
    partitions: int | None = None
    sub_vectors: int | None = None
    bits: int = 8

    @property
    def min_rows(self) -> int:
        """Rows below which its codes cannot be learned."""
        return 1 << self.bits


@dataclass(frozen=True, slots=True, repr=False)
class HnswSq(ShortRepr):
    """Neighbour graph over 8-bit vectors: near-exact, slower to build, and larger."""

    name: ClassVar[str] = "hnsw_sq"
    deterministic: ClassVar[bool] = False
    min_rows: ClassVar[int] = 1
    m: int = 20
    ef_construction: int = 300
    partitions: int | None = None


@dataclass(frozen=True, slots=True, repr=False)
class Hnsw(ShortRepr):
    """Neighbour graph over whole vectors, of PostgreSQL; ``m`` and ``ef_construction`` are pgvector's defaults."""

    name: ClassVar[str] = "hnsw"
    deterministic: ClassVar[bool] = False
    min_rows: ClassVar[int] = 1
    m: int = 16
    ef_construction: int = 64


VectorIndex = Exact | IvfPq | HnswSq | Hnsw


@dataclass(frozen=True, slots=True, repr=False)
class FullTextIndex(ShortRepr):
    """How text becomes terms for BM25 (k1 and b are LanceDB's own and cannot be set).

    ``tokenizer`` is LanceDB's ``base_tokenizer``: simple, whitespace, raw, ngram or icu. That of n-grams takes two and
    three characters (`NGRAM`): LanceDB's own three alone miss every word of two, of which Chinese mostly is.
    """

    stem: bool = True
    remove_stop_words: bool = True
    lower_case: bool = True
    ascii_folding: bool = True
    language: str = "English"
    tokenizer: str = "simple"


@dataclass(frozen=True, slots=True)
class IndexState:
    """One index as it is now; ``rows_unindexed`` are found by a scan until `Store.optimize` takes them in."""

    name: str
    kind: str
    columns: tuple[str, ...]
    rows: int
    rows_unindexed: int
