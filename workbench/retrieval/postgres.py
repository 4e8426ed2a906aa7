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
import struct
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import polars as pl
import sqlalchemy as sa

from workbench.errors import StoreError, TenantError
from workbench.retrieval.indexing import TEXT_INDEX, VECTOR_INDEX, Exact, FullTextIndex, Hnsw, IndexState, VectorIndex
from workbench.retrieval.postgres_sql import (
    ALL_COUNTS,
    ALL_TERMS,
    BEGIN_SETTINGS,
    COPY,
    CREATE,
    EXTENSION,
    FORGET,
    MERGE,
    NEW_TERMS,
    ROLES,
    SET,
    STAGE,
    TENANTS,
    TERMS,
    VECTOR_INDEX_READY,
    Explain,
    VectorType,
    bm25,
    chunks_table,
    copied_rows,
)
from workbench.retrieval.store import SLICE, ChunkRow, StoreState, checked_vectors
from workbench.retrieval.tenant import (
    AllOf,
    Between,
    ChunkHit,
    Equals,
    Filter,
    OneOf,
    TenantHandle,
    bm25_of,
    checked_tenant,
    cosine_of,
    shown_tenant,
)

SEARCHER, WRITER = "workbench_search", "workbench_write"
EF_SEARCH, MAX_EF_SEARCH = 100, 1000
_LOCK = 0x776F726B  # "work": under which schemas are made and tables written, one writer at a time
_LEAST_PGVECTOR = (0, 8)
CHUNKS = chunks_table(0)
_NUMBERS = re.compile(r"\[[-+\d.e,]+\]")  # of the vector asked, in a plan


class PostgresStore:
    """A table in PostgreSQL with pgvector; see `workbench.retrieval.store.Store`."""

    def __init__(self, engine: sa.Engine, schema: str, path: str, dimension: int) -> None:
        self._engine = engine
        self._schema = schema
        self._path = path
        self.dimension = dimension
        weakref.finalize(self, engine.dispose)

    @classmethod
    def open(cls, url: str, name: str, *, dimension: int) -> Self:
        """Open the table ``name`` in the database at ``url``, or create it, with the two roles that it needs.

        Raises
        ------
        StoreError
            If the database is out of reach, has no pgvector 0.8 or newer, lets this user make no roles, or the
            table there has another dimension.
        """
        if not name or len(name.encode()) > 63 or "\x00" in name:
            raise StoreError(f"a table in PostgreSQL is named by 1 to 63 bytes, found {name!r}")
        # Plans are made for each tenant anew: a generic one would not know which tenant is small.
        engine = sa.create_engine(url, connect_args={"prepare_threshold": None}, pool_size=5, max_overflow=15)
        try:
            with reported(f"open table {name!r} in {engine.url.render_as_string()}"), engine.begin() as connection:
                path, found = _opened(connection, name, dimension)
        except StoreError:
            engine.dispose()
            raise
        if found != dimension:
            engine.dispose()
            raise StoreError(
                f"table {name!r} was asked for with vectors of {dimension} and has vectors of {found}; use another "
                "table name, one for each encoder"
            )
        return cls(engine, name, path, dimension)

    def for_tenant(self, tenant_id: str) -> TenantHandle:
        """Return the handle that searches the rows of one tenant; a tenant without rows finds nothing.

        Raises
        ------
        TenantError
            If ``tenant_id`` is no string or blank.
        """
        return TenantHandle(PostgresRows(self, tenant_id))

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
        with reported("turn rows into columns"):
            copied = copied_rows(rows, vectors)
        with self._writing(f"write {len(rows)} chunks to", {row.tenant_id for row in rows}) as connection:
            for statement in STAGE:
                connection.execute(sa.text(statement))
            driver: Any = connection.connection.driver_connection  # SQLAlchemy has no COPY
            with driver.cursor() as cursor, cursor.copy(COPY) as copy:
                copy.write(copied)
            connection.execute(sa.text("analyze incoming"))
            if (full_text := text_index(connection)) is not None:
                connection.execute(sa.text(NEW_TERMS), words_of(full_text))
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
        words = words_of(full_text)
        with self._writing(f"index as {vector!r}, {full_text!r}", None) as connection:
            tenants = connection.execute(sa.text("select tenant_id from tenants where n > 0")).scalars().all()
            if not tenants:
                raise StoreError("an empty table cannot be indexed: ingest documents first")
            if text_index(connection) != full_text:
                _set(connection, {"workbench.tenants": json.dumps(list(tenants))})
                connection.execute(sa.text("truncate terms"))
                connection.execute(sa.text(ALL_TERMS), words)
                connection.execute(sa.text(ALL_COUNTS))
                told = {"told": json.dumps(asdict(full_text))}
                connection.execute(sa.text("update settings set text_index = cast(:told as jsonb)"), told)
            rows = connection.execute(sa.text("select sum(n) from tenants")).scalar_one()
            _set(connection, {"role": "none"})  # indices belong to the owner
            connection.execute(sa.schema.DropIndex(_hnsw(Hnsw(), self.dimension, self._schema), if_exists=True))
            if isinstance(vector, Hnsw):
                megabytes = min(2048, 64 + int(rows) * (4 * self.dimension + 16 * vector.m) * 2 >> 20)
                _set(connection, {"maintenance_work_mem": f"{megabytes}MB"})
                connection.execute(sa.schema.CreateIndex(_hnsw(vector, self.dimension, self._schema)))
            connection.execute(sa.text("analyze chunks, terms, tenants"))

    def optimize(self, *, keep: timedelta = timedelta(days=7)) -> None:
        """Clear away what was replaced and renew the planner's statistics; there are no versions to ``keep``."""
        with reported(f"optimize table {self._schema!r}"), self._engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT")
            connection.detach()  # its search path outlives the statement
            connection.execute(sa.text("select set_config('search_path', :path, false)"), {"path": self._path})
            connection.execute(sa.text("vacuum (analyze) chunks, terms, tenants"))

    def describe(self) -> StoreState:
        """Rows, number of writes, and the indices, which are never behind."""
        with self._writing("describe", None, lock=False) as connection:
            rows = int(connection.execute(sa.text("select coalesce(sum(n), 0) from tenants")).scalar_one())
            version = connection.execute(sa.text("select version from settings")).scalar_one()
            has_words, has_graph = text_index(connection) is not None, self.has_vector_index(connection)
        found = [IndexState(TEXT_INDEX, "BM25 in SQL", ("text",), rows, 0)] if has_words else []
        found += [IndexState(VECTOR_INDEX, "HNSW", ("vector",), rows, 0)] if has_graph else []
        return StoreState(rows, int(version), tuple(found))

    def has_vector_index(self, connection: sa.Connection) -> bool:
        """Whether a vector index is there and whole."""
        asked = {"name": VECTOR_INDEX, "schema": quoted(self._schema)}
        return bool(connection.execute(sa.text(VECTOR_INDEX_READY), asked).scalar_one())

    @contextmanager
    def searching(self, asked: str, tenant_id: str, knobs: Mapping[str, str]) -> Iterator[sa.Connection]:
        """Transaction as the role that searches, which the policies show the rows of this tenant alone."""
        with reported(f"{asked} of tenant {shown_tenant(tenant_id)}"), self._engine.begin() as connection:
            settings = {"search_path": self._path, "jit": "off", "role": SEARCHER, "workbench.tenant": tenant_id}
            _set(connection, {**settings, **knobs})
            yield connection

    def _delete(self, tenant_id: str, doc_ids: Sequence[str], old: sa.ColumnElement[bool]) -> int:
        condition = rows_of(tenant_id, CHUNKS) & CHUNKS.c.doc_id.in_(doc_ids) & old
        with self._writing("delete chunks from", {tenant_id}) as connection:
            ids = connection.execute(sa.delete(CHUNKS).where(condition).returning(CHUNKS.c.chunk_id)).scalars().all()
            if ids:
                connection.execute(sa.text(FORGET), {"tenant": tenant_id, "ids": list(ids)})
        return len(ids)

    @contextmanager
    def _writing(self, asked: str, tenants: set[str] | None, *, lock: bool = True) -> Iterator[sa.Connection]:
        """Transaction as the role that writes, which sees the rows of these tenants; one writer at a time."""
        with reported(f"{asked} table {self._schema!r}"), self._engine.begin() as connection:
            settings = {"search_path": self._path, "jit": "off", "role": WRITER}
            _set(connection, settings | {"workbench.tenants": json.dumps(sorted(tenants or ()))})
            if lock:  # counts of a tenant are sums that two writers must not take at once
                key = {"key": _LOCK, "schema": self._schema}
                connection.execute(sa.text("select pg_advisory_xact_lock(:key, hashtext(:schema))"), key)
                connection.execute(sa.text("update settings set version = version + 1"))
            yield connection


class PostgresRows:
    """Rows of one tenant in PostgreSQL; see `workbench.retrieval.tenant.TenantRows`."""

    def __init__(self, store: PostgresStore, tenant_id: str) -> None:
        rows_of(tenant_id, CHUNKS)
        self.tenant_id = tenant_id
        self.dimension = store.dimension
        self._store = store

    def nearest(
        self, point: npt.NDArray[np.float32], limit: int, where: Filter | None, *, exact: bool, knobs: Mapping[str, int]
    ) -> list[ChunkHit]:
        """Up to ``limit`` chunks nearest by cosine."""
        with self._store.searching("search the rows", self.tenant_id, _settings(exact, limit, knobs)) as connection:
            found = connection.execute(self._near(point, limit, where, exact)).all()
        return [ChunkHit(chunk, doc, position, cosine_of(distance)) for chunk, doc, position, distance in found]

    def matching(self, words: str, limit: int, where: Filter | None) -> list[ChunkHit]:
        """Up to ``limit`` chunks that hold any of the words."""
        with self._store.searching("search the rows", self.tenant_id, {}) as connection:
            found = connection.execute(self._words(connection, words, limit, where)).all()
        return [ChunkHit(chunk, doc, position, bm25_of(score)) for chunk, doc, position, score in found]

    def may_fall_short(self) -> bool:
        """Whether there is a vector index."""
        with self._store.searching("look at the indices", self.tenant_id, {}) as connection:
            return self._store.has_vector_index(connection)

    def explain(
        self,
        point: npt.NDArray[np.float32] | None,
        words: str | None,
        limit: int,
        where: Filter | None,
        *,
        exact: bool,
        knobs: Mapping[str, int],
    ) -> dict[str, str]:
        """PostgreSQL's own account of each leg, and the settings under which it is searched."""
        settings, legs = _settings(exact, limit, knobs), dict[str, str]()
        with self._store.searching("explain a search", self.tenant_id, settings) as connection:
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
        with self._store.searching("count the chunks", self.tenant_id, {}) as connection:
            return int(connection.execute(query).scalar_one())

    def _frame(self, query: sa.Select[Any], schema: Mapping[str, type[pl.DataType]]) -> pl.DataFrame:
        with self._store.searching("read the documents", self.tenant_id, {}) as connection:
            return pl.DataFrame([tuple(row) for row in connection.execute(query)], schema=schema, orient="row")

    def _own(self, table: sa.FromClause) -> sa.ColumnElement[bool]:
        """Condition that the policies hold too; the planner needs it to know how many rows there are."""
        return rows_of(self.tenant_id, table)

    def _scope(self, where: Filter | None) -> sa.ColumnElement[bool]:
        return self._own(CHUNKS) if where is None else self._own(CHUNKS) & compile_condition(where)

    def _near(self, point: npt.NDArray[np.float32], limit: int, where: Filter | None, exact: bool) -> sa.Select[Any]:
        c, given = CHUNKS.c, "[" + ",".join(map(repr, point.tolist())) + "]"
        distance = c.vector.op("<=>", return_type=sa.Double)(sa.cast(given, VectorType(self.dimension)))
        # No index can serve a sum: this is what makes a search exact, whatever indices there are.
        order = distance + sa.literal_column("0") if exact else distance
        query = sa.select(c.chunk_id, c.doc_id, c.position, distance.label("distance"))
        return query.where(self._scope(where)).order_by(order).limit(limit)

    def _words(self, connection: sa.Connection, words: str, limit: int, where: Filter | None) -> sa.Select[Any]:
        full_text = text_index(connection)
        if full_text is None:
            raise StoreError("a full-text search needs its index and the table has none; call Store.index() first")
        found = bm25(self._own(TERMS), self._own(TENANTS), words_of(full_text) | {"words": words})
        c = CHUNKS.c
        query = sa.select(c.chunk_id, c.doc_id, c.position, found.c.score).join(found, found.c.chunk_id == c.chunk_id)
        return query.where(self._scope(where)).order_by(found.c.score.desc()).limit(limit)


def rows_of(tenant_id: str, table: sa.FromClause) -> sa.ColumnElement[bool]:
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


def compile_condition(where: Filter) -> sa.ColumnElement[bool]:
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
            return sa.and_(*map(compile_condition, parts))
    raise NotImplementedError(type(where).__name__)


def words_of(full_text: FullTextIndex) -> dict[str, Any]:
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


def text_index(connection: sa.Connection) -> FullTextIndex | None:
    """Return how the text of this table became terms, None if it has not yet."""
    told = connection.execute(sa.text("select text_index from settings")).scalar_one()
    return None if told is None else FullTextIndex(**told)


def _settings(exact: bool, limit: int, knobs: Mapping[str, int]) -> dict[str, str]:
    """Return the settings of one search by vector; the planner may still take the tenant's rows one by one."""
    if unknown := sorted(knobs.keys() - {"ef"}):
        raise StoreError(f"PostgreSQL has no knob {unknown[0]!r}: its index is HNSW, whose knob is ef")
    if exact:
        return {}
    ef = min(MAX_EF_SEARCH, max(knobs.get("ef", EF_SEARCH), limit))
    return {"hnsw.iterative_scan": "relaxed_order", "hnsw.ef_search": str(ef), "random_page_cost": "1.1"}


def _hnsw(index: Hnsw, dimension: int, schema: str) -> sa.Index:
    return sa.Index(
        VECTOR_INDEX,
        chunks_table(dimension, schema).c.vector,
        postgresql_using="hnsw",
        postgresql_with={"m": index.m, "ef_construction": index.ef_construction},
        postgresql_ops={"vector": "vector_cosine_ops"},
    )


def _set(connection: sa.Connection, settings: Mapping[str, str]) -> None:
    """Set what holds until the transaction ends: a pooled connection keeps nothing of it."""
    connection.execute(sa.text(SET), {"names": list(settings), "values": list(settings.values())})


def quoted(name: str) -> str:
    """Return a name as an identifier, for settings and functions that read identifiers."""
    return '"' + name.replace('"', '""') + '"'


def _opened(connection: sa.Connection, name: str, dimension: int) -> tuple[str, int]:
    """Search path of the table, which is made if it is not there, and length of its vectors."""
    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
    path = ", ".join(map(quoted, (name, _extension(connection))))
    _make_roles(connection)
    there = sa.text("select to_regclass(:settings) is not null")
    if not connection.execute(there, {"settings": f"{quoted(name)}.settings"}).scalar_one():
        connection.execute(sa.schema.CreateSchema(name, if_not_exists=True))
        connection.execute(sa.schema.CreateTable(chunks_table(dimension, name)))
        _set(connection, {"search_path": path})
        for statement in CREATE:
            connection.execute(sa.text(statement))
        connection.execute(sa.text(BEGIN_SETTINGS), {"dimension": dimension})
    _set(connection, {"search_path": path})
    return path, int(connection.execute(sa.text("select dimension from settings")).scalar_one())


def _extension(connection: sa.Connection) -> str:
    """Return the schema that pgvector is in; made if the server has it."""
    found = connection.execute(sa.text(EXTENSION)).one_or_none()
    if found is None:
        there = sa.text("select count(*) from pg_available_extensions where name = 'vector'")
        if not connection.execute(there).scalar_one():
            major = connection.execute(sa.text("show server_version_num")).scalar_one()[:2]
            raise StoreError(
                f"PostgreSQL {major} at {connection.engine.url.render_as_string()} has no pgvector; install it on the "
                f"server (Debian, Ubuntu: apt install postgresql-{major}-pgvector), then: CREATE EXTENSION vector;"
            )
        with _by_an_administrator(connection, "CREATE EXTENSION vector;"):
            connection.execute(sa.text("create extension vector"))
        found = connection.execute(sa.text(EXTENSION)).one()
    if tuple(map(int, found.extversion.split(".")[:2])) < _LEAST_PGVECTOR:
        raise StoreError(
            f"pgvector {found.extversion} has no iterative scan, so a filtered search would find too few; install 0.8 "
            "or newer on the server, then: ALTER EXTENSION vector UPDATE;"
        )
    return str(found.nspname)


def _make_roles(connection: sa.Connection) -> None:
    with _by_an_administrator(
        connection, f"CREATE ROLE {SEARCHER}; CREATE ROLE {WRITER}; GRANT {SEARCHER}, {WRITER} TO the user of this URL;"
    ):
        connection.execute(sa.text(ROLES))


@contextmanager
def _by_an_administrator(connection: sa.Connection, command: str) -> Iterator[None]:
    """Say what an administrator has to run if this user may not."""
    try:
        yield
    except sa.exc.ProgrammingError as error:
        if getattr(error.orig, "sqlstate", "") != "42501":
            raise
        raise StoreError(f"this user may not; an administrator of the database has to run: {command}") from error


@contextmanager
def reported(asked: str) -> Iterator[None]:
    """Raise what the database raises as a StoreError that says what was asked for; the transaction is undone."""
    import psycopg

    try:
        yield
    except (sa.exc.DBAPIError, psycopg.Error, OSError, ValueError, OverflowError, struct.error) as error:
        reason = str(error.orig if isinstance(error, sa.exc.DBAPIError) else error).strip().partition("\n")[0]
        raise StoreError(f"cannot {asked}: {reason or type(error).__name__}") from error
