import time

import polars as pl
import pytest

from workbench.config import SystemClock
from workbench.errors import ProviderError
from workbench.evaluation.compare import SCORES_SCHEMA
from workbench.evaluation.decision import ArmFacts, make_claims
from workbench.records import Hit, Query, Rule
from workbench.retrieval.ask import ask, score
from workbench.retrieval.metrics import RUN_SCHEMA, rank
from workbench.retrieval.reuse import FoundBefore, NotSearched
from workbench.retrieval.tables import SHOWN_METRICS, score_table
from workbench.retrieval.tenant import ChunkHit

QUERIES = [
    Query("q1", "one", "a", cluster="c", style="vague"),
    Query("q2", "two", "b", cluster="c", feature="find"),
    Query("q3", "three", "b"),
]
QRELS = {"q1": {"d1": 1}, "q2": {"d2": 2, "d1": 0}, "q3": {"d3": 1}}


def search(query):
    if query.query_id == "q3":
        raise ProviderError("no answer")
    return [Hit("d2", 0.1), Hit("d1", 0.9), Hit("d2", 5.0)]


def test_the_order_of_the_arm_counts_and_a_repeated_document_keeps_its_first_place():
    """Scores of different arms do not compare, so that an arm's own order is all there is to go by."""
    run = ask("arm", search, QUERIES[:1]).run
    assert run.select("doc_id", "rank").rows() == [("d2", 1), ("d1", 2)]
    assert dict(run.schema) == RUN_SCHEMA


def test_an_answered_run_is_already_in_the_order_of_the_tie_rule():
    run = ask("arm", lambda query: [Hit(f"d{i % 7}{i}", 1.0) for i in range(300)], QUERIES[:1]).run
    again = rank(run.drop("rank")).select("doc_id", "rank")
    assert again.equals(run.select("doc_id", "rank"))


def test_a_failed_question_is_kept_with_its_error_and_the_next_is_asked():
    answers = ask("arm", search, [QUERIES[2], *QUERIES[:2]])
    assert answers.errors == {"q3": "ProviderError: no answer"}
    assert set(answers.latency_ms) == {"q1", "q2"}
    assert answers.latency_p95_ms > 0


def test_a_search_that_arms_share_is_made_once_and_its_time_is_part_of_the_latency_of_each():
    found, made = FoundBefore(), []

    def slow():
        made.append(time.sleep(0.03))
        return [ChunkHit("c", "d1", 0, 0.5)]

    def shared(query):
        return [Hit(hit.doc_id, hit.score) for hit in found.once(query.query_id, slow)]

    with found.shared():
        one, other = (ask(name, shared, QUERIES[:2], found=found) for name in ("one", "other"))
    assert len(made) == 2
    assert one.run.equals(other.run)
    assert min(*one.latency_ms.values(), *other.latency_ms.values()) > 29
    ask("third", shared, QUERIES[:2], found=found)
    assert len(made) == 4, "nothing is kept after the block"


def test_what_was_found_ahead_is_not_searched_for_again_until_it_was_asked_for_or_is_forgotten():
    found, made = FoundBefore(), []
    hits = [ChunkHit("c1", "d1", 0, 0.1 + 0.2), ChunkHit("c2", "d1", 70_000, -1e-300)]

    def search():
        made.append(time.sleep(0.01))
        return list(hits)

    def searches(key):
        before = len(made)
        assert found.once(key, search) == hits
        return len(made) - before

    with found.ahead():
        assert [searches(key) for key in ("one", "other")] == [1, 1]
    assert searches("one") == 1, "what serves users is searched for"
    with found.shared():
        assert searches("one") == 0
        assert found.saved_ms > 9
        with found.without_searching():
            assert searches("one") == 0
            with pytest.raises(NotSearched):
                found.once("third", search)
        assert searches("third") == 1
    with found.shared():
        assert [searches(key) for key in ("one", "other")] == [1, 0]
    with found.ahead():
        searches("fourth")
    found.forget()
    with found.shared():
        assert searches("fourth") == 1


def test_a_fault_of_our_own_ends_the_run():
    def broken(query):
        raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        ask("arm", broken, QUERIES)


def test_progress_reaches_the_end_also_where_the_last_question_fails():
    told = []
    ask("arm", search, QUERIES, on_progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_time_is_measured_with_every_question():
    clock = SystemClock()

    def slow(query):
        clock.sleep(0.02)
        return []

    answers = ask("arm", slow, QUERIES)
    assert all(20 <= ms < 20_000 for ms in answers.latency_ms.values())
    assert answers.run.height == 0


def test_scores_have_a_row_for_each_item_and_metric_and_keep_failures():
    scores = score(ask("arm", search, QUERIES), QUERIES, QRELS, ["ndcg@10", "recall@1"], cost_usd=0.001)
    assert scores.columns == [*SCORES_SCHEMA, "slice_tenant_id", "slice_feature", "slice_style"]
    assert scores.height == 6
    failed = scores.filter(pl.col("item_id") == "q3")
    assert failed["value"].null_count() == 2
    assert set(failed["error"]) == {"ProviderError: no answer"}
    assert failed["latency_ms"].null_count() == 2
    right = scores.filter(item_id="q2", metric="ndcg@10").row(0, named=True)
    assert (right["value"], right["error"], right["cost_usd"]) == (1.0, None, 0.001)
    assert (right["slice_feature"], right["tenant_id"]) == ("find", "b")


def test_a_query_without_a_family_is_its_own():
    scores = score(ask("arm", search, QUERIES), QUERIES, QRELS, ["mrr@10"])
    assert dict(scores.select("item_id", "cluster").rows()) == {"q1": "c", "q2": "c", "q3": "q3"}


def test_values_stand_beside_their_own_question_in_any_order():
    answers = ask("arm", search, QUERIES[:2])
    one = score(answers, QUERIES[:2], QRELS, ["mrr@10"])
    other = score(answers, QUERIES[1::-1], dict(reversed(QRELS.items())), ["mrr@10"])
    assert dict(one.select("item_id", "value").rows()) == dict(other.select("item_id", "value").rows())


def test_nothing_found_for_any_question_is_all_zero():
    scores = score(ask("arm", lambda query: [], QUERIES), QUERIES, QRELS, ["ndcg@10", "map@10"])
    assert scores["value"].to_list() == [0.0] * 6


def test_means_that_are_shown_are_those_of_the_decision_a_failed_question_counts_0():
    facts = [ArmFacts(name, {}, 1.0, None, i) for i, name in enumerate(("sound", "failing", "dead"))]

    def dead(query):
        raise ProviderError("no answer")

    parts = {"sound": lambda query: [Hit(max(QRELS[query.query_id], key=QRELS[query.query_id].get), 1.0)],
             "failing": search, "dead": dead}  # fmt: skip
    scores = pl.concat([score(ask(name, call, QUERIES), QUERIES, QRELS, SHOWN_METRICS) for name, call in parts.items()])
    rule = Rule("recall@10", "usd_per_1k_requests", "", 0.02, 0.95)
    claims = make_claims(scores.filter(metric="recall@10"), facts, rule)
    table = score_table(scores, facts, "test", {})
    shown = _column(table, "recall@10")
    assert shown == {c.arm: pytest.approx(c.estimate) for c in claims}
    assert shown == {"sound": 1.0, "failing": pytest.approx(2 / 3), "dead": 0.0}
    assert "a question that failed counts 0" in table.caption
    judged = _column(table, "judged@10")
    assert judged["failing"] == 0.75, "of the two that were answered, one has one judged hit of two"


def _column(table, name):
    """Values of one column by the arm of their row."""
    at = [column.name for column in table.columns].index(name)
    return {row[0]: row[at] for row in table.rows}
