"""Bad input from the file to the end of the chain: a clear error or it works, and nothing that was there is lost."""

import json
import threading
from pathlib import Path

import polars as pl
import pytest

from tests.reports.reading import Page
from tests.retrieval.tiny import change_query, judge, open_bench, write_evalset
from workbench.config import SystemClock
from workbench.errors import EvalsetError, RunError, StoreError
from workbench.evalset.imports.document_tables import import_tables
from workbench.evaluation.run_record import close_run
from workbench.records import Query
from workbench.reports.page import write_report
from workbench.retrieval.strategies import FullText
from workbench.runner import RunRecord

SCRIPT = "<script>alert('from a document')</script><img src=x onerror=alert(1)>"


@pytest.fixture
def root(tmp_path):
    write_evalset(tmp_path / "evalsets" / "tiny")
    return tmp_path


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def evalset_file(root: Path, name: str) -> Path:
    return root / "evalsets" / "tiny" / name


@pytest.mark.parametrize(
    ("name", "spoil", "says"),
    [
        ("corpus.jsonl", lambda data: data[: len(data) - 40], r"corpus\.jsonl:80: not JSON: .*; the line is cut short"),
        ("queries.jsonl", lambda data: data[: len(data) - 40], r"queries\.jsonl:72: not JSON: .*; the line is cut"),
        ("corpus.jsonl", lambda data: b"", r"corpus\.jsonl: is empty"),
        ("corpus.jsonl", lambda data: data.replace(b"common1", "gemütlich".encode("latin-1"), 1),
         r"corpus\.jsonl:\d+: not UTF-8: byte 0xfc at offset \d+ of the file; save it as UTF-8"),
        ("queries.jsonl", lambda data: data.decode().encode("utf-16"), r"queries\.jsonl:1: is UTF-16"),
        ("gates.toml", lambda data: data + b"margin =", r"gates\.toml:5: not TOML|gates\.toml: not TOML"),
    ],
    ids=["half a line", "half a question", "empty corpus", "latin-1", "utf-16", "half a gate"],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_refused_by_line_before_anything_is_made(root, name, spoil, says):
    path = evalset_file(root, name)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(EvalsetError, match=says):
        open_bench(root)
    assert not (root / "runs").exists()
    assert not (root / "cache" / "tables").exists()


@pytest.mark.parametrize(
    "spoil", [lambda data: data[:-20], lambda data: b"", lambda data: b"PAR1 no parquet PAR1", lambda data: data[4:]]
)
def test_a_corrupt_parquet_file_is_refused_by_name_and_nothing_is_written(tmp_path, spoil):
    pl.DataFrame({"_id": ["d1"], "text": ["join"]}).write_parquet(tmp_path / "corpus.parquet")
    pl.DataFrame({"_id": ["q1"], "text": ["how"], "relevant": ["d1"]}).write_parquet(tmp_path / "queries.parquet")
    spoiled = tmp_path / "corpus.parquet"
    spoiled.write_bytes(spoil(spoiled.read_bytes()))
    with pytest.raises(EvalsetError, match=r"corpus\.parquet"):
        import_tables(corpus=spoiled, queries=tmp_path / "queries.parquet", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("file", "error"), [("hits.parquet", EvalsetError), ("vectors.sqlite", StoreError)])
def test_a_corrupt_file_of_ones_own_is_named(root, file, error):
    """A hits table that is no Parquet, and a cache of vectors that is no database."""
    for path in (root / file, root / "cache" / file):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"not what the name says" * 100)
    with pytest.raises(error, match=file):
        open_bench(root, systems=["mine=hits.parquet@1"] if file.startswith("hits") else []).prepare()


def test_a_table_that_lost_its_files_is_a_clear_error_and_is_made_anew_once_it_is_gone(root):
    bench = open_bench(root)
    bench.prepare()
    (table,) = (root / "cache" / "tables").iterdir()
    for file in [*table.rglob("*.lance"), *table.rglob("*.manifest")]:
        file.write_bytes(b"")
    with pytest.raises(StoreError, match="cannot "):
        open_bench(root).prepare()
    for file in sorted(table.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    table.rmdir()
    assert open_bench(root).prepare()


def test_a_document_of_five_megabytes_goes_through_the_whole_chain(root):
    path = evalset_file(root, "corpus.jsonl")
    huge = " ".join(f"word{i % 5000}" for i in range(600_000)) + " needle"
    assert len(huge) > 5_000_000
    first, *rest = lines(path)
    row = json.loads(first) | {"text": huge}
    path.write_text("\n".join([json.dumps(row), *rest]) + "\n", encoding="utf-8")
    bench = open_bench(root, chunkers=["structure"], strategies=["full_text", "hybrid_rrf"], reference="")
    _, _, test, _ = judge(bench, bench.prepare())
    assert not any(answers.errors for answers in test.answers.values())
    found = bench.searcher.search(test.arms[0], Query("q", "needle", row["metadata"]["tenant_id"]), 5)
    assert [hit.doc_id for hit in found] == [row["_id"]]


def test_a_script_in_a_document_its_name_or_a_question_stays_text_in_the_report(root):
    """Hostile text goes in through the evalset and must come out harmless at the other end."""
    for name in ("corpus.jsonl", "queries.jsonl"):
        path = evalset_file(root, name)
        rows = [json.loads(line) for line in lines(path)]
        for row in rows:
            row["text"] += f" {SCRIPT}"
            row["metadata"]["style" if name == "queries.jsonl" else "document_type"] = f"{SCRIPT}{len(row['text']) % 2}"
            row["_id"] = row["_id"].replace("acme.t0", f"acme{SCRIPT}")
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for split in ("dev", "test"):
        path = evalset_file(root, f"qrels/{split}.tsv")
        path.write_text(path.read_text(encoding="utf-8").replace("acme.t0", f"acme{SCRIPT}"), encoding="utf-8")
    bench = open_bench(root)
    dev, _, test, decision = judge(bench, bench.prepare())
    bench.gate(decision, test, dev)
    folder = bench.folder
    close_run(RunRecord(folder, "running", "retrieval", "ci"), SystemClock(), status="done", gate="stale")
    notebook = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [_cell(bench.regressions(decision, test))]}
    (folder / "executed.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    page = Page(write_report(folder))
    assert "alert('from a document')" in page.text
    page.assert_harmless()


def _cell(table) -> dict[str, object]:
    """Executed cell that shows a table of questions and documents."""
    data = {"text/html": table.to_html(), "text/plain": table.to_text()}
    output = {"output_type": "execute_result", "execution_count": 1, "metadata": {}, "data": data}
    return {"cell_type": "code", "id": "a", "execution_count": 1, "metadata": {}, "source": "x", "outputs": [output]}


def test_a_runs_folder_that_cannot_be_written_is_a_clear_error_and_keeps_what_is_there(root):
    (root / "runs").write_text("precious", encoding="utf-8")
    with pytest.raises(RunError, match="set WORKBENCH_RUNS"):
        open_bench(root)
    assert (root / "runs").read_text(encoding="utf-8") == "precious"


def test_two_runs_at_once_share_a_cache_and_lose_nothing(root):
    """Both ingest the same tables at the same time; each has its own folder and the same decision."""
    decisions, errors = [], []

    def run() -> None:
        try:
            bench = open_bench(root)
            decisions.append((bench.folder, judge(bench, bench.prepare())[3]))
        except Exception as error:  # noqa: BLE001 - told below
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    (one, first), (other, second) = decisions
    assert one != other
    assert [c.estimate for c in first.claims] == [c.estimate for c in second.claims]
    bench = open_bench(root)
    bench.prepare()
    (state,) = {bench.searcher._stores[name].describe() for name in bench.searcher._stores}
    assert state.rows == 80


def test_a_question_of_nothing_but_signs_is_asked_like_any_other(root):
    for text in ("???", '"" AND ( OR', "\u200b", "🔥", "' OR 1=1 --", "a" * 20_000):
        change_query(evalset_file(root, ""), text)
        bench = open_bench(root)
        bench.prepare()
        query = bench.evalset.queries[-1]
        assert query.text == text
        for arm in bench.prepare():
            hits = bench.searcher.search(arm, query, 10)
            assert isinstance(arm.strategy, FullText) or len(hits) == 10
