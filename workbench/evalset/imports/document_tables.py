"""A team's own tables (JSONL, CSV, Parquet) as an evalset: documents, questions and which answers which."""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import Any

from workbench.errors import Defect, EvalsetError
from workbench.evalset.cells import Unusable, grade_cell, id_cell, name_cell, parsed_cell, shown_cell
from workbench.evalset.corpus import CorpusQuotes
from workbench.evalset.files import (
    TABLES,
    Judgement,
    Names,
    Row,
    TableFile,
    has_header,
    named_table_rows,
    read_qrels,
    read_table,
    renamed_columns,
    require_columns,
)
from workbench.evalset.folder import (
    DOCUMENT_KEYS,
    QUERY_KEYS,
    Tell,
    documents_of_rows,
    folder_import_card,
    folder_judgement_defects,
    folder_row_metadata,
    queries_of_rows,
    tell_nothing,
    tell_rows_left_out,
    write_evalset_folder,
)
from workbench.records import DEFAULT_TENANT
from workbench.rendering.numbers import counted
from workbench.rendering.progress import waiting

DOCUMENT_NAMES: Names = {
    "_id": ("_id", "id", "doc_id", "document_id", "corpus-id"),
    "text": ("text", "content", "body"),
    "title": ("title",),
}
QUERY_NAMES: Names = {
    "_id": ("_id", "id", "query_id", "query-id", "qid"),
    "text": ("text", "query", "question"),
    "relevant": ("relevant", "relevant_ids", "doc_ids"),
    "quote": ("quote", "quotes"),
}
QRELS_NAMES: Names = {
    "query_id": ("query_id", "query-id", "qid"),
    "doc_id": ("doc_id", "corpus-id", "corpus_id", "document_id"),
    "grade": ("grade", "score", "relevance", "label"),
    "split": ("split",),
}
_BY_HAND = "Who wrote the questions and judged the documents (people, a model), how, when, for what"
_OTHER_KEYS = {"tenant_id": ("tenant_id", "tenant")}  # metadata that goes by another name too
_NAMED = 10  # documents without a grade that are told one by one
_LISTS = ("accept", "aliases")


@waiting("import of tables")
def import_tables(
    *,
    corpus: Path,
    queries: Path,
    qrels: Path | None = None,
    out: Path,
    rename: Mapping[str, str] = MappingProxyType({}),
    tell: Tell = tell_nothing,
) -> Path:
    """Write the evalset folder ``out`` from a table of documents, one of questions and their judgements.

    Parameters
    ----------
    corpus : Path
        ``.jsonl``, ``.csv``, ``.tsv`` or ``.parquet`` with columns _id (or id, doc_id), text (or content, body) and,
        where there are any, title, tenant_id, document_type, date, aliases, each in a column of its own or in
        ``metadata``, an object or its JSON text.
    queries : Path
        The same for questions: _id, text (or query, question), and tenant_id, feature, style, cluster,
        accept, reference; ``relevant`` names the right documents where there is no ``qrels``: an id, a list of ids,
        ids parted by ``;``, or an object of id and grade; ``quote`` names them by a passage that stands in one.
    qrels : Path, optional
        A BEIR or TREC file (.tsv, .txt, .qrels), or a table with query_id, doc_id and, where there are any,
        grade (default 1; 0 and less is judged and not relevant) and split (default test).
    out : Path
        Where the folder is to be; it must not exist.
    rename : mapping
        Your column -> ours, for columns of another name.
    tell : callable
        Takes a line on what was left out.

    Raises
    ------
    EvalsetError
        With the file and line (of Parquet: row) of everything that cannot be used; nothing is written then.
    ConfigError
        If a column to rename is in none of the tables.
    """
    paths = [corpus, queries, *([qrels] if qrels and _is_judgement_table(qrels) else [])]
    tables = {path: read_table(path) for path in paths}
    require_columns(rename, list(tables.values()))
    tables = {path: renamed_columns(table, rename) for path, table in tables.items()}
    document_rows, document_rest, wrong = beir_rows_of_table(tables[corpus], DOCUMENT_NAMES, DOCUMENT_KEYS)
    query_rows, query_rest, odd = beir_rows_of_table(tables[queries], QUERY_NAMES, QUERY_KEYS)
    documents, document_lines, defects = documents_of_rows(str(corpus), document_rows)
    questions, query_lines, problems = queries_of_rows(str(queries), query_rows)
    source = qrels or queries
    judged, unread, rest = _judged_in_tables(qrels, tables, queries, query_rows, CorpusQuotes(documents))
    for rows in judged.values():
        problems += folder_judgement_defects(str(source), rows, query_lines, document_lines)
    if found := [*wrong, *defects, *odd, *problems, *unread]:
        raise EvalsetError("the tables cannot be imported; correct these lines:", found)
    if not any(judged.values()):
        asked = "give qrels, a column `relevant` with the ids of the right documents, or `quote`"
        raise EvalsetError(f"{source} says of no question which document answers it; {asked}")
    left_out = {source: rest, corpus: document_rest, queries: query_rest}
    write_evalset_folder(
        out, documents=documents, queries=questions, judgements=judged, card=folder_import_card(left_out, _BY_HAND)
    )
    tell_rows_left_out(left_out, () if qrels else ungraded_documents(queries, query_rows), tell)
    return out


def _is_judgement_table(qrels: Path) -> bool:
    """Whether judgements stand in a table with a header, and not in the lines of BEIR or TREC."""
    if qrels.suffix.lower() == ".tsv":
        return has_header(qrels, QRELS_NAMES, ("query_id", "doc_id"))
    return qrels.suffix.lower() in TABLES


def beir_rows_of_table(
    table: TableFile, names: Names, metadata: Sequence[str]
) -> tuple[list[Row], list[str], list[Defect]]:
    """Rows in BEIR's form, the columns that nothing here needs, and the metadata that cannot be read.

    What is metadata here may stand in columns, as ``metadata.NAME``, or in an object ``metadata``, also as JSON text.
    """
    plain, flat, defects = dict[int, dict[str, Any]](), [], list[Defect]()
    for line, row in table.rows:
        try:
            plain[line] = _table_row_with_metadata(row, names)
            flat.append((line, plain[line]))
        except Unusable as error:
            defects.append(Defect(str(table.path), line, str(error)))
    columns = dict.fromkeys(key for _, row in flat for key in row)
    keys = {key: _OTHER_KEYS.get(key, (key,)) for key in metadata}
    needed = ("_id", "text") if flat else ()
    rows, rest = named_table_rows(TableFile(table.path, tuple(columns), tuple(flat)), {**keys, **names}, needed)
    out: list[Row] = []
    for line, row in rows:
        told: dict[str, Any] = {name: _plain_table_cell(row[name]) for name in names}
        told["metadata"] = {
            k: _table_cell_as_list(row[k]) if k in _LISTS else _plain_table_cell(row[k])
            for k in metadata
            if row[k] is not None
        }
        out.append((line, told))
    return out, rest, defects


def _table_row_with_metadata(row: Mapping[str, Any], names: Names) -> dict[str, Any]:
    """Cells and metadata side by side; refused where the two say different things of one name."""
    cells = {name: value for name, value in row.items() if name.partition(".")[0] != "metadata"}
    flat = {name.removeprefix("metadata."): value for name, value in row.items() if name.startswith("metadata.")}
    for key, value in {**flat, **folder_row_metadata(row)}.items():
        same = next((theirs for theirs in names.values() if key in theirs), ())
        name = f"metadata.{key}" if any(cells.get(other) is not None for other in same) else key
        if cells.get(name) is not None and value is not None and str(cells[name]) != str(value):
            raise Unusable(f'"{name}" is {shown_cell(cells[name])} in its column and {shown_cell(value)} in "metadata"')
        if value is not None:
            cells[name] = value
    return cells


def _plain_table_cell(value: Any) -> Any:
    """Turn a cell into what JSON would hold: dates as text."""
    return value.isoformat()[:10] if isinstance(value, date) else value


def _table_cell_as_list(value: Any) -> Any:
    """A list, also from ``["a", "b"]`` or ``a; b``."""
    if not isinstance(value, str):
        return value
    try:
        found = parsed_cell("", value)
    except Unusable:
        found = value
    return found if isinstance(found, list) else [part.strip() for part in value.split(";") if part.strip()]


def _judged_in_tables(
    qrels: Path | None, tables: Mapping[Path, TableFile], queries: Path, rows: Sequence[Row], quotes: CorpusQuotes
) -> tuple[dict[str, list[Judgement]], list[Defect], list[str]]:
    """Judgements by split, what cannot be read of them, and the columns of their table that nothing here needs."""
    if qrels is None:
        found, defects = judgements_in_query_table(queries, rows, quotes)
        return {"test": found}, defects, []
    if qrels not in tables:
        return {"test": read_qrels(qrels)}, [], []
    return judgements_of_table(tables[qrels])


def ungraded_documents(path: Path, rows: Sequence[Row]) -> list[str]:
    """Sentences on documents that the questions name with no grade, each with its line: they are no judgements.

    In Parquet an object has the keys of every other row, with nothing in them: there it means nothing.
    """
    found = []
    for line, row in rows:
        value = row["relevant"]
        if path.suffix.lower() == ".parquet" and not isinstance(value, str):
            continue
        with suppress(Unusable):  # told by `judgements_in_query_table`
            value = parsed_cell("relevant", value)
            if isinstance(value, dict) and not any(name in value for name in QRELS_NAMES["doc_id"]):
                found += [(line, key) for key, raw in value.items() if grade_cell(raw) is None]
    more = (
        [f"{counted(len(found) - _NAMED, 'more such document is', 'more such documents are')} left out"]
        if len(found) > _NAMED
        else []
    )
    told = "has no grade and is left out; write 0 if it is not relevant"
    return [f"{path}:{line}: document {key!r} {told}" for line, key in found[:_NAMED]] + more


def judgements_in_query_table(
    path: Path, rows: Sequence[Row], quotes: CorpusQuotes
) -> tuple[list[Judgement], list[Defect]]:
    """Judgements that the questions carry themselves, by id or by quote, and what cannot be read of them."""
    found, defects = list[Judgement](), list[Defect]()
    for line, row in rows:
        try:
            query_id = id_cell("_id", row["_id"]) or ""
            tenant = name_cell("tenant_id", folder_row_metadata(row).get("tenant_id")) or DEFAULT_TENANT
            judged = quoted_table_cell(row["quote"], quotes, tenant) | relevant_table_cell(row["relevant"])
            found += [Judgement(line, query_id, doc, grade) for doc, grade in judged.items()]
        except Unusable as error:
            defects.append(Defect(str(path), line, str(error)))
    return found, defects


def relevant_table_cell(value: Any) -> dict[str, int]:
    """Grade by document id that a cell names: an id, a list, ids parted by ``;``, or an object of id and grade.

    >>> relevant_table_cell([7]), relevant_table_cell("8; 9"), relevant_table_cell({"7": 2, "9": 1})
    ({'7': 1}, {'8': 1, '9': 1}, {'7': 2, '9': 1})

    Raises
    ------
    Unusable
        If it is anything else.
    """
    value = parsed_cell("relevant", value)
    if isinstance(value, str):
        return {part.strip(): 1 for part in value.split(";") if part.strip()}
    if isinstance(value, dict):
        if any(name in value for name in QRELS_NAMES["doc_id"]):
            return _graded_table_document(value)
        return {key.strip(): given for key, raw in value.items() if (given := grade_cell(raw)) is not None}
    found: dict[str, int] = {}
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, dict):
            one = _graded_table_document(item)
        else:
            key = id_cell("relevant", item)
            one = {} if key is None else {key.strip(): 1}
        if twice := [key for key in one if found.get(key, one[key]) != one[key]]:
            raise Unusable(f'"relevant" gives {twice[0]!r} two grades')
        found |= one
    return found


def quoted_table_cell(value: Any, quotes: CorpusQuotes, tenant_id: str) -> dict[str, int]:
    """Grade by document id that a cell names by quotes: one, or a list.

    Raises
    ------
    Unusable
        If a quote stands in no document of the tenant, or in two.
    """
    value = parsed_cell("quote", value)
    texts = [] if value is None else value if isinstance(value, list) else [value]
    if odd := [text for text in texts if not isinstance(text, str)]:
        raise Unusable(f'"quote" must be a text or a list of texts, found {shown_cell(odd[0])}')
    return {quotes.document(text, tenant_id): 1 for text in texts}


def _graded_table_document(item: Mapping[str, Any]) -> dict[str, int]:
    """One judgement as an object, ``{"doc_id": "7", "grade": 2}``."""
    taken = {
        ours: next((item[name] for name in (*QRELS_NAMES[ours], *more) if item.get(name) is not None), None)
        for ours, more in (("doc_id", ("_id", "id")), ("grade", ()))
    }
    key, given = id_cell("relevant", taken["doc_id"]), grade_cell(taken["grade"])
    if key is None:
        raise Unusable(f'"relevant" holds {shown_cell(dict(item))}, which names no doc_id')
    return {key: 1 if given is None else given}


def judgements_of_table(
    table: TableFile, *, split: str = "test"
) -> tuple[dict[str, list[Judgement]], list[Defect], list[str]]:
    """Judgements of a table of their own by split, what cannot be used of it, and the columns left out.

    ``split`` is that of rows that name none.
    """
    splits: dict[str, list[Judgement]] = {}
    defects: list[Defect] = []
    rows, rest = named_table_rows(table, QRELS_NAMES, ("query_id", "doc_id"))
    graded = any(row["grade"] is not None for _, row in rows)
    for line, row in rows:
        try:
            query_id, doc_id = (id_cell(name, row[name]) for name in ("query_id", "doc_id"))
            given = grade_cell(row["grade"]) if graded else 1
            where = split if row["split"] is None else str(row["split"])
            if query_id is None or doc_id is None:
                raise Unusable("query_id and doc_id are needed")
            if given is None:
                raise Unusable("the grade is missing where other rows have one")
            if not re.fullmatch(r"[\w-]+", where):
                raise Unusable(f"{where[:40]!r} cannot name a split; use dev or test")
        except Unusable as error:
            defects.append(Defect(str(table.path), line, str(error)))
        else:
            judgement = Judgement(line, query_id.strip(), doc_id.strip(), given)
            splits.setdefault(where, []).append(judgement)
    return splits, defects, rest
