"""A team's own tables become a stream and pairs, whatever file they come in, or nothing is written."""

from datetime import UTC, datetime, timedelta, timezone

import polars as pl
import pytest
from typer.testing import CliRunner

from workbench.cli import app
from workbench.errors import ConfigError, EvalsetError
from workbench.evalset.imports.pairs_and_streams import import_pairs, import_stream
from workbench.evalset.traffic import load_traffic_pairs, load_traffic_stream

LOG = pl.DataFrame(
    {"text": ["how, then?", "why"], "intent": ["a", "b"], "tenant": ["x", "y"], "feature": ["f", "g"], "age": [1, 2]}
)
PAIRS = pl.DataFrame(
    {
        "question1": ["a", "c"],
        "question2": ["b", "d"],
        "is_duplicate": [1, 0],
        "kind": ["k", "k"],
        "batch": [None, "second"],
    }
)


def write(frame, path):
    {".csv": frame.write_csv, ".parquet": frame.write_parquet, ".jsonl": frame.write_ndjson}[path.suffix](path)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
def test_a_log_becomes_a_stream_in_its_order(tmp_path, suffix):
    import_stream(write(LOG, tmp_path / f"log{suffix}"), tmp_path / "mine")
    stream = load_traffic_stream(tmp_path / "mine")
    assert (stream.queries, stream.tenants) == (("how, then?", "why"), ("x", "y"))
    assert (stream.features, stream.synthetic) == (("f", "g"), False)
    assert stream.clusters == stream.answer_keys == ("a", "b")
    card = (tmp_path / "mine" / "card.md").read_text()
    assert "synthetic: false" in card
    assert "left out: age" in card


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
def test_a_table_of_duplicates_becomes_pairs(tmp_path, suffix):
    import_pairs(write(PAIRS, tmp_path / f"pairs{suffix}"), tmp_path / "mine")
    pairs, sha256 = load_traffic_pairs(tmp_path / "mine")
    assert [(p.query_a, p.same_answer, p.kind, p.split, p.batch) for p in pairs] == [
        ("a", True, "k", "test", ""), ("c", False, "k", "test", "second"),
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


START = datetime(2026, 1, 6, 12, 0, 0, tzinfo=UTC)


def log(times, order, suffix, folder):
    """A log of four requests at these times, in this order."""
    texts = ["first", "second", "third", "fourth"]
    rows = [{"text": texts[i], "intent": texts[i], "timestamp": times[i]} for i in order]
    path = folder / f"log{suffix}"
    write(pl.DataFrame(rows), path)
    return path


SECONDS = [START + timedelta(seconds=i) for i in range(4)]
ZONES = [at.astimezone(timezone(timedelta(hours=3 * i))).isoformat() for i, at in enumerate(SECONDS)]
EPOCHS = {unit: [int(at.timestamp() * size) for at in SECONDS] for unit, size in (("s", 1), ("ms", 1000))}


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]])
@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
@pytest.mark.parametrize(
    "times", [SECONDS, [at.isoformat() for at in SECONDS], ZONES, EPOCHS["s"], EPOCHS["ms"], [0.5, 2, 9.25, 10]]
)
def test_requests_stand_in_the_order_of_their_times_in_any_zone(tmp_path, order, suffix, times):
    said = []
    import_stream(log(times, order, suffix, tmp_path), tmp_path / "mine", tell=said.append)
    assert load_traffic_stream(tmp_path / "mine").queries == ("first", "second", "third", "fourth")
    how = {0: "in this order already", 3: "newest first", 2: "rows stood elsewhere"}[order[0]]
    assert how in said[0]
    assert said[0] in (tmp_path / "mine" / "card.md").read_text()


def test_requests_of_one_second_keep_their_order_also_when_the_newest_stands_first(tmp_path):
    times = [START, START, START + timedelta(seconds=1), START + timedelta(seconds=1)]
    for name, order in (("old", [0, 1, 2, 3]), ("new", [3, 2, 1, 0])):
        import_stream(log(times, order, ".csv", tmp_path), tmp_path / name)
    stream = (tmp_path / "old" / "stream.parquet").read_bytes()
    assert stream == (tmp_path / "new" / "stream.parquet").read_bytes()


def test_a_stream_without_times_says_so_and_keeps_the_order_of_its_rows(tmp_path):
    said = []
    import_stream(write(LOG, tmp_path / "log.csv"), tmp_path / "mine", tell=said.append)
    assert said[0] == "no row has a time (at): the order of the rows is taken for that of arrival"
    assert said[1].startswith("columns: query = text, answer_key = intent"), "the guess is told"
    assert said[2] == "of log.csv are left out: age"


@pytest.mark.parametrize("odd", ["yesterday", None, "06.01.2026", "2026-01-06T12:00:00"])
def test_a_time_that_is_none_is_named_and_can_be_left_out(tmp_path, odd):
    path = log([*ZONES[:2], odd, ZONES[3]], [0, 1, 2, 3], ".csv", tmp_path)
    with pytest.raises(EvalsetError, match="--rename timestamp=unused") as caught:
        import_stream(path, tmp_path / "mine")
    assert [d.line for d in caught.value.defects] == [4]
    assert not (tmp_path / "mine").exists()
    import_stream(path, tmp_path / "mine", rename={"timestamp": "unused"})


def test_a_position_decides_and_times_that_contradict_it_are_told(tmp_path):
    frame = pl.DataFrame({"query": ["b", "a"], "answer_key": ["x", "y"], "pos": [1, 0], "at": [ZONES[0], ZONES[1]]})
    said = []
    import_stream(write(frame, tmp_path / "log.csv"), tmp_path / "mine", tell=said.append)
    assert load_traffic_stream(tmp_path / "mine").queries == ("a", "b")
    assert said[0] == "the order is that of the column pos; the times (at) contradict it"
    assert said[1] == "columns: query = query, answer_key = answer_key, pos = pos, at = at"


def test_a_stream_of_ones_own_without_positions_is_ordered_by_time(tmp_path):
    frame = pl.DataFrame({"query": ["b", "a"], "answer_key": ["x", "y"], "at": [SECONDS[1], SECONDS[0]]})
    frame.write_parquet(tmp_path / "stream.parquet")
    assert load_traffic_stream(tmp_path).queries == ("a", "b")


def test_columns_of_streams_and_pairs_are_renamed(tmp_path):
    renamed = LOG.rename({"text": "utterance", "intent": "goal"})
    names = {"utterance": "query", "goal": "answer_key"}
    import_stream(write(renamed, tmp_path / "log.csv"), tmp_path / "a", rename=names)
    assert load_traffic_stream(tmp_path / "a").queries == ("how, then?", "why")
    renamed = PAIRS.rename({"question1": "left", "is_duplicate": "same"})
    import_pairs(write(renamed, tmp_path / "p.csv"), tmp_path / "a", rename={"left": "query_a", "same": "same_answer"})
    assert [p.same_answer for p in load_traffic_pairs(tmp_path / "a")[0]] == [True, False]
    with pytest.raises(ConfigError, match="no column wrong to rename"):
        import_pairs(tmp_path / "p.csv", tmp_path / "b", rename={"wrong": "query_a"})
    with pytest.raises(ConfigError, match=r"no column query_a to rename; .*: yours comes first"):
        import_pairs(tmp_path / "p.csv", tmp_path / "b", rename={"query_a": "left"})


@pytest.mark.parametrize(
    ("value", "says"),
    [("yes", "found 'yes'; write 1"), ("different", "write 0"), ("2", "must be 0 or 1, found '2'"), ("", "found None")],
)
def test_a_label_that_is_no_0_or_1_is_told_with_what_to_write(tmp_path, value, says):
    path = tmp_path / "p.csv"
    path.write_text(f'query_a,query_b,same_answer\n"two\nlines",b,1\nc,d,{value}\n')
    with pytest.raises(EvalsetError) as caught:
        import_pairs(path, tmp_path / "mine")
    assert [d.line for d in caught.value.defects] == [4]
    assert says in str(caught.value)


def test_answers_and_tenants_that_are_numbers_are_the_same_in_every_format(tmp_path):
    frame = pl.DataFrame({"query": ["a", "b"], "answer_key": [7.0, 8.0], "tenant": [1, 2]})
    for suffix in (".parquet", ".jsonl"):
        import_stream(write(frame, tmp_path / f"log{suffix}"), tmp_path / suffix[1:])
        stream = load_traffic_stream(tmp_path / suffix[1:])
        assert (stream.answer_keys, stream.tenants) == (("7", "8"), ("1", "2"))
