"""The database goes away and comes back, or connections to it are cut: what failed by it alone is done again.

The engine of durable runs waits for its database by itself. Steps use the same server for what they are charged, for
answers of models and for their progress, and would fail for good where the engine only waits.
"""

import logging
import threading
import time

import sqlalchemy as sa

from workbench.state import raised_by, reader, server_of

_LOG = logging.getLogger("workbench")
_LOOK_S = 1.0
_CUT_OFF = ("08", "57P")  # classes of PostgreSQL: connection exceptions, and a server that ends or starts
_UPTIME = "select extract(epoch from clock_timestamp() - pg_postmaster_start_time())"


def cut_off(error: BaseException | None) -> str:
    """What a server that went away says in an error or in what it came of; "" for one that refuses a statement."""
    found = _of_database(error)
    if found is None:
        return ""
    state = getattr(found.orig, "sqlstate", "none")
    lost = isinstance(found, sa.exc.OperationalError) and (state is None or state.startswith(_CUT_OFF))
    return str(found.orig).partition("\n")[0] if found.connection_invalidated or lost else ""


def _of_database(error: BaseException | None) -> sa.exc.DBAPIError | None:
    while error is not None and not isinstance(error, sa.exc.DBAPIError):
        error = error.__cause__
    return error


def is_outlived(
    error: BaseException | None, engine: sa.Engine, began: float, stop: threading.Event, *, ours: bool = False
) -> bool:
    """Whether what failed did so because the database of ``engine`` could not be reached, and is to be done again.

    Returns once it can be reached, or once ``stop`` is set. An error of another server is none of ours; of an engine
    that this package did not make nobody knows which server it is of, unless ours was away or restarted meanwhile.

    Parameters
    ----------
    began : float
        When it was begun, by ``time.monotonic()``.
    ours : bool
        Whether it can have asked no other server.
    """
    reason = cut_off(error) if engine.dialect.name == "postgresql" else ""  # a file is never away
    if not reason or stop.is_set():
        return False
    found = _of_database(error)
    ours = ours or (found is not None and raised_by(found) == server_of(engine.url))
    was_away = False
    while (uptime_s := _uptime_s(engine)) is None:
        if not was_away:
            _LOG.warning("the database of the runs is away; what was under way waits for it: %s", reason)
        was_away = True
        if stop.wait(_LOOK_S):
            return False
    if ours and not was_away:
        _LOG.warning("a connection to the database of the runs was cut, which is there; what it cut is done again: %s",
                     reason)  # fmt: skip
        stop.wait(_LOOK_S)
    return ours or was_away or uptime_s < time.monotonic() - began


def _uptime_s(engine: sa.Engine) -> float | None:
    """Seconds since the server was started; None while it does not answer."""
    try:
        with reader(engine).connect() as connection:
            return float(connection.execute(sa.text(_UPTIME)).scalar_one())
    except sa.exc.DBAPIError:
        return None
