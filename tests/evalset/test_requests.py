"""A team's own tables become a stream and pairs, whatever file they come in, or nothing is written."""

import polars as pl
import pytest
from typer.testing import CliRunner

from workbench.cli import app
from workbench.errors import EvalsetError
from workbench.evalset.imports.requests import import_pairs, import_stream
from workbench.evalset.traffic import load_pairs, load_stream

LOG = pl.DataFrame(
    {"text": ["how, then?", "why"], "intent": ["a", "b"], "tenant": ["x", "y"], "feature": ["f", "g"], "age": [1, 2]}
)
PAIRS = pl.DataFrame({"question1": ["a", "c"], "question2": ["b", "d"], "is_duplicate": [1, 0], "kind": ["k", "k"]})


def write(frame, path):
    {".csv": frame.write_csv, ".parquet": frame.write_parquet, ".jsonl": frame.write_ndjson}[path.suffix](path)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
def test_a_log_becomes_a_stream_in_its_order(tmp_path, suffix):
    import_stream(write(LOG, tmp_path / f"log{suffix}"), tmp_path / "mine")
    stream = load_stream(tmp_path / "mine")
    assert (stream.queries, stream.tenants) == (("how, then?", "why"), ("x", "y"))
    assert (stream.features, stream.synthetic) == (("f", "g"), False)
    assert stream.clusters == stream.answer_keys == ("a", "b")
    card = (tmp_path / "mine" / "card.md").read_text()
    assert "synthetic: false" in card
    assert "left out: age" in card


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
def test_a_table_of_duplicates_becomes_pairs(tmp_path, suffix):
    import_pairs(write(PAIRS, tmp_path / f"pairs{suffix}"), tmp_path / "mine")
    pairs, sha256 = load_pairs(tmp_path / "mine")
    assert [(p.query_a, p.same_answer, p.kind, p.split) for p in pairs] == [
        ("a", True, "k", "test"), ("c", False, "k", "test"),
    ]  # fmt: skip
    assert len(sha256) == 64


def test_an_import_adds_to_an_evalset_but_never_replaces_labels(tmp_path):
    log, pairs = write(LOG, tmp_path / "log.csv"), write(PAIRS, tmp_path / "pairs.csv")
    import_stream(log, tmp_path / "mine")
    (tmp_path / "mine" / "card.md").write_text("written by a person")
    import_pairs(pairs, tmp_path / "mine")
    assert (tmp_path / "mine" / "card.md").read_text() == "written by a person"
    with pytest.raises(EvalsetError, match="exists already"):
        import_pairs(pairs, tmp_path / "mine")


def test_a_wrong_line_is_named_and_nothing_is_written(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("query,answer_key\nfine,x\n,y\nalso fine,\n")
    with pytest.raises(EvalsetError) as caught:
        import_stream(path, tmp_path / "mine")
    assert [d.line for d in caught.value.defects] == [3, 4]
    assert not (tmp_path / "mine").exists()


def test_the_command_line_imports_both(tmp_path, monkeypatch):
    (tmp_path / "evalsets").mkdir()
    monkeypatch.setenv("WORKBENCH_ROOT", str(tmp_path))
    for kind, frame in (("stream", LOG), ("pairs", PAIRS)):
        done = CliRunner().invoke(app, ["import", kind, str(write(frame, tmp_path / f"{kind}.csv")), "--name", "mine"])
        assert done.exit_code == 0, done.output
    assert {p.name for p in (tmp_path / "evalsets" / "mine").iterdir()} == {"stream.parquet", "pairs.jsonl", "card.md"}
