"""Made-up traffic: the same everywhere, labelled as made up, and no answer key that the labels do not support."""

import json
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from workbench.errors import EvalsetError
from workbench.evalset.files import read_jsonl
from workbench.evalset.items import queries_of
from workbench.evalset.traffic import Pair, generate_stream, load_pairs, load_stream
from workbench.evalset.workload import SharedText, draw_requests, read_plan, topics_of
from workbench.records import DEFAULT_TENANT, Query, content_hash

DOCS_QA = Path(__file__).parents[2] / "evalsets" / "docs_qa"
DRAWN = "d0ee60f562cec40a"  # changes with traffic.toml, queries.jsonl and pairs.jsonl
PLAN = read_plan(DOCS_QA / "traffic.toml")
OWN_WORDS = replace(PLAN, same_words=())


def query(text, *, cluster="c", feature="answer", reference="r", tenant="pandas"):
    return Query(text, text, tenant, cluster, feature, reference=reference)


def pair(a, b, *, same, split="test", cluster="c"):
    return Pair(f"{a}-{b}", a, b, same, "k", cluster, "pandas", split)


def drawn(queries, pairs, **plan):
    return {t.feature: dict(t.texts) for t in topics_of(queries, pairs, replace(OWN_WORDS, **plan))}


def test_one_answer_is_what_the_labels_say_taken_together():
    found = drawn([query("a"), query("b"), query("c", reference="other")], [pair("b", "d", same=True)])
    assert found == {"answer": dict.fromkeys("abd", "pandas/c/answer/0")}


def test_a_family_brings_in_one_answer_because_its_others_may_be_the_same():
    found = drawn([query("a", reference=str(i)) if i else query("z") for i in range(3)], [])
    assert len(set(found["answer"].values())) == 1


def test_the_same_reference_in_another_feature_is_another_answer():
    found = drawn([query("a"), query("b", feature="find")], [])
    assert found == {"answer": {"a": "pandas/c/answer/0"}, "find": {"b": "pandas/c/find/0"}}


def test_pairs_of_a_later_batch_are_not_asked_and_join_no_answers():
    later = [replace(pair("a", text, same=same), batch="second") for text, same in (("b", True), ("d", False))]
    assert drawn([query("a")], later) == {"answer": {"a": "pandas/c/answer/0"}}


def test_two_answers_of_one_family_come_from_a_dev_pair_that_must_differ_alone():
    for split, must_differ, keys in (("dev", 1.0, 2), ("dev", 0.0, 1), ("test", 1.0, 1)):
        found = drawn([query("a")], [pair("x", "y", same=False, split=split)], must_differ=must_differ)
        assert len(set(found["answer"].values())) == keys


def test_a_text_of_two_features_tells_neither():
    assert drawn([query("a"), query("b", feature="find")], [pair("a", "b", same=True)]) == {}


def shared(text, **answered_as):
    return replace(OWN_WORDS, same_words=(SharedText(text, answered_as),), must_differ=1.0)


ASKED = [
    replace(query("a", reference="1"), query_id="p1"),
    *(query(text, reference="2") for text in ("b", "c")),
    replace(query("d", tenant="polars", reference="3"), query_id="l1"),
]


def test_a_text_that_two_tenants_ask_needs_the_answer_of_the_question_each_names():
    found = topics_of(ASKED, [], shared("same", pandas="p1", polars="l1"))
    assert {t.tenant_id: t.texts for t in found} == {
        "pandas": (("a", "pandas/c/answer/0"), ("same", "pandas/c/answer/0")),
        "polars": (("d", "polars/c/answer/0"), ("same", "polars/c/answer/0")),
    }


def test_a_pair_that_must_differ_gives_way_to_a_shared_text_unless_it_holds_it():
    apart = pair("b", "x", same=False, split="dev")
    found = topics_of(ASKED, [apart], shared("same", pandas="p1", polars="l1"))
    assert {text for topic in found for text, _ in topic.texts} == {"a", "d", "same"}
    both = pair("a", "x", same=False, split="dev")
    found = topics_of(ASKED, [both], shared("same", pandas="p1", polars="l1"))
    assert {text for topic in found for text, _ in topic.texts} == {"a", "d", "same", "x"}


@pytest.mark.parametrize(
    ("answered_as", "says"),
    [
        ({"pandas": "p1", "polars": "p1"}, "'p1', which is no question of polars"),
        ({"pandas": "p1", "polars": "gone"}, "'gone', which is no question of polars"),
        ({"pandas": "p1"}, "another answer of each of several tenants"),
        ({"pandas": "p1", "polars": "l1"}, "another answer of each of several tenants"),
    ],
)
def test_a_shared_text_without_an_answer_of_its_own_for_each_tenant_is_refused(answered_as, says):
    queries = [*ASKED[:3], replace(query("d", tenant="polars", reference="1"), query_id="l1")]
    with pytest.raises(EvalsetError, match=says):
        topics_of(queries, [], shared("same", **answered_as))


def test_tenants_ask_in_the_same_words_and_need_different_answers(stream):
    by_id = {
        row["_id"]: row["metadata"]
        for row in map(json.loads, (DOCS_QA / "queries.jsonl").read_text("utf-8").splitlines())
    }
    for row in PLAN.same_words:
        accepted = [set(by_id[name]["accept"]) for name in row.answered_as.values()]
        assert len(set.union(*accepted)) == sum(map(len, accepted)), row
    keys = defaultdict(set)
    for text, tenant, key in zip(stream.queries, stream.tenants, stream.answer_keys, strict=True):
        keys[text].add((tenant, key))
    alike = {text for text, found in keys.items() if len(found) == len({t for t, _ in found}) == 2}
    assert len(alike) >= 10
    assert sum(text in alike for text in stream.queries) >= 100


@pytest.fixture(scope="module")
def stream():
    return load_stream(DOCS_QA)


@pytest.fixture(scope="module")
def requests():
    queries, _, _ = queries_of("queries.jsonl", read_jsonl(DOCS_QA / "queries.jsonl"))
    return draw_requests(topics_of(queries, load_pairs(DOCS_QA)[0], PLAN), PLAN)


def test_the_stream_is_the_same_on_every_machine_and_says_that_it_is_made_up(stream, requests):
    assert stream.synthetic
    assert len(stream) == PLAN.requests
    again = generate_stream(DOCS_QA)
    assert (again.queries, again.sha256) == (stream.queries, stream.sha256)
    assert content_hash(*(row[n] for n in ("query", "answer_key", "at", "user_id") for row in requests))[:16] == DRAWN


def test_requests_follow_the_plan(stream, requests):
    shares = {tenant: n / len(stream) for tenant, n in Counter(stream.tenants).items()}
    assert shares == pytest.approx(dict(PLAN.tenants), abs=0.02)
    times = [row["at"] for row in requests]
    assert all(one <= other for one, other in pairwise(times))
    assert times[0].startswith("2026-11-02")
    assert times[-1] < "2026-11-16"
    busy = Counter(time[11:13] for time in times)
    assert busy["09"] > 5 * busy["03"]
    assert all(row["user_id"].startswith(row["tenant_id"]) for row in requests)
    counts = [n for _, n in Counter(stream.answer_keys).most_common()]
    assert counts[0] > 10 * counts[len(counts) // 2]


def test_no_wording_of_a_test_pair_that_must_differ_is_asked(stream):
    pairs, _ = load_pairs(DOCS_QA)
    texts = {t for p in pairs if p.split != "dev" and not p.same_answer for t in (p.query_a, p.query_b)}
    texts -= {t for p in pairs if p.same_answer or p.split == "dev" for t in (p.query_a, p.query_b)}
    texts -= {json.loads(line)["text"] for line in (DOCS_QA / "queries.jsonl").read_text("utf-8").splitlines()}
    topics = topics_of(queries_of("queries.jsonl", read_jsonl(DOCS_QA / "queries.jsonl"))[0], pairs, PLAN)
    assert texts.isdisjoint(text for topic in topics for text, _ in topic.texts)


def test_what_draws_the_stream_is_part_of_its_hash(tmp_path):
    for name in ("traffic.toml", "queries.jsonl", "pairs.jsonl"):
        (tmp_path / name).write_bytes((DOCS_QA / name).read_bytes())
    before = generate_stream(tmp_path).sha256
    plan = (tmp_path / "traffic.toml").read_text("utf-8")
    (tmp_path / "traffic.toml").write_text(plan.replace("zipf = 0.9", "zipf = 0.8"), "utf-8")
    assert generate_stream(tmp_path).sha256 != before


def folder_of(folder, *lines, tenant=DEFAULT_TENANT):
    """An evalset folder of these lines of queries.jsonl, in which one tenant asks."""
    plan = (DOCS_QA / "traffic.toml").read_text("utf-8").split("[[same_words]]")[0]
    before, rest = plan.split("[tenants]")
    _, rest = rest.split("[openings]")
    asked = f'[tenants]\n"{tenant}" = 1.0\n[users]\n"{tenant}" = 3\n[openings]'
    (folder / "traffic.toml").write_text(before + asked + rest, "utf-8")
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, lines)), "utf-8")
    return folder


def test_plain_beir_questions_are_asked_by_the_default_tenant_each_with_an_answer_of_its_own(tmp_path):
    lines = [{"_id": str(i), "text": f"question {i}", **more} for i, more in enumerate([{}, {"metadata": {}}, {}])]
    stream = generate_stream(folder_of(tmp_path, *lines))
    assert set(stream.tenants) == {DEFAULT_TENANT}
    assert len(set(stream.answer_keys)) == 3


def test_questions_of_one_family_without_a_reference_are_not_said_to_share_an_answer():
    found = topics_of([query("a", reference=""), query("b", reference="")], [], OWN_WORDS)
    assert [len(topic.texts) for topic in found] == [1]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ({"_id": "1", "metadata": {}}, "text"),
        ({"text": "no id"}, "_id"),
        ({"_id": "1", "text": "x", "metadata": {"tenant_id": [7]}}, "tenant_id"),
        ({"_id": "1", "text": "x", "metadata": []}, "metadata"),
    ],
)
def test_a_question_that_cannot_be_used_is_named_with_its_line(tmp_path, line, says):
    with pytest.raises(EvalsetError, match=rf"queries.jsonl:2.*{says}"):
        generate_stream(folder_of(tmp_path, {"_id": "0", "text": "fine"}, line))


def test_a_plan_whose_tenants_ask_nothing_here_is_refused(tmp_path):
    with pytest.raises(EvalsetError, match="names the tenant pandas, who asks no question"):
        generate_stream(folder_of(tmp_path, {"_id": "0", "text": "fine"}, tenant="pandas"))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("zipf", "zip", "zipf is missing.*unknown field 'zip'; did you mean 'zipf'"),
        ("hours = [1, ", "hours = [", "24 hours"),
        ("= 0.9", "=", "TOML"),
        ("answered_as", "answer", "same_words.*answered_as"),
        ("{ pandas", "{ dask", "same_words.*of the tenants"),
    ],
)
def test_a_plan_that_cannot_be_used_is_refused(tmp_path, old, new, says):
    text = (DOCS_QA / "traffic.toml").read_text("utf-8").replace(old, new, 1)
    (tmp_path / "traffic.toml").write_text(text, "utf-8")
    with pytest.raises(EvalsetError, match=says):
        read_plan(tmp_path / "traffic.toml")


def test_a_tenant_who_asks_nothing_is_refused():
    with pytest.raises(EvalsetError, match="asks no question"):
        draw_requests([], PLAN)
