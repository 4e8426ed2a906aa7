"""State databases for tests: a SQLite file, and on PostgreSQL a schema of its own that is dropped again."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from workbench.state import open_engine

POSTGRES = "WORKBENCH_TEST_POSTGRES_URL"
KINDS = ("sqlite", "postgresql")


@contextmanager
def database_url(kind: str, folder: Path) -> Iterator[str]:
    """URL of an empty database; skips the test where there is no PostgreSQL."""
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'state.sqlite'}"
        return
    if not (server := os.environ.get(POSTGRES)):
        pytest.skip(f"{POSTGRES} names no server")
    schema, admin = f"wb_test_{uuid.uuid4().hex}", sa.create_engine(server)
    with admin.begin() as connection:
        connection.execute(sa.schema.CreateSchema(schema))
    try:
        url = sa.make_url(server).update_query_dict({"options": f"-csearch_path={schema}"})
        yield url.render_as_string(hide_password=False)
    finally:
        with admin.begin() as connection:
            for name in (schema, f"{schema}_dbos"):  # the second is made with the first flow
                connection.execute(sa.schema.DropSchema(name, cascade=True, if_exists=True))
        admin.dispose()


@pytest.fixture(params=KINDS)
def state_url(request, tmp_path) -> Iterator[str]:
    """URL of an empty state database, once of each kind."""
    with database_url(request.param, tmp_path) as url:
        yield url


@pytest.fixture
def engine(state_url) -> Iterator[sa.Engine]:
    """Engine on an empty state database, once of each kind."""
    engine = open_engine(state_url)
    yield engine
    engine.dispose()


def file_bytes(folder: Path) -> bytes:
    """Every byte of the SQLite database and of its write-ahead log."""
    return b"".join(path.read_bytes() for path in sorted(folder.glob("state.sqlite*")))
