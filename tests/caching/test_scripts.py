"""Ten scripts: nothing is served where the encoder is blind, what is readable still hits, and it is said everywhere."""

import json
from dataclasses import replace

import polars as pl
import pytest

from tests.caching.caches import WHO, StillClock, answer, ask, found, keep
from tests.caching.script_pairs import READABLE, SCRIPTS
from tests.evalset.small_evalset import settings_in, write
from tests.inference.test_client import SMALL, client_of
from workbench.caching.cache import SemanticCache
from workbench.caching.cache_study import CachingParameters
from workbench.caching.guard import Guard, make_guard
from workbench.caching.stream_replay import oracle_stream_hits, replay_stream
from workbench.config import load_settings
from workbench.evalset.check import check_evalset
from workbench.evalset.imports.pairs_and_streams import import_stream
from workbench.evalset.traffic import RequestStream, load_traffic_stream, traffic_stream_of_rows
from workbench.inference.embedding import MiniLM
from workbench.inference.messages import CacheUse
from workbench.state import open_engine
from workbench.telemetry.attribution import attributed
from workbench.telemetry.spans import Tracing
from workbench.telemetry.traces import load_trace

DEFAULT_GUARD = make_guard(CachingParameters().guard)


@pytest.fixture(scope="module")
def minilm():
    return MiniLM(load_settings().cache / "weights")


@pytest.fixture
def engine(tmp_path):
    engine = open_engine(f"sqlite:///{tmp_path}/state.sqlite")
    yield engine
    engine.dispose()


def cache_of(engine, minilm, guard: Guard | None = None):
    return SemanticCache(engine, embedder=minilm, threshold=0.6, guard=guard, clock=StillClock())


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_opposite_and_an_unrelated_question_are_not_served_without_any_guard(engine, minilm, script):
    question, *others = SCRIPTS[script]
    cache = cache_of(engine, minilm)
    keep(cache, question)
    assert [found(cache, other) for other in others] == [None, None]
    assert found(cache, question), "its repeat is served"
    assert all("the encoder does not read" in cache.why_missed(ask(t), CacheUse()) for t in (question, others[0]))


@pytest.mark.parametrize("language", READABLE)
def test_what_is_readable_is_served_and_its_opposite_is_not(engine, minilm, language):
    question, same, opposite = READABLE[language]
    cache = cache_of(engine, minilm, DEFAULT_GUARD)
    keep(cache, question)
    assert found(cache, same)
    assert found(cache, opposite) is None
    assert cache.why_missed(ask(opposite), CacheUse()) == ""


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_guard_alone_tells_opposites_in_every_script(script):
    question, opposite, _ = SCRIPTS[script]
    assert DEFAULT_GUARD.explain(opposite, question), "an encoder of many languages may put them near each other"
    assert DEFAULT_GUARD.allows(question, question)


def test_people_who_mean_the_same_in_other_words_pass_the_guard():
    assert DEFAULT_GUARD.allows("在哪里可以把界面换成夜间主题", "如何开启深色模式")
    assert DEFAULT_GUARD.allows("где сменить оформление на ночное", "как включить тёмную тему")


def test_vowel_signs_and_composed_letters_count_as_part_of_their_word():
    assert DEFAULT_GUARD.explain("काली सूची दिखाएँ और सहेजें", "काला सूची दिखाएँ और सहेजें")
    assert DEFAULT_GUARD.allows("ou\u0300 est le cafe\u0301", "où est le café")


def test_the_span_of_a_miss_says_why(engine, minilm):
    tracing = Tracing(engine)
    client = replace(client_of(engine, [answer("a"), answer("b"), answer("c")]), cache=cache_of(engine, minilm))
    client = replace(client, books=replace(client.books, tracing=tracing))
    why = []
    for text in ("如何开启深色模式", "and in pyarrow?", "how do I turn on dark mode"):
        with attributed(tenant_id=WHO.tenant_id, feature="answer"):
            done = client.complete([{"role": "user", "content": text}], model=SMALL, use=CacheUse("tenant"))
        tracing.flush()
        rows = load_trace(engine, done.trace_id).rows
        why += [r.attributes.get("wb.cache.reason") for r in rows if "wb.cache.hit" in r.attributes]
    assert why == [
        "text that the encoder does not read: 100 % of its characters",
        "a question that needs earlier turns, which are not part of the key",
        None,
    ]


def test_evalset_check_names_the_first_question_and_what_to_do(tmp_path):
    texts = [question for question, *_ in SCRIPTS.values()][:10]
    texts += ["Làm thế nào để bật chế độ tối?", "Đặt lại mật khẩu ở đâu?"]
    queries = [{"_id": f"q{i}", "text": text} for i, text in enumerate([*texts, "and in pyarrow?"])]
    documents = [{"_id": f"d{i}", "text": f"page {i}"} for i in range(len(queries))]
    qrels = [f"q{i}\td{i}\t1" for i in range(len(queries))]
    folder = write(tmp_path, documents=documents, queries=queries, test=qrels)
    told = [str(f) for f in check_evalset(folder, settings_in(tmp_path), echoes=False)]
    assert (
        sum("'q0' and 9 others have more than a third of characters that are no Latin letters" in t for t in told) == 1
    )
    assert (
        sum("'q10' and 1 other has more than a third of characters that are accents of Latin" in t for t in told) == 1
    )
    assert sum("'q0' and 2 others have no blanks between words" in t and "full_text_ngram" in t for t in told) == 1
    assert sum("'q12' has the form of a follow-up" in t for t in told) == 1


def test_follow_ups_are_served_after_the_same_turns_alone(engine, minilm):
    cache, follow_up = cache_of(engine, minilm), "and in pyarrow?"
    keep(cache, follow_up)
    assert found(cache, follow_up) is None, "not even its repeat: nobody knows what it was about"
    merging, sorting = (CacheUse("tenant", "v1", turns=(turn,)) for turn in ("how do I merge?", "how do I sort?"))
    keep(cache, follow_up, "pa.Table.join", use=merging)
    assert found(cache, follow_up, use=merging) == "pa.Table.join"
    assert found(cache, "And in pyarrow", use=merging) == "pa.Table.join"
    assert found(cache, follow_up, use=sorting) is None


def test_a_stream_with_turns_is_served_after_the_same_turns_alone():
    merge, sort = [{"role": "user", "content": "how do I merge?"}], [{"role": "user", "content": "how do I sort?"}]
    turns = [None, merge, sort, merge, None, None, "[]"]
    texts = ["how do I merge?", *["and in pyarrow?"] * 5, "how do I merge?"]
    rows = [
        (i + 1, {"query": text, "answer_key": f"a{i % 2}", "turns": said})
        for i, (text, said) in enumerate(zip(texts, turns, strict=True))
    ]
    frame, defects, _ = traffic_stream_of_rows("rows", rows)
    assert not defects
    stream = RequestStream.of(frame)
    assert replay_stream(stream, None).matched.tolist() == [-1, -1, -1, 1, -1, -1, 0]
    assert stream.follow_ups == {4, 5}
    assert oracle_stream_hits(stream).tolist() == [False, False, False, True, False, False, True]
    _, defects, _ = traffic_stream_of_rows("rows", [(1, {"query": "why?", "answer_key": "a", "turns": 3})])
    assert '"turns" must be a text or a list' in defects[0].problem
    assert pl.DataFrame(frame).schema["turns"] == pl.String


@pytest.mark.parametrize("form", ["jsonl", "parquet", "csv"])
def test_turns_are_imported_from_every_format_and_spelled_the_same(tmp_path, form):
    merge = [[{"role": "user", "content": "how do I merge?"}], [{"content": "how do I merge?", "role": "user"}], []]
    rows = [{"query": "and in pyarrow?", "answer_key": "a", "history": said} for said in merge]
    file = tmp_path / f"rows.{form}"
    if form == "parquet":
        pl.DataFrame(rows).write_parquet(file)
    elif form == "jsonl":
        file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    else:
        pl.DataFrame([{**row, "history": json.dumps(row["history"])} for row in rows]).write_csv(file)
    stream = load_traffic_stream(import_stream(file, tmp_path / "out").parent)
    assert (stream.turns[0], stream.turns[2]) == (stream.turns[1], "")
    assert (replay_stream(stream, None).matched.tolist(), stream.follow_ups) == ([-1, 0, -1], {2})
