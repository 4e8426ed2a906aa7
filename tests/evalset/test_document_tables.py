import json
import sys
from datetime import date

import polars as pl
import pytest

from tests.evalset.small_evalset import settings_in
from workbench.errors import ConfigError, EvalsetError
from workbench.evalset.check import check_evalset
from workbench.evalset.evalset import load_evalset
from workbench.evalset.files import read_qrels, read_table
from workbench.evalset.imports.document_tables import import_tables

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


def tables(folder, documents, queries):
    """Two JSONL tables of these rows."""
    paths = folder / "docs.jsonl", folder / "asked.jsonl"
    for path, rows in zip(paths, (documents, queries), strict=True):
        path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return paths


def defects(folder, documents, queries):
    corpus, asked = tables(folder, documents, queries)
    with pytest.raises(EvalsetError) as caught:
        import_tables(corpus=corpus, queries=asked, out=folder / "out")
    assert not (folder / "out").exists()
    return [(d.file.rsplit("/", 1)[-1], d.line, d.problem) for d in caught.value.defects]


ASKED = [{"id": "q1", "query": "x", "relevant": ["1"]}]


@pytest.mark.parametrize("form", ["object", "text", "columns", "tenant", "struct", "text in csv", "number"])
def test_metadata_keeps_its_tenants_in_whatever_form_it_arrives(tmp_path, form):
    owners = ["a", "b"]
    rows = {
        "object": [{"metadata": {"tenant_id": o}} for o in owners],
        "text": [{"metadata": json.dumps({"tenant_id": o, "x": [1]})} for o in owners],
        "columns": [{"metadata.tenant_id": o} for o in owners],
        "tenant": [{"metadata": json.dumps({"tenant": o})} for o in owners],
        "struct": [{"metadata": {"tenant_id": "a", "page": None}}, {"metadata": {"tenant_id": "b", "page": 3}}],
        "text in csv": [{"metadata": json.dumps({"tenant_id": o})} for o in owners],
        "number": [{"metadata": {"tenant_id": 1}}, {"metadata": {"tenant_id": 2.0}}],
    }[form]
    rows = [{"id": str(i), "text": "words", **row} for i, row in enumerate(rows, 1)]
    corpus, asked = tables(tmp_path, rows, [{**ASKED[0], "tenant": "1" if form == "number" else "a"}])
    if form in ("struct", "text in csv"):
        corpus = tmp_path / ("docs.parquet" if form == "struct" else "docs.csv")
        frame = pl.DataFrame(rows)
        frame.write_parquet(corpus) if form == "struct" else frame.write_csv(corpus)
    import_tables(corpus=corpus, queries=asked, out=tmp_path / "out")
    found = load_evalset(tmp_path / "out", settings=settings_in(tmp_path))
    assert found.tenants == (("1", "2") if form == "number" else ("a", "b"))


@pytest.mark.parametrize("metadata", ["a", "[1]", "{'tenant_id': 'a'}", '{"tenant_id": ', '{"a": 1, "a": 2}', 3, ["a"]])
def test_metadata_that_is_no_object_is_named_by_its_line(tmp_path, metadata):
    documents = [{"id": "1", "text": "x"}, {"id": "2", "text": "y", "metadata": metadata}]
    ((file, line, problem),) = defects(tmp_path, documents, ASKED)
    assert (file, line) == ("docs.jsonl", 2)
    assert '"metadata"' in problem


def test_a_tenant_that_is_told_in_two_ways_is_no_tenant(tmp_path):
    documents = [{"id": "1", "text": "x", "tenant_id": "a", "metadata": {"tenant_id": "b"}}]
    assert "in its column" in defects(tmp_path, documents, ASKED)[0][2]


MANY = [{"id": i, "text": f"text {i}"} for i in (7, 8, 9)]


@pytest.mark.parametrize(
    ("relevant", "expected"),
    [
        ([7], {"7": 1}),
        (8, {"8": 1}),
        (8.0, {"8": 1}),
        ("9", {"9": 1}),
        ("7;8 ; 9", {"7": 1, "8": 1, "9": 1}),
        ({"7": 2, "9": 1}, {"7": 2, "9": 1}),
        ({"7": 1, "8": -1, "9": None}, {"7": 1, "8": -1}),
        ('{"7": 2, "9": 0}', {"7": 2, "9": 0}),
        ("[7, 8.0]", {"7": 1, "8": 1}),
        (["7", 7, 8], {"7": 1, "8": 1}),
        ([{"doc_id": 7, "grade": "2.0"}, {"corpus-id": "8", "score": 0}], {"7": 2, "8": 0}),
        ({"doc_id": "7", "grade": 3}, {"7": 3}),
    ],
)
def test_right_documents_are_read_in_every_form(tmp_path, relevant, expected):
    corpus, asked = tables(tmp_path, MANY, [{"id": "q", "query": "x", "relevant": relevant}])
    said = []
    out = import_tables(corpus=corpus, queries=asked, out=tmp_path / "out", tell=said.append)
    assert {r.doc_id: r.grade for r in read_qrels(out / "qrels" / "test.tsv")} == expected
    ungraded = isinstance(relevant, dict) and None in relevant.values()
    assert [line.partition(" has no")[0] for line in said] == [f"{asked}:1: document '9'"] * ungraded


@pytest.mark.parametrize(
    "relevant",
    [True, [True], 7.5, [[7]], {"7": "yes"}, {"7": 0.5}, "['7']", "[7, 8", [{"grade": 1}], "7, 8",
     [{"id": 7}, {"id": 7, "grade": 2}]],
)  # fmt: skip
def test_right_documents_in_no_form_are_named_by_their_line(tmp_path, relevant):
    queries = [{"id": "q1", "query": "x", "relevant": 7}, {"id": "q2", "query": "y", "relevant": relevant}]
    assert [(file, line) for file, line, _ in defects(tmp_path, MANY, queries)] == [("asked.jsonl", 2)]


@pytest.mark.parametrize("suffix", [".tsv", ".csv", ".parquet", ".jsonl", ".txt"])
def test_grades_of_every_form_are_read_alike(tmp_path, suffix):
    corpus, asked = tables(tmp_path, MANY, [{"id": "q", "query": "x"}])
    rows = [("q", "7", "2.0"), ("q", "8", "0.0"), ("q", "9", "-1")]
    qrels = tmp_path / f"judged{suffix}"
    if suffix == ".parquet":
        pl.DataFrame({"query-id": ["q"] * 3, "corpus-id": [7, 8, 9], "score": [2.0, 0.0, -1.0]}).write_parquet(qrels)
    elif suffix == ".jsonl":
        lines = [json.dumps({"query-id": q, "corpus-id": float(d), "score": float(g)}) for q, d, g in rows]
        qrels.write_text("\n".join(lines))
    else:
        separator = "," if suffix == ".csv" else "\t"
        qrels.write_text("".join(separator.join(row) + "\n" for row in [("query-id", "corpus-id", "score"), *rows]))
    out = import_tables(corpus=corpus, queries=asked, qrels=qrels, out=tmp_path / "out")
    assert (out / "qrels" / "test.tsv").read_text() == "query-id\tcorpus-id\tscore\nq\t7\t2\nq\t8\t0\nq\t9\t-1\n"
    evalset = load_evalset(out, settings=settings_in(tmp_path))
    assert evalset.qrels["dev"] | evalset.qrels["test"] == {"q": {"7": 2, "8": 0, "9": -1}}


def test_a_tsv_of_judgements_may_name_its_columns_in_any_order(tmp_path):
    corpus, asked = tables(tmp_path, MANY, [{"id": "q", "query": "x"}])
    (tmp_path / "j.tsv").write_text("split\tcorpus_id\tqid\tlabel\ndev\t7\tq\t1\n")
    out = import_tables(corpus=corpus, queries=asked, qrels=tmp_path / "j.tsv", out=tmp_path / "out")
    assert (out / "qrels" / "dev.tsv").read_text().endswith("q\t7\t1\n")


def test_a_grade_that_is_missing_among_grades_is_no_1(tmp_path):
    corpus, asked = tables(tmp_path, MANY, [{"id": "q", "query": "x"}])
    (tmp_path / "j.csv").write_text("qid,doc_id,grade\nq,7,1\nq,8,\n")
    with pytest.raises(EvalsetError, match=r"j\.csv:3: the grade is missing where other rows have one"):
        import_tables(corpus=corpus, queries=asked, qrels=tmp_path / "j.csv", out=tmp_path / "out")


def test_a_column_to_rename_is_in_one_of_the_tables_and_what_is_left_out_is_told(tmp_path):
    corpus, asked = tables(
        tmp_path, [{"id": 7, "page": "x", "owner": "me"}], [{"id": "q", "query": "x", "relevant": 7}]
    )
    said = []
    import_tables(corpus=corpus, queries=asked, out=tmp_path / "out", rename={"page": "text"}, tell=said.append)
    assert said == ["of docs.jsonl are left out: owner"]
    with pytest.raises(ConfigError, match="no column pgae to rename; there are id, page, owner, query, relevant"):
        import_tables(corpus=corpus, queries=asked, out=tmp_path / "two", rename={"pgae": "text"})
