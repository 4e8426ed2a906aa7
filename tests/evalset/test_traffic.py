"""Streams and pairs are read whole, or refused with every line that is wrong."""

import hashlib
import json
from pathlib import Path

import polars as pl
import pytest

from workbench.errors import EvalsetError
from workbench.evalset.traffic import load_pairs, load_stream, pairs_of, stream_of


def test_a_stream_is_read_in_the_order_of_its_positions(tmp_path):
    frame = pl.DataFrame({"pos": [2, 0, 1], "query": ["c", "a", "b"], "answer_key": ["x", "x", "y"]})
    frame.write_parquet(tmp_path / "stream.parquet")
    stream = load_stream(tmp_path)
    assert stream.queries == ("a", "b", "c")
    assert stream.answers.tolist() == [0, 1, 0]
    assert (stream.tenants, stream.clusters) == (("default",) * 3, ("x", "y", "x"))
    assert len(stream.sha256) == 64


def test_pairs_alone_do_not_say_whether_to_cache(tmp_path):
    (tmp_path / "pairs.jsonl").write_text('{"query_a": "a", "query_b": "b", "same_answer": 1}\n')
    assert load_pairs(tmp_path)[0][0].same_answer
    with pytest.raises(EvalsetError, match=r"workbench import stream"):
        load_stream(tmp_path)


@pytest.mark.parametrize(
    ("batch", "split", "expected"),
    [
        (None, "spent", "fe727c67359d2e8e90d67b3cf0ee1adf94597397c24ade9e68c57d267f9bbcd8"),
        ("second", "spent", "fd45b01e536c4f9a7576c6a01aa61305c89e6f90e98c6802bbf47f07ad9cf1c3"),
        ("fifth", "dev", "c7b0b4a7abd15be9507c0d7e84f59eac3f411af45b8fb1c2e28aa8d1011122a6"),
        ("sixth", "test", "0d15ac7390aed7692af01c3e22c45da70a9fe755d1b0429e81de29bbc0f849ea"),
    ],
)
def test_each_batch_of_docs_qa_is_the_one_that_was_fixed_as_test_before_it_was_judged(batch, split, expected):
    folder = Path(__file__).parents[2] / "evalsets" / "docs_qa"
    lines = (folder / "pairs.jsonl").read_bytes().splitlines(keepends=True)
    mine = [line for line in lines if json.loads(line).get("batch") == batch and json.loads(line)["split"] == split]
    sha256 = hashlib.sha256(b"".join(mine).replace(f'"{split}"'.encode(), b'"test"')).hexdigest()
    assert sha256 == expected
    assert sha256 in (folder / "card.md").read_text(encoding="utf-8")


def test_the_test_pairs_of_docs_qa_are_of_one_batch_and_of_families_of_their_own():
    rows = pl.read_ndjson(Path(__file__).parents[2] / "evalsets/docs_qa/pairs.jsonl", infer_schema_length=None)
    test = rows.filter(split="test")
    assert set(test["batch"]) == {"sixth"}
    assert not set(test["cluster"]) & set(rows.filter(pl.col("split") != "test")["cluster"])


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        ("third", "13586685d67b4492a307b9ff6d6d688ed64faf803b1e1579dc9a75439346bb0f"),
        ("fourth", "5906699141c8aa4777f095c2b808593b357dae141a2254aa4c3699f25dd6c1fc"),
    ],
)
def test_a_later_batch_of_docs_qa_is_the_one_that_was_fixed_before_it_was_judged(batch, expected):
    folder = Path(__file__).parents[2] / "evalsets" / "docs_qa"
    path = folder / f"pairs.{batch}.jsonl"
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert sha256 == expected
    assert sha256 in (folder / "card.md").read_text(encoding="utf-8")
    old, new = (pl.read_ndjson(folder / name, infer_schema_length=None) for name in ("pairs.jsonl", path.name))
    assert (set(new["split"]), set(new["batch"])) == ({"test"}, {batch})
    assert not set(new["id"]) & set(old["id"])
    assert not set(new["cluster"]) & set(old.filter(split="dev")["cluster"])


def test_a_file_that_is_no_parquet_is_refused(tmp_path):
    (tmp_path / "stream.parquet").write_bytes(b"query\nx\n")
    with pytest.raises(EvalsetError, match="Parquet"):
        load_stream(tmp_path)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"query": " ", "answer_key": "x"}, '"query" must be a text'),
        ({"query": "a"}, '"answer_key" must name'),
        ({"query": "a", "answer_key": "x", "pos": -1}, '"pos" must be a whole number'),
        ({"query": "a", "answer_key": "x", "pos": 0}, "position 0 stands on line 1 already"),
    ],
)
def test_each_defect_of_a_stream_has_its_line(row, says):
    good = {"query": "q", "answer_key": "k", "pos": 0}
    _, defects, _ = stream_of("f", [(1, good), (7, row)])
    assert [(d.line, says in d.problem) for d in defects] == [(7, True)]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"query_b": "b", "same_answer": 1}, "must be texts"),
        ({"query_a": "a", "query_b": "b", "same_answer": "maybe"}, '"same_answer" must be 0 or 1'),
        ({"query_a": "a", "query_b": "b"}, '"same_answer" must be 0 or 1'),
        ({"query_a": "a", "query_b": "b", "same_answer": 0, "split": "train"}, '"split" must be dev, test or spent'),
        ({"id": "p", "query_a": "a", "query_b": "b", "same_answer": 0}, "pair 'p' stands on line 1 already"),
    ],
)
def test_each_defect_of_a_pair_has_its_line(row, says):
    good = {"id": "p", "query_a": "x", "query_b": "y", "same_answer": "1"}
    _, defects = pairs_of("f", [(1, good), (3, row)])
    assert [(d.line, says in d.problem) for d in defects] == [(3, True)]
