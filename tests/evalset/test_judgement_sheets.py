"""What nobody judged goes out with its texts and comes back as judgements, or is refused by line."""

import json

import pytest
from typer.testing import CliRunner

from tests.evalset.small_evalset import DOCUMENTS, QUERIES, settings_in, write
from workbench.cli import app
from workbench.errors import EvalsetError
from workbench.evalset.evalset import load_evalset
from workbench.evalset.imports.judgement_sheets import (
    SHEET,
    import_judgements,
    judgement_sheet_note,
    sheet_cohens_kappa,
    write_judgement_sheet,
)

MORE = [*DOCUMENTS, {"_id": "d4", "title": "pandas.concat", "text": "Stack frames.", "metadata": {"tenant_id": "a"}}]


@pytest.fixture
def mine(tmp_path):
    """An evalset ``mine``, its settings, and the sheet of two documents that nobody judged."""
    settings = settings_in(tmp_path)
    write(settings.evalsets / "mine", documents=MORE, queries=QUERIES)
    evalset = load_evalset("mine", settings=settings)
    write_judgement_sheet(
        tmp_path / SHEET, [("q1", "d2"), ("q2", "d4"), ("q2", "gone")], evalset.queries, evalset.documents
    )
    return settings


def rows_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def fill(settings, *grades, name=SHEET, judge=""):
    """A sheet with these grades, and what is in it."""
    path = settings.root / name
    rows = rows_of(settings.root / SHEET)
    filled = [{**row, "grade": grade, "judge": judge} for row, grade in zip(rows, grades, strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in filled), encoding="utf-8")
    return path


def qrels(settings):
    return {p.stem: p.read_text().splitlines()[1:] for p in sorted((settings.evalsets / "mine" / "qrels").glob("*"))}


def test_the_sheet_has_the_texts_and_a_field_to_fill_and_no_arm(mine):
    first, second = rows_of(mine.root / SHEET)
    assert first == {
        "query_id": "q1", "doc_id": "d2", "grade": None, "judge": "", "query": "how to combine tables",
        "title": "pandas.sort", "text": "Sort rows by value.",
    }  # fmt: skip
    assert second["doc_id"] == "d4"
    assert "workbench import judgements runs/r/to_judge.jsonl --name mine" in judgement_sheet_note(2, "r", "mine")


def test_a_filled_sheet_becomes_judgements_of_the_questions_own_split(mine):
    said = []
    changed = import_judgements([fill(mine, 0, "2.0")], "mine", settings=mine, tell=said.append)
    assert [path.name for path in changed] == ["dev.tsv", "test.tsv"]
    assert qrels(mine) == {"dev": ["q1\td1\t1", "q1\td2\t0"], "test": ["q2\td2\t2", "q3\td3\t1", "q2\td4\t2"]}
    assert load_evalset("mine", settings=mine).qrels["test"]["q2"] == {"d2": 2, "d4": 2}
    assert said == [f"1 judgement added to {path}" for path in changed]


@pytest.mark.parametrize(
    ("change", "line", "says"),
    [
        ({"grade": None}, 2, "grade is not filled (query 'q2', document 'd4'): fill it, take the row out, or"),
        ({"grade": ""}, 2, "grade is not filled"),
        ({"grade": "yes"}, 2, "the grade must be a whole number, found 'yes'"),
        ({"grade": 0.5}, 2, "the grade must be a whole number, found 0.5"),
        ({"query_id": "q9"}, 2, "unknown query 'q9': the sheet is of another evalset"),
        ({"doc_id": "d9"}, 2, "unknown document 'd9': the sheet is of another evalset"),
        ({"doc_id": "d3", "text": "Join frames on a key."}, 2, "belongs to tenant 'b'"),
        ({"doc_id": "d2", "text": "Sort rows by value."}, 2, "are judged 2 in test.tsv:2 already, and 1 here"),
        (
            {"query_id": "q1", "doc_id": "d2", "query": QUERIES[0]["text"], "text": "Sort rows by value."},
            2,
            "on line 1",
        ),
        ({"text": "Another version."}, 2, "document 'd4' has another text in the evalset"),
        ({"query": "another question"}, 2, "the question was 'another question' when it was judged"),
        ({"query_id": None}, 2, "query_id and doc_id are needed"),
    ],
)
def test_a_row_that_cannot_be_taken_is_named_and_nothing_is_changed(mine, change, line, says):
    before = qrels(mine)
    path = fill(mine, 1, 1)
    first, second = rows_of(path)
    path.write_text(f"{json.dumps(first)}\n{json.dumps(second | change)}\n", encoding="utf-8")
    with pytest.raises(EvalsetError) as caught:
        import_judgements([path], "mine", settings=mine)
    assert [d.line for d in caught.value.defects] == [line]
    assert says in str(caught.value)
    assert qrels(mine) == before


def test_a_judgement_may_name_a_passage_in_place_of_a_document(mine):
    path = mine.root / "quoted.csv"
    path.write_text("query_id,quote,grade\nq1,Sort  rows by,0\nq2,Stack frames,2\n", encoding="utf-8")
    import_judgements([path], "mine", settings=mine)
    assert qrels(mine) == {"dev": ["q1\td1\t1", "q1\td2\t0"], "test": ["q2\td2\t2", "q3\td3\t1", "q2\td4\t2"]}


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("q1,,Nobody said so,1", "no document holds the quote 'Nobody said so'"),
        ("q3,,Stack frames.,1", "no document holds the quote 'Stack frames.'"),  # another tenant's
        ("q1,,frames,1", "stands in 2 documents (d1, d4)"),
        ("q1,d2,Stack frames,1", "document 'd2' does not hold the quote 'Stack frames'"),
        ("q9,,Stack frames,1", "unknown query 'q9'"),
        ("q1,d9,Stack frames,1", "unknown document 'd9'"),
    ],
)
def test_a_passage_that_names_no_document_is_told_with_its_line(mine, row, told):
    path = mine.root / "quoted.csv"
    path.write_text(f"query_id,doc_id,quote,grade\n{row}\n", encoding="utf-8")
    with pytest.raises(EvalsetError) as caught:
        import_judgements([path], "mine", settings=mine)
    assert [d.line for d in caught.value.defects] == [2]
    assert told in str(caught.value)


def test_where_two_people_judged_their_agreement_is_told_and_the_first_counts(mine):
    said = []
    sheets = [fill(mine, 1, 0, name="ann.jsonl"), fill(mine, 1, 2, name="bob.jsonl")]
    import_judgements(sheets, "mine", settings=mine, tell=said.append)
    assert qrels(mine)["test"][-1] == "q2\td4\t0"
    assert "two people judged 2 of 2 documents: the same grade 1 time (50 %)" in said[0]
    assert "kappa of relevant or not 0.00; the first judgement counts" in said[0]
    assert said[1] == "they differ on q2 d4 (ann 0, bob 2)"


def test_judges_of_one_sheet_are_told_apart_by_their_column(mine):
    path = mine.root / "both.csv"
    path.write_text("query_id,doc_id,grade,judge\nq1,d2,1,a\nq1,d2,1,b\n")
    said = []
    import_judgements([path], "mine", settings=mine, tell=said.append)
    assert "the same grade 1 time (100 %), Cohen's kappa of relevant or not not defined" in said[0]


def test_sheets_of_one_name_are_two_peoples(mine):
    (mine.root / "a").mkdir()
    other = fill(mine, 1, 0, name=f"a/{SHEET}")
    said = []
    import_judgements([other, fill(mine, 1, 0)], "mine", settings=mine, tell=said.append)
    assert "two people judged 2 of 2" in said[0]


def test_judgements_in_trec_s_form_stay_in_it(mine):
    path = mine.evalsets / "mine" / "qrels" / "test.tsv"
    path.write_text("q2 0 d2 2\nq3 0 d3 1")
    import_judgements([fill(mine, 0, 1)], "mine", settings=mine)
    assert load_evalset("mine", settings=mine).qrels["test"]["q2"] == {"d2": 2, "d4": 1}


def test_kappa_is_that_of_a_known_table():
    """Cohen's own kind of table: 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no."""
    pairs = [(True, True)] * 20 + [(True, False)] * 5 + [(False, True)] * 10 + [(False, False)] * 15
    assert sheet_cohens_kappa(pairs) == pytest.approx(0.4)
    assert sheet_cohens_kappa([(True, True)] * 3) is None


def test_the_command_takes_a_sheet_back(mine, monkeypatch):
    monkeypatch.setenv("WORKBENCH_ROOT", str(mine.root))
    done = CliRunner().invoke(app, ["import", "judgements", str(fill(mine, 1, 1)), "--name", "mine"])
    assert done.exit_code == 0, done.output
    assert "stale now" not in done.output, "nothing is accepted yet"
    assert "next: workbench run retrieval --evalset mine" in done.output
    again = CliRunner().invoke(app, ["import", "judgements", str(fill(mine, 1, 1)), "--name", "mine"])
    assert again.exit_code == 0, again.output
    assert "2 rows stand in the judgements already, with the same grade" in again.output
    other = CliRunner().invoke(app, ["import", "judgements", str(fill(mine, 0, 1)), "--name", "mine"])
    assert other.exit_code == 3
    assert "are judged 1 in dev.tsv:3 already, and 0 here" in other.output


def test_a_sheet_in_the_folder_of_an_evalset_needs_no_name_and_one_elsewhere_does(mine, monkeypatch):
    monkeypatch.setenv("WORKBENCH_ROOT", str(mine.root))
    sheet = fill(mine, 1, 1)
    within = mine.evalsets / "mine" / SHEET
    within.write_bytes(sheet.read_bytes())
    elsewhere = mine.root / "aside" / SHEET
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(sheet.read_bytes())
    refused = CliRunner().invoke(app, ["import", "judgements", str(elsewhere)])
    assert refused.exit_code == 3
    assert f"say with --name whose questions were judged: {elsewhere} lies in no evalset" in refused.output
    done = CliRunner().invoke(app, ["import", "judgements", str(within)])
    assert done.exit_code == 0, done.output
    assert "next: workbench run retrieval --evalset mine" in done.output


def test_a_sheet_that_is_filled_further_is_taken_again_and_its_new_questions_too(mine):
    """The first judgements are of one question; those of another have a place afterwards."""
    for path in (mine.evalsets / "mine" / "qrels").iterdir():
        path.unlink()
    with pytest.raises(EvalsetError, match=r"no row of .* is filled: fill `grade`"):
        import_judgements([fill(mine, None, None)], "mine", settings=mine, partly=True)
    assert qrels(mine) == {}
    import_judgements([fill(mine, 1, None)], "mine", settings=mine, partly=True)
    said: list[str] = []
    import_judgements([fill(mine, 1, 2)], "mine", settings=mine, tell=said.append)
    assert qrels(mine) == {"test": ["q1\td2\t1", "q2\td4\t2"]}
    assert said[0] == "1 row stands in the judgements already, with the same grade: left aside"


def test_a_question_of_no_split_has_no_place_where_dev_was_told_from_test(mine):
    path = mine.evalsets / "mine" / "qrels" / "test.tsv"
    path.write_text("query-id\tcorpus-id\tscore\nq3\td3\t1\n", encoding="utf-8")
    with pytest.raises(EvalsetError, match=r"'q2' is judged in no split, .* into qrels/dev\.tsv or qrels/test\.tsv"):
        import_judgements([fill(mine, 1, 1)], "mine", settings=mine)


def test_a_column_of_another_name_is_told_with_a_way_that_the_command_has(mine, monkeypatch):
    monkeypatch.setenv("WORKBENCH_ROOT", str(mine.root))
    (mine.root / "mine.csv").write_text("query_id,doc_id,rating\nq2,d4,1\n", encoding="utf-8")
    done = CliRunner().invoke(app, ["import", "judgements", str(mine.root / "mine.csv"), "--name", "mine"])
    assert done.exit_code == 3
    assert "it has query_id, doc_id, rating. Rename yours in the file, or by --rename" in done.stderr


def test_what_neither_person_judged_is_no_agreement(mine):
    """statsmodels 0.15.0 takes what is missing for a category: kappa rises with every document that both left open."""
    said = []
    sheets = [fill(mine, grade, None, name=name) for grade, name in ((1, "ann.jsonl"), (0, "bob.jsonl"))]
    import_judgements(sheets, "mine", settings=mine, tell=said.append, partly=True)
    assert "two people judged 1 of 1 document: the same grade 0 times (0 %)" in " ".join(said)
