"""Readers of JSONL and qrels that know the line of everything that is wrong, and report all of it at once."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.errors import Defect, EvalsetError

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
