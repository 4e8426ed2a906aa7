"""Rows of ``queries.jsonl`` and ``corpus.jsonl`` as typed values, and the lines that cannot be used."""

import math
from collections.abc import Callable, Sequence
from datetime import date
from typing import Any, TypeVar

from workbench.errors import Defect
from workbench.evaluation.reading import Row
from workbench.records import Document, Query

# How each field of the metadata is read, by its name.
Readers = dict[str, Callable[[dict[str, Any], str], Any]]
_Value = TypeVar("_Value", Query, Document)


class _Unusable(ValueError):
    """A field of one row that is not what it must be."""


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
        metadata = row.get("metadata")
        if isinstance(metadata, dict) and (foreign := {k: v for k, v in metadata.items() if k not in known}):
            found[line] = foreign
    return found


def fits(name: str, value: Any) -> bool:
    """Whether a key of our metadata could hold the value: the list of works that a paper cites is no ``reference``."""
    try:
        return bool((_QUERY_FIELDS | _DOCUMENT_FIELDS)[name]({name: value}, name))
    except _Unusable:
        return False


def number_of(value: Any) -> float | None:
    """Give the finite number that a cell holds, as a number or as text; None where it holds none."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def grade_of(value: Any) -> int | None:
    """Give the grade that a cell holds; None where it is no whole number from 0."""
    number = number_of(value)
    return int(number) if number is not None and number.is_integer() and 0 <= number < 10**6 else None


def _collect(
    file: str, rows: Sequence[Row], build: Callable[[str, dict[str, Any], dict[str, Any]], _Value]
) -> tuple[list[_Value], dict[str, int], list[Defect]]:
    values: list[_Value] = []
    lines: dict[str, int] = {}
    defects: list[Defect] = []
    for line, row in rows:
        try:
            key = _id(row)
            if key in lines:
                raise _Unusable(f"duplicate _id {key!r}: line {lines[key]} has it already")
            lines[key] = line
            values.append(build(key, row, _metadata(row)))
        except _Unusable as error:
            defects.append(Defect(file, line, str(error)))
    return values, lines, defects


def _query(key: str, row: dict[str, Any], metadata: dict[str, Any]) -> Query:
    return Query(key, _text(row), **{"cluster": key, **_given(metadata, _QUERY_FIELDS)})


def _document(key: str, row: dict[str, Any], metadata: dict[str, Any]) -> Document:
    return Document(key, _text(row), _string(row, "title"), **_given(metadata, _DOCUMENT_FIELDS))


def _given(metadata: dict[str, Any], readers: Readers) -> dict[str, Any]:
    """Fields that say something; the others keep their defaults."""
    return {name: value for name, read in readers.items() if (value := read(metadata, name))}


def _id(row: dict[str, Any]) -> str:
    value = row.get("_id")
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63:
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise _Unusable('"_id" must be a string that is not empty')
    if value != value.strip() or any(c in value for c in "\t\r\n"):
        raise _Unusable(f'"_id" {value[:40]!r} has a tab, a line end or outer spaces, so no qrels can name it')
    return value


def _metadata(row: dict[str, Any]) -> dict[str, Any]:
    value = row.get("metadata")
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _Unusable(f'"metadata" must be an object, found {type(value).__name__}')
    return value


def _text(row: dict[str, Any]) -> str:
    if row.get("text") is None:
        raise _Unusable(f'"text" must be a string, found {"NoneType" if "text" in row else "nothing"}')
    return _string(row, "text")


def _string(row: dict[str, Any], name: str) -> str:
    value = row.get(name)
    if value is not None and not isinstance(value, str):
        raise _Unusable(f'"{name}" must be a string, found {type(value).__name__}')
    return value or ""


def _strings(row: dict[str, Any], name: str) -> tuple[str, ...]:
    value = row.get(name)
    if value is not None and not (isinstance(value, list) and all(isinstance(v, str) for v in value)):
        raise _Unusable(f'"{name}" must be a list of strings')
    return tuple(value or ())


def _date(row: dict[str, Any], name: str) -> date | None:
    value = row.get(name)
    try:
        return None if value is None else date.fromisoformat(value)
    except (TypeError, ValueError):
        raise _Unusable(f'"{name}" must read like 2026-01-31, found {str(value)[:40]!r}') from None


_QUERY_FIELDS: Readers = {
    "tenant_id": _string, "feature": _string, "style": _string, "cluster": _string, "accept": _strings,
    "reference": _string,
}  # fmt: skip
_DOCUMENT_FIELDS: Readers = {"tenant_id": _string, "document_type": _string, "date": _date, "aliases": _strings}
QUERY_KEYS, DOCUMENT_KEYS = tuple(_QUERY_FIELDS), tuple(_DOCUMENT_FIELDS)
