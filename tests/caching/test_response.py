"""The response cache serves the same request again, and nothing else."""

import inspect
from dataclasses import replace

import pytest

import workbench
from tests.caching.caches import USE, WHO, StillClock, angle_cache, answer, ask, count, found, keep
from workbench.caching.cache import ResponseCache, SemanticCache
from workbench.inference.messages import Request, ToolCall
from workbench.state import open_engine
from workbench.testing import ScriptedModel


def test_the_same_request_is_served_also_after_a_restart(state_url):
    first = open_engine(state_url)
    keep(ResponseCache(first), "question", cost_nanos=9)
    first.dispose()
    second = open_engine(state_url)
    hit = ResponseCache(second).find(ask("question"), WHO, USE)
    assert (hit.response, hit.kind, hit.similarity, hit.saved_nanos) == (answer("answer to question"), "exact", 1.0, 9)
    second.dispose()


def test_a_client_serves_repeats_from_it_by_its_public_name(tmp_path):
    (tmp_path / "evalsets").mkdir()
    settings = workbench.load_settings({"WORKBENCH_ROOT": str(tmp_path)})
    models = ScriptedModel(["first", "second", "third"])
    client = workbench.Client.open(
        settings, providers={"local/": models}, cache=workbench.ResponseCache.open(settings), budgets=()
    )
    asked = {"model": "local/smollm2-135m", "tenant_id": "acme", "feature": "answer"}
    question = [{"role": "user", "content": "how do i pivot?"}]
    use = workbench.CacheUse("tenant")
    told = [client.complete(question, use=use, **asked) for _ in range(2)]
    assert [(done.text, done.source) for done in told] == [("first", "model"), ("first", "cache")]
    assert client.complete(question, **asked).text == "second", "only where a call says who may share the answer"
    assert client.complete(question, use=use, **asked | {"tenant_id": "other"}).text == "third"


@pytest.mark.parametrize("other", ["Question", "question ", "question?"])
def test_another_character_is_another_request(engine, other):
    cache = ResponseCache(engine)
    keep(cache, "question")
    assert found(cache, other) is None


def test_a_sampled_or_broken_answer_is_not_kept(engine):
    cache = ResponseCache(engine)
    cache.keep(ask("q", temperature=0.5), answer("x"), WHO, USE, cost_nanos=1, since=cache.moment())
    cache.keep(ask("q"), answer("x", finish_reason="length"), WHO, USE, cost_nanos=1, since=cache.moment())
    cache.keep(ask("q"), answer(" "), WHO, USE, cost_nanos=1, since=cache.moment())
    cache.keep(ask("q"), answer("x"), replace(WHO, tenant_id=""), USE, cost_nanos=1, since=cache.moment())
    assert count(engine) == 0


def test_turns_and_tools_are_compared_to_the_last_character(engine):
    cache = ResponseCache(engine)
    turns = ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"})
    tools, calls = ({"name": "f", "parameters": {}},), (ToolCall("1", "f", "{}"),)
    request = Request("m", turns, tools=tools)
    response = answer("", finish_reason="tool_calls", tool_calls=calls)
    cache.keep(request, response, WHO, USE, cost_nanos=1, since=cache.moment())
    assert cache.find(request, WHO, USE).response == response
    assert cache.find(replace(request, messages=({"role": "user", "content": "A"}, *turns[1:])), WHO, USE) is None
    assert cache.find(replace(request, tools=()), WHO, USE) is None


def test_age_removal_and_corruption_work_as_in_the_semantic_cache(engine):
    clock = StillClock()
    cache = ResponseCache(engine, clock=clock, ttl_s=10, max_entries=2)
    keep(cache, "a", use=replace(USE, sources=("doc",)))
    clock.sleep(9)
    assert found(cache, "a")
    assert cache.invalidate(source="doc") == 1
    keep(cache, "b")
    clock.sleep(10)
    assert found(cache, "b") is None
    for text in "cde":
        keep(cache, text)
    assert [t for t in "bcde" if found(cache, t)] == ["d", "e"]
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE wb_cache SET sha256 = 'x'")
    assert found(cache, "d") is None
    assert cache.problems == {"hash that does not fit": 1}


def test_both_caches_share_the_tables_and_no_entry(engine):
    exact, near = ResponseCache(engine), angle_cache(engine)
    keep(exact, "angle 0", "exact")
    assert found(near, "angle 0") is None
    keep(near, "angle 0", "near")
    assert (found(exact, "angle 0"), found(near, "angle 0"), count(engine)) == ("exact", "near", 2)


@pytest.mark.parametrize("cache", [SemanticCache, ResponseCache])
@pytest.mark.parametrize("name", ["invalidate", "purge", "moment", "find", "keep", "problems"])
def test_what_readme_names_is_there_for_help_and_completion(cache, name):
    """Methods of the class, not attributes that an instance happens to get."""
    found = getattr(cache, name)
    assert found.__doc__
    if name == "invalidate":
        assert list(inspect.signature(found).parameters) == ["self", "source", "tenant_id", "corpus_version"]
