import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.errors import EvalsetError
from workbench.retrieval.metrics import rank
from workbench.retrieval.trec import read_run

HITS = [("q1", "b", 1.0), ("q1", "a", 1.0 + 4e-7), ("q1", "c", 2.0), ("q1", "b", 0.5), ("q2", "a", -1.0)]
RANKED = [("q1", "c", 1), ("q1", "a", 2), ("q1", "b", 3), ("q2", "a", 1)]


def rows(frame):
    return frame.select("query_id", "doc_id", "rank").rows()


def test_a_trec_run_is_ranked_by_score_with_one_tie_rule(tmp_path):
    path = tmp_path / "mine.run"
    path.write_text("".join(f"{q} Q0 {d} 99 {s} mine\n" for q, d, s in HITS))
    run = read_run(path)
    assert rows(run) == RANKED
    assert run.columns == ["query_id", "doc_id", "rank", "score"]
    assert run["score"].to_list() == [2.0, 1.0 + 4e-7, 1.0, -1.0]


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
def test_a_table_of_hits_gives_the_same_run(tmp_path, suffix):
    frame = pl.DataFrame(HITS, schema=["query_id", "doc_id", "score"], orient="row")
    path = tmp_path / f"hits{suffix}"
    {".csv": frame.write_csv, ".parquet": frame.write_parquet, ".jsonl": frame.write_ndjson}[suffix](path)
    assert rows(read_run(path)) == RANKED


def test_ranks_alone_keep_their_order(tmp_path):
    (tmp_path / "hits.csv").write_text("qid,docno,rank\nq1,z,1\nq1,a,2\nq1,b,2\n")
    assert rows(read_run(tmp_path / "hits.csv")) == [("q1", "z", 1), ("q1", "a", 2), ("q1", "b", 3)]


@pytest.mark.parametrize(
    ("name", "text", "lines"),
    [
        ("x.run", "q1 Q0 d1 1 0.5 me\nq1 Q0 d2 2 nan me\n\nq1 d3 0.1\nq1 Q0 d4 4 high me\n", [2, 4, 5]),
        ("x.run", "", [0]),
        ("x.csv", "query_id,doc_id,score\nq1,d1,0.5\nq1,,0.5\nq1,d2,inf\nq1,d3,\n", [3, 4, 5]),
        ("x.jsonl", '{"query_id": "q1", "doc_id": "d1", "score": [1]}\n', [1]),
    ],
)
def test_every_bad_line_of_a_run_is_named(tmp_path, name, text, lines):
    (tmp_path / name).write_text(text)
    with pytest.raises(EvalsetError) as caught:
        read_run(tmp_path / name)
    assert [d.line for d in caught.value.defects] == lines


@given(
    hits=st.lists(
        st.tuples(st.sampled_from("qr"), st.sampled_from("abcdé"), st.sampled_from([0.0, -0.0, 1.0, 1.0000001, 2.5]))
    )
)
def test_the_order_of_the_file_never_matters(hits):
    def run(order):
        frame = rank(
            pl.DataFrame(order, schema={"query_id": pl.String, "doc_id": pl.String, "score": pl.Float64}, orient="row")
        )
        return rows(frame)

    best: dict[tuple[str, str], float] = {}
    for query_id, doc_id, score in hits:
        best[query_id, doc_id] = max(round(score, 6), best.get((query_id, doc_id), score))
    expected = sorted((q, -round(s, 6), d) for (q, d), s in best.items())
    assert run(hits) == run(hits[::-1])
    assert [(q, d) for q, d, _ in run(hits)] == [(q, d) for q, _, d in expected]
