"""The user's own system as ranked hits: a TREC run file, or a table of hits."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from workbench.errors import Defect
from workbench.evalset.files import Row, number_of, read_lines, refuse
from workbench.evalset.imports.documents import TABLES, named_rows
from workbench.retrieval.metrics import rank

RUN_NAMES: Mapping[str, tuple[str, ...]] = {
    "query_id": ("query_id", "query-id", "qid"),
    "doc_id": ("doc_id", "corpus-id", "docno", "document_id"),
    "score": ("score",),
    "rank": ("rank",),
}
_SCHEMA = {"query_id": pl.String, "doc_id": pl.String, "score": pl.Float64}


def read_run(path: Path) -> pl.DataFrame:
    """Hits of a run: ``query_id, doc_id, rank, score`` in rank order, ranks from 1.

    A file of six columns parted by blanks is TREC's (query, Q0, document, rank, score, name); ``.csv``,
    ``.parquet`` and ``.jsonl`` hold query_id, doc_id and score or rank (with rank alone, score = -rank).
    As in TREC the score decides, never the rank beside it; ties are broken by `workbench.retrieval.metrics.rank`.
    Where one row has a score every row needs one: a rank put among scores would mean nothing.

    Raises
    ------
    EvalsetError
        With every line that cannot be used.
    """
    rows, defects = (named_rows(path, RUN_NAMES)[0], []) if path.suffix.lower() in TABLES else _trec_rows(path)
    scored = any(row["score"] is not None for _, row in rows)
    hits = []
    for line, row in rows:
        hit = _hit(row, scored)
        if isinstance(hit, str):
            defects.append(Defect(str(path), line, hit))
        else:
            hits.append(hit)
    refuse(path, defects)
    return rank(pl.DataFrame(hits, schema=_SCHEMA, orient="row"))


def _trec_rows(path: Path) -> tuple[list[Row], list[Defect]]:
    lines, defects = read_lines(path)
    rows: list[Row] = []
    for number, line in lines:
        cells = line.split()
        if len(cells) == 6:
            rows.append((number, {"query_id": cells[0], "doc_id": cells[2], "score": cells[4]}))
        else:
            problem = f"6 columns (query, Q0, document, rank, score, name) are expected, found {len(cells)}"
            defects.append(Defect(str(path), number, problem))
    return rows, defects


def _hit(row: dict[str, Any], scored: bool) -> tuple[str, str, float] | str:
    """One hit, or what is wrong with it; ``scored`` says whether any row of the file has a score."""
    query_id, doc_id, score = row["query_id"], row["doc_id"], row["score"]
    if query_id is None or doc_id is None:
        found = ", ".join(name for name, value in row.items() if value is not None)
        return f"query_id and doc_id are needed, found {found or 'nothing'}"
    if score is None and scored:
        return "score is empty, other rows have one: give every row its score, or leave the column out and give ranks"
    given = row["rank"] if score is None else score
    number = number_of(given)
    if number is None:
        return f"score or rank must be a finite number, found {str(given)[:40]!r}"
    return str(query_id), str(doc_id), -number if score is None else number
