"""The user's own system as an arm: a TREC run file, a hits table, or a Python callable, beside ours."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl

from workbench.config import Settings
from workbench.errors import ConfigError, Defect, EvalsetError, ProviderError
from workbench.evalset.cells import Unusable, id_cell, number_cell
from workbench.evalset.files import (
    TABLES,
    Names,
    Row,
    has_header,
    named_table_rows,
    read_lines,
    read_table,
    refuse_file,
)
from workbench.orchestration.user_modules import files_of_module, import_module_of
from workbench.records import Hit, Query, content_hash
from workbench.rendering.numbers import counted
from workbench.retrieval.metrics import rank_hits

RUN_NAMES: Names = {
    "query_id": ("query_id", "query-id", "qid"),
    "doc_id": ("doc_id", "corpus-id", "docno", "document_id"),
    "score": ("score",),
    "rank": ("rank",),
}
_SCHEMA = {"query_id": pl.String, "doc_id": pl.String, "score": pl.Float64}
_CELLS = 5


_Hit = tuple[str, str, float]


def read_system_run(path: Path) -> pl.DataFrame:
    """Hits of a run: ``query_id, doc_id, rank, score`` in rank order, ranks from 1.

    A file of lines parted by blanks is TREC's (query, Q0, document, rank, score, and a name that may lack or have
    blanks); as trec_eval 10 reads them, lines that begin with # are comments. ``.csv``, ``.parquet``, ``.jsonl``, and a
    ``.tsv`` with a header, hold query_id, doc_id and score or rank (with rank alone, score = -rank).
    As in TREC the score decides, never the rank beside it (`read_system_run_with_notes` tells where they differ); ties
    are broken by `workbench.retrieval.metrics.rank_hits`. Where one row has a score every row needs one: a rank put
    among scores would mean nothing.

    Raises
    ------
    EvalsetError
        With every line that cannot be used.
    """
    return read_system_run_with_notes(path)[0]


def read_system_run_with_notes(path: Path) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """`read_system_run`, and sentences on what its rows say against each other.

    Raises
    ------
    EvalsetError
        With every line that cannot be used.
    """
    rows, defects = _system_hit_rows(path)
    scored = any(row["score"] is not None for _, row in rows)
    hits: list[_Hit] = []
    ranks: list[float | None] = []
    for line, row in rows:
        try:
            hits.append(_system_run_hit(row, scored))
            ranks.append(_system_rank(row) if scored else None)
        except Unusable as error:
            defects.append(Defect(str(path), line, str(error)))
    refuse_file(path, defects)
    if not hits:
        raise EvalsetError(f"{path} holds no hit")
    notes = _system_rank_contradictions(path.name, hits, ranks) + _system_hits_matching_nothing(path.name, hits)
    return rank_hits(pl.DataFrame(hits, schema=_SCHEMA, orient="row")), notes


def _system_hit_rows(path: Path) -> tuple[list[Row], list[Defect]]:
    suffix = path.suffix.lower()
    if suffix in TABLES and (suffix != ".tsv" or has_header(path, RUN_NAMES, ("query_id", "doc_id"))):
        return named_table_rows(read_table(path), RUN_NAMES, ("query_id", "doc_id"))[0], []
    return _system_run_rows(path)


def _system_run_rows(path: Path) -> tuple[list[Row], list[Defect]]:
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


def _system_run_hit(row: Mapping[str, Any], scored: bool) -> _Hit:
    """One hit; ``scored`` says whether any row of the file has a score."""
    query_id, doc_id = (id_cell(name, row[name]) for name in ("query_id", "doc_id"))
    if query_id is None or doc_id is None:
        found = ", ".join(name for name, value in row.items() if value is not None)
        raise Unusable(f"query_id and doc_id are needed, found {found or 'nothing'}")
    name = "score" if scored else "rank"
    value = number_cell(name, row[name])
    if value is None and scored:
        told = "give every row its score, or leave the column out and give ranks"
        raise Unusable(f"score is empty, other rows have one: {told}")
    if value is None:
        raise Unusable("a score or a rank is needed")
    return query_id.strip(), doc_id.strip(), value if scored else -value


def _system_rank(row: Mapping[str, Any]) -> float | None:
    """Rank beside a score, where it is a number: nothing rests on it."""
    try:
        return number_cell("rank", row["rank"])
    except Unusable:
        return None


def _system_rank_contradictions(file: str, hits: Sequence[_Hit], ranks: Sequence[float | None]) -> tuple[str, ...]:
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


def _system_hits_matching_nothing(file: str, hits: Sequence[_Hit]) -> tuple[str, ...]:
    """Say of hits at 0, where no score is below: bm25s 0.3.16 fills up with documents that share no word."""
    zeros = [query_id for query_id, _, score in hits if score == 0]
    if not zeros or min(score for _, _, score in hits) < 0:
        return ()
    told = (
        f"{file}: {counted(len(zeros), 'hit has', 'hits have')} score 0, those of "
        f"{counted(len(set(zeros)), 'question')}, first {zeros[0]!r}"
    )
    return (f"{told}; a search by words that fills up to k gives it to what matches nothing: leave such hits out",)


FORM = "NAME=PATH@USD or NAME=module:function@USD, USD being its dollars per 1,000 requests"


@dataclass(frozen=True, slots=True, eq=False)
class SystemArm:
    """A system that is not ours: its name, where its hits come from, and what the user says it costs.

    ``search`` is None for a run file, whose hits are in ``run``, and of which ``notes`` tells what is odd.
    """

    name: str
    source: str
    cost_usd_per_1k: float
    sha256: str
    search: Callable[[Query], Iterable[Hit]] | None = field(default=None, repr=False)
    run: pl.DataFrame | None = field(default=None, repr=False)
    notes: tuple[str, ...] = field(default=(), repr=False)


def load_systems(entries: Iterable[str], settings: Settings) -> list[SystemArm]:
    """Systems from the notebook's ``systems`` parameter.

    A callable gets a `Query` and returns hits, ``(doc_id, score)`` pairs, or document ids, best first; its module
    is an installed one, or lies in ``notebooks/`` or the project's root. Its hash is that of its file and of the files
    of the project that it imports.

    Raises
    ------
    ConfigError
        If an entry is not of the form, its cost is missing or negative, or its source is not found.
    """
    return [_load_system(entry, settings) for entry in entries]


def _load_system(entry: str, settings: Settings) -> SystemArm:
    name, equals, rest = entry.partition("=")
    source, at, cost = rest.rpartition("@")
    if not (name and equals and source and at):
        raise ConfigError(f"system {entry!r} is not {FORM}; a cost that is not known cannot be compared")
    try:
        usd = float(cost)
    except ValueError:
        usd = -1.0
    if not 0 <= usd < math.inf:
        raise ConfigError(f"system {name!r} costs {cost!r}; say its dollars per 1,000 requests, 0 or more")
    path = settings.root / source
    if path.is_file():
        run, notes = read_system_run_with_notes(path)
        return SystemArm(name, source, usd, content_hash(path.read_bytes()), run=run, notes=notes)
    module, colon, function = source.partition(":")
    if not colon:
        raise ConfigError(f"system {name!r}: no file {path}, and {source!r} is not module:function")
    try:
        loaded = import_module_of(module, settings.root)
        call = getattr(loaded, function)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"system {name!r}: {source!r} cannot be imported: {error}") from error
    if not callable(call):
        raise ConfigError(f"system {name!r}: {source!r} cannot be called; it is {call!r}")
    files = files_of_module(loaded, settings.root)
    sha256 = content_hash(*(file.read_bytes() for file in files)) if files else ""
    return SystemArm(name, source, usd, sha256, search=_guarded_system(name, call))


def _guarded_system(name: str, call: Callable[[Query], Any]) -> Callable[[Query], list[Hit]]:
    """Make foreign code an arm: whatever it raises becomes that item's error, not the end of the run."""

    def search(query: Query) -> list[Hit]:
        try:
            return [_callable_system_hit(item, place) for place, item in enumerate(call(query))]
        except Exception as error:  # the boundary to code that is not ours
            raise ProviderError(f"system {name!r} failed on {query.query_id}: {error!r}") from error

    return search


def _callable_system_hit(item: Any, place: int) -> Hit:
    if isinstance(item, str):
        return Hit(item, -float(place))
    doc_id, score = (item.doc_id, item.score) if isinstance(item, Hit) else item
    return Hit(str(doc_id), float(score))


def system_inputs(systems: Iterable[SystemArm]) -> Mapping[str, str]:
    """Hash of each system's source, for the fingerprint."""
    return {f"system {s.name}": s.sha256 for s in systems}
