"""The store in files: LanceDB, with its indices, its plans, and the ways in which its writers collide.

What a handle cannot hide: LanceDB's BM25 counts terms over the whole table, so scores of one tenant move when another
tenant adds documents. Where that matters, give each tenant its own table, or use the store in PostgreSQL.
"""

import os
import random
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from datetime import timedelta
from functools import reduce
from operator import and_
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import polars as pl

from workbench.errors import StoreError
from workbench.extras import put_off_import
from workbench.rendering.numbers import counted
from workbench.retrieval.filters import AllOf, Between, Equals, Filter, OneOf
from workbench.retrieval.index_kinds import (
    NGRAM,
    TEXT_INDEX,
    VECTOR_INDEX,
    Exact,
    FullTextIndex,
    Hnsw,
    HnswSq,
    IndexState,
    IvfPq,
    VectorIndex,
)
from workbench.retrieval.store import SLICE, ChunkRow, StoreState, checked_vectors
from workbench.retrieval.tenant import (
    ChunkHit,
    Fusion,
    Point,
    TenantHandle,
    bm25_of,
    checked_tenant,
    cosine_of,
    shown_tenant,
)

if TYPE_CHECKING:
    import pyarrow as pa
    from lancedb.expr import Expr

# What `set_unenforced_primary_key` writes. Without a declared key concurrent upserts make silent duplicates;
# declared with the schema, it is there from the first version on, whichever process makes the table.
_KEY = {b"lance-schema:unenforced-primary-key:position": b"1"}
POINTS_AT_ONCE = 25  # a hundred save a few percent more and take 20 to 30 MB
_HIT_COLUMNS = ["chunk_id", "doc_id", "position"]

_NOISE = re.compile(r",? ?\S*\.cargo/\S+| Detail: Python exception.*|\n.*", re.DOTALL)

# What LanceDB says of a write that lost: one commit came first, or so many that it gave up trying by itself.
_LOST_RACE, _ATTEMPTS, _PAUSE_S = ("Retryable commit conflict", "Too many concurrent writers"), 8, 0.1

Result = TypeVar("Result")


def lance_committed(write: Callable[[], Result]) -> Result:
    """Do a write again where other processes' commits came first; of 16 writers one in 160 upserts needs it.

    Pauses grow and are drawn at random: writers that lost together must not come back together.
    """
    for attempt in range(1, _ATTEMPTS):
        try:
            return write()
        except (OSError, RuntimeError) as error:
            if not any(words in str(error) for words in _LOST_RACE):
                raise
        time.sleep(random.uniform(0.5, 1.5) * _PAUSE_S * attempt)
    return write()


@contextmanager
def lance_reported(asked: str) -> Iterator[None]:
    """Raise what LanceDB raises as a StoreError that says what was asked for.

    A write that failed has changed nothing that readers see: LanceDB commits a new version last.
    """
    try:
        yield
    except (OSError, RuntimeError, ValueError, OverflowError) as error:
        reason = _NOISE.sub("", str(error)).strip() or type(error).__name__
        raise StoreError(f"cannot {asked}: {reason}") from error


def load_lancedb() -> Any:
    """LanceDB, without the clients of Lance's namespace services: most of its import, and no table in files asks them.

    They are loaded as soon as somebody asks for one.
    """
    os.environ.setdefault("LANCE_LOG", "error")  # read on import; it warns of every table it makes
    put_off_import("lance_namespace_urllib3_client")
    import lancedb

    return lancedb


class LanceStore:
    """A table in files, of a folder, an object store or memory; see `workbench.retrieval.store.Store`."""

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
        lancedb = load_lancedb()
        with lance_reported(f"open table {name!r} in {uri}"):
            database = lancedb.connect(str(uri), read_consistency_interval=timedelta(0))
            try:
                table = database.open_table(name)
            except ValueError:  # no such table; another process may make it meanwhile
                table = database.create_table(name, schema=_lance_schema(dimension), exist_ok=True)
        _check_lance_schema(table.schema, name, dimension)
        return cls(table, str(uri), dimension)

    def for_tenant(self, tenant_id: str) -> TenantHandle:
        """Return the handle that searches the rows of one tenant; a tenant without rows finds nothing.

        Raises
        ------
        TenantError
            If ``tenant_id`` is no string or blank.
        """
        return TenantHandle(LanceRows(self._table, tenant_id, self.dimension))

    def upsert(self, rows: Sequence[ChunkRow]) -> int:
        """Write rows in one commit, over those of the same tenant, document and position; returns how many.

        Raises
        ------
        StoreError
            If a row is given twice, a vector does not fit, or the table cannot be written; then nothing is.
        """
        if not rows:
            return 0
        data = _lance_arrow(rows, self.dimension)
        with lance_reported(f"write {counted(len(rows), 'chunk')} to {self._uri}"):
            merge = self._table.merge_insert("chunk_id").when_matched_update_all().when_not_matched_insert_all()
            lance_committed(lambda: merge.execute(data))
        return len(rows)

    def delete_documents(self, tenant_id: str, doc_ids: Sequence[str]) -> int:
        """Delete every chunk of the documents of one tenant; returns how many chunks went."""
        return sum(self._delete(tenant_id, part) for part in _lance_slices(doc_ids))

    def delete_stale(self, tenant_id: str, current: Mapping[str, str]) -> int:
        """Delete what earlier texts of the documents left; ``current`` is content hash by ``doc_id``."""
        from lancedb.expr import col

        deleted = 0
        for part in _lance_slices(list(current)):
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
        with lance_reported(f"index {self._uri} as {vector!r}, {full_text!r}"):
            lance_committed(lambda: build_lance_indices(self._table, vector, full_text))

    def optimize(self, *, keep: timedelta = timedelta(days=7)) -> None:
        """Take new rows into the indices, join small files, drop versions older than ``keep``."""
        with lance_reported(f"optimize {self._uri}"):
            self._table.optimize(cleanup_older_than=keep)

    def describe(self) -> StoreState:
        """Rows, version, and how far each index has fallen behind."""
        with lance_reported(f"describe {self._uri}"):
            return StoreState(self._table.count_rows(), self._table.version, lance_index_states(self._table))

    def _delete(self, tenant_id: str, doc_ids: Sequence[str], condition: "Expr | None" = None) -> int:
        from lancedb.expr import col

        rows = lance_rows_of(tenant_id) & col("doc_id").isin(list(doc_ids))
        condition = rows if condition is None else rows & condition
        with lance_reported(f"delete chunks from {self._uri}"):
            return int(lance_committed(lambda: self._table.delete(condition).num_deleted_rows))


class LanceRows:
    """Rows of one tenant in a LanceDB table; see `workbench.retrieval.tenant.TenantRows`."""

    def __init__(self, table: Any, tenant_id: str, dimension: int) -> None:
        self.tenant_id = tenant_id
        self.dimension = dimension
        self._table = table
        self._own = lance_rows_of(tenant_id)
        self._has_text_index = False

    def nearest(
        self, point: Point, limit: int, where: Filter | None, *, exact: bool, knobs: Mapping[str, int]
    ) -> list[ChunkHit]:
        """Up to ``limit`` chunks nearest by cosine."""
        query = self._vector_query(point, limit, where, exact, knobs)
        return self._hits(query, "_distance", cosine_of)

    def nearest_to_each(
        self, points: Sequence[Point], limit: int, where: Filter | None, *, exact: bool, knobs: Mapping[str, int]
    ) -> list[list[ChunkHit]]:
        """What `nearest` finds for each of the points: many in one search take a tenth of the time of each alone."""
        hits: list[list[ChunkHit]] = [[] for _ in points]
        for start in range(0, len(points), POINTS_AT_ONCE):
            part = points[start : start + POINTS_AT_ONCE]
            found = self._found(self._vector_query(part, limit, where, exact, knobs))
            # A list of one point is searched for as that point, without the column that tells the points apart.
            of = found["query_index"].to_pylist() if len(part) > 1 else [0] * found.num_rows
            for place, hit in zip(of, _lance_hits(found, "_distance", cosine_of), strict=True):
                hits[start + place].append(hit)
        return hits

    def matching(self, words: str, limit: int, where: Filter | None) -> list[ChunkHit]:
        """Up to ``limit`` chunks that hold any of the words."""
        return self._hits(self._text_query(words, limit, where), "_score", bm25_of)

    def fused(self, point: Point, words: str, k: int, fusion: Fusion) -> None:
        """Nothing: LanceDB's own fusion has another rule for ties."""

    def may_fall_short(self) -> bool:
        """Whether there is a vector index."""
        return self._has_index(VECTOR_INDEX)

    def explain(
        self,
        point: Point | None,
        words: str | None,
        limit: int,
        where: Filter | None,
        *,
        exact: bool,
        knobs: Mapping[str, int],
    ) -> dict[str, str]:
        """LanceDB's own account of each leg."""
        legs: dict[str, Any] = {}
        if point is not None:
            legs["vector"] = self._vector_query(point, limit, where, exact, knobs)
        if words is not None:
            legs["full_text"] = self._text_query(words, limit, where)
        with lance_reported(f"explain a search of tenant {shown_tenant(self.tenant_id)}"):
            return {leg: query.explain_plan(True) for leg, query in legs.items()}

    def texts(self, doc_ids: Sequence[str]) -> pl.DataFrame:
        """Chunks of the documents."""
        from lancedb.expr import col

        with lance_reported(f"read texts of tenant {shown_tenant(self.tenant_id)}"):
            query = self._table.search().where(self._scope(None) & col("doc_id").isin(list(doc_ids)))
            return pl.DataFrame(query.select(["doc_id", "position", "text"]).to_arrow())

    def states(self) -> pl.DataFrame:
        """Every chunk of the tenant."""
        with lance_reported(f"read the documents of tenant {shown_tenant(self.tenant_id)}"):
            query = self._table.search().where(self._scope(None))
            return pl.DataFrame(query.select(["doc_id", "position", "n_chunks", "content_hash"]).to_arrow())

    def count(self, where: Filter | None) -> int:
        """Chunks that match."""
        with lance_reported(f"count the chunks of tenant {shown_tenant(self.tenant_id)}"):
            # `count_rows` takes SQL text alone, in which a name of quotes or backslashes means another one.
            query = self._table.search().where(self._scope(where))
            return int(query.select(["position"]).to_arrow().num_rows)

    def _scope(self, where: Filter | None) -> "Expr":
        """Condition of every query: the tenant, and what the caller narrows it to."""
        return self._own if where is None else self._own & compile_lance_filter(where)

    def _vector_query(
        self,
        point: Point | Sequence[Point],
        limit: int,
        where: Filter | None,
        exact: bool,
        knobs: Mapping[str, int],
    ) -> Any:
        query = self._table.search(point, vector_column_name="vector", query_type="vector")
        # LanceDB's own default of probes stops early, and a small tenant would get too few.
        query = query.distance_type("cosine").where(self._scope(where)).limit(limit).maximum_nprobes(0)
        if "nprobes" in knobs:
            query.minimum_nprobes(knobs["nprobes"])
        if "refine_factor" in knobs:
            query.refine_factor(knobs["refine_factor"])
        if "ef" in knobs:  # LanceDB refuses to walk the graph with fewer candidates than it must return
            query.ef(max(knobs["ef"], limit * knobs.get("refine_factor", 1)))
        if exact:
            query.bypass_vector_index()
        return query.select([*_HIT_COLUMNS, "_distance"])

    def _text_query(self, words: str, limit: int, where: Filter | None) -> Any:
        from lancedb.query import MatchQuery

        # Without its index LanceDB would scan, with another tokenizer and other scores.
        self._has_text_index = self._has_text_index or self._has_index(TEXT_INDEX)
        if not self._has_text_index:
            raise StoreError("a full-text search needs its index and the table has none; call Store.index() first")
        query = self._table.search(MatchQuery(words, "text"), query_type="fts").where(self._scope(where))
        return query.limit(limit).select([*_HIT_COLUMNS, "_score"])

    def _has_index(self, name: str) -> bool:
        with lance_reported("list the indices"):
            return any(index.name == name for index in self._table.list_indices())

    def _hits(self, query: Any, score: str, scored: Callable[[float], float]) -> list[ChunkHit]:
        return _lance_hits(self._found(query), score, scored)

    def _found(self, query: Any) -> "pa.Table":
        with lance_reported(f"search tenant {shown_tenant(self.tenant_id)}"):
            return query.to_arrow()


def _lance_hits(found: "pa.Table", score: str, scored: Callable[[float], float]) -> list[ChunkHit]:
    chunk_ids, doc_ids, positions = (found[name].to_pylist() for name in _HIT_COLUMNS)
    # Ids are the same ones again and again, each time as another string.
    ids = map(sys.intern, chunk_ids), map(sys.intern, doc_ids)
    return [ChunkHit(*row) for row in zip(*ids, positions, map(scored, found[score].to_pylist()), strict=True)]


def compile_lance_filter(where: Filter) -> "Expr":
    """Compile a filter to LanceDB's typed expression: values, never SQL text with a value in it."""
    from lancedb.expr import col

    match where:
        case Equals(field, value):
            return col(field) == value
        case OneOf(field, values):
            return col(field).isin(values)
        case Between(field, None, high):
            return col(field) <= high
        case Between(field, low, None):
            return col(field) >= low
        case Between(field, low, high):
            return (col(field) >= low) & (col(field) <= high)
        case AllOf(parts):
            return reduce(and_, map(compile_lance_filter, parts))
    raise NotImplementedError(type(where).__name__)


def lance_rows_of(tenant_id: str) -> "Expr":
    """Return the condition that holds for the rows of one tenant, as a value: never SQL text with a name in it.

    Raises
    ------
    TenantError
        If ``tenant_id`` is no string or blank.
    """
    from lancedb.expr import col, lit

    return col("tenant_id") == lit(checked_tenant(tenant_id))


def _lance_slices(doc_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (doc_ids[i : i + SLICE] for i in range(0, len(doc_ids), SLICE))


def _lance_schema(dimension: int) -> "pa.Schema":
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


def _check_lance_schema(found: "pa.Schema", name: str, dimension: int) -> None:
    wanted = _lance_schema(dimension)
    if found.names != wanted.names or found.types != wanted.types:
        width = getattr(found.field("vector").type, "list_size", None) if "vector" in found.names else None
        raise StoreError(
            f"table {name!r} was asked for with vectors of {dimension} and has vectors of {width}, columns "
            f"{', '.join(found.names)}; use another table name, one for each encoder"
        )
    if not any(b"unenforced-primary-key" in key for key in found.field("chunk_id").metadata or {}):
        raise StoreError(f"table {name!r} has no declared key, so writers could make duplicates; make it anew")


def _lance_arrow(rows: Sequence[ChunkRow], dimension: int) -> "pa.Table":
    import pyarrow as pa

    vectors = checked_vectors(rows, dimension)
    schema = _lance_schema(dimension)
    names = [f.name for f in fields(ChunkRow) if f.name != "vector"]
    with lance_reported("turn rows into columns"):
        columns = {name: [getattr(row, name) for row in rows] for name in ["chunk_id", *names]}
        arrays = {name: pa.array(values, schema.field(name).type) for name, values in columns.items()}
        arrays["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), dimension)
        return pa.table(arrays, schema=schema)


def build_lance_indices(table: Any, vector: VectorIndex, full_text: FullTextIndex) -> None:
    """Build every index anew under its own name; a vector index of another type is dropped first.

    LanceDB keeps an index of another type beside the new one, and may go on using it.
    """
    from lancedb.index import FTS, Bitmap, BTree

    options = asdict(full_text) | {"ngram_min_length": NGRAM[0], "ngram_max_length": NGRAM[1]}
    wanted = [
        ("tenant_id", "tenant_id_btree", BTree()),
        ("document_type", "document_type_bitmap", Bitmap()),
        ("date", "date_btree", BTree()),
        ("text", TEXT_INDEX, FTS(base_tokenizer=options.pop("tokenizer"), **options)),
    ]
    if not isinstance(vector, Exact):
        wanted.append(("vector", VECTOR_INDEX, _lance_vector_config(vector, table.count_rows())))
    columns = {name: column for column, name, _ in wanted}
    for index in table.list_indices():
        if columns.get(index.name) is None or index.name == VECTOR_INDEX:
            table.drop_index(index.name)
    for column, name, config in wanted:
        table.create_index(column, config=config, name=name, replace=True)


def _lance_vector_config(vector: IvfPq | HnswSq | Hnsw, rows: int) -> Any:
    from lancedb import index

    if isinstance(vector, Hnsw):
        raise StoreError(f"{vector!r} is an index of PostgreSQL; LanceDB has Exact(), IvfPq() and HnswSq()")

    if isinstance(vector, HnswSq):
        return index.HnswSq(
            distance_type="cosine", m=vector.m, ef_construction=vector.ef_construction, num_partitions=vector.partitions
        )
    if rows < vector.min_rows:
        raise StoreError(
            f"{vector!r} learns {counted(vector.min_rows, 'code')} from the vectors, and the table has {rows}; "
            "ingest more, or use Exact() or HnswSq()"
        )
    return index.IvfPq(
        distance_type="cosine",
        num_partitions=vector.partitions,
        num_sub_vectors=vector.sub_vectors,
        num_bits=vector.bits,
    )


def lance_index_states(table: Any) -> tuple[IndexState, ...]:
    """Every index of the table, by name."""
    found: Sequence[Any] = sorted(table.list_indices(), key=lambda index: index.name)
    return tuple(
        IndexState(i.name, i.index_type, tuple(i.columns), i.num_indexed_rows, i.num_unindexed_rows) for i in found
    )
