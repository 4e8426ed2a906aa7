"""The database goes away and comes back: what failed by it alone is done again, as after a kill.

The engine of durable runs waits for its database by itself. Steps use the same server for what they are charged, for
answers of models and for their progress, and would fail for good where the engine only waits.
"""

import logging
import threading
import time

import sqlalchemy as sa

from workbench.state import reader

_LOG = logging.getLogger("workbench")
_LOOK_S = 1.0
_CUT_OFF = ("08", "57P")  # classes of PostgreSQL: connection exceptions, and a server that ends or starts
_UPTIME = "select extract(epoch from clock_timestamp() - pg_postmaster_start_time())"


def cut_off(error: BaseException | None) -> str:
    """What a server that went away says in an error or in what it came of; "" for one that refuses a statement."""
    while error is not None:
        if isinstance(error, sa.exc.DBAPIError):
            state = getattr(error.orig, "sqlstate", "none")
            lost = isinstance(error, sa.exc.OperationalError) and (state is None or state.startswith(_CUT_OFF))
            return str(error.orig).partition("\n")[0] if error.connection_invalidated or lost else ""
        error = error.__cause__
    return ""


def is_outlived(error: BaseException | None, engine: sa.Engine, began: float, stop: threading.Event) -> bool:
    """Whether what failed did so because the database of ``engine`` was away, and is to be done again.

    Returns once it is back, or once ``stop`` is set. An error of another server is none of ours.

    Parameters
    ----------
    began : float
        When it was begun, by ``time.monotonic()``.
    """
    reason = cut_off(error) if engine.dialect.name == "postgresql" else ""  # a file is never away
    if not reason or stop.is_set():
        return False
    was_away = False
    while (uptime_s := _uptime_s(engine)) is None:
        if not was_away:
            _LOG.warning("the database of the runs is away; what was under way waits for it: %s", reason)
        was_away = True
        if stop.wait(_LOOK_S):
            return False
    return was_away or uptime_s < time.monotonic() - began


def _uptime_s(engine: sa.Engine) -> float | None:
    """Seconds since the server was started; None while it does not answer."""
    try:
        with reader(engine).connect() as connection:
            return float(connection.execute(sa.text(_UPTIME)).scalar_one())
    except sa.exc.DBAPIError:
        return None
