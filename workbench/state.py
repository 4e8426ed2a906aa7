"""The one database: a SQLite file by default, PostgreSQL by setting, the same SQL on both.

Tables of the package are prefixed ``wb_``, because other libraries share the database.
"""

import sqlite3
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from workbench.config import require_writable
from workbench.errors import ConfigError

_WAL_ATTEMPTS = 40
CONNECT_S = 10
_CREATING = 0x776F726B  # key of the lock under which tables are created: "work"


def open_engine(url: str) -> sa.Engine:
    """Engine on the state database; on SQLite with WAL and one writer at a time that waits for its turn.

    Reads go through `reader`: a transaction that writes must take the write lock when it begins, and a read that
    did the same would queue behind every writer.

    Raises
    ------
    ConfigError
        If the address cannot be read, is of another kind of database, or the database cannot be opened now.
    """
    address = _address(url)
    if address.get_backend_name() == "postgresql":
        connect = {"connect_timeout": CONNECT_S}
        return _opened(sa.create_engine(address, pool_size=5, max_overflow=5, pool_pre_ping=True, connect_args=connect))
    if (file := address.database) and file != ":memory:":
        require_writable(Path(file).parent, "WORKBENCH_STATE_URL or WORKBENCH_CACHE")
    engine = sa.create_engine(url, connect_args={"timeout": 30}, pool_size=5, max_overflow=15)

    @sa.event.listens_for(engine, "connect")
    def _set_up(dbapi: Any, _record: Any) -> None:
        dbapi.isolation_level = None  # the driver must not open transactions by itself
        _to_wal(dbapi)
        for pragma in ("PRAGMA synchronous=NORMAL", "PRAGMA foreign_keys=ON"):
            dbapi.execute(pragma)

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        readonly = connection.get_execution_options().get("readonly")
        connection.exec_driver_sql("BEGIN" if readonly else "BEGIN IMMEDIATE")

    return _opened(engine)


def _address(url: str) -> sa.URL:
    try:
        address = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        address = None
    if address is None or address.get_backend_name() not in ("sqlite", "postgresql"):
        shown = repr(address.render_as_string()) if address else f"{len(url)} characters that are no address"
        raise ConfigError(
            f"the state database is sqlite:///PATH or postgresql://USER@HOST/NAME, found {shown}; correct "
            "WORKBENCH_STATE_URL, or unset it for a file in the cache folder"
        )
    return address


def _opened(engine: sa.Engine) -> sa.Engine:
    """The engine, of which one connection was made."""
    try:
        with engine.connect():
            return engine
    except (sa.exc.DBAPIError, sqlite3.Error) as error:
        reason = str(getattr(error, "orig", error)).strip().partition("\n")[0]
        shown = engine.url.render_as_string(hide_password=True)
        engine.dispose()
        raise ConfigError(
            f"the database {shown} cannot be opened: {reason}; start it, or correct WORKBENCH_STATE_URL "
            "(a file: WORKBENCH_CACHE)"
        ) from error


def _to_wal(dbapi: Any) -> None:
    """Switch a new file to WAL; where two do so at once, SQLite refuses one of them without waiting its time-out."""
    for attempt in range(1, _WAL_ATTEMPTS + 1):
        try:
            dbapi.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or attempt == _WAL_ATTEMPTS:
                raise
        time.sleep(0.01 * attempt)


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


def create_tables(engine: sa.Engine, *tables: sa.Table) -> None:
    """Create the tables that are not there yet; any number of processes may do so at once."""
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":  # IF NOT EXISTS is no lock: two that see nothing both create
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_CREATING)))
        tables[0].metadata.create_all(connection, tables=tables)


class Turns:
    """Lets the threads of a process write one at a time, in the order in which they come.

    For short transactions that all change the same few rows. Neither SQLite, whose busy handler polls, nor a
    connection pool is fair: under load a thread can lose every race until its time-out, and on PostgreSQL threads that
    compete for the interpreter hold the row that all others wait for.
    """

    def __init__(self) -> None:
        self._state, self._busy = threading.Lock(), False
        self._waiting: deque[threading.Lock] = deque()

    @contextmanager
    def begin(self, engine: sa.Engine) -> Iterator[sa.Connection]:
        """Transaction on the engine, when it is this thread's turn."""
        self._enter()
        try:
            with engine.begin() as connection:
                yield connection
        finally:
            self._leave()

    def _enter(self) -> None:
        with self._state:
            if not self._busy:
                self._busy = True
                return
            mine = threading.Lock()
            mine.acquire()
            self._waiting.append(mine)
        try:
            mine.acquire()  # until who leaves hands the turn over
        except BaseException:  # Ctrl-C
            with self._state:
                handed = mine not in self._waiting
                if not handed:
                    self._waiting.remove(mine)
            if handed:
                self._leave()
            raise

    def _leave(self) -> None:
        with self._state:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._busy = False
