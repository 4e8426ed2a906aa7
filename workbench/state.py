"""The one database: a SQLite file by default, PostgreSQL by setting, the same SQL on both.

Tables of the package are prefixed ``wb_``, because other libraries share the database.
"""

import sqlite3
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from workbench.config import require_writable
from workbench.errors import ConfigError, StoreError

_T = TypeVar("_T")
_WAL_ATTEMPTS = 40
CONNECT_S = 10
_RAISED_BY = "__workbench_server__"
_CREATING = 0x776F726B  # key of the lock under which tables are created: "work"


def open_engine(url: str) -> sa.Engine:
    """Engine on the state database; on SQLite with WAL and one writer at a time that waits for its turn.

    Reads go through `reading_engine`: a transaction that writes must take the write lock when it begins, and a read
    that did the same would queue behind every writer.

    Raises
    ------
    ConfigError
        If the address cannot be read, is of another kind of database, or the database cannot be opened now.
    """
    address = _database_address(url)
    if address.get_backend_name() == "postgresql":
        connect = {"connect_timeout": CONNECT_S}
        engine = sa.create_engine(address, pool_size=5, max_overflow=5, pool_pre_ping=True, connect_args=connect)
        sa.event.listen(engine, "handle_error", lambda told: _mark(told.sqlalchemy_exception, address))
        return _opened_engine(engine)
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

    return _opened_engine(engine)


def server_of(url: sa.URL) -> str:
    """Server and database that an address names, whoever asks there."""
    return f"{url.host}:{url.port}/{url.database}"


def raised_by(error: BaseException) -> str:
    """Server, as `server_of` names it, that an engine of `open_engine` had the error from; "" for any other error."""
    return str(getattr(error, _RAISED_BY, ""))


def _mark(error: BaseException | None, url: sa.URL) -> None:
    if error is not None:
        setattr(error, _RAISED_BY, server_of(url))


def _database_address(url: str) -> sa.URL:
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


def _opened_engine(engine: sa.Engine) -> sa.Engine:
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


def reading_engine(engine: sa.Engine) -> sa.Engine:
    """Return the same engine for SELECTs only: on SQLite it takes no write lock."""
    return engine.execution_options(readonly=True)


def insert_ignore(connection: sa.Connection, table: sa.Table, rows: list[dict[str, Any]]) -> int:
    """Insert the rows whose key is not there yet; returns how many were new."""
    if not rows:
        return 0
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    result = connection.execute(dialect.insert(table).on_conflict_do_nothing(), rows)
    return max(result.rowcount, 0)


def execute(
    connection: sa.Connection, text: str, values: tuple[Any, ...] | list[tuple[Any, ...]], *, lock: str = ""
) -> Sequence[Any]:
    """Rows of a statement with ``?`` for each value, none of one that is executed for each tuple of a list.

    For what every call executes: the text is the same each time, so that driver and database prepare it once, where
    SQLAlchemy would build a statement anew. ``lock`` is the order in which PostgreSQL locks the rows that it reads
    until the transaction ends; SQLite has one writer.
    """
    if isinstance(values, list):
        if not values:
            return ()
        many = len(values) > 1
        values = values if many else values[0]
    else:
        many = False
    sql, dialect = _driver_sql(text, lock, connection.dialect.name), connection.dialect
    cursor = connection.connection.cursor()
    with _driver_errors(connection, sql, values), closing(cursor) if dialect.name == "sqlite" else nullcontext():
        (cursor.executemany if many else cursor.execute)(sql, values)
        return cursor.fetchall() if _returns(text) else ()


@contextmanager
def _driver_errors(connection: sa.Connection, sql: str, values: Any) -> Iterator[None]:
    """Turn the driver's errors into those of SQLAlchemy."""
    dialect, driver = connection.dialect, connection.dialect.loaded_dbapi
    try:
        yield
    except driver.Error as error:
        told = sa.exc.DBAPIError.instance(sql, values, error, driver.Error, dialect=dialect)
        _mark(told, connection.engine.url)
        raise told from error


@contextmanager
def _pipelined(connection: sa.Connection) -> Iterator[None]:
    """Send what `execute` is given without waiting for it where it returns no rows.

    An error then comes with a later statement, or at the end.
    """
    driver: Any = connection.connection.dbapi_connection
    with _driver_errors(connection, "statements of a pipeline", ()), driver.pipeline():
        yield


@cache
def _returns(text: str) -> bool:
    return text.startswith("SELECT") or "RETURNING" in text


def execute_insert(
    connection: sa.Connection, table: sa.Table, rows: list[tuple[Any, ...]], *, new: bool = False
) -> None:
    """Insert rows whose values come in the order of the columns; of those that are there already only what is new."""
    execute(connection, _insert_text(table) + " ON CONFLICT DO NOTHING" * new, rows)


@cache
def _driver_sql(text: str, lock: str, dialect: str) -> str:
    if dialect != "postgresql":
        return text
    return text.replace("?", "%s") + (f" ORDER BY {lock} FOR UPDATE" if lock else "")


@cache
def _insert_text(table: sa.Table) -> str:
    names = ", ".join(f'"{column.name}"' for column in table.columns)
    return f"INSERT INTO {table.name} ({names}) VALUES ({sql_marks(len(table.columns))})"


@cache
def sql_marks(count: int) -> str:
    """So many marks for values.

    >>> sql_marks(3)
    '?, ?, ?'
    """
    return ", ".join("?" * count)


def create_tables(engine: sa.Engine, *tables: sa.Table) -> None:
    """Create the tables that are not there yet; any number of processes may do so at once."""
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":  # IF NOT EXISTS is no lock: two that see nothing both create
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_CREATING)))
        tables[0].metadata.create_all(connection, tables=tables)


@dataclass(frozen=True, slots=True)
class Batch:
    """One kind of write, which does what many ask for with few statements.

    Attributes
    ----------
    order : int
        Rank of the rows that it locks: every transaction locks those of a lower rank first, so that none waits in a
        circle with that of another process.
    execute : callable
        Gets the connection and the requests in the order of their coming; returns an outcome for each. An outcome that
        is an exception refuses that request alone; raise one for what must undo the whole transaction.
    """

    order: int
    execute: Callable[[sa.Connection, Sequence[Any]], Sequence[Any]]


_Step = tuple[Batch, Any]
_MOST_JOBS = 256  # of one transaction: a longer one would keep other processes waiting
# The transaction is lost, or the whole database is: it would be no better for any of the requests alone.
_DATABASE = (sa.exc.OperationalError, sa.exc.TimeoutError, sa.exc.InterfaceError)


@dataclass(slots=True, eq=False)
class _Joined:
    """What one thread asks for: steps of one transaction, of which a refused one ends the rest."""

    steps: Sequence[_Step]
    alone: bool = False
    leads: bool = False
    outcomes: list[Any] = field(default_factory=list)
    error: BaseException | None = None
    ready: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.ready.acquire()


class GroupCommit:
    """Writes of a process's threads, those that come at once in one transaction; make it with `group_commit`.

    The first thread to come executes what waits, for all (it leads); those that come meanwhile wait, and the first of
    them leads next. So a commit is paid for once by many, whoever came first is served first, and a thread alone waits
    for nobody. Neither SQLite, whose busy handler polls, nor a connection pool is fair: under load a thread can lose
    every race until its time-out. Where the transaction of many fails, each is tried in one of its own, so that
    nobody bears another's error.

    DeWitt et al. (1984), Implementation techniques for main memory database systems, section 5.2.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine, self._pipelines = weakref.ref(engine), engine.dialect.name == "postgresql"
        self._state, self._busy = threading.Lock(), False
        self._waiting: deque[_Joined] = deque()

    def run(self, batch: Batch, request: Any) -> Any:
        """``outcome = group.run(batch, request)``: write, with what was held back inside `together`.

        Raises
        ------
        Exception
            What was refused, or what the database said; then nothing of the request is written.
        """
        job = self._done(_Joined([*_held_back(self), (batch, request)]))
        for outcome in job.outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        return job.outcomes[-1]

    def later(self, batch: Batch, request: Any) -> None:
        """Write with the next `run` inside `together`; at once outside of it."""
        held = _HELD_BACK.get()
        if held is None:
            self.run(batch, request)
        else:
            held.append((self, (batch, request)))

    def alone(self, write: Callable[[sa.Connection], _T]) -> _T:
        """Give ``write`` a transaction of its own, when it is this thread's turn; returns what it returns."""
        job = self._done(_Joined([(Batch(0, lambda connection, _: [write(connection)]), None)], alone=True))
        result: _T = job.outcomes[0]
        return result

    def _done(self, job: _Joined) -> _Joined:
        try:
            self._enter(job)
            if job.leads:
                self._lead(job)
        finally:
            if job.leads:
                self._hand_over(job)
        if job.error is not None:
            raise job.error
        return job

    def _enter(self, job: _Joined) -> None:
        """Wait until the job is done or this thread leads."""
        try:
            with self._state:
                self._waiting.append(job)
                if not self._busy:
                    job.leads = self._busy = True
                    return
            job.ready.acquire()
        except BaseException:  # Ctrl-C; what a leader executes already is done, and its outcome is lost
            with self._state:
                if job in self._waiting and not job.leads:
                    self._waiting.remove(job)
            raise

    def _lead(self, mine: _Joined) -> None:
        """Execute what waits, for all."""
        with self._state:
            jobs = self._taken(mine)
        try:
            self._execute(jobs)
        except BaseException as error:
            for job in jobs:
                job.error = job.error or error
            raise
        finally:
            self._hand_over(mine)
            for job in jobs:
                if job is not mine:
                    job.ready.release()

    def _taken(self, mine: _Joined) -> list[_Joined]:
        """Jobs of the next transaction; the main thread executes none but its own, because Ctrl-C can end it."""
        if mine.alone or threading.current_thread() is threading.main_thread():
            self._waiting.remove(mine)
            return [mine]
        jobs: list[_Joined] = []
        while self._waiting and not self._waiting[0].alone and len(jobs) < _MOST_JOBS:
            jobs.append(self._waiting.popleft())
        return jobs

    def _hand_over(self, mine: _Joined) -> None:
        """Let the first that waits lead."""
        with self._state:
            mine.leads = False
            if mine in self._waiting:  # interrupted before it began
                self._waiting.remove(mine)
            if self._waiting:
                self._waiting[0].leads = True
                self._waiting[0].ready.release()
            else:
                self._busy = False

    def _execute(self, jobs: list[_Joined], *, pipelined: bool = True) -> None:
        committing = False
        pipelined = pipelined and not jobs[0].alone and self._pipelines
        try:
            with self._begin() as connection:
                with _pipelined(connection) if pipelined else nullcontext():
                    _execute_steps(connection, jobs)
                committing = True
        except BaseException as error:  # noqa: BLE001  raised in the threads that asked
            again = pipelined or len(jobs) > 1
            if again and not committing and isinstance(error, Exception) and not isinstance(error, _DATABASE):
                for job in jobs:  # alone, and each statement waited for: so every error is told where it belongs
                    self._execute([job], pipelined=False)
                return
            for job in jobs:
                job.error = error

    def _begin(self) -> AbstractContextManager[sa.Connection]:
        if (engine := self._engine()) is None:
            raise StoreError("the engine of this database is gone; keep it for as long as something is written")
        return engine.begin()


def _execute_steps(connection: sa.Connection, jobs: list[_Joined]) -> None:
    """Execute all steps of one kind at a time; a job ends with its first refusal."""
    for job in jobs:
        job.outcomes = []
    for batch in sorted({batch for job in jobs for batch, _ in job.steps}, key=lambda batch: batch.order):
        found = [(job, ask) for job in jobs if not _refused(job) for kind, ask in job.steps if kind is batch]
        outcomes = batch.execute(connection, [ask for _, ask in found]) if found else []
        for (job, _), outcome in zip(found, outcomes, strict=True):
            job.outcomes.append(outcome)


def _refused(job: _Joined) -> bool:
    return bool(job.outcomes) and isinstance(job.outcomes[-1], BaseException)


_GROUPS: "weakref.WeakKeyDictionary[sa.Engine, GroupCommit]" = weakref.WeakKeyDictionary()
_GROUPS_LOCK = threading.Lock()
_HELD_BACK: ContextVar[list[tuple[GroupCommit, _Step]] | None] = ContextVar("wb_held_back", default=None)


def group_commit(engine: sa.Engine) -> GroupCommit:
    """The one `GroupCommit` of an engine, which all that write through it share."""
    with _GROUPS_LOCK:
        return _GROUPS.setdefault(engine, GroupCommit(engine))


@contextmanager
def together() -> Iterator[None]:
    """``with together(): ...``: what need not be known at once is written with what comes next, in one transaction."""
    held: list[tuple[GroupCommit, _Step]] = []
    token = _HELD_BACK.set(held)
    try:
        yield
    finally:
        _HELD_BACK.reset(token)
    for group, (batch, request) in held:
        group.run(batch, request)


def _held_back(group: GroupCommit) -> list[_Step]:
    if not (held := _HELD_BACK.get()):
        return []
    steps = [step for owner, step in held if owner is group]
    held[:] = [(owner, step) for owner, step in held if owner is not group]
    return steps
