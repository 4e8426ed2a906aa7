"""Which indices a table has: frozen values, so that an index can be an arm of a comparison.

Distances are cosine everywhere, in the index and in every query: with another metric in the index LanceDB
would fall back to a scan, or change results on the day the index is built.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from workbench.errors import StoreError
from workbench.records import ShortRepr

TEXT_INDEX = "text_fts"
VECTOR_INDEX = "vector_ann"


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


VectorIndex = Exact | IvfPq | HnswSq


@dataclass(frozen=True, slots=True, repr=False)
class FullTextIndex(ShortRepr):
    """How text becomes terms for BM25 (k1 and b are LanceDB's own and cannot be set).

    ``tokenizer`` is LanceDB's ``base_tokenizer``: simple, whitespace, raw, ngram or icu.
    """

    stem: bool = True
    remove_stop_words: bool = True
    lower_case: bool = True
    ascii_folding: bool = True
    language: str = "English"
    tokenizer: str = "simple"


def build_indices(table: Any, vector: VectorIndex, full_text: FullTextIndex) -> None:
    """Build every index anew under its own name; a vector index of another type is dropped first.

    LanceDB keeps an index of another type beside the new one, and may go on using it.
    """
    from lancedb.index import FTS, Bitmap, BTree

    options = asdict(full_text)
    wanted = [
        ("tenant_id", "tenant_id_btree", BTree()),
        ("document_type", "document_type_bitmap", Bitmap()),
        ("date", "date_btree", BTree()),
        ("text", TEXT_INDEX, FTS(base_tokenizer=options.pop("tokenizer"), **options)),
    ]
    if not isinstance(vector, Exact):
        wanted.append(("vector", VECTOR_INDEX, _vector_config(vector, table.count_rows())))
    columns = {name: column for column, name, _ in wanted}
    for index in table.list_indices():
        if columns.get(index.name) is None or index.name == VECTOR_INDEX:
            table.drop_index(index.name)
    for column, name, config in wanted:
        table.create_index(column, config=config, name=name, replace=True)


def _vector_config(vector: IvfPq | HnswSq, rows: int) -> Any:
    from lancedb import index

    if isinstance(vector, HnswSq):
        return index.HnswSq(
            distance_type="cosine", m=vector.m, ef_construction=vector.ef_construction, num_partitions=vector.partitions
        )
    if rows < vector.min_rows:
        raise StoreError(
            f"{vector!r} learns {vector.min_rows} codes from the vectors, and the table has {rows}; "
            "ingest more, or use Exact() or HnswSq()"
        )
    return index.IvfPq(
        distance_type="cosine",
        num_partitions=vector.partitions,
        num_sub_vectors=vector.sub_vectors,
        num_bits=vector.bits,
    )


@dataclass(frozen=True, slots=True)
class IndexState:
    """One index as it is now; ``rows_unindexed`` are found by a scan until `Store.optimize` takes them in."""

    name: str
    kind: str
    columns: tuple[str, ...]
    rows: int
    rows_unindexed: int


def index_states(table: Any) -> tuple[IndexState, ...]:
    """Every index of the table, by name."""
    found: Sequence[Any] = sorted(table.list_indices(), key=lambda index: index.name)
    return tuple(
        IndexState(i.name, i.index_type, tuple(i.columns), i.num_indexed_rows, i.num_unindexed_rows) for i in found
    )
