"""Readers of JSONL, qrels and rows that know the line of everything that is wrong, and report all of it at once."""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

from workbench.errors import Defect, EvalsetError
from workbench.records import Document, Query

Row = tuple[int, dict[str, Any]]
_BOM = b"\xef\xbb\xbf"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_HEADER = {"query-id", "query_id", "qid"}
_GRADE_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Judgement:
    """One row of qrels and the line it stands on; ``grade`` 0 = judged and not relevant."""

    line: int
    query_id: str
    doc_id: str
    grade: int


def read_jsonl(path: Path) -> list[Row]:
    """Objects of a JSONL file, each with its line number from 1; blank lines are skipped.

    Raises
    ------
    EvalsetError
        With every defect: no such file, no content, not UTF-8, not JSON, not an object.
    """
    rows, defects = scan_jsonl(path)
    refuse(path, defects)
    return rows


def read_qrels(path: Path) -> list[Judgement]:
    """Judgements of a BEIR file (query-id, corpus-id, score; header or not) or of TREC's, with 4 columns.

    Raises
    ------
    EvalsetError
        With every defect: no such file, no content, not UTF-8, another number of columns, a grade that is no
        whole number from 0.
    """
    rows, defects = scan_qrels(path)
    refuse(path, defects)
    return rows


def refuse(path: Path, defects: Iterable[Defect]) -> None:
    """Raise an EvalsetError with the defects of a file in the order of its lines, if there are any."""
    if in_order := sorted(defects, key=lambda defect: defect.line):
        raise EvalsetError(f"{path} cannot be read; correct these lines:", in_order)


def scan_jsonl(path: Path) -> tuple[list[Row], list[Defect]]:
    """Like `read_jsonl`, but what can be read is returned beside the defects."""
    rows: list[Row] = []
    lines, defects = read_lines(path)
    for number, line in lines:
        try:
            value = json.loads(line)
            if "\\u" in line:
                json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair cannot be written again
        except (ValueError, RecursionError) as error:
            defects.append(Defect(str(path), number, _json_problem(error, line)))
            continue
        if isinstance(value, dict):
            rows.append((number, value))
        else:
            found = type(value).__name__
            defects.append(Defect(str(path), number, f"a JSON object {{...}} is expected, found {found}"))
    return rows, defects


def scan_qrels(path: Path) -> tuple[list[Judgement], list[Defect]]:
    """Like `read_qrels`, but what can be read is returned beside the defects."""
    rows: list[Judgement] = []
    lines, defects = read_lines(path)
    width = 0
    for index, (number, line) in enumerate(lines):
        cells = [c.strip() for c in line.split("\t")] if "\t" in line else line.split()
        if index == 0 and cells and cells[0].lower() in _HEADER:
            continue
        width = width or len(cells)
        problem = _qrels_problem(cells, width)
        if problem:
            defects.append(Defect(str(path), number, problem))
        else:
            rows.append(Judgement(number, cells[0], cells[-2], int(cells[-1])))
    return rows, defects


def read_lines(path: Path) -> tuple[list[tuple[int, str]], list[Defect]]:
    """Lines of a UTF-8 file that are not blank, numbered from 1, and a defect for each unreadable one."""
    try:
        data = path.read_bytes()
    except OSError as error:
        return [], [Defect(str(path), 0, f"cannot be opened: {error.strerror}")]
    if data.startswith(_UTF16):
        return [], [Defect(str(path), 1, "is UTF-16 (byte order mark at offset 0); save it as UTF-8")]
    lines: list[tuple[int, str]] = []
    defects: list[Defect] = []
    for number, offset, raw in _split(data):
        try:
            lines.append((number, raw.decode()))
        except UnicodeDecodeError as error:
            problem = _not_utf8(raw[error.start], offset + error.start)
            defects.append(Defect(str(path), number, problem))
    if not lines and not defects:
        defects.append(Defect(str(path), 0, "is empty; one row a line is expected"))
    return lines, defects


def read_text(path: Path) -> tuple[str, list[Defect]]:
    """Text of a UTF-8 file, or "" and why it cannot be read."""
    try:
        return path.read_bytes().decode(), []
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        return "", [Defect(str(path), line, _not_utf8(error.object[error.start], error.start))]
    except OSError as error:
        return "", [Defect(str(path), 0, f"cannot be opened: {error.strerror}")]


def _not_utf8(byte: int, offset: int) -> str:
    return f"not UTF-8: byte 0x{byte:02x} at offset {offset} of the file; save it as UTF-8"


def _split(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Line number, offset in the file and bytes of each line that is not blank; a line feed ends a line."""
    offset = len(_BOM) if data.startswith(_BOM) else 0
    for number, raw in enumerate(data[offset:].split(b"\n"), start=1):
        if raw.strip():
            yield number, offset, raw.removesuffix(b"\r")
        offset += len(raw) + 1


def _json_problem(error: ValueError | RecursionError, line: str) -> str:
    if not isinstance(error, json.JSONDecodeError):
        return f"not usable JSON: {error}"
    cut = error.pos >= len(line.rstrip()) or error.msg.startswith("Unterminated")
    return f"not JSON: {error.msg} at column {error.colno}" + ("; the line is cut short" if cut else "")


def _qrels_problem(cells: list[str], width: int) -> str:
    if len(cells) not in (3, 4):
        return f"3 columns (query-id, corpus-id, score) or TREC's 4 are expected, found {len(cells)}"
    if len(cells) != width:
        return f"{width} columns are expected as in the first row, found {len(cells)}"
    if not (cells[0] and cells[-2]):
        return "the query-id or the corpus-id is empty"
    grade = cells[-1]
    if not (grade.isascii() and grade.isdigit() and len(grade) <= _GRADE_DIGITS):
        return f"the grade must be a whole number from 0, found {grade[:40]!r}"
    return ""


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
