"""Sessions on the store in PostgreSQL: who asks, in which role, for which tenants, and what to do where that fails.

A session takes one of two roles for the length of a transaction. Neither is a superuser or owns a table, so policies
bind both. Everything that is set ends with the transaction: the next user of a pooled connection inherits nothing.
"""

import json
import struct
import weakref
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Self

import sqlalchemy as sa

from workbench.errors import StoreError
from workbench.extras import DISTRIBUTION
from workbench.retrieval.index_kinds import VECTOR_INDEX
from workbench.retrieval.postgres_sql import (
    BEGIN_SETTINGS,
    CREATE,
    EXTENSION,
    ROLES,
    SET,
    VECTOR_INDEX_READY,
    chunks_table,
)
from workbench.retrieval.tenant import shown_tenant

SEARCHER, WRITER = "workbench_search", "workbench_write"
_LOCK = 0x776F726B  # "work": under which schemas are made and tables written, one writer at a time
_LEAST_PGVECTOR = (0, 8)


class Sessions:
    """Connections to one table, each for one transaction in one role."""

    def __init__(self, engine: sa.Engine, schema: str, path: str) -> None:
        self._engine = engine
        self._path = path
        self.schema = schema
        weakref.finalize(self, engine.dispose)

    @classmethod
    def open(cls, url: str, name: str, dimension: int) -> Self:
        """Connect to the table, which is made if it is not there."""
        if not name or len(name.encode()) > 63 or "\x00" in name:
            raise StoreError(f"a table in PostgreSQL is named by 1 to 63 bytes, found {name!r}")
        # Plans are made for each tenant anew: a generic one would not know which tenant is small.
        try:
            engine = sa.create_engine(url, connect_args={"prepare_threshold": None}, pool_size=5, max_overflow=15)
        except ImportError as error:
            needed = f"pip install '{DISTRIBUTION}[postgres]'"
            raise StoreError(f"PostgreSQL needs its driver ({error}): {needed}") from error
        try:
            with (
                session_reported(f"open table {name!r} in {engine.url.render_as_string()}"),
                engine.begin() as connection,
            ):
                path, found = _opened_session_table(connection, name, dimension)
        except StoreError:
            engine.dispose()
            raise
        if found != dimension:
            engine.dispose()
            raise StoreError(
                f"table {name!r} was asked for with vectors of {dimension} and has vectors of {found}; use another "
                "table name, one for each encoder"
            )
        return cls(engine, name, path)

    @contextmanager
    def searching(self, asked: str, tenant_id: str, knobs: Mapping[str, str]) -> Iterator[sa.Connection]:
        """Transaction as the role that searches, which the policies show the rows of this tenant alone."""
        with session_reported(f"{asked} of tenant {shown_tenant(tenant_id)}"), self._engine.begin() as connection:
            settings = {"search_path": self._path, "jit": "off", "role": SEARCHER, "workbench.tenant": tenant_id}
            set_session_settings(connection, {**settings, **knobs})
            yield connection

    def has_vector_index(self, connection: sa.Connection) -> bool:
        """Whether a vector index is there and whole."""
        asked = {"name": VECTOR_INDEX, "schema": quoted_identifier(self.schema)}
        return bool(connection.execute(sa.text(VECTOR_INDEX_READY), asked).scalar_one())

    @contextmanager
    def writing(self, asked: str, tenants: Collection[str] | None, *, lock: bool = True) -> Iterator[sa.Connection]:
        """Transaction as the role that writes, which sees the rows of these tenants; one writer at a time."""
        with session_reported(f"{asked} table {self.schema!r}"), self._engine.begin() as connection:
            settings = {"search_path": self._path, "jit": "off", "role": WRITER}
            set_session_settings(connection, settings | {"workbench.tenants": json.dumps(sorted(tenants or ()))})
            if lock:  # counts of a tenant are sums that two writers must not take at once
                key = {"key": _LOCK, "schema": self.schema}
                connection.execute(sa.text("select pg_advisory_xact_lock(:key, hashtext(:schema))"), key)
                connection.execute(sa.text("update settings set version = version + 1"))
            yield connection

    def vacuum(self) -> None:
        """Clear away what was replaced and renew the planner's statistics."""
        with session_reported(f"optimize table {self.schema!r}"), self._engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT")
            connection.detach()  # its search path outlives the statement
            connection.execute(sa.text("select set_config('search_path', :path, false)"), {"path": self._path})
            connection.execute(sa.text("vacuum (analyze) chunks, terms, tenants"))


def set_session_settings(connection: sa.Connection, settings: Mapping[str, str]) -> None:
    """Set what holds until the transaction ends: a pooled connection keeps nothing of it."""
    connection.execute(sa.text(SET), {"names": list(settings), "values": list(settings.values())})


def quoted_identifier(name: str) -> str:
    """Return a name as an identifier, for settings and functions that read identifiers."""
    return '"' + name.replace('"', '""') + '"'


def _opened_session_table(connection: sa.Connection, name: str, dimension: int) -> tuple[str, int]:
    """Search path of the table, which is made if it is not there, and length of its vectors."""
    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
    path = ", ".join(map(quoted_identifier, (name, _session_extension(connection))))
    _make_session_roles(connection)
    there = sa.text("select to_regclass(:settings) is not null")
    if not connection.execute(there, {"settings": f"{quoted_identifier(name)}.settings"}).scalar_one():
        connection.execute(sa.schema.CreateSchema(name, if_not_exists=True))
        connection.execute(sa.schema.CreateTable(chunks_table(dimension, name)))
        set_session_settings(connection, {"search_path": path})
        for statement in CREATE:
            connection.execute(sa.text(statement))
        connection.execute(sa.text(BEGIN_SETTINGS), {"dimension": dimension})
    set_session_settings(connection, {"search_path": path})
    return path, int(connection.execute(sa.text("select dimension from settings")).scalar_one())


def _session_extension(connection: sa.Connection) -> str:
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


def _make_session_roles(connection: sa.Connection) -> None:
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
def session_reported(asked: str) -> Iterator[None]:
    """Raise what the database raises as a StoreError that says what was asked for; the transaction is undone."""
    import psycopg

    try:
        yield
    except (sa.exc.DBAPIError, psycopg.Error, OSError, ValueError, OverflowError, struct.error) as error:
        reason = str(error.orig if isinstance(error, sa.exc.DBAPIError) else error).strip().partition("\n")[0]
        raise StoreError(f"cannot {asked}: {reason or type(error).__name__}") from error
