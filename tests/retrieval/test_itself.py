"""A question that is itself a document finds everything but itself: in every arm, run file, fit and list to judge."""

import json

import pytest

from tests.evalset.small_evalset import settings_in, write
from tests.retrieval.tiny import judge, open_bench
from workbench.evalset.check import check_evalset
from workbench.evalset.evalset import load_evalset
from workbench.evaluation.run_summary import Summary
from workbench.records import Query
from workbench.retrieval.ask_arms import candidate_name
from workbench.retrieval.notebook import to_judge

TOPICS = 48
ARMS = ["full_text", "vector", "hybrid_rrf", "hybrid_weighted", "reranked"]


def claims() -> tuple[list[dict], list[dict], list[str]]:
    """Each claim is a document and a question, its answer shares half of its words; the last question is only "1"."""
    documents, queries, qrels = [], [], []
    for i in range(TOPICS):
        text = f"subject{i} should be kept because value{i} matters"
        documents += [
            {"_id": f"{i}-pro", "text": text},
            {"_id": f"{i}-con", "text": f"subject{i} and value{i} are not what they seem, reason{i}"},
        ]
        queries.append({"_id": f"{i}-pro", "text": text.upper() if i % 2 else text})
        qrels.append(f"{i}-pro\t{i}-con\t1")
    documents.append({"_id": "1", "text": "a note on number one alone"})
    queries.append({"_id": "1", "text": "number one note"})
    return documents, queries, [*qrels, "1\t1\t1"]


def project_of(root):
    documents, queries, qrels = claims()
    write(root / "evalsets" / "tiny", documents=documents, queries=queries, test=qrels)
    lines = [
        f"{i}-pro Q0 {i}-{side} {place} {-place} mine"
        for i in range(TOPICS)
        for place, side in ((1, "pro"), (2, "con"))
    ]
    (root / "mine.trec").write_text("\n".join([*lines, "1 Q0 1 1 9 mine"]) + "\n", encoding="utf-8")
    (root / "its.py").write_text(
        "def find(query):\n    return [query.query_id, query.query_id.replace('pro', 'con')]\n"
    )
    return open_bench(root, strategies=ARMS, reference="", systems=["mine=mine.trec@1", "called=its:find@1"])


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return project_of(tmp_path_factory.mktemp("itself"))


@pytest.fixture(scope="module")
def scored(bench):
    return [bench.score(bench.prepare(), split) for split in ("dev", "test")]


def test_no_arm_and_no_system_returns_the_question_itself(scored):
    asked = {name for part in scored for name in part.answers}
    assert asked >= {"mine", "called", *(f"whole · {name}" for name in ARMS)}
    for part in scored:
        for answers in part.answers.values():
            found = set(answers.run.select("query_id", "doc_id").iter_rows())
            assert not {(q, d) for q, d in found if q == d and q != "1"}
            assert {q for q, d in found if q != "1" and d == q.replace("pro", "con")} == {
                q.query_id for q in part.part.queries if q.query_id != "1"
            }


def test_a_run_file_that_ranks_the_question_first_has_its_answer_first(scored):
    for part in scored:
        for name in ("mine", "called"):
            values = part.of("ndcg@10").filter(part.of("ndcg@10")["arm"] == name)["value"]
            assert values.to_list() == [1.0] * len(values)


def test_a_document_that_merely_shares_a_number_is_a_hit(scored):
    (part,) = [part for part in scored if "1" in part.part.qrels]
    first = {
        name: answers.run.filter(answers.run["query_id"] == "1")["doc_id"].to_list()
        for name, answers in part.answers.items()
    }
    assert all(found[0] == "1" for found in first.values()), first


def test_hits_are_as_many_as_were_asked_for(bench):
    arm = next(a for a in bench.prepare() if candidate_name(a) == "whole · vector")
    hits = bench.searcher.search(arm, Query("3-pro", claims()[1][3]["text"]), 5)
    assert len(hits) == 5
    assert "3-pro" not in {hit.doc_id for hit in hits}


def test_nobody_is_asked_to_judge_the_question(scored):
    for part in scored:
        pairs = to_judge(part)
        assert not [(q, d) for q, d, _ in pairs.iter_rows() if q == d]


def test_the_rule_is_told_by_the_check_and_in_the_report(bench, tmp_path):
    findings = check_evalset("tiny", bench.settings)
    (told,) = [f for f in findings if "itself a document" in f.problem]
    assert (told.severity, told.line) == ("warning", 1)
    assert "47 others" in told.problem
    judge(bench, bench.prepare())
    warnings = Summary.load(bench.folder / "summary.json").warnings
    assert any("no question is a hit of its own" in said for said in warnings)
    assert "no question is a hit of its own" in bench.contents().caption


def test_a_question_that_is_judged_by_itself_alone_is_left_out_by_name(tmp_path):
    documents, queries, qrels = claims()
    write(
        tmp_path,
        documents=documents,
        queries=queries,
        test=[*(r for r in qrels if not r.startswith("5-pro")), "5-pro\t5-pro\t1"],
    )
    evalset = load_evalset(tmp_path, settings=settings_in(tmp_path))
    assert "5-pro" not in {q for split in evalset.qrels.values() for q in split}
    assert any("'5-pro' has no relevant document in" in note and "but itself" in note for note in evalset.notes)


def test_its_own_judgement_does_not_raise_what_could_be_reached(tmp_path):
    documents, queries, qrels = claims()
    write(tmp_path, documents=documents, queries=queries, test=[*qrels, "5-pro\t5-pro\t1"])
    evalset = load_evalset(tmp_path, settings=settings_in(tmp_path))
    assert {q: g for split in evalset.qrels.values() for q, g in split.items()}["5-pro"] == {"5-con": 1}
    assert json.loads((tmp_path / "queries.jsonl").read_text().splitlines()[5])["_id"] == "5-pro"
