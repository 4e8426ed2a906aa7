"""A folder as people bring it: families by text, questions without an answer, documents without text."""

import pytest

from tests.evalset.small_evalset import settings_in, write
from workbench.errors import EvalsetError
from workbench.evalset.check import check_evalset, check_exit_code
from workbench.evalset.evalset import load_evalset

N = 60
DOCUMENTS = [{"_id": f"d{i}", "text": f"note on subject {i}"} for i in range(N)]


def load(folder):
    return load_evalset(folder, settings=settings_in(folder))


def told(folder):
    """What the check says, without what it says of copied questions."""
    findings = check_evalset(folder, settings_in(folder))
    return [f.problem for f in findings if "repeats" not in f.problem]


def questions(n=N, **clusters):
    """Questions of which each text stands twice, in clusters of their own."""
    return [
        {
            "_id": f"q{i}",
            "text": f"Tell me of {i // 2}" + "?" * (i % 2),
            "metadata": {"cluster": clusters.get(f"q{i}", f"c{i}")},
        }
        for i in range(n)
    ]


def test_two_questions_of_one_text_are_drawn_into_one_split_and_are_one_family(tmp_path):
    write(tmp_path, documents=DOCUMENTS, queries=questions(), test=[f"q{i}\td{i}\t1" for i in range(N)])
    evalset = load(tmp_path)
    asked = {split: {q.query_id for q in evalset.split(split).queries} for split in ("dev", "test")}
    assert len(asked["dev"]) + len(asked["test"]) == N, "nothing is left out"
    assert asked["dev"]
    for i in range(0, N, 2):
        assert {f"q{i}", f"q{i + 1}"} <= asked["dev"] or {f"q{i}", f"q{i + 1}"} <= asked["test"]
    for split in asked:
        assert len(set(evalset.split(split).clusters.values())) == len(asked[split]) // 2
    assert not [said for said in told(tmp_path) if "has the text of" in said]
    assert check_exit_code(check_evalset(tmp_path, settings_in(tmp_path))) == 0
    assert any("questions of one text are one family" in note for note in evalset.notes)


def test_a_text_joins_the_clusters_on_both_sides_of_it(tmp_path):
    queries = questions(40, q0="left", q1="right", q2="left", q4="right")
    write(tmp_path, documents=DOCUMENTS, queries=queries, test=[f"q{i}\td{i}\t1" for i in range(40)])
    evalset = load(tmp_path)
    joined = {q.cluster for q in evalset.queries if q.query_id in ("q0", "q1", "q2", "q3", "q4", "q5")}
    assert joined == {"c3"}, "the family has the name of one of its clusters"


def test_a_given_split_keeps_its_families_and_leaves_the_twin_on_dev_out(tmp_path):
    queries = questions(8, q0="a", q2="a", q1="b", q4="b")
    write(
        tmp_path, documents=DOCUMENTS, queries=queries, dev=["q0\td0\t1", "q2\td2\t1"], test=["q1\td1\t1", "q4\td4\t1"]
    )
    evalset = load(tmp_path)
    assert {q.query_id: q.cluster for q in evalset.split("dev").queries} == {"q2": "a"}
    assert {q.query_id: q.cluster for q in evalset.split("test").queries} == {"q1": "b", "q4": "b"}


def known_answers(*more, without=()):
    return [*(f"q{i}\td{i}\t1" for i in range(N) if i not in without), *more]


QUERIES = [{"_id": f"q{i}", "text": f"what of {i} then"} for i in range(N)]


@pytest.mark.parametrize("grade", ["0"])
def test_one_row_that_is_not_relevant_makes_no_pool_of_known_answers(tmp_path, grade):
    write(tmp_path, documents=DOCUMENTS, queries=QUERIES, test=known_answers(f"q3\td4\t{grade}"))
    evalset = load(tmp_path)
    assert not any(evalset.split(split).pooled for split in ("dev", "test"))
    said = "have a document judged not relevant, which is no pool: the judgements are read as known answers"
    assert [said in note for note in evalset.notes].count(True) == 1
    assert [said in problem for problem in told(tmp_path)].count(True) == 1


def test_questions_that_mostly_have_a_document_judged_not_relevant_are_a_pool(tmp_path):
    refused = [f"q{i}\td{i + 1}\t0" for i in range(N - 1)]
    write(tmp_path, documents=DOCUMENTS, queries=QUERIES, test=known_answers(*refused))
    evalset = load(tmp_path)
    assert all(evalset.split(split).pooled for split in ("dev", "test"))
    assert not any("known answers" in note for note in evalset.notes)


def test_questions_without_an_answer_and_without_a_judgement_are_named_before_anything_runs(tmp_path):
    rows = known_answers("q7\td1\t0", "q23\td1\t0", without=(7, 23, 50))
    write(tmp_path, documents=DOCUMENTS, queries=QUERIES, test=rows)
    evalset = load(tmp_path)
    assert {"q7", "q23", "q50"}.isdisjoint(q for split in evalset.qrels.values() for q in split)
    notes = " ".join(evalset.notes)
    assert all(f"'{q}' has no relevant document (grade above 0)" in notes for q in ("q7", "q23"))
    assert "query 'q50' is judged in no split and never asked" in notes
    assert not evalset.split("test").pooled, "what is left out is no pool either"


def test_a_split_is_drawn_of_the_questions_that_can_be_asked(tmp_path):
    """With one family that has an answer for each split, whatever the others' hashes are."""
    rows = [f"q{i}\td{i}\t{int(i in (4, 9))}" for i in range(N)]
    write(tmp_path, documents=DOCUMENTS, queries=QUERIES, test=rows)
    evalset = load(tmp_path)
    assert sorted(len(evalset.qrels[split]) for split in ("dev", "test")) == [1, 1]


def test_documents_without_text_are_told_by_the_check_and_by_the_run_in_the_same_words(tmp_path):
    empty = [{"_id": "e1", "text": " "}, {"_id": "e2", "text": ""}]
    rows = known_answers("q3\te1\t1")
    write(tmp_path, documents=[*DOCUMENTS, *empty], queries=QUERIES, test=rows)
    evalset, said = load(tmp_path), told(tmp_path)
    assert any("'e1' has an empty text and no title" in problem and "'q3'" in problem for problem in said)
    assert any("1 document has an empty text and no title, and cannot be found; first 'e2'" in p for p in said)
    assert set(said) <= set(evalset.notes)
    assert any("q3" in split for split in evalset.qrels.values()), "it has another answer"


def test_a_question_that_only_documents_without_text_answer_is_left_out(tmp_path):
    rows = known_answers("q3\te1\t2", without=(3,))
    write(tmp_path, documents=[*DOCUMENTS, {"_id": "e1", "text": ""}], queries=QUERIES, test=rows)
    evalset = load(tmp_path)
    assert not any("q3" in split for split in evalset.qrels.values())
    assert any("'q3' has no relevant document with a text" in note for note in evalset.notes)
    assert any("it has no relevant document with a text" in problem for problem in told(tmp_path))


def test_an_evalset_of_outcomes_says_which_notebook_reads_it(tmp_path):
    (tmp_path / "outcomes.parquet").write_bytes(b"PAR1")
    with pytest.raises(
        EvalsetError, match=r"dev: 0, test: 0.*it holds outcomes.parquet, which `workbench run routing`"
    ):
        load(tmp_path).require_questions()
