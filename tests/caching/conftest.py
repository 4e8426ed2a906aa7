"""A state database of each kind; PostgreSQL where WORKBENCH_TEST_POSTGRES_URL names a server."""

import os
import uuid

import pytest
import sqlalchemy as sa

from workbench.state import open_engine


@pytest.fixture(params=["sqlite", "postgresql"])
def state_url(request, tmp_path):
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/state.sqlite"
        return
    server = os.environ.get("WORKBENCH_TEST_POSTGRES_URL")
    if not server:
        pytest.skip("needs WORKBENCH_TEST_POSTGRES_URL")
    name = f"wb_test_{uuid.uuid4().hex[:12]}"
    admin = sa.create_engine(server, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    yield sa.make_url(server).set(database=name).render_as_string(hide_password=False)
    with admin.connect() as connection:
        connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


@pytest.fixture
def engine(state_url):
    engine = open_engine(state_url)
    yield engine
    engine.dispose()
