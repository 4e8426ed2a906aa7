"""Grading in a notebook: one item of a sheet at a time, and what is clicked is in the sheet at once.

``LabelView("production.jsonl", rater="ann", rubric="v1")`` in a cell of JupyterLab, with the extra ``[widgets]``. The
file is the sheet that a command wrote and reads back, so that the notebook may be closed at any time.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workbench.config import Clock, SystemClock
from workbench.errors import EvalsetError, MissingExtra
from workbench.extras import DISTRIBUTION, is_installed
from workbench.quality.labels import Label, fill_label_sheet, label_sheet_rows
from workbench.rendering.numbers import counted
from workbench.rendering.table import Column, Table
from workbench.rendering.text import escape

GRADES = (("bad", 0.0, "danger"), ("partly good", 0.5, "warning"), ("good", 1.0, "success"))
_PARTS = (("question", "Question"), ("answer", "Answer"), ("retrieved", "Retrieved"))
_LONGEST = 20_000  # characters of a text that are shown
_FRAME = "white-space:pre-wrap;overflow-wrap:anywhere;max-height:20em;overflow:auto;margin:0;font-family:inherit"


def label_view_can_be_shown() -> bool:
    """Whether ipywidgets is installed and a kernel runs this."""
    if not is_installed("ipywidgets"):
        return False
    from IPython import get_ipython

    return hasattr(get_ipython(), "kernel")


def label_sheet_table(sheet: Path, *, live: bool) -> Table:
    """What a sheet holds and how to grade it without widgets; ``live`` tells of the extra that brings them."""
    rows = label_sheet_rows(sheet)
    graded = sum(_label_grade_of(row) is not None for row in rows)
    told = f"To grade: fill grade in {sheet.name}, then: workbench quality grade {sheet.name} --rater NAME --rubric "
    told += "VERSION."
    if live:
        told += f" Item by item in this notebook: pip install '{DISTRIBUTION}[widgets]'."
    columns = (Column("sheet"), Column("items", "count"), Column("graded", "count"), Column("open", "count"))
    return Table(columns, ((sheet.name, len(rows), graded, len(rows) - graded),), told)


class LabelView:
    """One item at a time: question, answer, what was retrieved; buttons that grade, a comment, skip and back.

    Parameters
    ----------
    sheet : str or Path
        Sheet of ``workbench quality draw``, or another with item_id, question, answer and value or grade.
    rater, rubric : str
        Who grades, a person's name, and by which version of the instructions; both can be typed in.

    Attributes
    ----------
    widget : ipywidgets.VBox
        All of it; its parts have names: ``rater``, ``rubric``, ``texts``, ``grades``, ``comment``, ``skip``, ``back``,
        ``progress``, ``note``.

    Raises
    ------
    EvalsetError
        If the sheet cannot be read.
    MissingExtra
        Without ipywidgets.
    """

    def __init__(self, sheet: str | Path, *, rater: str = "", rubric: str = "", clock: Clock | None = None) -> None:
        if not is_installed("ipywidgets"):
            told = f"fill grade in {sheet}, or, to grade it item by item here, pip install '{DISTRIBUTION}[widgets]'"
            raise MissingExtra(told, extra="widgets")
        import ipywidgets

        self.sheet, self._clock = Path(sheet), clock or SystemClock()
        self._seen: list[str] = []  # that were graded or skipped here, in this order
        self._rows = self._read()
        self._at = next((row for row in self._rows if _label_grade_of(row) is None), None)
        self.rater = ipywidgets.Text(value=rater, description="rater", placeholder="your name")
        self.rubric = ipywidgets.Text(value=rubric, description="rubric", placeholder="version of the instructions")
        self.progress, self.note = ipywidgets.HTML(), ipywidgets.HTML()
        self.texts = {name: ipywidgets.HTML() for name, _ in _PARTS}
        self.grades = {name: ipywidgets.Button(description=name, button_style=style) for name, _, style in GRADES}
        self.comment = ipywidgets.Textarea(placeholder="comment", layout={"width": "auto"})
        self.skip = ipywidgets.Button(description="skip")
        self.back = ipywidgets.Button(description="back")
        for name, value, _ in GRADES:
            self.grades[name].on_click(lambda _, value=value: self._grade(value))
        self.skip.on_click(lambda _: self._go_on())
        self.back.on_click(lambda _: self._go_back())
        buttons = ipywidgets.HBox([*self.grades.values(), self.skip, self.back])
        who = ipywidgets.HBox([self.rater, self.rubric])
        parts = [who, self.progress, *self.texts.values(), self.comment, buttons, self.note]
        self.widget = ipywidgets.VBox(parts)
        self._show()

    @property
    def item_id(self) -> str:
        """Item that is shown, "" where none is left."""
        return str(self._at["item_id"]) if self._at else ""

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self.widget)

    def _read(self) -> list[dict[str, Any]]:
        return label_sheet_rows(self.sheet)

    def _grade(self, value: float) -> None:
        """Write a grade into the sheet and go on; what cannot be written is said, and the item stays."""
        if not self._at:
            return
        if not (self.rater.value.strip() and self.rubric.value.strip()):
            self.note.value = _label_told("Say first who grades, and by which rubric.")
            return
        at = self._clock.now().isoformat(timespec="seconds")
        try:
            label = Label(self.item_id.removeprefix("'"), "good", value, self.rater.value.strip(), "human",
                          self.rubric.value.strip(), at)  # fmt: skip
            fill_label_sheet(self.sheet, label, self.comment.value)
        except EvalsetError as error:
            self.note.value = _label_told(str(error))
            return
        self._go_on()

    def _go_on(self) -> None:
        """Show the next open item that was not skipped here; after the last, that none is left."""
        if not self._at:
            return
        self._seen.append(self.item_id)
        try:
            self._rows = self._read()
        except EvalsetError as error:
            self.note.value = _label_told(str(error))
            return
        places = {str(row["item_id"]): place for place, row in enumerate(self._rows)}
        after = places.get(self.item_id, -1) + 1
        later = [*self._rows[after:], *self._rows[:after]]
        self._at = next((r for r in later if _label_grade_of(r) is None and str(r["item_id"]) not in self._seen), None)
        self._show()

    def _go_back(self) -> None:
        """Show the item before, to grade it again."""
        if not self._seen:
            return
        last = self._seen.pop()
        self._at = next((row for row in self._rows if str(row["item_id"]) == last), self._at)
        self._show()

    def _show(self) -> None:
        graded = sum(_label_grade_of(row) is not None for row in self._rows)
        skipped = sum(_label_grade_of(row) is None and str(row["item_id"]) in self._seen for row in self._rows)
        told = f"{graded:,} of {counted(len(self._rows), 'item is', 'items are')} graded"
        told += f", {skipped:,} skipped here" if skipped else ""
        self.progress.value = _label_told(told if self._at else f"{told}; none is left to show")
        row = self._at or {}
        for name, title in _PARTS:
            text = str(row.get(name) or "")
            shown = f'<b>{title}</b><pre tabindex="0" style="{_FRAME}">{escape(text, _LONGEST)}</pre>'
            self.texts[name].value = shown if text else ""
        self.comment.value, self.note.value = str(row.get("comment") or ""), ""
        before = _label_grade_of(row)
        if before is not None:
            name = next((name for name, value, _ in GRADES if str(value) == str(before)), before)
            self.note.value = _label_told(
                f"Graded {name} by {row.get('rater') or 'somebody'}; a click grades it again."
            )
        for button in (*self.grades.values(), self.skip):
            button.disabled = self._at is None
        self.back.disabled = not self._seen


def _label_grade_of(row: dict[str, Any]) -> Any:
    return row.get("grade", row.get("value"))


def _label_told(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def view_or_table(sheet: Path, *, live: bool) -> Sequence[LabelView | Table]:
    """What the notebook shows of a sheet: the view where it can be clicked, else what to do; nothing of no sheet."""
    if not sheet.is_file():
        return ()
    return (LabelView(sheet),) if live and label_view_can_be_shown() else (label_sheet_table(sheet, live=live),)
