"""How long traces are kept: they may hold what people wrote. The ledger, which holds none of it, keeps its rows."""

from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa

from workbench.clock import Clock, SystemClock
from workbench.errors import TraceError
from workbench.state import reader
from workbench.telemetry.export import SPANS

_BATCH = 200  # traces in one transaction: writers wait for milliseconds


class Forgotten(NamedTuple):
    """How much was deleted."""

    traces: int
    spans: int


def forget_traces(engine: sa.Engine, before: datetime, *, clock: Clock | None = None) -> Forgotten:
    """Delete the traces whose last span ended before a moment, in batches that hold up no writer.

    On SQLite what was deleted is overwritten as well; on PostgreSQL a later vacuum does that.

    Raises
    ------
    TraceError
        If the moment lies in the future.
    """
    if before > (now := (clock or SystemClock()).now()):
        raise TraceError(f"traces can be forgotten up to now, {now.isoformat()}; {before.isoformat()} is in the future")
    if not sa.inspect(engine).has_table(SPANS.name):
        return Forgotten(0, 0)
    before_ns = int(before.timestamp()) * 1_000_000_000
    old = sa.select(SPANS.c.trace_id).group_by(SPANS.c.trace_id).having(sa.func.max(SPANS.c.ended_ns) < before_ns)
    with reader(engine).begin() as connection:
        ids = connection.execute(old).scalars().all()
    spans = 0
    for i in range(0, len(ids), _BATCH):
        # of a trace that goes on meanwhile, what is new stays
        gone = sa.delete(SPANS).where(SPANS.c.trace_id.in_(ids[i : i + _BATCH]), SPANS.c.ended_ns < before_ns)
        with engine.begin() as connection:
            if engine.dialect.name == "sqlite":
                connection.exec_driver_sql("PRAGMA secure_delete=ON")
            spans += connection.execute(gone).rowcount
    if engine.dialect.name == "sqlite":
        _empty_log(engine)
    return Forgotten(len(ids), spans)


def _empty_log(engine: sa.Engine) -> None:
    """Move SQLite's write-ahead log into the file, because the log still holds what was deleted."""
    raw = engine.raw_connection()
    try:
        raw.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        raw.close()
