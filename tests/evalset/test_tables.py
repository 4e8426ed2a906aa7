"""The one reader of rows: separators, headers, missing cells, keys and lines mean the same in every importer."""

import json
from decimal import Decimal

import polars as pl
import pytest

from workbench.errors import ConfigError, EvalsetError
from workbench.evalset.files import named_table_rows, read_table
from workbench.evalset.imports.document_tables import import_tables
from workbench.evalset.imports.outcome_tables import import_outcomes
from workbench.evalset.imports.pairs_and_streams import import_pairs, import_stream
from workbench.retrieval.systems import read_system_run

# Each importer, and the columns that it needs.
IMPORTERS = {
    "corpus": (["id", "text"], lambda path, out: import_tables(corpus=path, queries=path, out=out)),
    "outcomes": (["prompt", "model", "quality", "cost_usd"], import_outcomes),
    "stream": (["query", "answer_key"], import_stream),
    "pairs": (["query_a", "query_b", "same_answer"], import_pairs),
    "run": (["query_id", "doc_id", "score"], lambda path, out: read_system_run(path)),
}


def rows_of(path):
    return read_table(path).rows


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("first", ["", "sep={}\n", '"sep={}"\r\n', "\ufeff", "\ufeffsep={}\n"])
def test_the_separator_is_found_or_told(tmp_path, separator, first):
    path = tmp_path / "t.csv"
    lines = [["id", "title", "text"], ["007", "Refunds", "Paid within ten days."], ["8", "PDF", "x"]]
    path.write_text(first.format(separator) + "\n".join(separator.join(line) for line in lines), encoding="utf-8")
    begins = 3 if "sep" in first else 2
    assert rows_of(path)[0] == (begins, {"id": "007", "title": "Refunds", "text": "Paid within ten days."})


def test_text_with_other_separators_does_not_mislead(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("id;text\n1;Invoices, refunds, PDF\n2;a, b, c\n", encoding="utf-8")
    assert [row["text"] for _, row in rows_of(path)] == ["Invoices, refunds, PDF", "a, b, c"]
    path.write_text("id,text\n1,a;b;c\n2,a;b;c\n", encoding="utf-8")
    assert [row["text"] for _, row in rows_of(path)] == ["a;b;c", "a;b;c"]
    path.write_text("prompt,m|total_cost,m\nx,1,0\n", encoding="utf-8")
    assert list(rows_of(path)[0][1]) == ["prompt", "m|total_cost", "m"]


@pytest.mark.parametrize("importer", IMPORTERS)
@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_two_columns_of_one_name_are_refused_by_every_importer(tmp_path, importer, suffix):
    columns, run = IMPORTERS[importer]
    separator = "," if suffix == ".csv" else "\t"
    path = tmp_path / f"t{suffix}"
    path.write_text(separator.join([*columns, columns[1]]) + "\n", encoding="utf-8")
    path.write_text(path.read_text() + separator.join(["1"] * (len(columns) + 1)) + "\n", encoding="utf-8")
    with pytest.raises(EvalsetError, match=rf"t\{suffix}:1: two columns are called '{columns[1]}'"):
        run(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("importer", IMPORTERS)
def test_a_key_that_stands_twice_is_refused_by_every_importer(tmp_path, importer):
    columns, run = IMPORTERS[importer]
    path = tmp_path / "t.jsonl"
    good = json.dumps(dict.fromkeys(columns, "1"))
    path.write_text(f'{good}\n{good[:-1]}, "{columns[0]}": "2"}}\n', encoding="utf-8")
    with pytest.raises(EvalsetError, match=rf"t\.jsonl:2: .*the key '{columns[0]}' stands twice"):
        run(path, tmp_path / "out")


@pytest.mark.parametrize("importer", IMPORTERS)
@pytest.mark.parametrize(
    "content", [b"", b"\n\n", b",,,\n,,,\n", b"a,b\n", "a,b\n1,2\n".encode("utf-16"), b"a,b\n\xff,1\n"]
)
def test_a_file_without_rows_or_in_another_encoding_is_refused_by_every_importer(tmp_path, importer, content):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(EvalsetError, match=r"t\.csv.*(is empty|UTF-16|not UTF-8)"):
        IMPORTERS[importer][1](path, tmp_path / "out")


def test_rows_of_separators_alone_are_blank_lines_and_ragged_ends_are_none(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("id,text,\n1,a,,,\n,,,\n , \n2,b,\n\n3,c,,\n", encoding="utf-8")
    table = read_table(path)
    assert table.rows == ((2, {"id": "1", "text": "a"}), (5, {"id": "2", "text": "b"}), (7, {"id": "3", "text": "c"}))
    assert table.columns == ("id", "text")


def test_a_column_without_a_name_is_told_by_its_place(tmp_path):
    """As pandas writes its index."""
    path = tmp_path / "t.csv"
    path.write_text(",query_id,doc_id\n0,q,d\n1,q,e\n", encoding="utf-8")
    rows, rest = named_table_rows(read_table(path), {"query_id": ("query_id",), "doc_id": ("doc_id",)})
    assert rows[0] == (2, {"query_id": "q", "doc_id": "d"})
    assert rest == ["column 1"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_the_line_told_is_that_on_which_the_row_begins(tmp_path, end):
    path = tmp_path / "t.csv"
    path.write_bytes(end.join(["id,text", '1,"two', 'lines"', "", "2,b", '3,"three', "more", 'lines"', "4"]).encode())
    with pytest.raises(EvalsetError) as caught:
        read_table(path)
    assert [d.line for d in caught.value.defects] == [9]
    path.write_bytes(path.read_bytes().removesuffix(b"4") + b"4,d")
    assert [line for line, _ in rows_of(path)] == [2, 5, 6, 9]


def test_a_quote_that_is_never_closed_is_named_where_it_opens(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('id,text\n1,a\n2,"never closed\n3,b\n4,c\n', encoding="utf-8")
    with pytest.raises(EvalsetError, match=r"t\.csv:3: not CSV"):
        read_table(path)


def test_a_cell_of_a_megabyte_is_read(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(f"id,text\n1,{'x' * 1_000_000}\n2,b\n", encoding="utf-8")
    assert [len(row["text"]) for _, row in rows_of(path)] == [1_000_000, 1]


def test_nan_is_missing_in_every_format(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"id": "1", "x": NaN, "m": {"y": NaN}}\n', encoding="utf-8")
    assert rows_of(tmp_path / "t.jsonl") == ((1, {"id": "1", "x": None, "m": {"y": None}}),)
    frame = pl.DataFrame({"id": ["1"], "x": [float("nan")], "m": [{"y": float("nan")}], "l": [[float("nan"), 1.0]]})
    frame.write_parquet(tmp_path / "t.parquet")
    assert rows_of(tmp_path / "t.parquet") == ((1, {"id": "1", "x": None, "m": {"y": None}, "l": [None, 1.0]}),)


def test_parquet_is_read_as_it_is_stored(tmp_path):
    path = tmp_path / "part[1] *.parquet"  # a name that is a pattern names this file alone
    pl.DataFrame({"id": [Decimal("7.00")], "c": ["x"]}, schema_overrides={"c": pl.Categorical}).write_parquet(path)
    assert rows_of(path) == ((1, {"id": Decimal("7.00"), "c": "x"}),)


def test_columns_are_renamed_also_inside_objects_and_never_merged(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"body": "mine", "text": "other", "provider": {"id": "m1"}}\n{"body": "b"}\n', encoding="utf-8")
    table = read_table(path, {"body": "text", "provider.id": "model"})
    assert [row for _, row in table.rows] == [
        {"text": "mine", "text (of the file)": "other", "provider": {"id": "m1"}, "model": "m1"}, {"text": "b"},
    ]  # fmt: skip
    assert table.columns == ("text", "text (of the file)", "provider", "model")
    with pytest.raises(ConfigError, match="no column bdoy to rename; there are body, text, provider"):
        read_table(path, {"bdoy": "text"})
    with pytest.raises(ConfigError, match=r"two columns of .* the name x"):
        read_table(path, {"body": "x", "text": "x"})


@pytest.mark.parametrize("importer", IMPORTERS)
@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_column_that_is_not_there_is_named_once_with_what_is_there(tmp_path, importer, suffix):
    columns, run = IMPORTERS[importer]
    first, *others = columns
    path = tmp_path / f"t{suffix}"
    frame = pl.DataFrame({"mine": ["1"] * 3, **{name: ["1"] * 3 for name in others}})
    frame.write_csv(path) if suffix == ".csv" else frame.write_ndjson(path)
    first = {"id": "_id"}.get(first, first)
    with pytest.raises(
        EvalsetError, match=rf"has no column {first}\b.*; it has mine, .*--rename YOURS={first}"
    ) as caught:
        run(path, tmp_path / "out")
    assert caught.value.defects == ()
    assert not (tmp_path / "out").exists()
