"""Chunks of all tenants in one LanceDB table: written here, searched only through a tenant's own handle."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from workbench.errors import StoreError
from workbench.records import content_hash
from workbench.retrieval.indexing import Exact, FullTextIndex, IndexState, VectorIndex, build_indices, index_states
from workbench.retrieval.tenant import TenantHandle, checked_tenant, committed, reported, rows_of

if TYPE_CHECKING:
    import pyarrow as pa
    from lancedb.expr import Expr

# What `set_unenforced_primary_key` writes. Without a declared key concurrent upserts make silent duplicates;
# declared with the schema, it is there from the first version on, whichever process makes the table.
_KEY = {b"lance-schema:unenforced-primary-key:position": b"1"}
_SLICE = 500


@dataclass(frozen=True, slots=True, eq=False)
class ChunkRow:
    """One chunk as it is stored; ``content_hash`` says what the whole document was made from.

    ``n_chunks`` is that of the document: it is there only if positions 0 to ``n_chunks - 1`` are.
    """

    tenant_id: str
    doc_id: str
    document_type: str
    date: date | None
    position: int
    n_chunks: int
    content_hash: str
    text: str
    vector: npt.NDArray[np.float32]

    @property
    def chunk_id(self) -> str:
        """Key of the row, made from tenant, document and position: no row can overwrite another tenant's."""
        return f"{content_hash(self.tenant_id, self.doc_id)[:32]}-{self.position:05d}"


@dataclass(frozen=True, slots=True)
class StoreState:
    """What a table holds now; every write makes another version."""

    rows: int
    version: int
    indices: tuple[IndexState, ...]


class Store:
    """The writing side of one table; a search needs a tenant: `for_tenant`.

    Examples
    --------
    >>> from workbench.testing import HashEmbedder
    >>> store = Store.open("memory://", "chunks", dimension=64)
    >>> vector = HashEmbedder().embed(["join two frames"])[0]
    >>> store.upsert([ChunkRow("acme", "merge", "method", None, 0, 1, "hash", "join two frames", vector)])
    1
    >>> [(hit.doc_id, hit.score) for hit in store.for_tenant("acme").vector(vector, 3)]
    [('merge', 1.0)]
    >>> store.for_tenant("other").vector(vector, 3)
    []
    """

    def __init__(self, table: Any, uri: str, dimension: int) -> None:
        self._table = table
        self._uri = uri
        self.dimension = dimension

    @classmethod
    def open(cls, uri: str | Path, name: str, *, dimension: int) -> Self:
        """Open the table ``name`` below ``uri``, or create it.

        Every read sees what any process has committed before.

        Raises
        ------
        StoreError
            If the folder cannot be used, or the table there has other columns or another dimension.
        """
        os.environ.setdefault("LANCE_LOG", "error")  # read on import; it warns of every table it makes
        import lancedb

        with reported(f"open table {name!r} in {uri}"):
            database = lancedb.connect(str(uri), read_consistency_interval=timedelta(0))
            try:
                table = database.open_table(name)
            except ValueError:  # no such table; another process may make it meanwhile
                table = database.create_table(name, schema=_schema(dimension), exist_ok=True)
        _check_schema(table.schema, name, dimension)
        return cls(table, str(uri), dimension)

    def for_tenant(self, tenant_id: str) -> TenantHandle:
        """Return the handle that searches the rows of one tenant; a tenant without rows finds nothing.

        Raises
        ------
        TenantError
            If ``tenant_id`` is no string or blank.
        """
        return TenantHandle(self._table, tenant_id, self.dimension)

    def upsert(self, rows: Sequence[ChunkRow]) -> int:
        """Write rows in one commit, over those of the same tenant, document and position; returns how many.

        Raises
        ------
        StoreError
            If a row is given twice, a vector does not fit, or the table cannot be written; then nothing is.
        """
        if not rows:
            return 0
        data = _arrow(rows, self.dimension)
        with reported(f"write {len(rows)} chunks to {self._uri}"):
            merge = self._table.merge_insert("chunk_id").when_matched_update_all().when_not_matched_insert_all()
            merge.execute(data)
        return len(rows)

    def delete_documents(self, tenant_id: str, doc_ids: Sequence[str]) -> int:
        """Delete every chunk of the documents of one tenant; returns how many chunks went."""
        return sum(self._delete(tenant_id, part) for part in _slices(doc_ids))

    def delete_stale(self, tenant_id: str, current: Mapping[str, str]) -> int:
        """Delete what earlier texts of the documents left; ``current`` is content hash by ``doc_id``."""
        from lancedb.expr import col

        deleted = 0
        for part in _slices(list(current)):
            old = ~col("content_hash").isin([current[d] for d in part]) | (col("position") >= col("n_chunks"))
            deleted += self._delete(tenant_id, part, old)
        return deleted

    def index(self, vector: VectorIndex | None = None, *, full_text: FullTextIndex | None = None) -> None:
        """Build the indices over all rows anew: tenant, type, date, words, and vectors unless `Exact`.

        Parameters
        ----------
        vector : VectorIndex, optional
            ``Exact()`` if not given.
        full_text : FullTextIndex, optional
            How text becomes terms; ``FullTextIndex()`` if not given.

        Raises
        ------
        StoreError
            If the table is empty, or too small for the vector index.
        """
        vector, full_text = vector or Exact(), full_text or FullTextIndex()
        if not self._table.count_rows():
            raise StoreError("an empty table cannot be indexed: ingest documents first")
        with reported(f"index {self._uri} as {vector!r}, {full_text!r}"):
            committed(lambda: build_indices(self._table, vector, full_text))

    def optimize(self, *, keep: timedelta = timedelta(days=7)) -> None:
        """Take new rows into the indices, join small files, drop versions older than ``keep``."""
        with reported(f"optimize {self._uri}"):
            self._table.optimize(cleanup_older_than=keep)

    def describe(self) -> StoreState:
        """Rows, version, and how far each index has fallen behind."""
        with reported(f"describe {self._uri}"):
            return StoreState(self._table.count_rows(), self._table.version, index_states(self._table))

    def _delete(self, tenant_id: str, doc_ids: Sequence[str], condition: "Expr | None" = None) -> int:
        from lancedb.expr import col

        rows = rows_of(tenant_id) & col("doc_id").isin(list(doc_ids))
        with reported(f"delete chunks from {self._uri}"):
            return int(self._table.delete(rows if condition is None else rows & condition).num_deleted_rows)


def _slices(doc_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (doc_ids[i : i + _SLICE] for i in range(0, len(doc_ids), _SLICE))


def _schema(dimension: int) -> "pa.Schema":
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("chunk_id", pa.string(), nullable=False, metadata=_KEY),
            pa.field("tenant_id", pa.string(), nullable=False),
            pa.field("doc_id", pa.string(), nullable=False),
            pa.field("document_type", pa.string(), nullable=False),
            pa.field("date", pa.date32()),
            pa.field("position", pa.int32(), nullable=False),
            pa.field("n_chunks", pa.int32(), nullable=False),
            pa.field("content_hash", pa.string(), nullable=False),
            pa.field("text", pa.string(), nullable=False),
            pa.field("vector", pa.list_(pa.float32(), dimension), nullable=False),
        ]
    )


def _check_schema(found: "pa.Schema", name: str, dimension: int) -> None:
    wanted = _schema(dimension)
    if found.names != wanted.names or found.types != wanted.types:
        width = getattr(found.field("vector").type, "list_size", None) if "vector" in found.names else None
        raise StoreError(
            f"table {name!r} was asked for with vectors of {dimension} and has vectors of {width}, columns "
            f"{', '.join(found.names)}; use another table name, one for each encoder"
        )
    if not any(b"unenforced-primary-key" in key for key in found.field("chunk_id").metadata or {}):
        raise StoreError(f"table {name!r} has no declared key, so writers could make duplicates; make it anew")


def _arrow(rows: Sequence[ChunkRow], dimension: int) -> "pa.Table":
    import pyarrow as pa

    if len({row.chunk_id for row in rows}) < len(rows):
        raise StoreError("a chunk (tenant, document, position) stands twice in one batch of rows")
    for row in rows:
        checked_tenant(row.tenant_id)
    if wrong := {np.shape(row.vector) for row in rows} - {(dimension,)}:
        raise StoreError(f"the table takes vectors of {dimension}, got shape {wrong.pop()}")
    vectors = np.stack([np.asarray(row.vector, dtype=np.float32) for row in rows])
    if not np.isfinite(vectors).all() or not vectors.any(axis=1).all():
        raise StoreError("a vector is zero or not finite: cosine has no meaning for it")
    schema = _schema(dimension)
    names = [f.name for f in fields(ChunkRow) if f.name != "vector"]
    with reported("turn rows into columns"):
        columns = {name: [getattr(row, name) for row in rows] for name in ["chunk_id", *names]}
        arrays = {name: pa.array(values, schema.field(name).type) for name, values in columns.items()}
        arrays["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), dimension)
        return pa.table(arrays, schema=schema)
