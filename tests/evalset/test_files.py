import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.errors import EvalsetError
from workbench.evalset.files import read_jsonl, read_qrels, scan_jsonl


def places(caught):
    return [(d.file.rsplit("/", 1)[-1], d.line) for d in caught.value.defects]


def test_every_bad_line_of_a_jsonl_file_is_named(tmp_path):
    path = tmp_path / "queries.jsonl"
    path.write_bytes(b'{"_id": "1"}\n[1]\n\n{"_id": "caf\xe9"}\n{"_id": 1e\n{"_id": "\\ud800"}\n{"_id": "half')
    with pytest.raises(EvalsetError) as caught:
        read_jsonl(path)
    assert places(caught) == [("queries.jsonl", line) for line in (2, 4, 5, 6, 7)]
    problems = [d.problem for d in caught.value.defects]
    assert "found list" in problems[0]
    assert "byte 0xe9 at offset 30" in problems[1]
    assert path.read_bytes()[30:31] == b"\xe9"
    assert "column 10" in problems[2]
    assert "surrogates" in problems[3]
    assert "cut short" in problems[4]


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_a_defect_of_the_whole_file(tmp_path, content):
    (tmp_path / "corpus.jsonl").write_bytes(content)
    with pytest.raises(EvalsetError, match="is empty") as caught:
        read_jsonl(tmp_path / "corpus.jsonl")
    assert places(caught) == [("corpus.jsonl", 0)]


def test_missing_and_utf16_files_are_named(tmp_path):
    with pytest.raises(EvalsetError, match="No such file"):
        read_jsonl(tmp_path / "none.jsonl")
    (tmp_path / "wide.jsonl").write_text('{"_id": "1"}\n', encoding="utf-16")
    with pytest.raises(EvalsetError, match=r"wide.jsonl:1: is UTF-16"):
        read_jsonl(tmp_path / "wide.jsonl")


def test_only_line_feeds_end_a_line_and_a_byte_order_mark_is_no_text(tmp_path):
    path = tmp_path / "queries.jsonl"
    path.write_bytes('\ufeff{"_id": "a\u2028b"}\r\n\r\n{"_id": "c"}'.encode())
    assert read_jsonl(path) == [(1, {"_id": "a\u2028b"}), (3, {"_id": "c"})]


WRITABLE = st.text(st.characters(exclude_categories=["Cs"]))


@given(rows=st.lists(st.dictionaries(WRITABLE, WRITABLE | st.integers() | st.none()), min_size=1), escape=st.booleans())
def test_what_was_written_is_read_again(tmp_path_factory, rows, escape):
    path = tmp_path_factory.mktemp("jsonl") / "rows.jsonl"
    text = "".join(json.dumps(row, ensure_ascii=escape) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8", newline="")
    assert scan_jsonl(path) == (list(enumerate(rows, start=1)), [])


@pytest.mark.parametrize(
    "text",
    [
        "query-id\tcorpus-id\tscore\nq 1\td1\t2\nq2\td2\t0\n",
        "q 1\td1\t2\nq2\td2\t0\n",
        "q 1\t0\td1\t2\nq2\tQ0\td2\t0\n",
    ],
)
def test_beir_and_trec_qrels_give_the_same_judgements(tmp_path, text):
    (tmp_path / "test.tsv").write_text(text)
    rows = read_qrels(tmp_path / "test.tsv")
    assert [(r.query_id, r.doc_id, r.grade) for r in rows] == [("q 1", "d1", 2), ("q2", "d2", 0)]
    assert [r.line for r in rows] == ([2, 3] if text.startswith("query-id") else [1, 2])


def test_trec_qrels_may_be_parted_by_blanks(tmp_path):
    (tmp_path / "qrels.txt").write_text("q1 0  d1 1\n")
    assert read_qrels(tmp_path / "qrels.txt")[0].doc_id == "d1"


@pytest.mark.parametrize("grade", ["0.5", "x", "", "1_0", "٣", "nan", "9" * 5000])
def test_a_grade_that_is_no_whole_number_is_named_by_its_line(tmp_path, grade):
    (tmp_path / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td2\t{grade}\n", encoding="utf-8")
    with pytest.raises(EvalsetError, match="must be a whole number, found") as caught:
        read_qrels(tmp_path / "test.tsv")
    assert places(caught) == [("test.tsv", 3)]


def test_rows_of_another_width_are_named_by_their_lines(tmp_path):
    (tmp_path / "test.tsv").write_text("q1\td1\t1\nq1\t0\td2\t1\nq1\td3\n\td4\t1\n")
    with pytest.raises(EvalsetError) as caught:
        read_qrels(tmp_path / "test.tsv")
    assert places(caught) == [("test.tsv", 2), ("test.tsv", 3), ("test.tsv", 4)]
