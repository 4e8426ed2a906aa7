"""Documents and questions made of rows in BEIR's form, with the line of everything that cannot be used."""

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import Any, TypeVar

from workbench.errors import Defect
from workbench.evalset.cells import Unusable, name_text, parsed, shown
from workbench.evalset.cells import id_text as plain_id
from workbench.evalset.files import Row
from workbench.records import Document, Query

# How each field of the metadata is read, by its name.
Readers = dict[str, Callable[[dict[str, Any], str], Any]]
_Value = TypeVar("_Value", Query, Document)


def queries_of(file: str, rows: Sequence[Row]) -> tuple[list[Query], dict[str, int], list[Defect]]:
    """Make queries of BEIR rows: values, the line of each id, and what cannot be used (of ``file``)."""
    return _collect(file, rows, _query)


def documents_of(file: str, rows: Sequence[Row]) -> tuple[list[Document], dict[str, int], list[Defect]]:
    """Make documents of BEIR rows: values, the line of each id, and what cannot be used (of ``file``)."""
    return _collect(file, rows, _document)


def foreign_keys(rows: Sequence[Row], known: Sequence[str]) -> dict[int, dict[str, Any]]:
    """Metadata that means nothing here, by line and key."""
    found = {}
    for line, row in rows:
        try:
            metadata = metadata_of(row)
        except Unusable:  # told by whoever reads the rows
            continue
        if foreign := {k: v for k, v in metadata.items() if k not in known}:
            found[line] = foreign
    return found


def fits(name: str, value: Any) -> bool:
    """Whether a key of our metadata could hold the value: the list of works that a paper cites is no ``reference``."""
    try:
        return bool((_QUERY_FIELDS | _DOCUMENT_FIELDS)[name]({name: value}, name))
    except Unusable:
        return False


def _collect(
    file: str, rows: Sequence[Row], build: Callable[[str, dict[str, Any], dict[str, Any]], _Value]
) -> tuple[list[_Value], dict[str, int], list[Defect]]:
    values: list[_Value] = []
    lines: dict[str, int] = {}
    defects: list[Defect] = []
    for line, row in rows:
        try:
            key = _row_id(row)
            if key in lines:
                raise Unusable(f"duplicate _id {key!r}: line {lines[key]} has it already")
            lines[key] = line
            values.append(build(key, row, metadata_of(row)))
        except Unusable as error:
            defects.append(Defect(file, line, str(error)))
    return values, lines, defects


def _query(key: str, row: dict[str, Any], metadata: dict[str, Any]) -> Query:
    return Query(key, _row_text(row), **{"cluster": key, **_given(metadata, _QUERY_FIELDS)})


def _document(key: str, row: dict[str, Any], metadata: dict[str, Any]) -> Document:
    return Document(key, _row_text(row), _string(row, "title"), **_given(metadata, _DOCUMENT_FIELDS))


def _given(metadata: dict[str, Any], readers: Readers) -> dict[str, Any]:
    """Fields that say something; the others keep their defaults."""
    return {name: value for name, read in readers.items() if (value := read(metadata, name))}


def _row_id(row: dict[str, Any]) -> str:
    value = plain_id("_id", row.get("_id"))
    if value is None:
        raise Unusable('"_id" must be a string that is not empty')
    return clean_id("_id", value)


def clean_id(name: str, value: str) -> str:
    """Id that a line of qrels can hold.

    Raises
    ------
    Unusable
        If it has a tab, a line end or outer spaces.
    """
    if value != value.strip() or any(c in value for c in "\t\r\n"):
        raise Unusable(f'"{name}" {value[:40]!r} has a tab, a line end or outer spaces, so no qrels can name it')
    return value


def metadata_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata of a row, also where it arrives as JSON text, as `datasets` and CSV store objects of differing keys.

    Raises
    ------
    Unusable
        If it is no object.
    """
    value = parsed("metadata", row.get("metadata"))
    if value is None or (isinstance(value, str) and value.strip().lower() in ("", "null", "nan", "none")):
        return {}
    if not isinstance(value, dict):
        found = f"the text {shown(value)}" if isinstance(value, str) else type(value).__name__
        raise Unusable(f'"metadata" must be an object, found {found}')
    return value


def _row_text(row: dict[str, Any]) -> str:
    if row.get("text") is None:
        raise Unusable(f'"text" must be a string, found {"NoneType" if "text" in row else "nothing"}')
    return _string(row, "text")


def _string(row: dict[str, Any], name: str) -> str:
    value = row.get(name)
    if value is not None and not isinstance(value, str):
        raise Unusable(f'"{name}" must be a string, found {type(value).__name__}')
    return value or ""


def _strings(row: dict[str, Any], name: str) -> tuple[str, ...]:
    value = row.get(name)
    if value is not None and not (isinstance(value, list) and all(isinstance(v, str) for v in value)):
        raise Unusable(f'"{name}" must be a list of strings')
    return tuple(value or ())


def _date(row: dict[str, Any], name: str) -> date | None:
    value = row.get(name)
    try:
        return None if value is None else date.fromisoformat(value)
    except (TypeError, ValueError):
        raise Unusable(f'"{name}" must read like 2026-01-31, found {str(value)[:40]!r}') from None


def _name(row: dict[str, Any], name: str) -> str:
    return name_text(name, row.get(name))


_QUERY_FIELDS: Readers = {
    "tenant_id": _name, "feature": _string, "style": _string, "cluster": _name, "accept": _strings,
    "reference": _string,
}  # fmt: skip
_DOCUMENT_FIELDS: Readers = {"tenant_id": _name, "document_type": _string, "date": _date, "aliases": _strings}
QUERY_KEYS, DOCUMENT_KEYS = tuple(_QUERY_FIELDS), tuple(_DOCUMENT_FIELDS)
