"""Grading in a notebook: each click is in the sheet at once, no text runs, and without widgets a table says how."""

import json
import sys
from importlib.util import find_spec
from types import SimpleNamespace

import IPython
import pytest

from tests.reports.hostile import evil
from workbench.errors import EvalsetError, MissingExtra
from workbench.quality.label_view import LabelView, label_sheet_table, label_view_can_be_shown, view_or_table
from workbench.quality.labels import Label, fill_label_sheet, label_sheet_rows, read_label_sheet, write_label_sheet
from workbench.testing import FakeClock

needs_widgets = pytest.mark.skipif(find_spec("ipywidgets") is None, reason="ipywidgets, of [widgets], is not installed")
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\x1b[31m\u202e</pre>"


@pytest.fixture
def sheet(tmp_path):
    path = tmp_path / "production.jsonl"
    items = [{"item_id": f"q{i}", "question": f"question {i}", "answer": f"answer {i}"} for i in range(3)]
    items[2] = {"item_id": "q2", **{n: f"{evil(n)} {HOSTILE}" for n in ("question", "answer", "retrieved")}}
    write_label_sheet(path, items)
    return path


@pytest.fixture
def view(sheet):
    return LabelView(sheet, rater="ann", rubric="v1", clock=FakeClock())


def grades(sheet):
    return {row["item_id"]: row["grade"] for row in label_sheet_rows(sheet)}


@needs_widgets
def test_each_click_is_in_the_sheet_at_once_and_the_next_item_is_shown(view, sheet):
    assert (view.item_id, "question 0" in view.texts["question"].value) == ("q0", True)
    assert "0 of 3 items are graded" in view.progress.value
    view.comment.value = "well said"
    view.grades["good"].click()
    assert grades(sheet) == {"q0": 1.0, "q1": None, "q2": None}
    assert (view.item_id, view.comment.value) == ("q1", "")
    view.grades["partly good"].click()
    view.grades["bad"].click()
    labels = read_label_sheet(sheet, "good", rater="", rubric="", at="")
    assert labels == [Label(f"q{i}", "good", v, "ann", "human", "v1", "2026-01-01T00:00:00+00:00")
                      for i, v in enumerate((1.0, 0.5, 0.0))]  # fmt: skip
    assert label_sheet_rows(sheet)[0]["comment"] == "well said"
    assert (view.item_id, view.skip.disabled, view.grades["good"].disabled) == ("", True, True)
    assert "3 of 3 items are graded; none is left to show" in view.progress.value
    view.grades["good"].click()
    assert grades(sheet) == {"q0": 1.0, "q1": 0.5, "q2": 0.0}


@needs_widgets
def test_a_view_that_is_opened_again_goes_on_where_it_was_closed(view, sheet):
    view.grades["good"].click()
    view.skip.click()
    assert (view.item_id, "1 of 3 items are graded, 1 skipped here" in view.progress.value) == ("q2", True)
    again = LabelView(sheet, rater="ann", rubric="v1")
    assert (again.item_id, "1 of 3" in again.progress.value) == ("q1", True)


@needs_widgets
def test_back_shows_what_was_graded_and_grades_it_again(view, sheet):
    assert view.back.disabled
    view.grades["bad"].click()
    view.back.click()
    assert (view.item_id, "Graded bad by ann" in view.note.value) == ("q0", True)
    view.grades["good"].click()
    assert (grades(sheet)["q0"], view.item_id) == (1.0, "q1")


@needs_widgets
def test_nobody_grades_without_a_name_and_a_rubric(view, sheet):
    view.rater.value = " "
    view.grades["good"].click()
    assert (view.item_id, grades(sheet)["q0"]) == ("q0", None)
    assert "Say first who grades, and by which rubric" in view.note.value
    view.rater.value = "ann"
    view.grades["good"].click()
    assert grades(sheet)["q0"] == 1.0


@needs_widgets
def test_what_another_person_graded_meanwhile_is_not_overwritten(view, sheet):
    fill_label_sheet(sheet, Label("q0", "good", 0.0, "bob", "human", "v1"))
    view.grades["good"].click()
    assert "bob has graded this item meanwhile" in view.note.value
    assert grades(sheet)["q0"] == 0.0
    fill_label_sheet(sheet, Label("q1", "good", 0.0, "bob", "human", "v1"))
    view.skip.click()
    assert view.item_id == "q2"
    sheet.unlink()
    view.grades["good"].click()
    assert (view.item_id, "cannot be opened" in view.note.value) == ("q2", True)


@needs_widgets
def test_hostile_text_is_inert(view, sheet):
    view.grades["good"].click()
    view.comment.value = HOSTILE
    view.grades["good"].click()
    assert view.item_id == "q2"
    for name, widget in view.texts.items():
        assert f"{name} x=" in widget.value
        assert widget.value.count("<pre") == widget.value.count("</pre>") == 1
        assert "<script" not in widget.value
        assert "<img" not in widget.value
        assert not {"\x1b", "\u202e"} & set(widget.value)
    assert not {"\x1b", "\u202e"} & set(sheet.read_text(encoding="utf-8"))
    rows = label_sheet_rows(sheet)
    write_label_sheet(sheet, [{"item_id": "long", "question": "x" * 10**6, "answer": ""}])
    assert len(LabelView(sheet).texts["question"].value) < 25_000
    assert rows[1]["comment"].startswith("<script>")  # as text, which nothing shows but through escape


@needs_widgets
def test_a_spreadsheet_can_be_graded_too(tmp_path):
    path = tmp_path / "sheet.csv"
    write_label_sheet(path, [{"item_id": "=call:1", "question": "q", "answer": "a"}])
    view = LabelView(path, rater="ann", rubric="v1")
    view.grades["good"].click()
    (label,) = read_label_sheet(path, "label", rater="", rubric="", at="")
    assert (label.item_id, label.value, label.rater) == ("=call:1", 1.0, "ann")


@needs_widgets
def test_the_view_is_a_widget_of_a_live_kernel(sheet, monkeypatch):
    assert not label_view_can_be_shown()
    (table,) = view_or_table(sheet, live=True)
    assert "workbench quality grade production.jsonl" in table.caption
    monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace(kernel=object()))
    (view,) = view_or_table(sheet, live=True)
    assert isinstance(view, LabelView)
    (table,) = view_or_table(sheet, live=False)  # a run that nobody watches
    assert table.rows == (("production.jsonl", 3, 0, 3),)


def test_a_view_without_widgets_names_the_extra(sheet, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with pytest.raises(MissingExtra, match=r"pip install 'evals-workbench\[widgets\]'"):
        LabelView(sheet)
    (table,) = view_or_table(sheet, live=True)
    assert table.rows[0][0] == "production.jsonl"


def test_without_widgets_a_table_says_what_is_open_and_how_to_go_on(sheet):
    fill_label_sheet(sheet, Label("q1", "good", 1.0, "ann", "human", "v1"))
    table = label_sheet_table(sheet, live=True)
    assert table.rows == (("production.jsonl", 3, 1, 2),)
    assert "workbench quality grade production.jsonl --rater NAME --rubric VERSION" in table.caption
    assert "pip install 'evals-workbench[widgets]'" in table.caption
    assert "pip install" not in label_sheet_table(sheet, live=False).caption
    assert view_or_table(sheet.with_name("gone.jsonl"), live=True) == ()
    sheet.write_text(json.dumps({"question": "q"}) + "\n", encoding="utf-8")
    with pytest.raises(EvalsetError, match="has no column item_id"):
        label_sheet_table(sheet, live=False)
