"""The database of runs: where it lies, its rows as values of ours, and what is done when it goes away.

Runs lie in a SQLite file beside the state database, or in a schema of the same PostgreSQL. The engine of durable runs
waits for its database by itself. Steps use the same server for what they are charged, for answers of models and for
their progress, and would fail for good where the engine only waits: what failed by an outage alone is done again.
"""

import json
import logging
import threading
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from workbench.errors import FlowError, StepFailed
from workbench.orchestration.steps import Asking, FlowRun, StepRecord
from workbench.state import raised_by, reading_engine, server_of


def flows_url(state_url: str) -> str:
    """Database of the runs: a file beside the state database, or the same server.

    A file of its own, because the tables of the engine have no prefix there.

    >>> flows_url("sqlite:////data/state.sqlite"), flows_url("postgresql://db/app")
    ('sqlite:////data/state-flows.sqlite', 'postgresql://db/app')

    Raises
    ------
    FlowError
        If the state database is in memory only: then nothing would be durable.
    """
    url = sa.make_url(state_url)
    if not url.drivername.startswith("sqlite"):
        return state_url
    if url.database in (None, "", ":memory:"):
        raise FlowError(
            f"durable runs need a file or a server, found the state database {state_url}, which ends with us"
        )
    file = Path(str(url.database))
    return url.set(database=str(file.with_name(f"{file.stem}-flows{file.suffix}"))).render_as_string(
        hide_password=False
    )


def runs_engine(url: str) -> sa.Engine | None:
    """Engine for dbos on SQLite, as dbos would make it, but that a commit does not wait for the disk; else None.

    A process that is killed loses nothing by it; a machine that loses its power may do its last steps again.
    """
    if not url.startswith("sqlite"):
        return None
    engine = sa.create_engine(url)

    @sa.event.listens_for(engine, "connect")
    def _set_up(dbapi: Any, _record: Any) -> None:
        dbapi.isolation_level = "IMMEDIATE"
        for pragma in ("PRAGMA busy_timeout=30000", "PRAGMA foreign_keys=ON", "PRAGMA synchronous=NORMAL"):
            dbapi.execute(pragma)

    return engine


def runs_schema(engine: sa.Engine) -> str:
    """Schema of dbos's tables on PostgreSQL: ``dbos``, or one beside the schema that the URL's search path names."""
    if engine.dialect.name != "postgresql":
        return "dbos"
    with engine.connect() as connection:
        schema = connection.execute(sa.text("select current_schema()")).scalar_one()
    return "dbos" if schema == "public" else f"{schema}_dbos"


ENDED = ("done", "failed", "cancelled")
STATES = {
    "DELAYED": "waiting",
    "ENQUEUED": "waiting",
    "PENDING": "running",
    "SUCCESS": "done",
    "ERROR": "failed",
    "CANCELLED": "cancelled",
    "MAX_RECOVERY_ATTEMPTS_EXCEEDED": "failed",
}
UNFINISHED = [state for state, ours in STATES.items() if ours not in ENDED]


def run_to_row(value: Any) -> str:
    """What dbos writes: JSON that people and other programs can read, and that runs no code when it is read."""
    return json.dumps(value, default=_plain_run_error)


def run_from_row(text: str) -> Any:
    """Read back what `run_to_row` wrote; an error comes back as an error."""
    value = json.loads(text)
    return _run_step_error(value["$error"]) if isinstance(value, dict) and "$error" in value else value


def _plain_run_error(value: Any) -> Any:
    if isinstance(value, StepFailed):
        told = {"step": value.step, "kind": value.kind, "reason": value.reason, "run_id": value.run_id}
        return {"$error": told | {"record": value.record}}
    if isinstance(value, BaseException):
        return {"$error": {"kind": type(value).__name__, "reason": str(value)}}
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} is no JSON value")


def _run_step_error(told: Mapping[str, Any]) -> Exception:
    if "step" in told:
        return StepFailed(**told)
    if told["kind"] == FlowError.__name__:
        return FlowError(told["reason"])
    return FlowError(f"{told['kind']}: {told['reason']}")


def run_of_row(status: Any) -> FlowRun:
    """Run, without its steps, of what dbos tells of a workflow."""
    output, ended = status.output or {}, STATES[status.status] in ENDED
    return FlowRun(
        status.workflow_id,
        Asking.from_plain(status.input["args"][0]),
        STATES[status.status],
        output.get("result"),
        str(status.error or ""),
        output.get("trace_id", ""),
        status.executor_id or "",
        status.queue_name or "",
        status.created_at or 0,
        (status.completed_at or status.updated_at or 0) if ended else 0,
    )


def step_of_row(row: Mapping[str, Any]) -> StepRecord:
    """Step of what dbos tells of one."""
    error, output = row["error"], row["output"] or {}
    record = error.record if isinstance(error, StepFailed) else output
    told = {"kind": error.kind, "reason": error.reason} if isinstance(error, StepFailed) else None
    if error is not None and told is None:
        told = {"kind": type(error).__name__, "reason": str(error)}
    return StepRecord(
        row["function_id"],
        row["function_name"],
        record.get("inputs", {"args": [], "kwargs": {}}),
        output.get("output"),
        told,
        tuple(record.get("calls", ())),
        row["started_at_epoch_ms"] or 0,
        row["completed_at_epoch_ms"] or 0,
    )


_LOG = logging.getLogger("workbench")
_LOOK_S = 1.0
_CUT_OFF = ("08", "57P")  # classes of PostgreSQL: connection exceptions, and a server that ends or starts
_UPTIME = "select extract(epoch from clock_timestamp() - pg_postmaster_start_time())"


def database_cut_off(error: BaseException | None) -> str:
    """What a server that went away says in an error or in what it came of; "" for one that refuses a statement."""
    found = _error_of_database(error)
    if found is None:
        return ""
    state = getattr(found.orig, "sqlstate", "none")
    lost = isinstance(found, sa.exc.OperationalError) and (state is None or state.startswith(_CUT_OFF))
    return str(found.orig).partition("\n")[0] if found.connection_invalidated or lost else ""


def _error_of_database(error: BaseException | None) -> sa.exc.DBAPIError | None:
    while error is not None and not isinstance(error, sa.exc.DBAPIError):
        error = error.__cause__
    return error


def is_outage_outlived(
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
    reason = database_cut_off(error) if engine.dialect.name == "postgresql" else ""  # a file is never away
    if not reason or stop.is_set():
        return False
    found = _error_of_database(error)
    ours = ours or (found is not None and raised_by(found) == server_of(engine.url))
    was_away = False
    while (uptime_s := _database_uptime_s(engine)) is None:
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


def _database_uptime_s(engine: sa.Engine) -> float | None:
    """Seconds since the server was started; None while it does not answer."""
    try:
        with reading_engine(engine).connect() as connection:
            return float(connection.execute(sa.text(_UPTIME)).scalar_one())
    except sa.exc.DBAPIError:
        return None
