"""A team's own tables (JSONL, CSV, Parquet) as an evalset: documents, questions and which answers which."""

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import Any

from workbench.errors import Defect, EvalsetError
from workbench.evalset.files import (
    DOCUMENT_KEYS,
    QUERY_KEYS,
    Judgement,
    Row,
    documents_of,
    grade_of,
    queries_of,
    read_jsonl,
    read_qrels,
    read_text,
    refuse,
)
from workbench.evalset.findings import judgement_defects
from workbench.evalset.imports.folder import import_card, write_folder
from workbench.evalset.imports.hub import read_parquet

# our column -> what it may be called
Names = Mapping[str, Sequence[str]]
_DOCUMENT_NAMES: Names = {
    "_id": ("_id", "id", "doc_id", "document_id", "corpus-id"),
    "text": ("text", "content", "body"),
    "title": ("title",),
}
_QUERY_NAMES: Names = {
    "_id": ("_id", "id", "query_id", "query-id", "qid"),
    "text": ("text", "query", "question"),
    "relevant": ("relevant", "relevant_ids", "doc_ids"),
}
_QRELS_NAMES: Names = {
    "query_id": ("query_id", "query-id", "qid"),
    "doc_id": ("doc_id", "corpus-id", "corpus_id", "document_id"),
    "grade": ("grade", "score", "relevance", "label"),
    "split": ("split",),
}
_BY_HAND = "Who wrote the questions and judged the documents (people, a model), how, when, for what"
TABLES = (".jsonl", ".ndjson", ".csv", ".parquet")
_LISTS = ("accept", "aliases", "relevant")


def import_tables(
    *,
    corpus: Path,
    queries: Path,
    qrels: Path | None = None,
    out: Path,
    rename: Mapping[str, str] = MappingProxyType({}),
) -> Path:
    """Write the evalset folder ``out`` from a table of documents, one of questions and their judgements.

    Parameters
    ----------
    corpus : Path
        ``.jsonl``, ``.csv`` or ``.parquet`` with columns _id (or id, doc_id), text (or content, body) and,
        where there are any, title, tenant_id, document_type, date, aliases.
    queries : Path
        The same for questions: _id, text (or query, question), and tenant_id, feature, style, cluster,
        accept, reference; ``relevant`` lists the ids of the right documents (a list, or text parted by ``;``)
        where there is no ``qrels``.
    qrels : Path, optional
        A BEIR or TREC file (.tsv, .txt, .qrels), or a table with query_id, doc_id and, where there are any,
        grade (default 1) and split (default test).
    out : Path
        Where the folder is to be; it must not exist.
    rename : mapping
        Your column -> ours, for columns of another name.

    Raises
    ------
    EvalsetError
        With the file and line (of Parquet: row) of everything that cannot be used; nothing is written then.
    """
    document_rows, document_rest = _named(corpus, _DOCUMENT_NAMES, DOCUMENT_KEYS, rename)
    query_rows, query_rest = _named(queries, _QUERY_NAMES, QUERY_KEYS, rename)
    documents, document_lines, defects = documents_of(str(corpus), document_rows)
    questions, query_lines, problems = queries_of(str(queries), query_rows)
    source = qrels or queries
    judgements = _of_qrels(qrels, rename) if qrels else _of_queries(queries, query_rows)
    for rows in judgements.values():
        problems += judgement_defects(str(source), rows, query_lines, document_lines)
    if defects or problems:
        raise EvalsetError("the tables cannot be imported; correct these lines:", [*defects, *problems])
    card = import_card({source: (), corpus: document_rest, queries: query_rest}, _BY_HAND)
    write_folder(out, documents=documents, queries=questions, judgements=judgements, card=card)
    return out


def named_rows(path: Path, names: Names) -> tuple[list[Row], list[str]]:
    """Rows of a table under our names, each from the first of its known columns, and the columns nothing needs."""
    rest: set[str] = set()
    rows: list[Row] = []
    for line, given in read_table(path):
        rows.append((line, _taken(given, names)))
        rest |= given.keys()
    return rows, sorted(rest)


def _taken(given: dict[str, Any], names: Names) -> dict[str, Any]:
    """Cells under our names, taken out of ``given``; None where a row has none of the columns."""
    row: dict[str, Any] = {}
    for ours, theirs in names.items():
        found = next((name for name in theirs if given.get(name) is not None), None)
        row[ours] = None if found is None else given.pop(found)
    return row


def read_table(path: Path) -> list[Row]:
    """Rows of a JSONL, CSV or Parquet file with their lines (of Parquet: rows from 1); CSV values stay text.

    Raises
    ------
    EvalsetError
        If the file cannot be read, or is of another kind.
    """
    if (suffix := path.suffix.lower()) not in TABLES:
        raise EvalsetError(f"{path}: a table is one of {', '.join(TABLES)}, found {suffix or 'no suffix'!r}")
    if suffix == ".parquet":
        return list(enumerate(read_parquet(path), start=1))
    return _read_csv(path) if suffix == ".csv" else read_jsonl(path)


def _read_csv(path: Path) -> list[Row]:
    """Rows with the line on which each ends; types are not guessed, so that the id 007 stays 007."""
    text, defects = read_text(path)
    rows: list[Row] = []
    reader = csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""), strict=True)
    header: list[str] = []
    try:
        for cells in reader:
            if not header:
                header = [cell.strip() for cell in cells]
            elif cells and len(cells) != len(header):
                problem = f"{len(header)} columns are expected as in the header, found {len(cells)}"
                defects.append(Defect(str(path), reader.line_num, problem))
            elif cells:
                rows.append((reader.line_num, {k: v for k, v in zip(header, cells, strict=True) if v != ""}))
    except csv.Error as error:
        defects.append(Defect(str(path), reader.line_num, f"not CSV: {error}"))
    if not rows and not defects:
        defects.append(Defect(str(path), 0, "is empty; a header and one row a line are expected"))
    refuse(path, defects)
    return rows


def _named(path: Path, names: Names, metadata: Sequence[str], rename: Mapping[str, str]) -> tuple[list[Row], list[str]]:
    """Rows in BEIR's form, and the columns that nothing here needs."""
    rows: list[Row] = []
    rest: set[str] = set()
    for line, raw in read_table(path):
        given = {rename.get(name, name): value for name, value in raw.items()}
        nested = given.pop("metadata", None)
        given |= nested if isinstance(nested, dict) else {}
        row: dict[str, Any] = {name: _plain(name, value) for name, value in _taken(given, names).items()}
        row["metadata"] = {key: _plain(key, given.pop(key)) for key in metadata if key in given}
        rest |= given.keys()
        rows.append((line, row))
    return rows, sorted(rest)


def _plain(name: str, value: Any) -> Any:
    """Turn a cell into what JSON would hold: dates as text, lists also from ``["a", "b"]`` or ``a; b``."""
    if isinstance(value, date):
        return value.isoformat()[:10]
    if name not in _LISTS or not isinstance(value, str):
        return value
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError):
        parsed = None
    return parsed if isinstance(parsed, list) else [part.strip() for part in value.split(";") if part.strip()]


def _of_queries(path: Path, rows: Sequence[Row]) -> dict[str, list[Judgement]]:
    """Judgements that the questions carry themselves."""
    found: list[Judgement] = []
    for line, row in rows:
        listed = row["relevant"] if isinstance(row["relevant"], list) else []
        found += [Judgement(line, str(row["_id"]), doc_id, 1) for doc_id in dict.fromkeys(map(str, listed))]
    if not found:
        asked = "give qrels, or a column `relevant` with the ids of the right documents"
        raise EvalsetError(f"{path} says of no question which document answers it; {asked}")
    return {"test": found}


def _of_qrels(path: Path, rename: Mapping[str, str]) -> dict[str, list[Judgement]]:
    """Judgements of a file of their own, by split."""
    if path.suffix.lower() not in TABLES:
        return {"test": read_qrels(path)}
    splits: dict[str, list[Judgement]] = {}
    defects: list[Defect] = []
    for line, row in _named(path, _QRELS_NAMES, (), rename)[0]:
        split = "test" if row["split"] is None else str(row["split"])
        grade = 1 if row["grade"] is None else grade_of(row["grade"])
        if row["query_id"] is None or row["doc_id"] is None:
            defects.append(Defect(str(path), line, "query_id and doc_id are needed"))
        elif grade is None:
            found = str(row["grade"])[:40]
            defects.append(Defect(str(path), line, f"the grade must be a whole number from 0, found {found!r}"))
        elif not re.fullmatch(r"[\w-]+", split):
            defects.append(Defect(str(path), line, f"{split[:40]!r} cannot name a split; use dev or test"))
        else:
            judgement = Judgement(line, str(row["query_id"]), str(row["doc_id"]), grade)
            splits.setdefault(split, []).append(judgement)
    refuse(path, defects)
    return splits
