"""Labels of answers: who said what, by which rubric, and whether a person, a model or a program did.

Labels are kept in a JSONL file, one a line, appended to. Only people's labels may tell whether a judge is right; a
program's may where the truth can be computed, and is then shown as such; a model's never do.

A sheet is what a person fills in, CSV for spreadsheets or JSONL: question, answer and what else helps to grade, and
an empty grade. It says neither which model or arm answered nor why the row was drawn.
"""

import csv
import fcntl
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import polars as pl

from workbench.codec import write_whole
from workbench.errors import Defect, EvalsetError
from workbench.evalset.cells import Unusable, id_cell, name_cell, share_cell
from workbench.evalset.files import Names, named_table_rows, read_jsonl, read_table, refuse_file
from workbench.rendering.text import visible

Source = Literal["human", "model", "code"]
LABELS_SCHEMA: dict[str, type[pl.DataType]] = {
    "item_id": pl.String,
    "metric": pl.String,
    "value": pl.Float64,
    "rater": pl.String,
    "source": pl.String,
    "rubric": pl.String,
    "at": pl.String,
}
SHEET = ("item_id", "question", "answer", "value", "comment")  # of a CSV sheet; a JSONL sheet may have more
_SHEETS = (".csv", ".jsonl")
_TO_READ = ("question", "retrieved", "answer")
_SHEET_NAMES: Names = {
    "item_id": ("item_id",),
    "value": ("value", "grade"),
    **{name: (name,) for name in ("comment", "rater", "rubric", "at")},
}


@dataclass(frozen=True, slots=True)
class Label:
    """What one rater said of one answer.

    Attributes
    ----------
    value : float
        In [0, 1]; 1 is good.
    rubric : str
        Version of the instructions that the rater followed; labels by another one are other labels.
    at : str
        ISO time in UTC.
    """

    item_id: str
    metric: str
    value: float
    rater: str
    source: Source
    rubric: str
    at: str = ""

    def __post_init__(self) -> None:
        if self.source not in get_args(Source):
            raise EvalsetError(
                f"the label of {self.item_id!r} comes from {self.source!r}; known: {', '.join(get_args(Source))}"
            )
        if not 0 <= self.value <= 1:
            raise EvalsetError(f"the label of {self.item_id!r} must be in [0, 1], found {self.value!r}")
        if not (self.item_id and self.metric and self.rater and self.rubric):
            raise EvalsetError(f"a label names its item, metric, rater and rubric, found {self}")


def read_labels(path: Path) -> list[Label]:
    """Labels of a sheet.

    Raises
    ------
    EvalsetError
        With every line that is none.
    """
    known, out, defects = {f.name for f in fields(Label)}, [], []
    for number, row in read_jsonl(path):
        if strange := sorted(row.keys() - known):
            defects.append(Defect(str(path), number, f"unknown fields: {', '.join(strange)}"))
            continue
        try:
            out.append(Label(**row))
        except (EvalsetError, TypeError) as error:
            defects.append(Defect(str(path), number, str(error)))
    refuse_file(path, defects)
    return out


def add_labels(path: Path, labels: Iterable[Label]) -> int:
    """Append labels to a sheet; returns how many there were. What was said before stays: the last one counts."""
    lines = [json.dumps(asdict(label), ensure_ascii=False) + "\n" for label in labels]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(lines))
    return len(lines)


def labels_frame(labels: Iterable[Label]) -> pl.DataFrame:
    """Columns of `LABELS_SCHEMA`, of each rater the last word on an item."""
    frame = pl.DataFrame([asdict(label) for label in labels], schema=LABELS_SCHEMA)
    return frame.unique(["item_id", "metric", "rater", "source", "rubric"], keep="last", maintain_order=True)


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """What judges are measured against: columns item_id and value, one row an item.

    ``source`` is "human" or "code"; ``left_out`` counts labels of models and of other rubrics, which say nothing here.
    """

    frame: pl.DataFrame
    source: str
    rubric: str
    left_out: int


def truth(labels: Iterable[Label], metric: str, *, rubric: str, source: Source = "human") -> Truth:
    """``truth(read_labels(path), "correct", rubric="v2").frame``: mean over the raters of each item.

    Raises
    ------
    EvalsetError
        If a model's labels are asked for as the truth.
    """
    if source == "model":
        raise EvalsetError("labels of a model cannot tell whether a model is right; give people's, or a program's")
    frame = labels_frame(labels).filter(pl.col("metric") == metric)
    mine = frame.filter((pl.col("source") == source) & (pl.col("rubric") == rubric))
    means = mine.group_by("item_id").agg(pl.col("value").mean()).sort("item_id")
    return Truth(means, source, rubric, len(frame) - len(mine))


def write_label_sheet(path: Path, items: Sequence[Mapping[str, Any]]) -> int:
    """Write a blank sheet for a person to fill in, CSV or JSONL by its suffix; returns its rows.

    Parameters
    ----------
    path : Path
        A spreadsheet's ``.csv`` has the columns of `SHEET`, a ``.jsonl`` also ``retrieved``, and ``grade`` to fill.
    items : sequence of mappings
        item_id, question, answer, and ``retrieved`` where there is any. Texts lose what a terminal or a spreadsheet
        would run. Cells that are filled already, such as ``grade`` and ``rater``, stay so.

    Raises
    ------
    EvalsetError
        If it is neither, or cannot be written.
    """
    if path.suffix == ".csv":
        rows = [
            {**dict.fromkeys(SHEET, ""), **item, **{n: _inert_label_text(str(item[n])) for n in SHEET[:3]}}
            for item in items
        ]
    else:
        rows = [_label_row_to_fill(item) for item in items]
    _write_label_rows(path, rows, SHEET)
    return len(items)


def _label_row_to_fill(item: Mapping[str, Any]) -> dict[str, Any]:
    """Row of a JSONL sheet, with what people filled in already."""
    texts = {name: visible(str(item.get(name) or "")) for name in _TO_READ}
    cells = {name: value for name, value in item.items() if name not in texts}
    return {"item_id": item["item_id"], **texts, "grade": None, "comment": "", **cells}


def label_sheet_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a sheet as they stand in the file, filled or not.

    Raises
    ------
    EvalsetError
        If it cannot be read, or has no columns item_id and value or grade.
    """
    table = read_table(path)
    named_table_rows(table, _SHEET_NAMES, ("item_id", "value"))
    return [row for _, row in table.rows]


def fill_label_sheet(path: Path, label: Label, comment: str = "") -> None:
    """Write what a person said of one item into its row of a sheet, at once; all other rows stay as they are.

    Raises
    ------
    EvalsetError
        If the sheet cannot be read or written, has no such item, or another rater has filled it meanwhile.
    """
    with only_sheet_writer(path):
        table = read_table(path)
        filled = "grade" if "grade" in table.columns else "value"
        columns = dict.fromkeys([*table.columns, filled, "comment", "rater", "rubric", "at"])
        rows = [dict(row) for _, row in table.rows]
        row = next((r for r in rows if str(r.get("item_id")).removeprefix("'") == label.item_id), None)
        if row is None:
            raise EvalsetError(f"{path} has no item {label.item_id!r} any more; open the sheet again")
        if row.get(filled) is not None and (before := row.get("rater") or "somebody") != label.rater:
            raise EvalsetError(f"{before} has graded this item meanwhile: {row[filled]}; go on to the next")
        said = {"comment": comment, "rater": label.rater, "rubric": label.rubric, "at": label.at}
        shown = _inert_label_text if path.suffix == ".csv" else visible
        row |= {filled: label.value, **{name: shown(text) for name, text in said.items()}}
        _write_label_rows(path, rows, tuple(columns))


@contextmanager
def only_sheet_writer(path: Path) -> Iterator[None]:
    """Keep other writers of the same folder waiting, so that nobody's rows are lost between reading and writing.

    Raises
    ------
    EvalsetError
        If there is no such folder.
    """
    try:
        folder = os.open(path.parent, os.O_RDONLY)
    except OSError as error:
        raise EvalsetError(f"{path} cannot be written: {error.strerror}; make its folder first") from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _write_label_rows(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    if path.suffix not in _SHEETS:
        raise EvalsetError(f"a sheet is one of {', '.join(_SHEETS)}, found {path.suffix or 'no suffix'!r}: {path}")
    text = io.StringIO(newline="")
    if path.suffix == ".csv":
        out = csv.DictWriter(text, columns, restval="", extrasaction="ignore")
        out.writeheader()
        out.writerows(rows)
    else:
        text.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text.getvalue())
    except OSError as error:
        raise EvalsetError(f"{path} cannot be written: {error.strerror or error}") from error


def read_label_sheet(path: Path, metric: str, *, rater: str, rubric: str, at: str) -> list[Label]:
    """Labels of the rows of a filled-in sheet that have a value; they are a person's.

    A row that says itself who filled it, by which rubric and when keeps that; of the others ``rater``, ``rubric`` and
    ``at`` speak.

    Raises
    ------
    EvalsetError
        With every row whose value is no number in [0, 1], or of which nobody says who filled it, and every one about
        an item that an earlier row has; if the file cannot be read or has no columns item_id and value or grade.
    """
    table, out, defects, lines = read_table(path), list[Label](), list[Defect](), dict[str, int]()
    for number, row in named_table_rows(table, _SHEET_NAMES, ("item_id", "value"))[0]:
        if row["value"] is None:
            continue
        try:
            item_id = (id_cell("item_id", row["item_id"]) or "").removeprefix("'")
            said = [name_cell(name, row[name]).strip() or given for name, given in
                    (("rater", rater), ("rubric", rubric), ("at", at))]  # fmt: skip
            if (value := share_cell("the grade", row["value"])) is None:
                continue
            if not (said[0] and said[1]):
                raise Unusable(f"{item_id!r} has a grade of nobody; say who graded (--rater) by which rules (--rubric)")
            out.append(Label(item_id, metric, value, said[0], "human", said[1], said[2]))
            if (first := lines.setdefault(item_id, number)) != number:
                defects.append(Defect(str(path), number, f"line {first} has a value of {item_id!r} already"))
        except (Unusable, EvalsetError) as error:
            defects.append(Defect(str(path), number, str(error)))
    refuse_file(path, defects)
    return out


def _inert_label_text(text: str) -> str:
    """Text as it is seen, without what a spreadsheet takes for a formula (CSV injection: OWASP)."""
    shown = visible(text)
    return f"'{shown}" if shown[:1] in tuple("=+-@\t\r") else shown
