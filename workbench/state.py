"""The one database: a SQLite file by default, PostgreSQL by setting, the same SQL on both.

Tables of the package are prefixed ``wb_``, because other libraries share the database.
"""

from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite


def open_engine(url: str) -> sa.Engine:
    """Engine on the state database; on SQLite with WAL and one writer at a time that waits for its turn.

    Reads go through `reader`: a transaction that writes must take the write lock when it begins, and a read that
    did the same would queue behind every writer.
    """
    if not url.startswith("sqlite"):
        return sa.create_engine(url, pool_size=5, max_overflow=5, pool_pre_ping=True)
    if (file := sa.make_url(url).database) and file != ":memory:":
        Path(file).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(url, connect_args={"timeout": 30}, pool_size=5, max_overflow=15)

    @sa.event.listens_for(engine, "connect")
    def _set_up(dbapi: Any, _record: Any) -> None:
        dbapi.isolation_level = None  # the driver must not open transactions by itself
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
            dbapi.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        readonly = connection.get_execution_options().get("readonly")
        connection.exec_driver_sql("BEGIN" if readonly else "BEGIN IMMEDIATE")

    return engine


def reader(engine: sa.Engine) -> sa.Engine:
    """Return the same engine for SELECTs only: on SQLite it takes no write lock."""
    return engine.execution_options(readonly=True)


def insert_ignore(connection: sa.Connection, table: sa.Table, rows: list[dict[str, Any]]) -> int:
    """Insert the rows whose key is not there yet; returns how many were new."""
    if not rows:
        return 0
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    result = connection.execute(dialect.insert(table).on_conflict_do_nothing(), rows)
    return max(result.rowcount, 0)
