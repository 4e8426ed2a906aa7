"""Labels of answers: who said what, by which rubric, and whether a person, a model or a program did.

A sheet is a JSONL file, one label a line, appended to. Only people's labels may tell whether a judge is right; a
program's may where the truth can be computed, and is then shown as such; a model's never do.
"""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import polars as pl

from workbench.errors import Defect, EvalsetError
from workbench.evalset.cells import Unusable, id_text
from workbench.evalset.files import read_jsonl, read_table, refuse, require_named
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
SHEET = ("item_id", "question", "answer", "value", "comment")


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
    refuse(path, defects)
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


def write_sheet(path: Path, items: Sequence[Mapping[str, Any]]) -> int:
    """Write a blank CSV sheet for a person to fill in; returns its rows.

    ``items`` are mappings with item_id, question and answer. Texts lose what a terminal or a spreadsheet would run.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file)
        out.writerow(SHEET)
        for item in items:
            out.writerow([_inert(str(item[name])) for name in SHEET[:3]] + ["", ""])
    return len(items)


def read_sheet(path: Path, metric: str, *, rater: str, rubric: str, at: str) -> list[Label]:
    """Labels of the rows of a filled-in sheet that have a value; they are a person's.

    Raises
    ------
    EvalsetError
        With every row whose value is no number in [0, 1], and every one about an item that an earlier row has; if the
        file cannot be read or has no columns item_id and value.
    """
    table, out, defects, lines = read_table(path), list[Label](), list[Defect](), dict[str, int]()
    require_named(table, {name: (name,) for name in SHEET}, ("item_id", "value"))
    for number, row in table.rows:
        if row.get("value") is None:
            continue
        try:
            item_id = (id_text("item_id", row.get("item_id")) or "").removeprefix("'")
            out.append(Label(item_id, metric, float(row["value"]), rater, "human", rubric, at))
            if (first := lines.setdefault(item_id, number)) != number:
                defects.append(Defect(str(path), number, f"line {first} has a value of {item_id!r} already"))
        except (ValueError, TypeError, Unusable, EvalsetError) as error:
            defects.append(Defect(str(path), number, str(error)))
    refuse(path, defects)
    return out


def _inert(text: str) -> str:
    """Text as it is seen, without what a spreadsheet takes for a formula (CSV injection: OWASP)."""
    shown = visible(text)
    return f"'{shown}" if shown[:1] in tuple("=+-@\t\r") else shown
