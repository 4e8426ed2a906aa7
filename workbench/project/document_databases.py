"""Documents and questions that lie in a LanceDB table, a PostgreSQL database or a collection of ``datasets``."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from workbench.config import Settings
from workbench.errors import ConfigError, EvalsetError
from workbench.evalset.cells import settled_cell
from workbench.evalset.files import TableFile

LANCE, DATASETS = "lance:", "datasets:"
POSTGRES = ("postgresql:", "postgres:", "postgresql+psycopg:")
FORMS = "lance:FOLDER#TABLE, postgresql://USER@HOST/DATABASE with a query, datasets:NAME#CONFIGURATION/SPLIT"
_URL = re.compile(r"postgres\w*(?:\+psycopg)?://(?:[^@/?#]*@)?([^@?#]*)(?:\?.*)?")
_NO_URL = (
    "the source is no URL of PostgreSQL; write postgresql://USER@HOST:5432/DATABASE, signs in a password as %-codes: "
    "%40 for @"
)
_VECTOR = re.compile(r"\[[-+\d.eE, ]+\]")
_LEAST_DIMENSION = 8  # a shorter list of numbers may be anything
_LOOKED_AT = 20  # values of a column that tell whether it holds vectors
_CONNECT_S = 10


def is_document_database(source: str) -> bool:
    """Whether a source is one of `FORMS`, or the folder of a LanceDB table, rather than files.

    >>> is_document_database("lance:./db#docs"), is_document_database("docs/*.md")
    (True, False)
    """
    return source.startswith((LANCE, DATASETS, *POSTGRES)) or (source.endswith(".lance") and Path(source).is_dir())


def database_without_secrets(source: str) -> str:
    """Name of a source as it may be kept: of a database server host and name alone, never user, password or options.

    >>> database_without_secrets("postgresql://ann:swordfish@db.local:5432/shop?sslpassword=x")
    'postgresql://db.local:5432/shop'
    """
    if not source.startswith(POSTGRES):
        return source
    match = _URL.fullmatch(source)
    return f"postgresql://{match[1]}" if match else "postgresql://"


def read_document_database(source: str, query: str, settings: Settings) -> tuple[TableFile, list[str]]:
    """``read_document_database("lance:./db#docs", "", settings)``: rows as a table, and columns of vectors, left out.

    Parameters
    ----------
    source : str
        One of `FORMS`. A LanceDB database of one table needs no ``#TABLE``, a collection no ``#``: all splits are read.
    query : str
        SQL of a PostgreSQL source; it runs in a transaction that may only read.

    Raises
    ------
    ConfigError
        If the source is not written as its form asks for, or a query is missing, or given to another source.
    EvalsetError
        If it cannot be read, or holds no row.
    StoreError
        If LanceDB cannot read the table.
    """
    if not source.removeprefix(LANCE).removeprefix(DATASETS).partition("#")[0].strip("/"):
        raise ConfigError(f"the source {source!r} names no folder and no collection; sources are {FORMS}")
    if bool(query) != source.startswith(POSTGRES):
        told = (
            "needs SQL that selects the rows: --query" if not query else "takes no --query, which is for postgresql://"
        )
        raise ConfigError(f"{database_without_secrets(source)} {told}")
    if source.startswith(POSTGRES):
        name, vectors = database_without_secrets(source).removeprefix("postgresql://"), list[str]()
        rows = _documents_of_postgres(source, query)
    elif source.startswith(DATASETS):
        name, rows, vectors = source, _documents_of_datasets(source.removeprefix(DATASETS), settings), []
    else:
        name, rows, vectors = _documents_of_lance(source)
    if not rows:
        raise EvalsetError(f"{name} holds no row{' that the query selects' if query else ''}")
    rows = [{column: _database_cell(value) for column, value in row.items()} for row in rows]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    numbers = [column for column in columns if _holds_vectors([row.get(column) for row in rows])]
    kept = [column for column in columns if column not in numbers]
    lines = tuple((n, {c: row[c] for c in kept if row.get(c) is not None}) for n, row in enumerate(rows, start=1))
    return TableFile(Path(name), tuple(kept), lines), [*vectors, *numbers]


def _documents_of_lance(source: str) -> tuple[str, list[dict[str, Any]], list[str]]:
    """Name, rows, and the columns of vectors of a LanceDB table."""
    from workbench.retrieval.lance import lance_reported, load_lancedb

    folder, _, table = source.removeprefix(LANCE).partition("#")
    folder = folder.removeprefix("//")
    if not table and folder.rstrip("/").endswith(".lance"):
        folder, table = str(Path(folder).parent), Path(folder).stem
    if "://" not in folder and not Path(folder).is_dir():
        raise ConfigError(f"no such folder: {folder}; a LanceDB table is named as lance:FOLDER#TABLE")
    with lance_reported(f"list the tables of {folder}"):
        database = load_lancedb().connect(folder)
        tables = sorted(database.list_tables().tables)
    if not table and len(tables) == 1:
        (table,) = tables
    if table not in tables:
        found = f"there are {', '.join(tables)}" if tables else "it holds none"
        raise ConfigError(f"{folder} was asked for {f'the table {table!r}' if table else 'a table'}; {found}")
    with lance_reported(f"read table {table!r} of {folder}"):
        return f"{folder}#{table}", *_lance_rows(database.open_table(table))


def _lance_rows(table: Any) -> tuple[list[dict[str, Any]], list[str]]:
    """Every row without its columns of vectors, whose names come beside."""
    import pyarrow as pa

    vectors = [field.name for field in table.schema if pa.types.is_fixed_size_list(field.type)]
    columns = [column for column in table.schema.names if column not in vectors]
    return table.search().select(columns).limit(table.count_rows()).to_arrow().to_pylist(), vectors


def _documents_of_postgres(source: str, query: str) -> list[dict[str, Any]]:
    """Rows of a query, in a transaction that may only read."""
    import psycopg
    from psycopg.rows import dict_row

    if not _URL.fullmatch(source):  # else a part of the password would be taken for the host, and shown
        raise ConfigError(_NO_URL)
    url, name = "postgresql:" + source.partition(":")[2], database_without_secrets(source)
    try:
        connection = psycopg.connect(url, connect_timeout=_CONNECT_S, row_factory=dict_row)
    except psycopg.OperationalError as error:
        raise EvalsetError(f"{name} cannot be reached: {_first(error)}") from None
    except psycopg.Error:  # of a URL that cannot be read; it would show what is odd in it
        raise ConfigError(_NO_URL) from None
    try:
        with connection:
            connection.read_only = True
            # prepared, as one statement alone can be: a second one could end the transaction that may only read
            cursor = connection.execute(query, prepare=True)
            columns = [column.name for column in cursor.description or ()]
            if twice := [column for column in columns if columns.count(column) > 1]:
                told = f"two columns of the query are called {twice[0]!r}; give each its own name: {twice[0]} AS ..."
                raise EvalsetError(f"{name}: {told}")
            return list(cursor.fetchall()) if columns else []
    except psycopg.OperationalError as error:
        raise EvalsetError(f"{name} cannot be reached: {_first(error)}") from None
    except psycopg.Error as error:  # without a state it is not the server's, but of a value that Python has no form for
        refused = "refuses the query" if error.sqlstate else "gave what cannot be read; select it as text (::text)"
        raise EvalsetError(f"{name} {refused}: {_first(error)}") from None


def _first(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _documents_of_datasets(name: str, settings: Settings) -> list[dict[str, Any]]:
    from workbench.evalset.imports.hub import read_hub_collection

    name, _, part = name.partition("#")
    config, slash, split = part.partition("/")
    return read_hub_collection(name, config if slash else "", split if slash else part, settings=settings)


def _database_cell(value: Any) -> Any:
    return str(value) if isinstance(value, UUID) else settled_cell(value)


def _holds_vectors(values: Sequence[Any]) -> bool:
    """Whether a column holds vectors, also those that pgvector gives as text: nobody reads them as a document."""
    seen = [value for value in values if value is not None][:_LOOKED_AT]
    return bool(seen) and all(_is_vector(value) for value in seen)


def _is_vector(value: Any) -> bool:
    if isinstance(value, list):
        return len(value) >= _LEAST_DIMENSION and all(isinstance(x, float) for x in value)
    return isinstance(value, str) and bool(_VECTOR.fullmatch(value)) and value.count(",") >= _LEAST_DIMENSION - 1
