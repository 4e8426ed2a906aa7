"""Where runs are kept: a SQLite file beside the state database, or a schema of the same PostgreSQL."""

from pathlib import Path
from typing import Any

import sqlalchemy as sa

from workbench.errors import FlowError


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
