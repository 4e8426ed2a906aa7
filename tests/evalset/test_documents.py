import json
import sys
from datetime import date

import polars as pl
import pytest

from tests.evalset.small_evalset import settings_in
from workbench.errors import EvalsetError
from workbench.evalset.check import check_evalset
from workbench.evalset.evalset import load_evalset
from workbench.evalset.imports.documents import import_tables, read_table

DOCUMENTS = [
    {
        "doc_id": "007",
        "content": "Join two frames.",
        "title": "merge",
        "tenant_id": "a",
        "date": date(2024, 5, 1),
        "owner": "x",
    },
    {"doc_id": "8", "content": "Sort rows.", "title": "sort", "tenant_id": "a", "date": None, "owner": "y"},
]
QUERIES = [
    {
        "id": "1",
        "question": "combine tables",
        "tenant_id": "a",
        "cluster": "c",
        "relevant": ["007", "8"],
        "accept": ["merge"],
    },
    {"id": "2", "question": "order by price", "tenant_id": "a", "cluster": "o", "relevant": ["8"], "accept": []},
]


def write(folder, suffix):
    paths = []
    for name, rows in (("docs", DOCUMENTS), ("asked", QUERIES)):
        path = folder / f"{name}{suffix}"
        if suffix == ".parquet":
            pl.DataFrame(rows).write_parquet(path)
        elif suffix == ".jsonl":
            path.write_text("".join(json.dumps(row, default=str) + "\n" for row in rows))
        else:
            flat = [{k: ";".join(v) if isinstance(v, list) else v for k, v in row.items()} for row in rows]
            pl.DataFrame(flat).write_csv(path)
        paths.append(path)
    return paths


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_the_same_tables_in_each_form_become_the_same_evalset(tmp_path, suffix):
    corpus, queries = write(tmp_path, suffix)
    out = import_tables(corpus=corpus, queries=queries, out=tmp_path / "evalsets" / "mine")
    assert out == tmp_path / "evalsets" / "mine"
    evalset = load_evalset("mine", settings=settings_in(tmp_path))
    first, second = evalset.documents
    assert (first.doc_id, first.text, first.title, first.tenant_id) == ("007", "Join two frames.", "merge", "a")
    assert (first.date, second.date) == (date(2024, 5, 1), None)
    assert [(q.query_id, q.cluster, q.accept) for q in evalset.queries] == [("1", "c", ("merge",)), ("2", "o", ())]
    assert evalset.qrels["dev"] | evalset.qrels["test"] == {"1": {"007": 1, "8": 1}, "2": {"8": 1}}
    assert "- of `docs" in evalset.card
    assert "owner" in evalset.card
    assert not [f for f in check_evalset(out, settings_in(tmp_path)) if f.severity == "error"]
    assert sorted(p.name for p in out.parent.iterdir()) == ["mine"]


def test_judgements_may_be_a_trec_file_or_a_table_with_grades_and_splits(tmp_path):
    corpus, queries = write(tmp_path, ".csv")
    trec, table = tmp_path / "judged.qrels", tmp_path / "judged.parquet"
    trec.write_text("1 0 007 2\n2 0 8 0\n")
    rows = [("1", "007", 2.0, "dev"), ("2", "8", 1.0, "test")]
    pl.DataFrame(rows, schema=["qid", "corpus-id", "score", "part"], orient="row").write_parquet(table)
    import_tables(corpus=corpus, queries=queries, qrels=trec, out=tmp_path / "a")
    import_tables(corpus=corpus, queries=queries, qrels=table, out=tmp_path / "b", rename={"part": "split"})
    assert (tmp_path / "a/qrels/test.tsv").read_text() == "query-id\tcorpus-id\tscore\n1\t007\t2\n2\t8\t0\n"
    assert load_evalset(tmp_path / "b", settings=settings_in(tmp_path)).qrels == {
        "dev": {"1": {"007": 2}},
        "test": {"2": {"8": 1}},
    }


def test_bad_rows_of_a_users_table_are_named_by_their_own_file_and_line(tmp_path):
    corpus, queries = tmp_path / "docs.csv", tmp_path / "asked.jsonl"
    corpus.write_text('id,text\nd1,"two\nlines"\nd2,\nd1,again\n')
    queries.write_text(
        '{"id": "q1", "query": "x", "relevant": ["d1"]}\n\n{"id": "q2", "query": "y", "relevant": ["d9"]}\n'
        '{"query": "no id"}\n'
    )
    with pytest.raises(EvalsetError) as caught:
        import_tables(corpus=corpus, queries=queries, out=tmp_path / "out")
    places = [(d.file.rsplit("/", 1)[-1], d.line) for d in caught.value.defects]
    assert places == [("docs.csv", 4), ("docs.csv", 5), ("asked.jsonl", 4), ("asked.jsonl", 3)]
    assert not (tmp_path / "out").exists()


def test_an_import_never_replaces_a_folder(tmp_path):
    corpus, queries = write(tmp_path, ".jsonl")
    (tmp_path / "mine").mkdir()
    with pytest.raises(EvalsetError, match="exists already"):
        import_tables(corpus=corpus, queries=queries, out=tmp_path / "mine")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"a,b\n1,2\n3\n", r"t\.csv:3: 2 columns"),
        ("t.csv", b'a,b\n1,"2\n', r"t\.csv:2: not CSV"),
        ("t.csv", b"a,b\n", "is empty"),
        ("t.csv", b"a,b\n1,caf\xe9\n", r"t\.csv:2: not UTF-8: byte 0xe9 at offset 9"),
        ("t.jsonl", b'{"a": 1}\n{"a": \n', r"t\.jsonl:2: not JSON"),
        ("t.parquet", b"PAR1 and no more", r"t\.parquet cannot be read as Parquet"),
        ("t.xlsx", b"", "one of .jsonl"),
    ],
)
def test_a_table_that_cannot_be_read_is_named_with_its_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(EvalsetError, match=message):
        read_table(tmp_path / name)


def test_a_missing_file_and_missing_judgements_say_what_to_do(tmp_path):
    for name in ("x.csv", "x.parquet", "x.jsonl"):
        with pytest.raises(EvalsetError, match=f"x.{name[2:]}"):
            read_table(tmp_path / name)
    corpus, queries = write(tmp_path, ".jsonl")
    queries.write_text('{"id": "q1", "query": "x"}\n')
    with pytest.raises(EvalsetError, match="give qrels"):
        import_tables(corpus=corpus, queries=queries, out=tmp_path / "out")


def test_local_parquet_needs_no_datasets_and_no_cache(tmp_path, monkeypatch):
    corpus, queries = write(tmp_path, ".parquet")
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert [line for line, _ in read_table(corpus).rows] == [1, 2]
    import_tables(corpus=corpus, queries=queries, out=tmp_path / "out")
