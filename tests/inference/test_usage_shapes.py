"""What each vendor's count of tokens costs, through litellm and real HTTP, whole and streamed: a table with sources.

All models here cost the same, so that a charge can be worked out by hand: nano-dollars a token are 1,000 for input, 100
read from a cache, 1,250 and 2,000 written to it for five minutes and an hour, 4,000 for output.
"""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.inference.test_providers import MESSAGES, answering, chunk, openai
from workbench.inference.call_attempt import Books, worst_attempt_nanos
from workbench.inference.client import Client
from workbench.inference.hosted_models import LiteLLMProvider
from workbench.inference.messages import DoubtfulUsage, Request, Usage
from workbench.inference.prices import load_prices
from workbench.inference.token_usage import counted_text_tokens, counted_tokens
from workbench.state import open_engine
from workbench.telemetry.ledger import Ledger

ROW = """[models."{name}"]
usd_per_mtok = {{ input = 1, output = 4{cached} }}
source = "made up for a test"
date = 2026-11-29
"""
CACHED = ", cache_read = 0.1, cache_write = 1.25, cache_write_long = 2"
BARE = "openai/two-prices"  # a row of input and output only
WORST = "the reservation"


@dataclass(frozen=True)
class Shape:
    """A vendor's count, with its cost in nano-dollars, or `WORST`, and the doubt that the ledger names."""

    model: str
    usage: dict[str, Any] | None
    nanos: int | str
    doubt: str = ""
    ways: tuple[str, ...] = ("whole", "streamed")
    marks: dict[str, Any] = field(default_factory=dict)  # what else the body says


def of_openai(prompt: Any, completion: Any, total: Any = None, **details: Any) -> dict[str, Any]:
    """Count by OpenAI's protocol; ``thinking``, ``read`` and others stand in the details."""
    asked = {"cached_tokens": details.pop("read", None), "cache_write_tokens": details.pop("written", None),
             "audio_tokens": details.pop("heard", None)}  # fmt: skip
    said = {"reasoning_tokens": details.pop("thinking", None), "audio_tokens": details.pop("spoken", None)}
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total, **details}
    for name, part in (("prompt_tokens_details", asked), ("completion_tokens_details", said)):
        if told := {key: value for key, value in part.items() if value is not None}:
            usage[name] = told
    return {key: value for key, value in usage.items() if value is not None}


def of_gemini(prompt: int, candidates: int, total: int, **more: int) -> dict[str, Any]:
    return {"promptTokenCount": prompt, "candidatesTokenCount": candidates, "totalTokenCount": total, **more}


# Sources: [o] platform.openai.com/docs/guides/reasoning, [oc] .../guides/prompt-caching, [x] docs.x.ai/docs/guides/
# reasoning, [g] ai.google.dev/gemini-api/docs/thinking, [gt] .../docs/url-context, [gs] .../docs/google-search,
# [gc] .../docs/caching, [a] docs.claude.com/en/docs/build-with-claude/prompt-caching, [at] .../extended-thinking,
# [b] docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_TokenUsage.html, [d] api-docs.deepseek.com/guides/
# kv_cache, [m] docs.mistral.ai/api, [q] console.groq.com/docs/api-reference, [c] docs.cohere.com/reference/chat,
# [p] docs.perplexity.ai/getting-started/pricing, [r] openrouter.ai/docs/use-cases/usage-accounting,
# [!] no vendor says so: the dearer reading.
SHAPES = {
    # [o] reasoning is a part of the completion
    "openai": Shape("openai/a", of_openai(94, 41, 135), 258_000),
    "openai, thinking inside": Shape("openai/a", of_openai(94, 41, 135, thinking=32), 258_000),
    "openai, all of it thinking": Shape("openai/a", of_openai(94, 41, 135, thinking=41), 258_000),
    # [oc] cached_tokens are a part of the prompt
    "openai, cached": Shape("openai/a", of_openai(94, 41, 135, read=64), 200_400),
    "openai, no total": Shape("openai/a", of_openai(94, 41), 258_000),
    "openai, floats": Shape("openai/a", of_openai(94.0, 41.0, 135.0), 258_000),
    "openai, strings": Shape("openai/a", of_openai("94", "41", "135"), 258_000),
    "openai, details of null": Shape(
        "openai/a", of_openai(94, 41, 135) | {"prompt_tokens_details": None, "completion_tokens_details": None}, 258_000
    ),
    # a gateway that speaks OpenAI's protocol for a model that counts as xAI and Gemini do: the total says so
    "gateway, thinking beside": Shape("openai/a", of_openai(32, 9, 135, thinking=94), 444_000),
    "gateway, thinking beside and cached": Shape("openai/a", of_openai(32, 9, 135, thinking=94, read=20), 426_000),
    "gateway, thinking beside, no total": Shape("openai/a", of_openai(32, 9, thinking=94), 444_000, "DoubtfulUsage"),
    "gateway, total alone says more": Shape("openai/a", of_openai(32, 9, 135), 444_000, "DoubtfulUsage"),
    "gateway, total says more than thinking": Shape(
        "openai/a", of_openai(32, 9, 135, thinking=50), 444_000, "DoubtfulUsage"
    ),
    "gateway, total says less": Shape("openai/a", of_openai(94, 41, 100), 258_000, "DoubtfulUsage"),
    "gateway, total without what was cached": Shape("openai/a", of_openai(94, 41, 71, read=64), 200_400),
    "gateway, completion not told": Shape("openai/a", of_openai(94, None, 135), 258_000, "DoubtfulUsage"),
    # [!] counts that cannot be: what was reserved
    "gateway, negative prompt": Shape("openai/a", of_openai(-94, 41, 135), WORST, "UsageMissing"),
    "gateway, negative completion": Shape("openai/a", of_openai(94, -41, 53), WORST, "UsageMissing"),
    "gateway, negative thinking": Shape("openai/a", of_openai(94, 41, 135, thinking=-3), WORST, "UsageMissing"),
    "gateway, more cached than asked": Shape("openai/a", of_openai(94, 41, 135, read=5000), WORST, "UsageMissing"),
    "gateway, nothing told": Shape("openai/a", None, WORST, "UsageMissing"),
    "gateway, prompt not told": Shape("openai/a", of_openai(None, 41, 41), WORST, "UsageMissing"),
    # sound has a price of its own, which these rows do not have
    "openai, sound": Shape("openai/a", of_openai(94, 41, 135, spoken=30), WORST, "UnknownPrice"),
    "openai, no sound": Shape("openai/a", of_openai(94, 41, 135, spoken=0, heard=0), 258_000),
    # a row of input and output only: what was read costs at most as much as input, what was written is a doubt
    "two prices, cached": Shape(BARE, of_openai(94, 41, 135, read=64), 258_000),
    "two prices, written": Shape(BARE, of_openai(94, 41, 135, written=64), WORST, "UnknownPrice"),
    "two prices, nothing written": Shape(BARE, of_openai(94, 41, 135, written=0), 258_000),
    # [o] as OpenAI's; azure_ai serves others' models as well, which count as their vendors do
    "azure": Shape("azure/a", of_openai(94, 41, 135, thinking=32), 258_000),
    "azure_ai, grok": Shape("azure_ai/grok-4", of_openai(32, 9, 135, thinking=94), 444_000),
    # [x] total = prompt + completion + reasoning
    "xai": Shape("xai/grok-4", of_openai(32, 9, 135, thinking=94), 444_000),
    "xai, cached": Shape("xai/grok-4", of_openai(32, 9, 135, thinking=94, read=20), 426_000),
    "xai, total without thinking": Shape("xai/grok-4", of_openai(32, 9, 41, thinking=94), 444_000),
    # [d] prompt = hits and misses; reasoning is a part of the completion
    "deepseek": Shape(
        "deepseek/a",
        of_openai(94, 41, 135, thinking=32, prompt_cache_hit_tokens=64, prompt_cache_miss_tokens=30),
        200_400,
    ),
    "mistral": Shape("mistral/mistral-large-latest", of_openai(94, 41, 135), 258_000),  # [m]
    "groq": Shape(  # [q]
        "groq/a", of_openai(94, 41, 135, queue_time=0.1, thinking=32), 258_000, marks={"service_tier": "x"}
    ),
    # [r] cached and written are parts of the prompt
    "openrouter": Shape("openrouter/a/b", of_openai(94, 41, 135, read=64, written=10, cost=0.001), 202_900),
    "openrouter, gemini's thinking": Shape("openrouter/a/b", of_openai(94, 41, 135, thinking=32), 258_000),
    # [p] searches have a price of their own
    "perplexity": Shape("perplexity/sonar", of_openai(94, 41, 135, num_search_queries=2), WORST, "UnknownPrice"),
    # [g] thoughts are billed as output, and are not among the candidates' tokens
    "gemini": Shape("gemini/gemini-3.8-flash", of_gemini(94, 41, 135), 258_000),
    "gemini, thoughts": Shape("gemini/gemini-3.8-flash", of_gemini(94, 9, 135, thoughtsTokenCount=32), 258_000),
    "gemini, thoughts inside": Shape("gemini/gemini-3.8-flash", of_gemini(94, 41, 135, thoughtsTokenCount=32), 258_000),
    # [gt] what a tool of theirs fetched is billed as input
    "gemini, tools": Shape(
        "gemini/gemini-3.8-flash",
        of_gemini(94, 9, 152, thoughtsTokenCount=32, toolUsePromptTokenCount=17),
        275_000,
    ),
    # [gs] what its search found is not
    "gemini, search": Shape(
        "gemini/gemini-3.8-flash",
        of_gemini(94, 9, 152, thoughtsTokenCount=32, toolUsePromptTokenCount=17),
        WORST,
        "UnknownPrice",
        marks={"groundingMetadata": {"webSearchQueries": ["paris"]}},
    ),
    # [gc] cachedContentTokenCount is a part of the prompt
    "gemini, cached": Shape("gemini/gemini-3.8-flash", of_gemini(94, 41, 135, cachedContentTokenCount=64), 200_400),
    # [a] input, reads and writes are disjoint; [at] thinking is a part of the output
    "anthropic": Shape(
        "anthropic/claude-sonnet-4-5",
        {"input_tokens": 100, "cache_read_input_tokens": 600, "cache_creation_input_tokens": 300, "output_tokens": 10},
        575_000,
    ),
    "anthropic, an hour": Shape(
        "anthropic/claude-sonnet-4-5",
        {
            "input_tokens": 100, "cache_read_input_tokens": 600, "cache_creation_input_tokens": 300,
            "output_tokens": 10, "cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 200},
        },
        725_000,
    ),
    # [b] as Anthropic's: inputTokens has neither reads nor writes
    "bedrock": Shape(
        "bedrock/converse/anthropic.claude-3-5-sonnet-20241022-v2:0",
        {"inputTokens": 100, "outputTokens": 10, "totalTokens": 1010, "cacheReadInputTokens": 600,
         "cacheWriteInputTokens": 300},
        575_000,
        ways=("whole",),
    ),
    # [c] billed_units leave out what Cohere adds to a prompt: the tokens are the dearer reading
    "cohere": Shape(
        "cohere_chat/command-r",
        {"billed_units": {"input_tokens": 90, "output_tokens": 41},
         "tokens": {"input_tokens": 94, "output_tokens": 41}},
        258_000,
        ways=("whole",),
    ),
}  # fmt: skip
PATHS = {
    "gemini": "",
    "anthropic": "",
    "bedrock": "",
    "azure": "",
    "cohere_chat": "/v2/chat",
    "deepseek": "",
    "perplexity": "",
}


def body(shape: Shape, way: str) -> Any:
    """Answer of the vendor's own form, or its events."""
    vendor, usage = shape.model.partition("/")[0], shape.usage
    if vendor == "gemini":
        said = {"content": {"parts": [{"text": "Hello"}], "role": "model"}, "index": 0}
        whole = {"candidates": [said | {"finishReason": "STOP"} | shape.marks], "usageMetadata": usage}
        end = {"candidates": [{**whole["candidates"][0], "content": {"parts": [{"text": ""}], "role": "model"}}]}
        return whole if way == "whole" else [{"candidates": [said]}, whole | end, {"usageMetadata": usage}]
    if vendor == "anthropic":
        head = {"id": "m1", "type": "message", "role": "assistant", "model": "claude-x"}
        text = {"type": "text", "text": "Hello"}
        if way == "whole":
            return head | {"content": [text], "stop_reason": "end_turn", "usage": usage}
        return [
            {"type": "message_start", "message": head | {"content": [], "usage": usage | {"output_tokens": 1}}},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello"}},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"},
             "usage": {"output_tokens": usage["output_tokens"]}},
            {"type": "message_stop"},
        ]  # fmt: skip
    said = {"role": "assistant", "content": [{"text": "Hello"}]}
    if vendor == "bedrock":
        return {"output": {"message": said}, "stopReason": "end_turn", "usage": usage, "metrics": {"latencyMs": 1}}
    if vendor == "cohere_chat":
        said["content"][0]["type"] = "text"
        return {"id": "x", "finish_reason": "COMPLETE", "message": said, "usage": usage}
    whole = openai({"content": "Hello"}) | {"usage": usage} | shape.marks
    if way == "whole":
        return whole if usage else {name: value for name, value in whole.items() if name != "usage"}
    return [chunk({"content": "Hello"}), chunk({}, "stop"), *([chunk(None, usage=usage)] if usage else [])]


@pytest.fixture
def prices(tmp_path):
    names = {s.model for s in SHAPES.values()}
    rows = [ROW.format(name=name, cached="" if name == BARE else CACHED) for name in sorted(names)]
    (tmp_path / "models.toml").write_text('version = "2026-11-29"\n' + "\n".join(rows), encoding="utf-8")
    return load_prices(models=tmp_path / "models.toml")


@pytest.mark.parametrize(
    ("name", "way"), [(name, way) for name, shape in SHAPES.items() for way in shape.ways], ids=lambda part: part
)
def test_a_count_costs_what_the_vendor_charges(tmp_path, prices, monkeypatch, name, way):
    monkeypatch.setenv("AWS_REGION_NAME", "us-east-1")
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", "key")
    shape = SHAPES[name]
    books = Books(prices, ledger=Ledger(open_engine(f"sqlite:///{tmp_path / 'state.sqlite'}")))
    request = Request(shape.model, MESSAGES, max_tokens=500)
    with answering(body(shape, way)) as server:
        provider = LiteLLMProvider(server.address + PATHS.get(shape.model.partition("/")[0], "/v1"), "key")
        on_text = None if way == "whole" else str
        done = Client({"": provider}, books).complete(MESSAGES, model=shape.model, max_tokens=500, on_text=on_text)
    (row,) = books.ledger.frame().to_dicts()
    expected = worst_attempt_nanos(prices, request) if shape.nanos == WORST else shape.nanos
    assert (done.text, done.cost_nanos, row["cost_nanos"], row["error_class"]) == (
        "Hello",
        expected,
        expected,
        shape.doubt,
    )
    assert row["status"] == "ok"


COUNTS = st.none() | st.integers(-5, 300) | st.floats(-5, 300) | st.text(max_size=3) | st.booleans()


@given(st.tuples(*[st.integers(0, 300)] * 3), st.integers(0, 300), st.sampled_from(["openai/a", "xai/a", "gemini/a"]))
def test_no_reading_of_a_count_is_below_what_it_says(counts, thinking, model):
    prompt, completion, total = counts
    told = SimpleNamespace(
        prompt_tokens=prompt, completion_tokens=completion, total_tokens=total,
        completion_tokens_details=SimpleNamespace(reasoning_tokens=thinking),
    )  # fmt: skip
    found = counted_tokens(told, model=model)
    assert (found is None) == (prompt == 0)
    if found:
        assert found.input == prompt
        assert found.output >= max(completion, thinking, total - prompt)
        assert found.output <= max(completion + thinking, total - prompt)


@given(st.dictionaries(st.sampled_from(
    ["prompt_tokens", "completion_tokens", "total_tokens", "cache_creation_input_tokens", "num_search_queries"]), COUNTS
), st.dictionaries(st.sampled_from(["cached_tokens", "cache_creation_tokens", "audio_tokens", "reasoning_tokens"]),
                   COUNTS))  # fmt: skip
def test_whatever_is_told_is_counted_or_is_no_count_and_never_an_error(told, details):
    usage = SimpleNamespace(
        **told, prompt_tokens_details=SimpleNamespace(**details), completion_tokens_details=SimpleNamespace(**details)
    )
    found = counted_tokens(usage, model="openai/a")
    assert found is None or min(found.fresh, found.cache_read, found.cache_write, found.output) >= 0
    texts = counted_text_tokens(usage)
    assert texts is None or texts.fresh > 0


@pytest.mark.parametrize(
    ("prompt", "total", "expected"),
    [
        (7, 7, Usage(fresh=7)),
        (7, None, Usage(fresh=7)),
        (7, 9, DoubtfulUsage(fresh=9)),
        (None, 9, DoubtfulUsage(fresh=9)),
        (9, 7, DoubtfulUsage(fresh=9)),
        (0, 0, None),
        (None, None, None),
        (-1, 7, None),
    ],
)
def test_an_embedding_is_paid_by_the_larger_of_its_two_counts(prompt, total, expected):
    found = counted_text_tokens(SimpleNamespace(prompt_tokens=prompt, total_tokens=total))
    assert found == expected
    assert type(found) is type(expected)
