"""Rows of ``queries.jsonl`` and ``corpus.jsonl`` as typed values, and the lines that cannot be used."""

from collections.abc import Callable, Sequence
from datetime import date
from typing import Any, TypeVar

from workbench.errors import Defect
from workbench.evaluation.reading import Row
from workbench.records import DEFAULT_TENANT, Document, Query

QUERY_KEYS = ("tenant_id", "feature", "style", "cluster", "accept", "reference")
DOCUMENT_KEYS = ("tenant_id", "document_type", "date", "aliases")
_Value = TypeVar("_Value", Query, Document)


class _Unusable(ValueError):
    """A field of one row that is not what it must be."""


def queries_of(file: str, rows: Sequence[Row]) -> tuple[list[Query], dict[str, int], list[Defect]]:
    """Make queries of BEIR rows: values, the line of each id, and what cannot be used (of ``file``)."""
    return _collect(file, rows, _query)


def documents_of(file: str, rows: Sequence[Row]) -> tuple[list[Document], dict[str, int], list[Defect]]:
    """Make documents of BEIR rows: values, the line of each id, and what cannot be used (of ``file``)."""
    return _collect(file, rows, _document)


def foreign_keys(rows: Sequence[Row], known: Sequence[str]) -> dict[int, list[str]]:
    """Metadata keys that mean nothing here, by line."""
    found = {}
    for line, row in rows:
        metadata = row.get("metadata")
        if isinstance(metadata, dict) and (keys := [k for k in metadata if k not in known]):
            found[line] = keys
    return found


def grade_of(value: Any) -> int | None:
    """Give the grade that a table holds, as a number or as text; None where it is no whole number from 0."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return int(number) if number.is_integer() and 0 <= number < 10**6 else None


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
    return Query(
        query_id=key,
        text=_string(row, "text", required=True),
        tenant_id=_string(metadata, "tenant_id") or DEFAULT_TENANT,
        cluster=_string(metadata, "cluster") or key,
        feature=_string(metadata, "feature"),
        style=_string(metadata, "style"),
        accept=_strings(metadata, "accept"),
        reference=_string(metadata, "reference"),
    )


def _document(key: str, row: dict[str, Any], metadata: dict[str, Any]) -> Document:
    return Document(
        doc_id=key,
        text=_string(row, "text", required=True),
        title=_string(row, "title"),
        tenant_id=_string(metadata, "tenant_id") or DEFAULT_TENANT,
        document_type=_string(metadata, "document_type") or "document",
        date=_date(metadata.get("date")),
        aliases=_strings(metadata, "aliases"),
    )


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


def _string(row: dict[str, Any], name: str, *, required: bool = False) -> str:
    value = row.get(name)
    if value is None and not required:
        return ""
    if not isinstance(value, str):
        found = "nothing" if name not in row else type(value).__name__
        raise _Unusable(f'"{name}" must be a string, found {found}')
    return value


def _strings(row: dict[str, Any], name: str) -> tuple[str, ...]:
    value = row.get(name)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise _Unusable(f'"{name}" must be a list of strings')
    return tuple(value)


def _date(value: Any) -> date | None:
    if value is None:
        return None
    try:
        return date.fromisoformat(value)
    except (TypeError, ValueError):
        raise _Unusable(f'"date" must read like 2026-01-31, found {str(value)[:40]!r}') from None
