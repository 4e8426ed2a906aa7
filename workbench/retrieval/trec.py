"""The user's own system as ranked hits: a TREC run file, or a table of hits."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl

from workbench.errors import Defect, EvalsetError
from workbench.evalset.cells import Unusable, id_text, number
from workbench.evalset.files import TABLES, Names, Row, has_header, named_rows, read_lines, read_table, refuse
from workbench.rendering.numbers import counted
from workbench.retrieval.metrics import rank

RUN_NAMES: Names = {
    "query_id": ("query_id", "query-id", "qid"),
    "doc_id": ("doc_id", "corpus-id", "docno", "document_id"),
    "score": ("score",),
    "rank": ("rank",),
}
_SCHEMA = {"query_id": pl.String, "doc_id": pl.String, "score": pl.Float64}
_CELLS = 5
_Hit = tuple[str, str, float]


def read_run(path: Path) -> pl.DataFrame:
    """Hits of a run: ``query_id, doc_id, rank, score`` in rank order, ranks from 1.

    A file of lines parted by blanks is TREC's (query, Q0, document, rank, score, and a name that may lack or have
    blanks); as trec_eval 10 reads them, lines that begin with # are comments. ``.csv``, ``.parquet``, ``.jsonl``, and a
    ``.tsv`` with a header, hold query_id, doc_id and score or rank (with rank alone, score = -rank).
    As in TREC the score decides, never the rank beside it (`read_run_with_notes` tells where they differ); ties are
    broken by `workbench.retrieval.metrics.rank`. Where one row has a score every row needs one: a rank put among
    scores would mean nothing.

    Raises
    ------
    EvalsetError
        With every line that cannot be used.
    """
    return read_run_with_notes(path)[0]


def read_run_with_notes(path: Path) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """`read_run`, and sentences on what its rows say against each other.

    Raises
    ------
    EvalsetError
        With every line that cannot be used.
    """
    rows, defects = _hit_rows(path)
    scored = any(row["score"] is not None for _, row in rows)
    hits: list[_Hit] = []
    ranks: list[float | None] = []
    for line, row in rows:
        try:
            hits.append(_file_hit(row, scored))
            ranks.append(_rank(row) if scored else None)
        except Unusable as error:
            defects.append(Defect(str(path), line, str(error)))
    refuse(path, defects)
    if not hits:
        raise EvalsetError(f"{path} holds no hit")
    notes = _contradictions(path.name, hits, ranks) + _matching_nothing(path.name, hits)
    return rank(pl.DataFrame(hits, schema=_SCHEMA, orient="row")), notes


def _hit_rows(path: Path) -> tuple[list[Row], list[Defect]]:
    suffix = path.suffix.lower()
    if suffix in TABLES and (suffix != ".tsv" or has_header(path, RUN_NAMES, ("query_id", "doc_id"))):
        return named_rows(read_table(path), RUN_NAMES, ("query_id", "doc_id"))[0], []
    return _run_file_rows(path)


def _run_file_rows(path: Path) -> tuple[list[Row], list[Defect]]:
    lines, defects = read_lines(path)
    rows: list[Row] = []
    for line_number, line in lines:
        cells = line.split()
        if cells[0].startswith("#"):
            continue
        if len(cells) >= _CELLS:
            row = dict(zip(("query_id", "", "doc_id", "rank", "score"), cells, strict=False))
            rows.append((line_number, row))
        else:
            problem = f"6 columns (query, Q0, document, rank, score, name) are expected, found {len(cells)}"
            defects.append(Defect(str(path), line_number, problem))
    return rows, defects


def _file_hit(row: Mapping[str, Any], scored: bool) -> _Hit:
    """One hit; ``scored`` says whether any row of the file has a score."""
    query_id, doc_id = (id_text(name, row[name]) for name in ("query_id", "doc_id"))
    if query_id is None or doc_id is None:
        found = ", ".join(name for name, value in row.items() if value is not None)
        raise Unusable(f"query_id and doc_id are needed, found {found or 'nothing'}")
    name = "score" if scored else "rank"
    value = number(name, row[name])
    if value is None and scored:
        told = "give every row its score, or leave the column out and give ranks"
        raise Unusable(f"score is empty, other rows have one: {told}")
    if value is None:
        raise Unusable("a score or a rank is needed")
    return query_id.strip(), doc_id.strip(), value if scored else -value


def _rank(row: Mapping[str, Any]) -> float | None:
    """Rank beside a score, where it is a number: nothing rests on it."""
    try:
        return number("rank", row["rank"])
    except Unusable:
        return None


def _contradictions(file: str, hits: Sequence[_Hit], ranks: Sequence[float | None]) -> tuple[str, ...]:
    """Say of how many questions a better rank stands beside a lower score."""
    lists: dict[str, list[tuple[float, float]]] = {}
    for (query_id, _, score), place in zip(hits, ranks, strict=True):
        lists.setdefault(query_id, [])
        if place is not None:
            lists[query_id].append((place, -score))
    odd = []
    for query_id, found in lists.items():
        scores = [score for _, score in sorted(found)]
        if any(a > b for a, b in pairwise(scores)):
            odd.append(query_id)
    if not odd:
        return ()
    told = (
        f"{file}: of {len(odd)} of {counted(len(lists), 'question')} the ranks contradict the scores, first {odd[0]!r}"
    )
    return (f"{told}; the scores decide, as in trec_eval: if a lower one is better, write them negative",)


def _matching_nothing(file: str, hits: Sequence[_Hit]) -> tuple[str, ...]:
    """Say of hits at 0, where no score is below: bm25s 0.3.16 fills up with documents that share no word."""
    zeros = [query_id for query_id, _, score in hits if score == 0]
    if not zeros or min(score for _, _, score in hits) < 0:
        return ()
    told = (
        f"{file}: {counted(len(zeros), 'hit has', 'hits have')} score 0, those of "
        f"{counted(len(set(zeros)), 'question')}, first {zeros[0]!r}"
    )
    return (f"{told}; a search by words that fills up to k gives it to what matches nothing: leave such hits out",)
