"""The store in PostgreSQL: pgvector, BM25 in SQL over a table of terms, and row-level security under every search.

A table of the store is a schema: ``chunks`` (one row per chunk, with its vector), ``terms`` (what full text is searched
by) and ``tenants`` (how many chunks and terms each tenant has). A session that takes no role and sets no tenant sees
nothing in them, the owner included; a superuser sees all, which no policy can change: do not let an application be one.

Full text is BM25 (Robertson and Zaragoza 2009, k1 1.2, b 0.75) with the counts of the tenant alone, so one tenant's
scores do not tell of another's documents. Vectors are compared exactly, or by HNSW with iterative scan: without it a
filtered index returns too few.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import Any, Self

import polars as pl
import sqlalchemy as sa

from workbench.errors import StoreError, TenantError
from workbench.records import Hit
from workbench.rendering.numbers import counted
from workbench.retrieval.filters import AllOf, Between, Equals, Filter, OneOf
from workbench.retrieval.index_kinds import (
    TEXT_INDEX,
    VECTOR_INDEX,
    Exact,
    FullTextIndex,
    Hnsw,
    IndexState,
    VectorIndex,
)
from workbench.retrieval.postgres_session import Sessions, session_reported, set_session_settings
from workbench.retrieval.postgres_sql import (
    ALL_COUNTS,
    ALL_TERMS,
    BM25,
    COPY,
    FORGET,
    FUSED_RANKS,
    FUSED_SCORES,
    MERGE,
    NEW_TERMS,
    STAGE,
    Explain,
    VectorType,
    chunks_table,
    copied_sql_rows,
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

EF_SEARCH, MAX_EF_SEARCH = 100, 1000
CHUNKS = chunks_table(0)
_NUMBERS = re.compile(r"\[[-+\d.e,]+\]")  # of the vector asked, in a plan


class PostgresStore:
    """A table in PostgreSQL with pgvector; see `workbench.retrieval.store.Store`."""

    def __init__(self, sessions: Sessions, dimension: int) -> None:
        self._sessions = sessions
        self.dimension = dimension

    @classmethod
    def open(cls, url: str, name: str, *, dimension: int) -> Self:
        """Open the table ``name`` in the database at ``url``, or create it, with the two roles that it needs.

        Raises
        ------
        StoreError
            If the database is out of reach, has no pgvector 0.8 or newer, lets this user make no roles, or the
            table there has another dimension.
        """
        return cls(Sessions.open(url, name, dimension), dimension)

    def for_tenant(self, tenant_id: str) -> TenantHandle:
        """Return the handle that searches the rows of one tenant; a tenant without rows finds nothing.

        Raises
        ------
        TenantError
            If ``tenant_id`` is no string or blank.
        """
        return TenantHandle(PostgresRows(self._sessions, tenant_id, self.dimension))

    def upsert(self, rows: Sequence[ChunkRow]) -> int:
        """Write rows in one commit by COPY, over those of the same tenant, document and position; returns how many.

        Raises
        ------
        StoreError
            If a row is given twice, a vector does not fit, a text holds what PostgreSQL cannot (NUL, or more than
            1 MB of distinct words), or the table cannot be written; then nothing is.
        """
        if not rows:
            return 0
        vectors = checked_vectors(rows, self.dimension)
        with session_reported("turn rows into columns"):
            copied = copied_sql_rows(rows, vectors)
        with self._sessions.writing(
            f"write {counted(len(rows), 'chunk')} to", {row.tenant_id for row in rows}
        ) as connection:
            for statement in STAGE:
                connection.execute(sa.text(statement))
            driver: Any = connection.connection.driver_connection  # SQLAlchemy has no COPY
            with driver.cursor() as cursor, cursor.copy(COPY) as copy:
                copy.write(copied)
            connection.execute(sa.text("analyze incoming"))
            if (full_text := postgres_text_index(connection)) is not None:
                connection.execute(sa.text(NEW_TERMS), postgres_words_of(full_text))
            for statement in MERGE:
                connection.execute(sa.text(statement))
        return len(rows)

    def delete_documents(self, tenant_id: str, doc_ids: Sequence[str]) -> int:
        """Delete every chunk of the documents of one tenant; returns how many chunks went."""
        return sum(self._delete(tenant_id, doc_ids[i : i + SLICE], sa.true()) for i in range(0, len(doc_ids), SLICE))

    def delete_stale(self, tenant_id: str, current: Mapping[str, str]) -> int:
        """Delete what earlier texts of the documents left; ``current`` is content hash by ``doc_id``."""
        deleted, doc_ids = 0, list(current)
        for part in (doc_ids[i : i + SLICE] for i in range(0, len(doc_ids), SLICE)):
            c = CHUNKS.c
            old = c.content_hash.not_in([current[d] for d in part]) | (c.position >= c.n_chunks)
            deleted += self._delete(tenant_id, part, old)
        return deleted

    def index(self, vector: VectorIndex | None = None, *, full_text: FullTextIndex | None = None) -> None:
        """Build the vector index anew, and the terms unless they are there already: writes keep them up to date.

        Parameters
        ----------
        vector : Exact or Hnsw, optional
            ``Exact()`` if not given.
        full_text : FullTextIndex, optional
            How text becomes terms; ``FullTextIndex()`` if not given.

        Raises
        ------
        StoreError
            If the table is empty, or PostgreSQL has no such index.
        """
        vector, full_text = vector or Exact(), full_text or FullTextIndex()
        if not isinstance(vector, Exact | Hnsw):
            raise StoreError(f"{vector!r} is an index of LanceDB; PostgreSQL has Exact() and Hnsw()")
        words = postgres_words_of(full_text)
        with self._sessions.writing(f"index as {vector!r}, {full_text!r}", None) as connection:
            tenants = connection.execute(sa.text("select tenant_id from tenants where n > 0")).scalars().all()
            if not tenants:
                raise StoreError("an empty table cannot be indexed: ingest documents first")
            if postgres_text_index(connection) != full_text:
                set_session_settings(connection, {"workbench.tenants": json.dumps(list(tenants))})
                _make_postgres_terms(connection, full_text, words)
            rows = int(connection.execute(sa.text("select sum(n) from tenants")).scalar_one())
            set_session_settings(connection, {"role": "none"})  # indices belong to the owner
            graph = _postgres_hnsw(
                Hnsw() if isinstance(vector, Exact) else vector, self.dimension, self._sessions.schema
            )
            connection.execute(sa.schema.DropIndex(graph, if_exists=True))
            if isinstance(vector, Hnsw):
                # A graph that does not fit is built on disk: vectors and links, and as much again.
                needed = 2 * rows * (4 * self.dimension + 16 * vector.m)
                set_session_settings(connection, {"maintenance_work_mem": f"{min(2048, 64 + (needed >> 20))}MB"})
                connection.execute(sa.schema.CreateIndex(graph))
            connection.execute(sa.text("analyze chunks, terms, tenants"))

    def optimize(self, *, keep: timedelta = timedelta(days=7)) -> None:
        """Clear away what was replaced and renew the planner's statistics; there are no versions to ``keep``."""
        self._sessions.vacuum()

    def describe(self) -> StoreState:
        """Rows, number of writes, and the indices, which are never behind."""
        with self._sessions.writing("describe", None, lock=False) as connection:
            rows = int(connection.execute(sa.text("select coalesce(sum(n), 0) from tenants")).scalar_one())
            version = connection.execute(sa.text("select version from settings")).scalar_one()
            has_words, has_graph = (
                postgres_text_index(connection) is not None,
                self._sessions.has_vector_index(connection),
            )
        found = [IndexState(TEXT_INDEX, "BM25 in SQL", ("text",), rows, 0)] if has_words else []
        found += [IndexState(VECTOR_INDEX, "HNSW", ("vector",), rows, 0)] if has_graph else []
        return StoreState(rows, int(version), tuple(found))

    def _delete(self, tenant_id: str, doc_ids: Sequence[str], old: sa.ColumnElement[bool]) -> int:
        condition = postgres_rows_of(tenant_id, CHUNKS) & CHUNKS.c.doc_id.in_(doc_ids) & old
        with self._sessions.writing("delete chunks from", {tenant_id}) as connection:
            ids = connection.execute(sa.delete(CHUNKS).where(condition).returning(CHUNKS.c.chunk_id)).scalars().all()
            if ids:
                connection.execute(sa.text(FORGET), {"tenant": tenant_id, "ids": list(ids)})
        return len(ids)


class PostgresRows:
    """Rows of one tenant in PostgreSQL; see `workbench.retrieval.tenant.TenantRows`."""

    def __init__(self, sessions: Sessions, tenant_id: str, dimension: int) -> None:
        postgres_rows_of(tenant_id, CHUNKS)
        self.tenant_id = tenant_id
        self.dimension = dimension
        self._sessions = sessions

    def nearest(
        self, point: Point, limit: int, where: Filter | None, *, exact: bool, knobs: Mapping[str, int]
    ) -> list[ChunkHit]:
        """Up to ``limit`` chunks nearest by cosine."""
        (hits,) = self.nearest_to_each([point], limit, where, exact=exact, knobs=knobs)
        return hits

    def nearest_to_each(
        self, points: Sequence[Point], limit: int, where: Filter | None, *, exact: bool, knobs: Mapping[str, int]
    ) -> list[list[ChunkHit]]:
        """What `nearest` finds for each of the points, one after the other in one transaction."""
        settings, hits = _postgres_search_settings(exact, limit, knobs), []
        with self._sessions.searching("search the rows", self.tenant_id, settings) as connection:
            for point in points:
                found = connection.execute(self._near(point, limit, where, exact))
                hits.append(
                    [ChunkHit(chunk, doc, position, cosine_of(distance)) for chunk, doc, position, distance in found]
                )
        return hits

    def matching(self, words: str, limit: int, where: Filter | None) -> list[ChunkHit]:
        """Up to ``limit`` chunks that hold any of the words."""
        with self._sessions.searching("search the rows", self.tenant_id, {}) as connection:
            found = connection.execute(self._words(connection, words, limit, where)).all()
        return [ChunkHit(chunk, doc, position, bm25_of(score)) for chunk, doc, position, score in found]

    def fused(self, point: Point, words: str, k: int, fusion: Fusion) -> list[Hit]:
        """Best ``k`` documents of both legs, in one statement."""
        values, fused = fusion.values, FUSED_SCORES if fusion.rank_constant is None else FUSED_RANKS
        with self._sessions.searching("search the rows", self.tenant_id, {}) as connection:
            asked = self._asked(connection, words) | {"point": _postgres_told(point), "k": k, **values}
            return [Hit(doc_id, score) for doc_id, score in connection.execute(self._statement(fused), asked)]

    def may_fall_short(self) -> bool:
        """Whether there is a vector index."""
        with self._sessions.searching("look at the indices", self.tenant_id, {}) as connection:
            return self._sessions.has_vector_index(connection)

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
        """PostgreSQL's own account of each leg, and the settings under which it is searched."""
        settings, legs = _postgres_search_settings(exact, limit, knobs), dict[str, str]()
        with self._sessions.searching("explain a search", self.tenant_id, settings) as connection:
            if point is not None:
                lines = connection.execute(Explain(self._near(point, limit, where, exact))).scalars().all()
                told = "\n".join([*lines, *(f"{name} = {value}" for name, value in settings.items())])
                legs["vector"] = _NUMBERS.sub("[...]", told)
            if words is not None:
                query = self._words(connection, words, limit, where)
                legs["full_text"] = "\n".join(connection.execute(Explain(query)).scalars().all())
        return legs

    def texts(self, doc_ids: Sequence[str]) -> pl.DataFrame:
        """Chunks of the documents."""
        c = CHUNKS.c
        query = sa.select(c.doc_id, c.position, c.text).where(self._own(CHUNKS), c.doc_id.in_(doc_ids))
        return self._frame(query, {"doc_id": pl.String, "position": pl.Int32, "text": pl.String})

    def states(self) -> pl.DataFrame:
        """Every chunk of the tenant."""
        c = CHUNKS.c
        query = sa.select(c.doc_id, c.position, c.n_chunks, c.content_hash).where(self._own(CHUNKS))
        schema = {"doc_id": pl.String, "position": pl.Int32, "n_chunks": pl.Int32, "content_hash": pl.String}
        return self._frame(query, schema)

    def count(self, where: Filter | None) -> int:
        """Chunks that match."""
        query = sa.select(sa.func.count()).select_from(CHUNKS).where(self._scope(where))
        with self._sessions.searching("count the chunks", self.tenant_id, {}) as connection:
            return int(connection.execute(query).scalar_one())

    def _frame(self, query: sa.Select[Any], schema: Mapping[str, type[pl.DataType]]) -> pl.DataFrame:
        with self._sessions.searching("read the documents", self.tenant_id, {}) as connection:
            return pl.DataFrame([tuple(row) for row in connection.execute(query)], schema=schema, orient="row")

    def _own(self, table: sa.FromClause) -> sa.ColumnElement[bool]:
        """Condition that the policies hold too; the planner needs it to know how many rows there are."""
        return postgres_rows_of(self.tenant_id, table)

    def _scope(self, where: Filter | None) -> sa.ColumnElement[bool]:
        return self._own(CHUNKS) if where is None else self._own(CHUNKS) & compile_postgres_condition(where)

    def _near(self, point: Point, limit: int, where: Filter | None, exact: bool) -> sa.Select[Any]:
        c = CHUNKS.c
        distance = c.vector.op("<=>", return_type=sa.Double)(sa.cast(_postgres_told(point), VectorType(self.dimension)))
        # No index can serve a sum: this is what makes a search exact, whatever indices there are.
        order = distance + sa.literal_column("0") if exact else distance
        query = sa.select(c.chunk_id, c.doc_id, c.position, distance.label("distance"))
        return query.where(self._scope(where)).order_by(order).limit(limit)

    def _words(self, connection: sa.Connection, words: str, limit: int, where: Filter | None) -> sa.Select[Any]:
        # What narrows stands in `chunks`: without it only the best need be looked up there.
        asked = self._asked(connection, words) | {"most": None if where else limit}
        best = self._statement(BM25).bindparams(**asked)
        columns = sa.column("chunk_id", sa.Text), sa.column("score", sa.Double)
        c, found = CHUNKS.c, best.columns(*columns).subquery("best")
        query = sa.select(c.chunk_id, c.doc_id, c.position, found.c.score).join(found, found.c.chunk_id == c.chunk_id)
        return query.where(self._scope(where)).order_by(found.c.score.desc()).limit(limit)

    def _statement(self, sql: str) -> sa.TextClause:
        """Return a statement of `workbench.retrieval.postgres_sql`, which names the tenant as a parameter."""
        return sa.text(sql)

    def _asked(self, connection: sa.Connection, words: str) -> dict[str, Any]:
        """Return what the statements of full text are asked with."""
        full_text = postgres_text_index(connection)
        if full_text is None:
            raise StoreError("a full-text search needs its index and the table has none; call Store.index() first")
        return postgres_words_of(full_text) | {"words": words, "tenant": self.tenant_id}


def _postgres_told(point: Point) -> str:
    return "[" + ",".join(map(repr, point.tolist())) + "]"


def postgres_rows_of(tenant_id: str, table: sa.FromClause) -> sa.ColumnElement[bool]:
    """Return the condition that holds for the rows of one tenant, as a value: never SQL text with a name in it.

    Raises
    ------
    TenantError
        If ``tenant_id`` is no string, blank, or holds NUL, which PostgreSQL's text cannot.
    """
    if "\x00" in checked_tenant(tenant_id):
        raise TenantError(f"tenant {shown_tenant(tenant_id)} holds NUL, which text in PostgreSQL cannot")
    condition: sa.ColumnElement[bool] = table.c.tenant_id == tenant_id
    return condition


def compile_postgres_condition(where: Filter) -> sa.ColumnElement[bool]:
    """Compile a filter to SQLAlchemy's expression: values, never SQL text with a value in it."""
    match where:
        case Equals(field, value):
            return CHUNKS.c[field] == value
        case OneOf(field, values):
            return CHUNKS.c[field].in_(values)
        case Between(field, None, high):
            return CHUNKS.c[field] <= high
        case Between(field, low, None):
            return CHUNKS.c[field] >= low
        case Between(field, low, high):
            return CHUNKS.c[field].between(low, high)
        case AllOf(parts):
            return sa.and_(*map(compile_postgres_condition, parts))
    raise NotImplementedError(type(where).__name__)


def postgres_words_of(full_text: FullTextIndex) -> dict[str, Any]:
    """Return the configuration of PostgreSQL that makes terms like this index, and whether accents go.

    Raises
    ------
    StoreError
        If PostgreSQL has none: it stems and leaves out stop words together or not at all, in lower case.
    """
    stem, tokenizer = full_text.stem, full_text.tokenizer
    if stem != full_text.remove_stop_words or not full_text.lower_case or tokenizer != "simple":
        raise StoreError(
            f"PostgreSQL has no {full_text!r}: its words are in lower case, made by its own tokenizer, and are either "
            "stemmed without stop words or as they stand (stem=False, remove_stop_words=False)"
        )
    return {"config": full_text.language.lower() if stem else "simple", "fold": full_text.ascii_folding}


def postgres_text_index(connection: sa.Connection) -> FullTextIndex | None:
    """Return how the text of this table became terms, None if it has not yet."""
    told = connection.execute(sa.text("select text_index from settings")).scalar_one()
    return None if told is None else FullTextIndex(**told)


def _make_postgres_terms(connection: sa.Connection, full_text: FullTextIndex, words: Mapping[str, Any]) -> None:
    connection.execute(sa.text("truncate terms"))
    connection.execute(sa.text(ALL_TERMS), words)
    connection.execute(sa.text(ALL_COUNTS))
    told = {"told": json.dumps(asdict(full_text))}
    connection.execute(sa.text("update settings set text_index = cast(:told as jsonb)"), told)


def _postgres_search_settings(exact: bool, limit: int, knobs: Mapping[str, int]) -> dict[str, str]:
    """Return the settings of one search by vector; the planner may still take the tenant's rows one by one."""
    if unknown := sorted(knobs.keys() - {"ef"}):
        raise StoreError(f"PostgreSQL has no knob {unknown[0]!r}: its index is HNSW, whose knob is ef")
    if exact:
        return {}
    ef = min(MAX_EF_SEARCH, max(knobs.get("ef", EF_SEARCH), limit))
    return {"hnsw.iterative_scan": "relaxed_order", "hnsw.ef_search": str(ef), "random_page_cost": "1.1"}


def _postgres_hnsw(index: Hnsw, dimension: int, schema: str) -> sa.Index:
    return sa.Index(
        VECTOR_INDEX,
        chunks_table(dimension, schema).c.vector,
        postgresql_using="hnsw",
        postgresql_with={"m": index.m, "ef_construction": index.ef_construction},
        postgresql_ops={"vector": "vector_cosine_ops"},
    )
