"""The user's own system as ranked hits: a TREC run file, or a table of hits."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from workbench.errors import Defect, EvalsetError
from workbench.evaluation.reading import read_lines
from workbench.importing.tables import TABLES, read_table

_QUERY = ("query_id", "query-id", "qid")
_DOC = ("doc_id", "corpus-id", "docno", "document_id")
_SCHEMA = {"query_id": pl.String, "doc_id": pl.String, "score": pl.Float64}
SCORE_DECIMALS = 6


def read_run(path: Path) -> pl.DataFrame:
    """Hits of a run: ``query_id, doc_id, rank, score`` in rank order, ranks from 1.

    A file of six columns parted by blanks is TREC's (query, Q0, document, rank, score, name); ``.csv``,
    ``.parquet`` and ``.jsonl`` hold query_id, doc_id and score or rank (with rank alone, score = -rank).
    As in TREC the score decides, never the rank beside it. One rule for ties: score rounded to 6 decimals,
    descending, then document id, ascending; of a document that stands twice under a query the first by that
    order is kept.

    Raises
    ------
    EvalsetError
        With every line that cannot be used.
    """
    hits, defects = _of_table(path) if path.suffix.lower() in TABLES else _of_trec(path)
    if defects:
        raise EvalsetError(f"run {path} cannot be read; correct these lines:", defects)
    return ranked(pl.DataFrame(hits, schema=_SCHEMA, orient="row"))


def ranked(hits: pl.DataFrame) -> pl.DataFrame:
    """Order hits (query_id, doc_id, score) by the one tie rule, drop repeated documents and number the ranks.

    >>> hits = pl.DataFrame({"query_id": ["q", "q"], "doc_id": ["b", "a"], "score": [1.0, 1.0 + 1e-9]})
    >>> ranked(hits)["doc_id"].to_list()
    ['a', 'b']
    """
    by = [pl.col("query_id"), pl.col("score").round(SCORE_DECIMALS), pl.col("doc_id")]
    return (
        hits.sort(by, descending=[False, True, False], maintain_order=True)
        .unique(["query_id", "doc_id"], keep="first", maintain_order=True)
        .with_columns(pl.int_range(1, pl.len() + 1).over("query_id").alias("rank"))
        .select("query_id", "doc_id", "rank", "score")
    )


def _of_trec(path: Path) -> tuple[list[tuple[str, str, float]], list[Defect]]:
    lines, defects = read_lines(path)
    hits = []
    for number, line in lines:
        cells = line.split()
        score = _number(cells[4]) if len(cells) == 6 else None
        if len(cells) != 6:
            problem = f"6 columns (query, Q0, document, rank, score, name) are expected, found {len(cells)}"
            defects.append(Defect(str(path), number, problem))
        elif score is None:
            defects.append(Defect(str(path), number, f"the score must be a finite number, found {cells[4][:40]!r}"))
        else:
            hits.append((cells[0], cells[2], score))
    return hits, sorted(defects, key=lambda defect: defect.line)


def _of_table(path: Path) -> tuple[list[tuple[str, str, float]], list[Defect]]:
    hits, defects = [], []
    for line, row in read_table(path):
        hit = _hit(row)
        if isinstance(hit, str):
            defects.append(Defect(str(path), line, hit))
        else:
            hits.append(hit)
    return hits, defects


def _hit(row: dict[str, Any]) -> tuple[str, str, float] | str:
    """One hit, or what is wrong with it."""
    query_id, doc_id = _first(row, _QUERY), _first(row, _DOC)
    if query_id is None or doc_id is None:
        return f"query_id and doc_id are needed, found {', '.join(row) or 'nothing'}"
    score, rank = row.get("score"), row.get("rank")
    given = rank if score is None else score
    number = _number(given)
    if number is None:
        return f"score or rank must be a finite number, found {str(given)[:40]!r}"
    return str(query_id), str(doc_id), -number if score is None else number


def _first(row: dict[str, Any], names: Sequence[str]) -> Any:
    return next((row[n] for n in names if row.get(n) is not None), None)


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
