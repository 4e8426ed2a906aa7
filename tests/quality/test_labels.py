"""Labels: who said what; a sheet that a person fills in comes back as a person's labels, and nothing in it runs."""

import csv
import threading

import pytest

from workbench.errors import EvalsetError
from workbench.quality.labels import (
    Label,
    add_labels,
    fill_label_sheet,
    label_sheet_rows,
    read_label_sheet,
    read_labels,
    truth,
    write_label_sheet,
)

GIVEN = [
    Label("q1", "correct", 1.0, "ann", "human", "v1", "2026-11-01"),
    Label("q1", "correct", 0.0, "bob", "human", "v1"),
    Label("q2", "correct", 0.0, "ann", "human", "v1"),
    Label("q2", "correct", 1.0, "gpt", "model", "v1"),
    Label("q3", "polite", 1.0, "ann", "human", "v1"),
]


def test_labels_are_read_as_they_were_added(tmp_path):
    path = tmp_path / "labels.jsonl"
    assert add_labels(path, GIVEN[:2]) + add_labels(path, GIVEN[2:]) == 5
    assert read_labels(path) == GIVEN


def test_the_truth_is_the_mean_of_people_and_the_last_word_of_each_counts():
    found = truth([*GIVEN, Label("q2", "correct", 1.0, "ann", "human", "v1")], "correct", rubric="v1")
    assert dict(found.frame.rows()) == {"q1": 0.5, "q2": 1.0}
    assert (found.source, found.left_out) == ("human", 1)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"item_id": "q", "metric": "m", "value": 2, "rater": "a", "source": "human", "rubric": "v"}', r"in \[0, 1\]"),
        ('{"item_id": "q", "metric": "m", "value": 1, "rater": "a", "source": "judge", "rubric": "v"}', "known: human"),
        (
            '{"item_id": "q", "metric": "m", "value": 1, "rater": "", "source": "human", "rubric": "v"}',
            "names its item",
        ),
        ('{"item_id": "q", "metric": "m", "value": 1, "rater": "a", "source": "human"}', "rubric"),
        ('{"item_id": "q", "score": 1}', "unknown fields: score"),
    ],
)
def test_a_line_that_is_no_label_is_named_with_its_number(tmp_path, line, said):
    path = tmp_path / "labels.jsonl"
    add_labels(path, GIVEN[:1])
    with path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(EvalsetError, match=said) as caught:
        read_labels(path)
    assert [d.line for d in caught.value.defects] == [2]


def test_a_sheet_is_inert_and_comes_back_as_a_persons_labels(tmp_path):
    path = tmp_path / "sheet.csv"
    items = [
        {"item_id": "q1", "question": "=cmd|'/c calc'!A1", "answer": "\x1b[31mred\u202e"},
        {"item_id": "q2", "question": "plain", "answer": "yes"},
    ]
    assert write_label_sheet(path, items) == 2
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["question"].startswith("'=")
    assert "\x1b" not in path.read_text(encoding="utf-8")
    assert "\u202e" not in path.read_text(encoding="utf-8")
    rows[0]["value"] = "0.5"
    with path.open("w", encoding="utf-8", newline="") as file:
        out = csv.DictWriter(file, rows[0].keys())
        out.writeheader()
        out.writerows(rows)
    found = read_label_sheet(path, "correct", rater="ann", rubric="v2", at="2026-11-29T10:00:00Z")
    assert found == [Label("q1", "correct", 0.5, "ann", "human", "v2", "2026-11-29T10:00:00Z")]
    rows[1]["value"] = "good"
    with path.open("w", encoding="utf-8", newline="") as file:
        out = csv.DictWriter(file, rows[0].keys())
        out.writeheader()
        out.writerows(rows)
    with pytest.raises(EvalsetError, match=r":3: the grade 'good' is no number"):
        read_label_sheet(path, "correct", rater="ann", rubric="v2", at="")
    for text, told in (
        ("item_id,value\nq1,1\nq1,0\n", r":3: line 2 has a value of 'q1' already"),
        ("item_id,label\nq1,1\n", r"has no column value or grade; it has item_id, label"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(EvalsetError, match=told):
            read_label_sheet(path, "correct", rater="ann", rubric="v2", at="")


@pytest.mark.parametrize("name", ["sheet.csv", "sheet.jsonl"])
def test_a_grade_is_in_its_row_at_once_and_every_other_row_stays_as_it_is(tmp_path, name):
    path = tmp_path / name
    items = [{"item_id": f"q{i}", "question": "=1+1", "answer": "a\x1b[31m", "retrieved": "text"} for i in range(3)]
    write_label_sheet(path, items)
    before = label_sheet_rows(path)
    given = Label("q1", "good", 0.5, "ann", "human", "v1", "2026-11-29T10:00:00+00:00")
    fill_label_sheet(path, given, "=a comment\u202e")
    after = label_sheet_rows(path)
    assert [before[0], before[2]] == [{k: v for k, v in after[i].items() if k in before[i]} for i in (0, 2)]
    assert "\u202e" not in path.read_text(encoding="utf-8")
    assert read_label_sheet(path, "good", rater="", rubric="", at="") == [given]
    fill_label_sheet(path, Label("q1", "good", 1.0, "ann", "human", "v1", "2026-11-29T11:00:00+00:00"))
    assert [label.value for label in read_label_sheet(path, "good", rater="", rubric="", at="")] == [1.0]
    with pytest.raises(EvalsetError, match="ann has graded this item meanwhile"):
        fill_label_sheet(path, Label("q1", "good", 0.0, "bob", "human", "v1"))
    with pytest.raises(EvalsetError, match="has no item 'gone' any more"):
        fill_label_sheet(path, Label("gone", "good", 0.0, "bob", "human", "v1"))


def test_two_people_who_fill_one_sheet_at_a_time_lose_nothing(tmp_path):
    path = tmp_path / "sheet.jsonl"
    write_label_sheet(path, [{"item_id": f"q{i}", "question": "q", "answer": "a"} for i in range(40)])

    def person(name):
        for i in range(name == "bob", 40, 2):
            fill_label_sheet(path, Label(f"q{i}", "good", 1.0, name, "human", "v1"))

    threads = [threading.Thread(target=person, args=(name,)) for name in ("ann", "bob")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [row["rater"] for row in label_sheet_rows(path)] == ["ann", "bob"] * 20


def test_a_sheet_of_another_kind_or_in_no_folder_is_refused(tmp_path):
    with pytest.raises(EvalsetError, match=r"a sheet is one of \.csv, \.jsonl, found '\.txt'"):
        write_label_sheet(tmp_path / "sheet.txt", [])
    with pytest.raises(EvalsetError, match="make its folder first"):
        fill_label_sheet(tmp_path / "gone" / "sheet.jsonl", GIVEN[0])
