"""Documents that nobody has judged, as a sheet that people fill, and the filled sheet as judgements of the evalset.

A row of the sheet: query_id, doc_id, query, title and text to read, ``grade`` to fill (0 and less: not relevant), and
``judge``, whoever judged. ``quote`` may name the document in place of its id, by a passage that stands in it alone. The
sheet does not say which arm returned the document: who judges should not know.
"""

import json
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from workbench.codec import write_whole
from workbench.config import Settings
from workbench.errors import Defect, EvalsetError
from workbench.evalset.cells import Unusable, grade_cell, id_cell, name_cell, shown_cell
from workbench.evalset.corpus import CorpusQuotes
from workbench.evalset.evalset import find_evalset
from workbench.evalset.files import Judgement, Names, named_table_rows, read_table, scan_qrels
from workbench.evalset.folder import (
    UNJUDGED,
    EvalsetContents,
    Tell,
    clean_folder_row_id,
    read_evalset_folder,
    tell_nothing,
    writing_evalset_files,
)
from workbench.records import Document, Query
from workbench.rendering.numbers import counted, percent
from workbench.rendering.progress import waiting

SHEET = "to_judge.jsonl"
_SHEET_NAMES: Names = {
    "query_id": ("query_id", "query-id", "qid"),
    "doc_id": ("doc_id", "corpus-id", "corpus_id", "document_id"),
    "grade": ("grade", "score", "relevance", "label"),
    "judge": ("judge", "annotator", "assessor"),
    "quote": ("quote",),
    "query": ("query",),
    "text": ("text",),
}
_NAMED = 10
FILL = "fill it, take the row out, or leave such rows aside with --partly"


@dataclass(frozen=True, slots=True)
class GradedInSheet:
    """One filled row: what it judges, whose it is, and where it stands."""

    file: str
    line: int
    query_id: str
    doc_id: str
    grade: int
    judge: str

    @property
    def pair(self) -> tuple[str, str]:
        """Question and document."""
        return self.query_id, self.doc_id

    @property
    def named(self) -> str:
        """The pair in a message."""
        return f"query {self.query_id!r} and document {self.doc_id!r}"

    @property
    def brief(self) -> str:
        """The pair in a list."""
        return f"{self.query_id} {self.doc_id}"


class SheetOpinion(Protocol):
    """What somebody said of one thing: ``grade`` above 0 is yes; ``pair`` is the same for the same thing."""

    @property
    def file(self) -> str:
        """Where it stands."""

    @property
    def line(self) -> int:
        """Line of the file."""

    @property
    def pair(self) -> Hashable:
        """What it is about."""

    @property
    def named(self) -> str:
        """The same in a message."""

    @property
    def brief(self) -> str:
        """The same in a list."""

    @property
    def grade(self) -> int:
        """What was said."""

    @property
    def judge(self) -> str:
        """Who said it."""


_Said = TypeVar("_Said", bound=SheetOpinion)


def write_judgement_sheet(
    path: Path, pairs: Iterable[tuple[str, str]], queries: Iterable[Query], documents: Iterable[Document]
) -> None:
    """Write the sheet of ``pairs`` (query id, document id), with the texts and empty fields to fill."""
    asked = {query.query_id: query for query in queries}
    known = {document.doc_id: document for document in documents}
    lines = []
    for query_id, doc_id in pairs:
        if document := known.get(doc_id):  # a run file may name what the corpus does not hold
            row = {"query_id": query_id, "doc_id": doc_id, "grade": None, "judge": "", "query": asked[query_id].text}
            lines.append(json.dumps(row | {"title": document.title, "text": document.text}, ensure_ascii=False))
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


def judgement_sheet_note(count: int, run_folder: str, evalset: str) -> str:
    """Sentence of a report on what is in the sheet, and what to do with it."""
    left = counted(count, "document of the top 10 is", "documents of the top 10 are")
    return (
        f"{left} judged by nobody. {SHEET} has their texts: fill `grade` and `judge`, "
        f"then: workbench import judgements runs/{run_folder}/{SHEET} --name {evalset} --partly"
    )


@waiting("import of judgements")
def import_judgements(
    paths: Sequence[Path], evalset: str | Path, *, settings: Settings, tell: Tell = tell_nothing, partly: bool = False
) -> list[Path]:
    """Add filled sheets to the judgements of an evalset; gives the files of ``qrels/`` that changed.

    Where two people judged the same document, that of the first sheet and row counts, and ``tell`` says how often they
    agreed. A judge is named by the column ``judge``, without one by the name of the sheet.

    Parameters
    ----------
    paths : sequence of Path
        Sheets, also as CSV or Parquet: query_id, doc_id or quote, grade, and judge where more than one person judged.
    evalset : str or Path
        Name or folder.
    tell : callable
        Takes a line on agreement and on what was added.
    partly : bool
        Leave rows whose grade is empty aside, and count them, instead of refusing the sheet.

    A sheet may be imported again when more of it is filled: what the evalset has with the same grade is left aside.

    Raises
    ------
    EvalsetError
        With the line of every row that is not filled, stands twice, is judged otherwise already, or is of another
        evalset, or if no row is filled; nothing is changed then.
    """
    folder = find_evalset(evalset, settings)
    contents = read_evalset_folder(folder, settings)
    if odd := [d for d in contents.defects if contents.judgements or d.problem != UNJUDGED]:
        raise EvalsetError(f"evalset {folder} cannot be used; correct these places first:", odd)
    rows, defects = list[GradedInSheet](), list[Defect]()
    stems = [path.stem for path in paths]
    for path in paths:
        judge = path.stem if stems.count(path.stem) == 1 else str(path)
        found, wrong, empty = _read_judgement_sheet(path, judge, contents, partly=partly)
        if empty:
            tell(f"{counted(empty, 'row')} of {path} left aside, as not filled")
        rows += found
        defects += wrong
    first, second, twice = opinions_of_sheets(rows)
    known = {(row.query_id, row.doc_id): row.grade for found in contents.judgements.values() for row in found}
    if again := [row for row in first.values() if known.get(row.pair) == row.grade]:
        told = counted(len(again), "row stands", "rows stand")
        tell(f"{told} in the judgements already, with the same grade: left aside")
    homes, foreign = _sheet_qrels_homes([row for row in first.values() if known.get(row.pair) != row.grade], contents)
    if defects := [*defects, *twice, *foreign]:
        raise EvalsetError(f"the judgements cannot be added to {folder}; correct these lines:", defects)
    if not rows:
        raise EvalsetError(nothing_filled_in_sheets(paths, "grade"))
    changed = _append_sheet_to_qrels(folder, homes)
    for line in [
        *sheet_agreement(first, second, "document"),
        *(f"{counted(len(homes[path]), 'judgement')} added to {path}" for path in changed),
    ]:
        tell(line)
    return changed


def _read_judgement_sheet(
    path: Path, judge: str, contents: EvalsetContents, *, partly: bool
) -> tuple[list[GradedInSheet], list[Defect], int]:
    """Filled rows, what cannot be used, and how many rows are empty and left aside."""
    texts = {d.doc_id: (d.text, d.full_text) for d in contents.documents}
    asked, quotes = {q.query_id: q for q in contents.queries}, CorpusQuotes(contents.documents)
    rows, defects, empty = list[GradedInSheet](), list[Defect](), 0
    table = read_table(path)
    needed = ("query_id", "quote" if "quote" in table.columns else "doc_id", "grade")
    for line, row in named_table_rows(table, _SHEET_NAMES, needed)[0]:
        if partly and row["grade"] is None:
            empty += 1
            continue
        try:
            rows.append(_filled_judgement(path, line, _sheet_row_with_document(row, asked, quotes), judge))
            query = asked.get(rows[-1].query_id)
            told = _foreign_sheet_text(row, query.text if query else None, texts.get(rows[-1].doc_id, ()))
            if told:
                raise Unusable(told)
        except Unusable as error:
            defects.append(Defect(str(path), line, str(error)))
    return rows, defects, empty


def _sheet_row_with_document(row: dict[str, Any], asked: Mapping[str, Query], quotes: CorpusQuotes) -> dict[str, Any]:
    """Row with the document that its quote stands in; with both, the document must hold the quote."""
    if row["quote"] is None:
        return row
    if not isinstance(row["quote"], str):
        raise Unusable(f'"quote" must be a text, found {shown_cell(row["quote"])}')
    query = asked.get((id_cell("query_id", row["query_id"]) or "").strip())
    said = (id_cell("doc_id", row["doc_id"]) or "").strip()
    return row | {"doc_id": quotes.document(row["quote"], query.tenant_id, said) if query else said or "?"}


def _filled_judgement(path: Path, line: int, row: Mapping[str, Any], judge: str) -> GradedInSheet:
    query_id, doc_id = (id_cell(name, row[name]) for name in ("query_id", "doc_id"))
    if query_id is None or doc_id is None:
        raise Unusable("query_id and doc_id are needed, as the sheet has them")
    given = grade_cell(row["grade"])
    if given is None:
        raise Unusable(f"grade is not filled (query {query_id!r}, document {doc_id!r}): {FILL}")
    judge = name_cell("judge", row["judge"]).strip() or judge
    return GradedInSheet(
        str(path), line, clean_folder_row_id("query_id", query_id), clean_folder_row_id("doc_id", doc_id), given, judge
    )


def _foreign_sheet_text(row: Mapping[str, Any], asked: str | None, texts: Sequence[str]) -> str:
    """Say that a row was judged by another text than the evalset has under these ids; "" where it was not."""
    if asked is not None and isinstance(row["query"], str) and row["query"].split() != asked.split():
        return (
            f"the question was {shown_cell(row['query'])} when it was judged, and is {shown_cell(asked)} in the evalset"
        )
    if texts and isinstance(row["text"], str) and row["text"].split() not in [text.split() for text in texts]:
        return f"document {row['doc_id']!r} has another text in the evalset than the one that was judged"
    return ""


def nothing_filled_in_sheets(paths: Sequence[Path], column: str) -> str:
    """What is said of sheets in which nobody has filled ``column`` yet."""
    return f"no row of {', '.join(map(str, paths))} is filled: fill `{column}` of as many as you can, and import again"


def opinions_of_sheets(rows: Sequence[_Said]) -> tuple[dict[Any, _Said], dict[Any, _Said], list[Defect]]:
    """First and second opinion on each document or pair, and the rows in which somebody judges it again."""
    said: dict[Hashable, list[_Said]] = {}
    defects = []
    for row in rows:
        before = said.setdefault(row.pair, [])
        if same := next((other for other in before if other.judge == row.judge), None):
            where = f"line {same.line}" if same.file == row.file else f"{same.file}:{same.line}"
            told = f"{row.judge!r} judged {row.named} on {where} already"
            defects.append(Defect(row.file, row.line, f"{told}; a second person is named in `judge`"))
        before.append(row)
    second = {pair: found[1] for pair, found in said.items() if len(found) > 1}
    return {pair: found[0] for pair, found in said.items()}, second, defects


def _sheet_qrels_homes(
    rows: Iterable[GradedInSheet], contents: EvalsetContents
) -> tuple[dict[Path, list[GradedInSheet]], list[Defect]]:
    """Rows by the file of qrels that judges their question, and what is wrong with those that have none."""
    judged = {split: {row.query_id for row in found} for split, found in contents.judgements.items()}
    known = {
        (row.query_id, row.doc_id): f"{row.grade} in {split}.tsv:{row.line}"
        for split, found in contents.judgements.items()
        for row in found
    }
    asks = {q.query_id: q.tenant_id for q in contents.queries}
    owns = {d.doc_id: d.tenant_id for d in contents.documents}
    homes: dict[Path, list[GradedInSheet]] = {}
    defects = []
    for row in rows:
        splits = [split for split, queries in judged.items() if row.query_id in queries]
        if not splits and judged.keys() <= {"test"}:  # where there are no dev questions, they are drawn by family
            splits = ["test"]
        problem = _judgement_problem(row, asks, owns, splits, known.get(row.pair))
        if problem:
            defects.append(Defect(row.file, row.line, problem))
        else:
            homes.setdefault(contents.folder / "qrels" / f"{splits[0]}.tsv", []).append(row)
    return homes, defects


def _judgement_problem(
    row: GradedInSheet,
    asks: Mapping[str, str],
    owns: Mapping[str, str],
    splits: Sequence[str],
    before: str | None,
) -> str:
    """Why a row cannot be added; "" where it can."""
    if row.query_id not in asks:
        return f"unknown query {row.query_id!r}: the sheet is of another evalset"
    if row.doc_id not in owns:
        return f"unknown document {row.doc_id!r}: the sheet is of another evalset"
    if asks[row.query_id] != owns[row.doc_id]:
        asker, owner = asks[row.query_id], owns[row.doc_id]
        return f"document {row.doc_id!r} belongs to tenant {owner!r}, query {row.query_id!r} to {asker!r}"
    if before:
        return f"{row.named} are judged {before} already, and {row.grade} here; correct one of the two"
    if len(splits) != 1:
        found = f"in {' and '.join(splits)}" if splits else "in no split"
        place = "" if splits else "; write a judgement of it into qrels/dev.tsv or qrels/test.tsv by hand first"
        return f"query {row.query_id!r} is judged {found}, so that its judgement has no place{place}"
    return ""


def _append_sheet_to_qrels(folder: Path, homes: Mapping[Path, Sequence[GradedInSheet]]) -> list[Path]:
    """Append rows to files of qrels, in the form that each has."""
    new: dict[Path, bytes] = {}
    for path, rows in homes.items():
        data = path.read_bytes() if path.exists() else b"query-id\tcorpus-id\tscore\n"
        wide = path.exists() and _is_trec_qrels(path)
        lines = ("\t".join([r.query_id, *(["0"] if wide else []), r.doc_id, str(r.grade)]) + "\n" for r in rows)
        new[path] = data + (b"" if data.endswith(b"\n") else b"\n") + "".join(lines).encode()
    with writing_evalset_files(folder):
        for path, data in new.items():
            path.parent.mkdir(exist_ok=True)
            write_whole(path, data)
    return list(new)


def _is_trec_qrels(path: Path) -> bool:
    """Whether a file of qrels has TREC's four columns."""
    rows: list[Judgement] = scan_qrels(path)[0]
    line = path.read_text(encoding="utf-8-sig").split("\n")[rows[0].line - 1]
    return len(line.split("\t") if "\t" in line else line.split()) == 4


def sheet_agreement(first: Mapping[Any, SheetOpinion], second: Mapping[Any, SheetOpinion], thing: str) -> Iterator[str]:
    """Share of each ``thing`` that two people gave the same grade, Cohen's kappa of yes or no, and the others."""
    if not second:
        return
    pairs = [(first[pair], other) for pair, other in second.items()]
    same = sum(a.grade == b.grade for a, b in pairs)
    kappa = sheet_cohens_kappa([(a.grade > 0, b.grade > 0) for a, b in pairs])
    told = "not defined, as both say the same of all" if kappa is None else f"{kappa:.2f}"
    kind = " of relevant or not" if thing == "document" else ""
    yield (
        f"two people judged {len(pairs):,} of {counted(len(first), thing)}: the same grade {counted(same, 'time')} "
        f"({percent(same / len(pairs))}), Cohen's kappa{kind} {told}; the first judgement counts"
    )
    apart = [f"{a.brief} ({a.judge} {a.grade}, {b.judge} {b.grade})" for a, b in pairs if a.grade != b.grade]
    if apart:
        more = f"; and {len(apart) - _NAMED} more" if len(apart) > _NAMED else ""
        yield f"they differ on {'; '.join(apart[:_NAMED])}{more}"


def sheet_cohens_kappa(pairs: Sequence[tuple[bool, bool]]) -> float | None:
    """Agreement of two judges beyond chance (Cohen 1960); None where chance alone makes them agree always.

    >>> sheet_cohens_kappa([(True, True), (True, True), (False, False), (True, False)])
    0.5
    """
    n = len(pairs)
    observed = sum(a == b for a, b in pairs) / n
    one, other = sum(a for a, _ in pairs) / n, sum(b for _, b in pairs) / n
    chance = one * other + (1 - one) * (1 - other)
    return None if chance == 1 else (observed - chance) / (1 - chance)
