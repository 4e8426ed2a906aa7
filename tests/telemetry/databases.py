"""State databases for tests: a SQLite file always, PostgreSQL where WORKBENCH_TEST_POSTGRES_URL names a server."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from workbench.state import open_engine


@contextmanager
def new_database(kind: str, folder: Path) -> Iterator[sa.Engine]:
    """Engine on a new, empty state database that is gone afterwards."""
    if kind == "sqlite":
        engine = open_engine(f"sqlite:///{folder / 'state.sqlite'}")
        yield engine
        engine.dispose()
        return
    server = os.environ.get("WORKBENCH_TEST_POSTGRES_URL")
    if not server:
        pytest.skip("WORKBENCH_TEST_POSTGRES_URL names no server")
    name = f"wb_test_{uuid.uuid4().hex}"
    url = sa.make_url(server).set(drivername="postgresql+psycopg")
    admin = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine = open_engine(url.set(database=name).render_as_string(hide_password=False))
    try:
        yield engine
    finally:
        engine.dispose()
        with admin.connect() as connection:
            connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
        admin.dispose()


def file_bytes(folder: Path) -> bytes:
    """Every byte of the SQLite database and of its write-ahead log."""
    return b"".join(path.read_bytes() for path in sorted(folder.glob("state.sqlite*")))
