"""Which processes live: a row that each of them renews, and on its own machine a lock that no dead process holds.

The engine of durable runs does not notice that a process died; what it left running must be given to another one, and
never while it lives.
"""

import fcntl
import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import sqlalchemy as sa

from workbench.state import create_tables, reading_engine

BEAT_S = 10.0
STALE_S = 60.0
_BEATS = sa.Table(
    "wb_heartbeats",
    sa.MetaData(),
    sa.Column("executor", sa.String(200), primary_key=True),
    sa.Column("host", sa.String(200), nullable=False),
    sa.Column("process", sa.Integer, nullable=False),
    sa.Column("lock", sa.Text, nullable=False),
    sa.Column("serves", sa.Text, nullable=False),
    sa.Column("beat", sa.Float, nullable=False),
)


class Heartbeat:
    """A process as others see it: a row renewed every 10 s, and a locked file until the process ends.

    Parameters
    ----------
    engine : sqlalchemy.Engine
        Database of the runs.
    folder : Path
        Where the locked file goes; processes of one machine that share the runs share it.
    """

    def __init__(self, engine: sa.Engine, folder: Path) -> None:
        self._engine, self._stop, self._serves = engine, threading.Event(), ""
        self.executor = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"{self.executor}.lock"
        self._file: IO[str] = self._path.open("w")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        create_tables(engine, _BEATS)
        self._write()
        os.register_at_fork(after_in_child=self._file.close)  # a child must not keep its dead parent's lock
        self._thread = threading.Thread(target=self._beat, name="wb-heartbeat", daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_S):
            try:
                self._write()
            except sa.exc.SQLAlchemyError:  # a database that is away for a moment, or all connections hang in it
                continue

    def _write(self) -> None:
        """Renew the row, or write it: at first, and where others took us for dead while they could not hear us."""
        with self._engine.begin() as connection:
            told = {"beat": heartbeat_now(connection), "serves": self._serves}
            mine = sa.update(_BEATS).where(_BEATS.c.executor == self.executor).values(told)
            if not connection.execute(mine).rowcount:
                row = {"executor": self.executor, "host": socket.gethostname(), "process": os.getpid()}
                connection.execute(_BEATS.insert(), [{**row, "lock": str(self._path), **told}])

    def serve(self, serves: str) -> None:
        """Say which flows this process works for; where it cannot be written now, the next beat says it."""
        self._serves = serves
        self._write()

    def close(self) -> None:
        """End: others may take over at once what is left running."""
        self._stop.set()
        self._thread.join()
        with suppress(sa.exc.DBAPIError):  # of a database that is away; the lock is free, or the row gets old
            forget_processes(self._engine, [self.executor])
        self._path.unlink(missing_ok=True)
        self._file.close()


def heartbeat_now(connection: sa.Connection) -> float:
    """Seconds since 1970 by the clock that all processes share."""
    if connection.dialect.name == "postgresql":
        return float(connection.execute(sa.text("select extract(epoch from clock_timestamp())")).scalar_one())
    return time.time()


def _awake_since(connection: sa.Connection) -> float:
    """Since when beats could be written, by the clock of `heartbeat_now`: a server that was away heard nobody."""
    if connection.dialect.name == "postgresql":
        started = sa.text("select extract(epoch from pg_postmaster_start_time())")
        return float(connection.execute(started).scalar_one())
    return 0.0


def dead_executors(engine: sa.Engine) -> list[str]:
    """Processes that are surely gone.

    On this machine those whose lock is free, however long ago they were heard of; on others, whose locks cannot be
    tried, those that were not heard of for a minute in which the database could hear them.
    """
    with reading_engine(engine).begin() as connection:
        at, awake_since = heartbeat_now(connection), _awake_since(connection)
        rows = connection.execute(sa.select(_BEATS)).all()
    return [row.executor for row in rows if _is_dead_process(row, at, awake_since)]


def living_processes(engine: sa.Engine) -> dict[str, str]:
    """What each living process works for."""
    dead = set(dead_executors(engine))
    with reading_engine(engine).begin() as connection:
        rows = connection.execute(sa.select(_BEATS.c.executor, _BEATS.c.serves)).all()
    return {row.executor: row.serves for row in rows if row.executor not in dead}


def forget_processes(engine: sa.Engine, executors: list[str]) -> None:
    """Delete the rows of processes whose runs were given to others."""
    with engine.begin() as connection:
        connection.execute(sa.delete(_BEATS).where(_BEATS.c.executor.in_(executors)))


def _is_dead_process(row: sa.Row[Any], at: float, awake_since: float) -> bool:
    if row.host == socket.gethostname():
        try:
            with Path(row.lock).open("r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
        except BlockingIOError:
            return False
        except (FileNotFoundError, PermissionError):  # of another container, or of another user: only its row can tell
            pass
    return bool(at - max(row.beat, awake_since) > STALE_S)
