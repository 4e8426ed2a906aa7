"""What is read out of an answer: calls of tools that stay apart, tokens that were counted, a 429 inside a stream."""

import socket

import pytest

from tests.inference.test_providers import CLAUDE, MESSAGES, TOOL, answering, ask, chunk, openai
from workbench.errors import Throttled, Unavailable
from workbench.inference.hosted_models import LiteLLMProvider
from workbench.inference.messages import Request, ToolCall, Usage

USAGE = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}
HOUR = {"type": "text", "text": "A long preamble", "cache_control": {"type": "ephemeral", "ttl": "1h"}}


@pytest.mark.parametrize(
    ("told", "long"),
    [
        ({"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 200}, 200),
        ({"ephemeral_5m_input_tokens": 300, "ephemeral_1h_input_tokens": 0}, 0),
        (None, 300),
    ],
)
def test_what_is_kept_for_an_hour_is_counted_apart_and_is_all_that_was_written_where_nobody_says(told, long):
    usage = CLAUDE["usage"] | ({"cache_creation": told} if told else {})
    request = Request("anthropic/claude-sonnet-4-5", ({"role": "user", "content": [HOUR]},))
    with answering(CLAUDE | {"usage": usage}) as server:
        answer = LiteLLMProvider(server.address, "key").complete(request, timeout_s=30)
    assert answer.usage == Usage(fresh=100, cache_read=600, cache_write=300, output=10, cache_write_long=long)


def test_a_request_keeps_long_where_any_marker_asks_for_an_hour():
    marked = [{"role": "user", "content": [HOUR]}]
    assert Request("m", tuple(marked)).keeps_long
    assert Request("m", ({"role": "user", "content": "Hi", "cache_control": {"ttl": "1h"}},)).keeps_long
    assert Request("m", MESSAGES, tools=(TOOL | {"cache_control": {"ttl": "1h"}},)).keeps_long
    five_minutes = {"role": "user", "content": [HOUR | {"cache_control": {"type": "ephemeral"}}]}
    assert not Request("m", (five_minutes, {"role": "user", "content": 'keep "ttl": "1h"'})).keeps_long


@pytest.mark.parametrize(("index", "other"), [({}, {}), ({"index": 0}, {"index": 0})])
def test_a_call_with_another_id_is_another_call_whatever_its_index(index, other):
    first = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": '}}
    rest = {"function": {"arguments": '"Paris"}'}}
    second = {"id": "c2", "type": "function", "function": {"name": "time", "arguments": "{}"}}
    calls = [index | first, index | {"id": "c1"} | rest, other | second]
    parts = [chunk({"tool_calls": [call]}) for call in calls] + [chunk({}, "tool_calls")]
    with answering(parts) as server:
        provider = LiteLLMProvider(f"{server.address}/v1", "key")
        answer = provider.complete(Request("openai/m", MESSAGES, tools=(TOOL,)), timeout_s=30, on_text=str)
    assert answer.tool_calls == (ToolCall("c1", "weather", '{"city": "Paris"}'), ToolCall("c2", "time", "{}"))


@pytest.mark.parametrize("usage", [{"prompt_tokens": 10}, {"prompt_tokens": 10, "completion_tokens": 0}])
@pytest.mark.parametrize("said", [{"content": "Hello"}, {"tool_calls": [{"id": "c1", "function": {"name": "f"}}]}])
def test_an_answer_whose_tokens_were_not_counted_has_no_usage(usage, said):
    for call in said.get("tool_calls", ()):
        call |= {"type": "function", "index": 0, "function": {"name": "f", "arguments": "{}"}}
    parts = [chunk(said), chunk({}, "stop"), chunk(None, usage=usage)]
    with answering(openai(said, usage=usage), parts) as server:
        provider = LiteLLMProvider(f"{server.address}/v1", "key")
        request = Request("openai/m", MESSAGES, tools=(TOOL,))
        assert [provider.complete(request, timeout_s=30, on_text=t).usage for t in (None, str)] == [None, None]


def test_an_empty_answer_is_counted():
    with answering(openai({"content": ""}, usage={"prompt_tokens": 10, "completion_tokens": 0})) as server:
        assert ask(server, Request("openai/m", MESSAGES)).usage == Usage(fresh=10)


@pytest.mark.parametrize("error", [{"type": "rate_limit_error"}, {"code": 429}, {"code": "rate_limit_exceeded"}])
@pytest.mark.parametrize(("before", "billed"), [([], "no"), ([chunk({"content": "Hel"})], "unknown")])
def test_a_rate_limit_told_inside_a_stream_is_one_that_is_billed_where_work_was_done(error, before, billed):
    with answering([*before, {"error": {"message": "slow down", **error}}]) as server:
        provider = LiteLLMProvider(f"{server.address}/v1", "key")
        with pytest.raises(Throttled, match="slow down") as raised:
            provider.complete(Request("openai/m", MESSAGES), timeout_s=30, on_text=str)
    assert (raised.value.billed, raised.value.streamed) == (billed, bool(before))


@pytest.mark.parametrize(
    "model", ["openai/m", "openrouter/a/m", "mistral/m", "deepseek/m", "hosted_vllm/m", "cohere/m"]
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_reason_to_finish_that_is_a_failure_is_no_answer_though_litellm_calls_it_stop(model, stream):
    parts = [chunk({"role": "assistant", "content": "Half an ans"}), chunk({}, "error"), chunk(None, usage=USAGE)]
    with answering(parts if stream else openai({"content": "Half an ans"}, finish="error")) as server:
        provider = LiteLLMProvider(f"{server.address}/v1", "key")
        with pytest.raises(Unavailable, match="finish_reason error") as raised:
            provider.complete(Request(model, MESSAGES), timeout_s=30, on_text=str if stream else None)
    assert raised.value.billed == "unknown"


def test_a_failed_end_without_tokens_costs_what_its_vendor_says():
    nothing = {"prompt_tokens": 10, "completion_tokens": 0, "total_tokens": 10}
    bills = []
    for model in ("openrouter/a/m", "openai/m"):
        with answering(openai({"content": ""}, finish="error", usage=nothing)) as server:
            with pytest.raises(Unavailable) as raised:
                ask(server, Request(model, MESSAGES))
            bills.append(raised.value.billed)
    assert bills == ["no", "unknown"]


@pytest.mark.parametrize("usage", [{"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}, None])
def test_a_stream_asks_nobody_but_its_server(monkeypatch, usage):
    """litellm would look for a tokenizer on a hub, for a model of such a name, and wait for it."""
    resolve, asked = socket.getaddrinfo, []

    def noting(host, *rest, **more):
        asked.append(host)
        return resolve(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", noting)
    parts = [chunk({"content": "Hello"}), chunk({}, "stop"), *([chunk(None, usage=usage)] if usage else [])]
    with answering(parts) as server:
        provider = LiteLLMProvider(f"{server.address}/v1", "key")
        answer = provider.complete(Request("openai/llama-3-8b", MESSAGES), timeout_s=30, on_text=str)
    assert (answer.text, answer.usage) == ("Hello", usage and Usage(fresh=9, output=1))
    assert set(asked) <= {"127.0.0.1"}
