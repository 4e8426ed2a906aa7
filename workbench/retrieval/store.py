"""What a store of chunks is: written here as one table of all tenants, searched only through a tenant's own handle.

`workbench.retrieval.lance` keeps the table in files, `workbench.retrieval.postgres` in a database. Strategies name what
they want (exact or approximate neighbours, words); how a store does it, and with which knobs, is its own affair.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from workbench.errors import StoreError
from workbench.records import content_hash
from workbench.retrieval.index_kinds import FullTextIndex, IndexState, VectorIndex
from workbench.retrieval.tenant import TenantHandle, checked_tenant

SLICE = 500  # documents named in one condition


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


class Store(Protocol):
    """The writing side of one table; a search needs a tenant: `for_tenant`.

    Examples
    --------
    >>> from workbench.testing import HashEmbedder
    >>> store = open_table("memory://", "chunks", dimension=64)
    >>> vector = HashEmbedder().embed(["join two frames"])[0]
    >>> store.upsert([ChunkRow("acme", "merge", "method", None, 0, 1, "hash", "join two frames", vector)])
    1
    >>> [(hit.doc_id, hit.score) for hit in store.for_tenant("acme").vector(vector, 3)]
    [('merge', 1.0)]
    >>> store.for_tenant("other").vector(vector, 3)
    []
    """

    @property
    def dimension(self) -> int:
        """Length of every vector in the table."""

    def for_tenant(self, tenant_id: str) -> TenantHandle:
        """Return the handle that searches the rows of one tenant; a tenant without rows finds nothing.

        Raises
        ------
        TenantError
            If ``tenant_id`` is no string or blank.
        """

    def upsert(self, rows: Sequence[ChunkRow]) -> int:
        """Write rows in one commit, over those of the same tenant, document and position; returns how many.

        Raises
        ------
        StoreError
            If a row is given twice, a vector does not fit, or the table cannot be written; then nothing is.
        """

    def delete_documents(self, tenant_id: str, doc_ids: Sequence[str]) -> int:
        """Delete every chunk of the documents of one tenant; returns how many chunks went."""

    def delete_stale(self, tenant_id: str, current: Mapping[str, str]) -> int:
        """Delete what earlier texts of the documents left; ``current`` is content hash by ``doc_id``."""

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
            If the table is empty, too small for the vector index, or the store has no index of that kind.
        """

    def optimize(self, *, keep: timedelta = timedelta(days=7)) -> None:
        """Take new rows into the indices and clear away what was replaced; versions older than ``keep`` go."""

    def describe(self) -> StoreState:
        """Rows, version, and how far each index has fallen behind."""


def open_table(url: str | Path, name: str, *, dimension: int) -> Store:
    """Open the table ``name`` at ``url``, or create it: ``postgresql://...``, else a folder or object store of LanceDB.

    Every read sees what any process has committed before.

    Raises
    ------
    StoreError
        If the place cannot be used, or the table there has other columns or another dimension.
    """
    # Here, because both are written in terms of what stands above, and each brings a database.
    if str(url).startswith("postgresql"):
        from workbench.retrieval.postgres import PostgresStore

        return PostgresStore.open(str(url), name, dimension=dimension)
    from workbench.retrieval.lance import LanceStore

    return LanceStore.open(url, name, dimension=dimension)


def checked_vectors(rows: Sequence[ChunkRow], dimension: int) -> npt.NDArray[np.float32]:
    """Vectors of the rows, shape ``(len(rows), dimension)``: the door that every row goes through, in every store.

    Raises
    ------
    StoreError
        If a row is given twice, or a vector has another dimension, is zero or not finite.
    TenantError
        If a row has no tenant.
    """
    if len({row.chunk_id for row in rows}) < len(rows):
        raise StoreError("a chunk (tenant, document, position) stands twice in one batch of rows")
    for row in rows:
        checked_tenant(row.tenant_id)
    if wrong := {np.shape(row.vector) for row in rows} - {(dimension,)}:
        raise StoreError(f"the table takes vectors of {dimension}, got shape {wrong.pop()}")
    vectors = np.stack([np.asarray(row.vector, dtype=np.float32) for row in rows])
    if not np.isfinite(vectors).all() or not vectors.any(axis=1).all():
        raise StoreError("a vector is zero or not finite: cosine has no meaning for it")
    return vectors
