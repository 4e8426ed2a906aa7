import json
import math
from decimal import Decimal

import ir_measures
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ir_measures import RR, nDCG

from workbench.errors import EvalsetError
from workbench.retrieval.metrics import measure_all, rank
from workbench.retrieval.trec import read_run, read_run_with_notes

HITS = [("q1", "b", 1.0), ("q1", "a", 1.0 + 4e-7), ("q1", "c", 2.0), ("q1", "b", 0.5), ("q2", "a", -1.0)]
RANKED = [("q1", "c", 1), ("q1", "a", 2), ("q1", "b", 3), ("q2", "a", 1)]
# Scores as rerankers give them: best first, with ids that stand the other way round.
CLOSE = {
    "probabilities near 1": [0.99999992, 0.99999981, 0.99999975, 0.99999969, 0.99999961],
    "probabilities near 0": [4.1e-07, 3.2e-07, 2.2e-07, 1.1e-07, 9e-08],
    "log probabilities": [-1e-9, -2e-9, -3e-9, -4e-9, -5e-9],
    "float32 near 1": [float(np.float32(1) - i * np.float32(2**-24)) for i in range(5)],
    "large": [1e9 + 5e-7 * i for i in range(5, 0, -1)],
}


def rows(frame):
    return frame.select("query_id", "doc_id", "rank").rows()


def test_a_trec_run_is_ranked_by_score_with_one_tie_rule(tmp_path):
    path = tmp_path / "mine.run"
    path.write_text("".join(f"{q} Q0 {d} 99 {s} mine\n" for q, d, s in HITS))
    run = read_run(path)
    assert rows(run) == RANKED
    assert run.columns == ["query_id", "doc_id", "rank", "score"]
    assert run["score"].to_list() == [2.0, 1.0 + 4e-7, 1.0, -1.0]


@pytest.mark.parametrize("scores", CLOSE.values(), ids=CLOSE)
def test_a_run_is_measured_in_the_order_of_its_scores_however_close_they_are(tmp_path, scores):
    path = tmp_path / "mine.tsv"
    path.write_text(
        "".join(f"q Q0 {d} {i} {s!r} ce\n" for i, (d, s) in enumerate(zip("zmkca", scores, strict=True), 1))
    )
    qrels = {"q": {"z": 1}}
    ours = measure_all(read_run(path), qrels, ["ndcg@10", "mrr@10"])
    hits = [ir_measures.ScoredDoc("q", d, s) for d, s in zip("zmkca", scores, strict=True)]
    theirs = ir_measures.calc_aggregate([nDCG @ 10, RR @ 10], [ir_measures.Qrel("q", "z", 1)], hits)
    assert [float(v[0]) for v in ours.values()] == [theirs[nDCG @ 10], theirs[RR @ 10]] == [1.0, 1.0]


def test_probabilities_that_single_precision_takes_for_one_keep_their_order(tmp_path):
    """pytrec-eval-terrier 0.5.11 does not: to it these are ties, which go by id."""
    scores = [1 / (1 + math.exp(-logit)) for logit in (20, 19.5, 19, 18.5, 18)]
    hits = [("q", d, s) for d, s in zip("abcde", scores, strict=True)]
    (tmp_path / "mine.run").write_text("".join(f"{q} Q0 {d} 1 {s!r} ce\n" for q, d, s in hits))
    assert measure_all(read_run(tmp_path / "mine.run"), {"q": {"a": 1}}, ["mrr@10"])["mrr@10"].tolist() == [1.0]
    theirs = ir_measures.calc_aggregate(
        [RR], [ir_measures.Qrel("q", "a", 1)], [ir_measures.ScoredDoc(*h) for h in hits]
    )
    assert theirs[RR] == 0.2


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
        ("x.csv", "query_id,doc_id,score,rank\nq1,d1,0.5,1\nq1,d2,,2\nq2,d1,,1\n", [3, 4]),
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
        best[query_id, doc_id] = max(score, best.get((query_id, doc_id), score))
    expected = sorted((q, -s, d) for (q, d), s in best.items())
    assert run(hits) == run(hits[::-1])
    assert [(q, d) for q, d, _ in run(hits)] == [(q, d) for q, _, d in expected]


def test_a_row_without_a_score_among_rows_with_one_says_what_to_do(tmp_path):
    (tmp_path / "x.csv").write_text("query_id,doc_id,score,rank\nq1,z,0.5,1\nq1,a,,2\n")
    with pytest.raises(EvalsetError, match="score is empty, other rows have one: give every row its score"):
        read_run(tmp_path / "x.csv")


def run_of(folder, text, name="mine.run"):
    (folder / name).write_text(text, encoding="utf-8")
    return read_run_with_notes(folder / name)


def test_lines_of_trec_may_be_comments_lack_a_name_or_have_a_long_one(tmp_path):
    text = "# made by us\n  # 2026\nq1 Q0 a 1 2.0 a name of several words\nq1 Q0 b 2 1.5\n\nq1\tQ0\tc\t3\t1e-3\tx\n"
    run, notes = run_of(tmp_path, text)
    assert rows(run) == [("q1", "a", 1), ("q1", "b", 2), ("q1", "c", 3)]
    assert notes == ()


@pytest.mark.parametrize("name", ["mine.run", "mine.tsv", "mine.csv", "mine.jsonl"])
def test_ranks_that_contradict_the_scores_are_told(tmp_path, name):
    """Distances, where lower is better: the scores decide, and that must be seen."""
    hits = [("q1", "a", 1, 0.1), ("q1", "b", 2, 0.9), ("q2", "a", 1, 5.0), ("q2", "b", 2, 5.0)]
    if name.endswith(".csv"):
        text = "query_id,doc_id,rank,score\n" + "".join(f"{q},{d},{r},{s}\n" for q, d, r, s in hits)
    elif name.endswith(".jsonl"):
        text = "".join(json.dumps({"query_id": q, "doc_id": d, "rank": r, "score": s}) + "\n" for q, d, r, s in hits)
    else:
        text = "".join(f"{q} Q0 {d} {r} {s} x\n" for q, d, r, s in hits)
    run, (note,) = run_of(tmp_path, text, name)
    assert rows(run)[0] == ("q1", "b", 1)
    assert f"{name}: of 1 of 2 questions the ranks contradict the scores, first 'q1'" in note


@pytest.mark.parametrize(("scores", "told"), [((2, 0, 0), True), ((2, 0, -1), False), ((2, 1, 1e-9), False)])
def test_hits_that_match_nothing_are_told(tmp_path, scores, told):
    """bm25s 0.3.16 fills up to k with documents that share no word with the question, at score 0."""
    hits = zip(("q1", "q1", "q2"), "aba", scores, strict=True)
    run, notes = run_of(tmp_path, "".join(f"{q} Q0 {d} 1 {s} x\n" for q, d, s in hits), "mine.run")
    assert len(run) == 3
    assert [note.partition(";")[0] for note in notes] == [
        "mine.run: 2 hits have score 0, those of 2 questions, first 'q1'"
    ] * told


def test_a_tsv_with_a_header_is_a_table(tmp_path):
    run, _ = run_of(tmp_path, "query_id\tdoc_id\tscore\nq1\td 1\t0.5\n", "hits.tsv")
    assert rows(run) == [("q1", "d 1", 1)]


@pytest.mark.parametrize(
    ("score", "says"),
    [("0,5", "score '0,5' is no number; write 0.5"), ("abc", "score 'abc' is no number"), ("nan", "score is empty")],
)
@pytest.mark.parametrize("name", ["x.run", "x.csv"])
def test_a_score_that_is_none_is_told_with_what_to_write(tmp_path, score, says, name):
    text = f"q Q0 a 1 0.5 x\nq Q0 b 2 {score} x\n"
    if name == "x.csv":
        text = f'qid,docno,score\nq,a,0.5\nq,b,"{score}"\n'
    with pytest.raises(EvalsetError) as caught:
        run_of(tmp_path, text, name)
    assert [d.line for d in caught.value.defects] == [2 if name == "x.run" else 3]
    assert says in str(caught.value)


def test_ids_that_are_numbers_are_the_ids_of_the_evalset(tmp_path):
    frame = pl.DataFrame({"query_id": [1.0], "doc_id": [Decimal("7")], "score": [0.5]})
    frame.write_parquet(tmp_path / "x.parquet")
    assert rows(read_run(tmp_path / "x.parquet")) == [("1", "7", 1)]


@pytest.mark.parametrize("text", ["# nothing\n", "\n", ""])
def test_a_run_without_a_hit_is_refused(tmp_path, text):
    with pytest.raises(EvalsetError, match=r"holds no hit|is empty"):
        run_of(tmp_path, text)


def test_a_grade_below_0_has_no_gain_and_is_judged():
    run = rank(pl.DataFrame({"query_id": ["q"] * 2, "doc_id": ["bad", "good"], "score": [2.0, 1.0]}))
    found = measure_all(run, {"q": {"bad": -1, "good": 2}}, ["ndcg@10", "judged@10", "recall@10", "mrr@10"])
    hits = [ir_measures.ScoredDoc("q", "bad", 2.0), ir_measures.ScoredDoc("q", "good", 1.0)]
    qrels = [ir_measures.Qrel("q", "bad", -1), ir_measures.Qrel("q", "good", 2)]
    theirs = ir_measures.calc_aggregate([nDCG @ 10, RR @ 10], qrels, hits)
    values = {name: float(v[0]) for name, v in found.items()}
    assert values == {
        "ndcg@10": pytest.approx(theirs[nDCG @ 10], abs=1e-9), "mrr@10": theirs[RR @ 10],
        "judged@10": 1.0, "recall@10": 1.0,
    }  # fmt: skip
