"""The one reader of rows: JSONL, CSV, TSV, Parquet and qrels, with the line of everything that is wrong.

Every importer reads through `read_table`, so that a separator, a header, a missing value, a key that stands twice and a
line number mean the same in each. What a cell means says `workbench.evalset.cells`.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from workbench.errors import ConfigError, Defect, EvalsetError
from workbench.evalset.cells import Unusable, grade_cell, parse_json_cell, settled_cell
from workbench.rendering.numbers import counted

Row = tuple[int, dict[str, Any]]
_BOM = b"\xef\xbb\xbf"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_HEADER = {"query-id", "query_id", "qid"}
_SEPARATORS = ",;\t|"
_SAMPLE_ROWS, _SAMPLE_CHARACTERS = 20, 100_000
_LARGEST_CELL = 2**31 - 1  # the csv module would stop at 131 kB
_IS_UTF16 = "is UTF-16 (byte order mark at offset 0); save it as UTF-8"
TABLES = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
Names = Mapping[str, Sequence[str]]  # our column -> what it may be called


@dataclass(frozen=True, slots=True)
class Judgement:
    """One row of qrels and the line it stands on; ``grade`` 0 and less = judged and not relevant."""

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
    refuse_file(path, defects)
    return rows


def read_qrels(path: Path) -> list[Judgement]:
    """Judgements of a BEIR file (query-id, corpus-id, score; header or not) or of TREC's, with 4 columns.

    Raises
    ------
    EvalsetError
        With every defect: no such file, no content, not UTF-8, another number of columns, a grade that is no
        whole number.
    """
    rows, defects = scan_qrels(path)
    refuse_file(path, defects)
    return rows


def refuse_file(path: Path, defects: Iterable[Defect]) -> None:
    """Raise an EvalsetError with the defects of a file in the order of its lines, if there are any."""
    if in_order := sorted(defects, key=lambda defect: defect.line):
        raise EvalsetError(f"{path} cannot be read; correct these lines:", in_order)


def scan_jsonl(path: Path) -> tuple[list[Row], list[Defect]]:
    """Like `read_jsonl`, but what can be read is returned beside the defects."""
    rows: list[Row] = []
    lines, defects = read_lines(path)
    for number, line in lines:
        try:
            value = parse_json_cell(line)
            if "\\u" in line:
                json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair cannot be written again
        except (ValueError, RecursionError) as error:
            defects.append(Defect(str(path), number, _jsonl_problem(error, line)))
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
        cells = [c.strip() for c in line.split("\t")] if "\t" in line else line.split() or [""]  # blank in Unicode
        if line.startswith("#") or (index == 0 and cells[0].lower() in _HEADER):
            continue
        width = width or len(cells)
        try:
            rows.append(_qrels_judgement(number, cells, width))
        except Unusable as error:
            defects.append(Defect(str(path), number, str(error)))
    if not rows and not defects:
        defects.append(Defect(str(path), 0, "holds no judgement"))
    return rows, defects


def read_lines(path: Path) -> tuple[list[tuple[int, str]], list[Defect]]:
    """Lines of a UTF-8 file that are not blank, numbered from 1, and a defect for each unreadable one."""
    try:
        data = path.read_bytes()
    except OSError as error:
        return [], [Defect(str(path), 0, f"cannot be opened: {error.strerror}")]
    if data.startswith(_UTF16):
        return [], [Defect(str(path), 1, _IS_UTF16)]
    lines: list[tuple[int, str]] = []
    defects: list[Defect] = []
    for number, offset, raw in _raw_file_lines(data):
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
        if error.object.startswith(_UTF16):
            return "", [Defect(str(path), 1, _IS_UTF16)]
        line = error.object[: error.start].count(b"\n") + 1
        return "", [Defect(str(path), line, _not_utf8(error.object[error.start], error.start))]
    except OSError as error:
        return "", [Defect(str(path), 0, f"cannot be opened: {error.strerror}")]


def _not_utf8(byte: int, offset: int) -> str:
    return f"not UTF-8: byte 0x{byte:02x} at offset {offset} of the file; save it as UTF-8"


def _raw_file_lines(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Line number, offset in the file and bytes of each line that is not blank; a line feed ends a line."""
    offset = len(_BOM) if data.startswith(_BOM) else 0
    for number, raw in enumerate(data[offset:].split(b"\n"), start=1):
        if raw.strip():
            yield number, offset, raw.removesuffix(b"\r")
        offset += len(raw) + 1


def _jsonl_problem(error: ValueError | RecursionError, line: str) -> str:
    if isinstance(error, Unusable):
        return f"is {error}"
    if not isinstance(error, json.JSONDecodeError):
        return f"not usable JSON: {error}"
    cut = error.pos >= len(line.rstrip()) or error.msg.startswith("Unterminated")
    return f"not JSON: {error.msg} at column {error.colno}" + ("; the line is cut short" if cut else "")


def _qrels_judgement(line: int, cells: list[str], width: int) -> Judgement:
    if len(cells) not in (3, 4):
        raise Unusable(f"3 columns (query-id, corpus-id, score) or TREC's 4 are expected, found {len(cells)}")
    if len(cells) != width:
        raise Unusable(f"{counted(width, 'column is', 'columns are')} expected as in the first row, found {len(cells)}")
    if not (cells[0] and cells[-2]):
        raise Unusable("the query-id or the corpus-id is empty")
    if (found := grade_cell(cells[-1])) is None:
        raise Unusable(f"the grade must be a whole number, found {cells[-1]!r}")
    return Judgement(line, cells[0], cells[-2], found)


@dataclass(frozen=True, slots=True)
class TableFile:
    """Rows of a file with the line on which each begins (of Parquet: rows from 1), and its columns in their order.

    A cell of CSV is text, and absent where it is empty; NaN is None.
    """

    path: Path
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def read_table(path: Path, rename: Mapping[str, str] | None = None) -> TableFile:
    """Read a JSONL, CSV, TSV or Parquet file; ``rename`` gives columns of another name ours (`renamed_columns`).

    CSV may be parted by commas, semicolons, tabs or bars, as its header shows or a first line ``sep=;`` says; types are
    not guessed, so that the id 007 stays 007. Rows without any content are skipped.

    Raises
    ------
    EvalsetError
        If the file cannot be read, is of another kind, or has two columns of one name.
    ConfigError
        If a column to rename is not there.
    """
    if (suffix := path.suffix.lower()) not in TABLES:
        raise EvalsetError(f"{path}: a table is one of {', '.join(TABLES)}, found {suffix or 'no suffix'!r}")
    if suffix == ".parquet":
        frame = read_parquet(path)
        rows = tuple(enumerate((settled_cell(row) for row in frame.to_dicts()), start=1))
        table = TableFile(path, tuple(frame.columns), rows)
    elif suffix in (".csv", ".tsv"):
        table = _read_delimited(path)
    else:
        rows = tuple(read_jsonl(path))
        table = TableFile(path, tuple(dict.fromkeys(key for _, row in rows for key in row)), rows)
    if not table.rows:
        raise EvalsetError(f"{path} is empty; a header and one row a line are expected")
    if rename:
        require_columns(rename, [table])
    return renamed_columns(table, rename or {})


def read_parquet(path: Path) -> pl.DataFrame:
    """Frame of one Parquet file; nothing in its name or its cells leads to another file.

    Raises
    ------
    EvalsetError
        If there is no such file, or it is no Parquet.
    """
    try:
        return pl.read_parquet(io.BytesIO(path.read_bytes()))
    except OSError as error:
        raise EvalsetError(f"{path} cannot be opened: {error.strerror or error}") from error
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        told = str(error).partition("\n")[0]
        raise EvalsetError(f"{path} cannot be read as Parquet; write it again: {told}") from error


def require_columns(rename: Mapping[str, str], tables: Sequence[TableFile]) -> None:
    """Refuse to rename what no table has, and to give two columns of one table the same name.

    Raises
    ------
    ConfigError
        With the columns that there are.
    """
    known = dict.fromkeys(column for table in tables for column in table.columns)
    unknown = [name for name in rename if name not in known and _table_head(name) not in known]
    if unknown:
        found = f"no column {', '.join(unknown)} to rename; there are {', '.join(known)}"
        raise ConfigError(f"{found}: yours comes first, --rename YOURS=OURS")
    for table in tables:
        mine = [ours for name, ours in rename.items() if name in table.columns]
        if twice := sorted({ours for ours in mine if mine.count(ours) > 1}):
            raise ConfigError(f"--rename gives two columns of {table.path} the name {', '.join(twice)}")


def renamed_columns(table: TableFile, rename: Mapping[str, str]) -> TableFile:
    """Columns under the names that ``rename`` gives them; ``a.b`` is the field b of the objects in column a.

    A column that has the new name already gives way, and stands under ``NAME (of the file)``.
    """
    if not rename:
        return table
    given = {ours for name, ours in rename.items() if name in table.columns or _table_head(name) in table.columns}
    moves = {name: f"{name} (of the file)" for name in table.columns if name in given and name not in rename}
    moves |= {name: ours for name, ours in rename.items() if name in table.columns}
    inner = {name: ours for name, ours in rename.items() if name not in table.columns}
    rows: list[Row] = []
    for line, row in table.rows:
        cells = {moves.get(name, name): value for name, value in row.items()}
        cells |= {ours: value for name, ours in inner.items() if (value := _inner_cell(row, name)) is not None}
        rows.append((line, cells))
    columns = dict.fromkeys([*(moves.get(name, name) for name in table.columns), *inner.values()])
    return replace(table, columns=tuple(columns), rows=tuple(rows))


def _table_head(name: str) -> str:
    return name.partition(".")[0]


def _inner_cell(row: Any, name: str) -> Any:
    """Value at a path such as ``provider.id`` inside the objects of a row."""
    for part in name.split("."):
        row = row.get(part) if isinstance(row, dict) else None
    return row


def named_table_rows(table: TableFile, names: Names, needed: Sequence[str] = ()) -> tuple[list[Row], list[str]]:
    """Rows under our names, each from the first of its known columns that says anything, and the columns left out.

    Raises
    ------
    EvalsetError
        If a column that is ``needed`` is not there under any of its names.
    """
    require_named_column(table, names, needed)
    rows: list[Row] = []
    used: set[str] = set()
    for line, row in table.rows:
        taken = {ours: next((n for n in theirs if row.get(n) is not None), None) for ours, theirs in names.items()}
        used.update(name for name in taken.values() if name)
        rows.append((line, {ours: row[name] if name else None for ours, name in taken.items()}))
    ours = {name for theirs in names.values() for name in theirs}
    said = {name for _, row in table.rows for name, value in row.items() if value is not None}
    return rows, [name for name in table.columns if name not in used and (name in said or name not in ours)]


def require_named_column(table: TableFile, names: Names, needed: Sequence[str]) -> None:
    """Refuse a table that has a column under none of its names.

    Raises
    ------
    EvalsetError
        With the columns that it has.
    """
    for ours in needed:
        if not set(names[ours]) & set(table.columns):
            known = " or ".join(dict.fromkeys([ours, *names[ours]]))
            found = ", ".join(table.columns) or "none"
            told = f"{table.path} has no column {known}; it has {found}"
            raise EvalsetError(
                f"{told}. Rename yours in the file, or by --rename YOURS={ours} where the command has it"
            )


def has_header(path: Path, names: Names, needed: Sequence[str]) -> bool:
    """Whether the first line of a file parted by tabs names the ``needed`` columns."""
    lines, _ = read_lines(path)
    cells = (
        {cell.strip().strip('"').lower() for cell in lines[0][1].removeprefix("\ufeff").split("\t")} if lines else set()
    )
    return all(cells & set(names[column]) for column in needed)


def _read_delimited(path: Path) -> TableFile:
    text, defects = read_text(path)
    refuse_file(path, defects)
    text, separator, offset = _separated_file_text(text.removeprefix("\ufeff"))
    limit = csv.field_size_limit(_LARGEST_CELL)
    try:
        records, problem = _delimited_records(text, separator, offset)
    finally:
        csv.field_size_limit(limit)
    defects = [Defect(str(path), problem[0], f"not CSV: {problem[1]}")] if problem else []
    if not records:
        refuse_file(path, defects or [Defect(str(path), 0, "is empty; a header and one row a line are expected")])
    (line, header), *records = records
    header = [cell.strip() or f"column {place}" for place, cell in enumerate(header, start=1)]
    if twice := [name for name in dict.fromkeys(header) if header.count(name) > 1]:
        places = [", ".join(str(i) for i, other in enumerate(header, 1) if other == name) for name in twice]
        told = [f"two columns are called {n!r} (columns {where})" for n, where in zip(twice, places, strict=True)]
        refuse_file(
            path, [Defect(str(path), line, f"{problem}; give each its own name, or remove one") for problem in told]
        )
    rows: list[Row] = []
    for line, cells in records:
        cells = cells[: len(header)] + [cell for cell in cells[len(header) :] if cell.strip()]
        if len(cells) == len(header):
            rows.append((line, {k: v for k, v in zip(header, cells, strict=True) if v != ""}))
        else:
            found = f"{counted(len(header), 'column is', 'columns are')} expected as in the header, found {len(cells)}"
            defects.append(Defect(str(path), line, f"{found} (parted by {separator!r})"))
    if not rows and not defects:
        defects.append(Defect(str(path), 0, "is empty; a header and one row a line are expected"))
    refuse_file(path, defects)
    filled = {name for _, row in rows for name in row}
    return TableFile(path, tuple(n for n in header if n in filled or not n.startswith("column ")), tuple(rows))


def _separated_file_text(text: str) -> tuple[str, str, int]:
    """Text without Excel's line ``sep=;``, the separator of its cells, and how many lines were taken off."""
    first, _, rest = text.partition("\n")
    told = first.strip().strip('"')
    if told.lower().startswith("sep=") and len(told) == 5:
        return rest, told[-1], 1
    if first.rstrip("\r") in ("sep=\t", '"sep=\t"'):
        return rest, "\t", 1
    return text, max(_SEPARATORS, key=lambda separator: _separator_fit(text[:_SAMPLE_CHARACTERS], separator)), 0


def _separator_fit(sample: str, separator: str) -> tuple[bool, int, int]:
    """How well a separator parts the first rows: more than one column, rows as wide as the header, columns."""
    rows: list[list[str]] = []
    try:
        for row in csv.reader(io.StringIO(sample, newline=""), delimiter=separator):
            rows += [row] if row else []
            if len(rows) > _SAMPLE_ROWS:
                break
    except csv.Error:  # a cell of more than 131 kB, which is read later
        pass
    width = len(rows[0]) if rows else 0
    return width > 1, sum(len(row) == width for row in rows), width


def _delimited_records(
    text: str, separator: str, offset: int
) -> tuple[list[tuple[int, list[str]]], tuple[int, csv.Error] | None]:
    """Records that hold anything, each with the line on which it begins; and the first that is not CSV."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=separator)
    records: list[tuple[int, list[str]]] = []
    while True:
        begins = reader.line_num + offset + 1
        try:
            cells = next(reader)
        except StopIteration:
            return records, None
        except csv.Error as error:
            return records, (begins, error)
        if any(cell.strip() for cell in cells):
            records.append((begins, cells))
