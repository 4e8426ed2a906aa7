"""Own documents and questions: what is guessed is shown, nothing is lost silently, labels come back."""

import json
import re
from pathlib import Path

import polars as pl
import pytest

from tests.command_line import workbench
from tests.notebooks.zoo import make_settings
from workbench.config import Settings
from workbench.errors import ConfigError, EvalsetError
from workbench.evalset.check import check_evalset
from workbench.evalset.imports.judgement_sheets import import_judgements, write_judgement_sheet
from workbench.evaluation.start import check_parameters
from workbench.project.document_pages import find_pages, read_pages
from workbench.project.new_evalset import tell_new_evalset, understand_evalset, write_new_evalset


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    (folder / "deep").mkdir(parents=True)
    (folder / ".git").mkdir()
    (folder / ".git" / "x.md").write_text("hidden", encoding="utf-8")
    (folder / "one.md").write_text("---\ntitle: 'Returns'\n---\nSend it back.\n", encoding="utf-8")
    (folder / "deep" / "two.html").write_text(
        "<html><head><title>Prices &amp; tax</title><style>p {}</style></head>"
        "<body><h1>Prices</h1><p>One <b>euro</b>.</p><script>x()</script></body></html>",
        encoding="utf-8",
    )
    (folder / "three.txt").write_text("No heading here.", encoding="utf-8")
    (folder / "logo.png").write_bytes(b"\x89PNG")
    return folder


def test_pages_have_ids_titles_and_the_text_that_a_reader_sees(pages: Path) -> None:
    documents, defects = read_pages(find_pages([pages]))
    assert not defects
    assert [(d.doc_id, d.title, d.text) for d in documents] == [
        ("deep/two.html", "Prices & tax", "Prices\nOne euro."),
        ("one.md", "Returns", "Send it back."),
        ("three.txt", "three", "No heading here."),
    ]


def test_a_page_that_cannot_be_read_is_named(pages: Path) -> None:
    (pages / "empty.md").write_text(" \n", encoding="utf-8")
    (pages / "latin.md").write_bytes("Gebühr".encode("latin-1"))
    questions = pages.parent / "asked.txt"
    questions.write_text("what does it cost\n", encoding="utf-8")
    with pytest.raises(EvalsetError, match=r"(?s)empty\.md: has no text.*latin\.md:1: not UTF-8"):
        understand_evalset([str(pages)], questions)


@pytest.mark.parametrize("name", ["one.md", "docs/one.md", "./docs/one.md", "./one.md"])
def test_a_page_may_be_named_with_the_folder_before_it(pages: Path, name: str) -> None:
    (pages.parent / "q.csv").write_text(f"question,relevant\nhow do I return it?,{name}\n", encoding="utf-8")
    assert [j.doc_id for j in understand_evalset([str(pages)], pages.parent / "q.csv").judgements] == ["one.md"]


def test_columns_are_guessed_and_told_and_ids_are_made_up(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("heading,words,team\nReturns,Send it back within a week.,shop\n", encoding="utf-8")
    (tmp_path / "q.csv").write_text("prompt;relevant\nhow do I return it;d-1\n", encoding="utf-8")
    understood = understand_evalset([str(tmp_path / "d.csv")], tmp_path / "q.csv")
    (document,), (query,) = understood.documents, understood.queries
    assert (document.doc_id, document.title, document.text) == ("d-1", "Returns", "Send it back within a week.")
    assert query.text == "how do I return it"
    assert [j.doc_id for j in understood.judgements] == ["d-1"]
    lines: list[str] = []
    tell_new_evalset(understood, lines.append)
    assert (
        f"1 document of {tmp_path / 'd.csv'}: title = heading, text = words, _id = made up (d-1, ...); left out: team"
        in lines
    )
    assert "1 of 1 question names a right document" in lines


def test_files_that_are_no_pages_are_told(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    for name in ("a.md", "b.rtf", "c.rtf", ".hidden", "Makefile"):
        (tmp_path / "docs" / name).write_text("# Text\n", encoding="utf-8")
    (tmp_path / "q.csv").write_text("question,relevant\nwhat,a.md\n", encoding="utf-8")
    lines: list[str] = []
    tell_new_evalset(understand_evalset([str(tmp_path / "docs")], tmp_path / "q.csv"), lines.append)
    assert any(line.startswith("not read: 2 .rtf, 1 Makefile; pages end in .md") for line in lines)


def test_a_column_that_is_named_goes_before_every_guess(tmp_path: Path) -> None:
    pl.DataFrame({"key": [1, 2], "text": ["short", "brief"], "body": ["one two", "three"]}).write_parquet(
        tmp_path / "d.parquet"
    )
    (tmp_path / "q.txt").write_text("one\n\ntwo\n", encoding="utf-8")
    found = understand_evalset([str(tmp_path / "d.parquet")], tmp_path / "q.txt", rename_documents={"body": "text"})
    assert [(d.doc_id, d.text) for d in found.documents] == [("1", "one two"), ("2", "three")]
    assert [q.text for q in found.queries] == ["one", "two"]
    with pytest.raises(ConfigError, match="no column words to rename; there are key, text, body"):
        understand_evalset([str(tmp_path / "d.parquet")], tmp_path / "q.txt", rename_documents={"words": "text"})


def test_a_question_that_names_an_unknown_document_is_told_with_its_line(pages: Path) -> None:
    questions = pages.parent / "q.csv"
    questions.write_text("question,relevant\nwhat,one.md\nwhere,four.md\n", encoding="utf-8")
    with pytest.raises(EvalsetError, match=r"q\.csv:3: unknown document 'four\.md'"):
        understand_evalset([str(pages)], questions)
    with pytest.raises(ConfigError, match="no such file or folder: nowhere"):
        understand_evalset(["nowhere"], questions)


@pytest.mark.parametrize("cell", ["true", "[[7]]", '{"one.md": 2.5}', '{"one.md": "high"}', "7.5"])
def test_a_cell_that_names_no_document_is_told_with_its_line(pages: Path, cell: str) -> None:
    asked = pages.parent / "q.jsonl"
    asked.write_text(
        f'{{"question": "a?", "relevant": "one.md"}}\n{{"question": "b?", "relevant": {cell}}}\n', encoding="utf-8"
    )
    with pytest.raises(EvalsetError, match=r"q\.jsonl:2: "):
        understand_evalset([str(pages)], asked)


def quoting(pages: Path, *rows: dict) -> Path:
    path = pages.parent / "q.jsonl"
    path.write_text("".join(json.dumps({"question": "what?"} | row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_quote_names_its_document_also_after_the_documents_were_parsed_and_named_anew(pages: Path) -> None:
    asked = quoting(pages, {"quote": "send  it"}, {"quote": ["One euro.", "No heading\there."]}, {"relevant": "one.md"})
    asked.write_text(asked.read_text(encoding="utf-8").replace("send  it", "Send  it"), encoding="utf-8")
    found = understand_evalset([str(pages)], asked)
    assert [(j.line, j.doc_id, j.grade) for j in found.judgements] == [
        (1, "one.md", 1), (2, "deep/two.html", 1), (2, "three.txt", 1), (3, "one.md", 1),
    ]  # fmt: skip
    (pages / "one.md").unlink()
    (pages / "returns.html").write_text("<p>Please:</p><p>Send it\n back.</p>", encoding="utf-8")
    again = understand_evalset([str(pages)], quoting(pages, {"quote": "Send it back"}))
    assert [j.doc_id for j in again.judgements] == ["returns.html"]


@pytest.mark.parametrize(
    ("quote", "told"),
    [
        ("Send it forth.", "no document holds the quote 'Send it forth.'"),
        ("send it back", "no document holds the quote 'send it back'"),
        ("One euro. And two more of them", "; deep/two.html has its first words, 'One euro. And two'"),
        ("e", r"the quote 'e' stands in 3 documents \(deep/two.html, one.md, three.txt\); quote more, or name them"),
        (" ", "the quote is empty"),
        ([7], '"quote" must be a text or a list of texts, found 7'),
    ],
)
def test_a_quote_that_names_no_document_is_told_with_its_line(pages: Path, quote: object, told: str) -> None:
    (pages / "deep" / "two.html").write_text("<p>One euro. And two for the rest.</p>", encoding="utf-8")
    with pytest.raises(EvalsetError, match=rf"q\.jsonl:2: .*{told}"):
        understand_evalset([str(pages)], quoting(pages, {"relevant": "one.md"}, {"quote": quote}))


@pytest.mark.parametrize("cell", ['{"one.md": 2, "three.txt": null}', '"{\\"one.md\\": 2, \\"three.txt\\": null}"'])
def test_a_document_without_a_grade_is_told_with_its_line(pages: Path, cell: str) -> None:
    asked = pages.parent / "q.jsonl"
    asked.write_text(
        f'{{"question": "a?", "relevant": "one.md"}}\n{{"question": "b?", "relevant": {cell}}}\n', encoding="utf-8"
    )
    found = understand_evalset([str(pages)], asked)
    assert [(j.doc_id, j.grade) for j in found.judgements] == [("one.md", 1), ("one.md", 2)]
    told = "document 'three.txt' has no grade and is left out; write 0 if it is not relevant"
    assert f"{asked}:2: {told}" in found.lines
    pl.DataFrame({"question": ["a?", "b?"], "relevant": [{"one.md": 2}, {"three.txt": 1}]}).write_parquet(
        pages.parent / "q.parquet"
    )
    assert not any("no grade" in line for line in understand_evalset([str(pages)], pages.parent / "q.parquet").lines)


def test_what_is_written_is_sound_and_a_dry_run_writes_nothing(pages: Path) -> None:
    settings = make_settings(pages.parent / "project")
    questions = pages.parent / "q.csv"
    questions.write_text("question,relevant\nwhat is the tariff,deep/two.html\nrefuse it,one.md\n", encoding="utf-8")
    asked = "new", "mine", "--documents", str(pages), "--questions", str(questions)
    dry = workbench(settings, *asked, "--dry-run")
    assert "nothing was written" in dry.stdout
    assert not (settings.evalsets / "mine").exists()
    done = workbench(settings, *asked)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[-1] == "next: workbench run retrieval --evalset mine"
    assert "a verdict takes about 60 questions with a right document: add 58 more questions, and make it anew" in said
    (few,) = [line.strip() for line in said if "-p strategies=" in line]
    assert few.startswith("workbench run retrieval --evalset mine -p chunkers=whole")
    given = {name: value.split(",") for name, value in re.findall(r"-p (\w+)=(\S+)", few)}
    check_parameters("retrieval", given)
    assert given.keys() == {"chunkers", "strategies", "embedders"}
    assert [f for f in check_evalset("mine", settings) if f.severity == "error"] == []
    card = (settings.evalsets / "mine" / "card.md").read_text(encoding="utf-8")
    assert f"## Made from\n- {pages}\n- {questions}\n- 3 documents of pages" in card
    assert "exists already" in workbench(settings, *asked).stderr


def test_first_judgements_of_unlabelled_questions_come_back_also_where_only_some_rows_are_filled(pages: Path) -> None:
    settings = make_settings(pages.parent / "project")
    questions = pages.parent / "q.txt"
    questions.write_text("what is the tariff\nhow do I send it back\n", encoding="utf-8")
    found = understand_evalset([str(pages)], questions)
    out = write_new_evalset(found, settings.evalsets / "mine", sources=["docs"])
    sheet = out / "to_judge.jsonl"
    write_judgement_sheet(
        sheet, [("q1", "deep/two.html"), ("q1", "one.md"), ("q2", "one.md")], found.queries, found.documents
    )
    rows = [json.loads(line) for line in sheet.read_text(encoding="utf-8").splitlines()]
    rows[0] |= {"grade": 2, "judge": "ann"}
    rows[2] |= {"grade": 1, "judge": "ann"}
    sheet.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(EvalsetError, match=r"to_judge\.jsonl:2: grade is not filled"):
        import_judgements([sheet], "mine", settings=settings)
    lines: list[str] = []
    (path,) = import_judgements([sheet], "mine", settings=settings, tell=lines.append, partly=True)
    assert path.read_text(encoding="utf-8") == "query-id\tcorpus-id\tscore\nq1\tdeep/two.html\t2\nq2\tone.md\t1\n"
    assert f"1 row of {sheet} left aside, as not filled" in lines


def test_reading_that_takes_long_says_so(
    pages: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("LINE_S", 0.0), ("LONG_S", 0.0), ("_LOOK_S", 0.001)):  # as if it were long
        monkeypatch.setattr(f"workbench.rendering.progress.{name}", value)
    for n in range(500):
        (pages / f"{n}.md").write_text(f"# Page {n}\n" + "word " * 500, encoding="utf-8")
    (pages.parent / "q.txt").write_text("what is it\n", encoding="utf-8")
    understand_evalset([str(pages)], pages.parent / "q.txt")
    assert "reading documents, 0 s so far\n" in capsys.readouterr().err


@pytest.mark.slow
def test_sheet_is_pooled_from_several_arms_and_blind(
    pages: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from workbench.config import load_settings
    from workbench.project.new_evalset import write_judging_pool

    real = load_settings()
    if not (real.cache / "weights").is_dir():
        pytest.skip("no weights on disk: make install fetches them")
    cache = pages.parent / "cache"  # of its own: no run before this one has made the tables
    cache.mkdir()
    (cache / "weights").symlink_to(real.cache / "weights")
    settings = Settings(pages.parent, cache, pages.parent / "runs", "sqlite://")
    questions = pages.parent / "q.txt"
    questions.write_text("what is the tariff\nhow do I send it back\n", encoding="utf-8")
    found = understand_evalset([str(pages)], questions)
    monkeypatch.setattr("workbench.rendering.progress.LINE_S", 0.0)  # else every 10 seconds
    assert write_judging_pool(pages, found.documents, found.queries, settings) == 6  # three documents, two questions
    told = capsys.readouterr().err
    assert "documents for whole · full_text 3/3" in told, "the table that both arms search"
    assert "questions to whole · vector 1/2" in told
    rows = [json.loads(line) for line in (pages / "to_judge.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {key for row in rows for key in row} == {"query_id", "doc_id", "grade", "judge", "query", "title", "text"}
    assert {row["grade"] for row in rows} == {None}
