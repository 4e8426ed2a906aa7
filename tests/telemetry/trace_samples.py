"""A trace as a product would leave it: retrieval, a model that is throttled, another that answers, a tool, a score."""

import json
from typing import Any

from workbench.telemetry.span_tree import SpanRow

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
START = 1_795_468_500_000_000_000
QUESTION = "how do i glue two dataframes together on a shared column without losing the rows that don't match?"
SYSTEM = (
    "You answer questions about pandas from the documents below. Name one function. "
    "If the documents do not say, say so."
)
DOCUMENTS = [
    {"id": "pandas.DataFrame.merge", "score": 0.8312, "text": "Merge DataFrame or named Series objects with a join."},
    {"id": "pandas.DataFrame.join", "score": 0.7944, "text": "Join columns of another DataFrame."},
    {"id": "pandas.concat", "score": 0.6021, "text": "Concatenate pandas objects along a particular axis."},
]
CALL = {"name": "signature", "id": "call_1", "arguments": {"function": "pandas.DataFrame.merge"}}
SIGNATURE = (
    "DataFrame.merge(right, how='inner', on=None, left_on=None, right_on=None, left_index=False, right_index=False, "
    "sort=False, suffixes=('_x', '_y'), copy=None, indicator=False, validate=None)"
)
ANSWER = (
    'Use `DataFrame.merge` with `how="outer"`:\n\n    left.merge(right, on="id", how="outer", indicator=True)\n\n'
    "Rows of either side that have no partner stay, with NaN where the other side has nothing."
)
ASKED = [
    {"role": "system", "parts": [{"type": "text", "content": SYSTEM}]},
    {"role": "user", "parts": [{"type": "text", "content": QUESTION}]},
]
CALLED = {"role": "assistant", "parts": [{"type": "tool_call", **CALL}], "finish_reason": "tool_calls"}
RETURNED = {"role": "tool", "parts": [{"type": "tool_call_response", "id": "call_1", "response": SIGNATURE}]}
WHO = {"wb.tenant_id": "pandas", "wb.feature": "answer", "wb.purpose": "product", "wb.user_id": "u-17"}


def span(number: int, parent: int, name: str, at_ms: float, took_ms: float, **more: Any) -> SpanRow:
    """Span whose operation is the first word of its name."""
    operation = name.split()[0]
    given = {"gen_ai.operation.name": operation} | WHO | more.pop("attributes", {})
    return SpanRow(
        trace_id=TRACE,
        span_id=f"{number:016x}",
        parent_id=f"{parent:016x}" if parent else "",
        name=name,
        operation=operation,
        started_ns=START + int(at_ms * 1e6),
        ended_ns=START + int((at_ms + took_ms) * 1e6),
        attributes={
            k: v if isinstance(v, str | float | int) or k.endswith("reasons") else json.dumps(v)
            for k, v in given.items()
        },
        **more,
    )


def attempt(number: int, at_ms: float, took_ms: float, model: str, count: int, **more: Any) -> SpanRow:
    asked = {"gen_ai.request.model": model, "wb.attempt": count, "gen_ai.provider.name": model.split("/")[0]}
    return span(number, 1, f"chat {model}", at_ms, took_ms, attributes=asked | more.pop("attributes"), **more)


def answered(tokens: tuple[int, int], cost_usd: float, **more: Any) -> dict[str, Any]:
    asked, given = tokens
    return {
        "gen_ai.usage.input_tokens": asked, "gen_ai.usage.output_tokens": given, "wb.cost_usd": cost_usd,
        "wb.price_version": "2026-11-01", "gen_ai.request.temperature": 0.0, "gen_ai.request.max_tokens": 512,
    } | more  # fmt: skip


def sample() -> list[SpanRow]:
    """Spans as they end: children first."""
    throttled = {
        "name": "exception",
        "at_ns": START + 371_000_000,
        "attributes": {
            "exception.type": "Throttled",
            "exception.stacktrace": 'Traceback (most recent call last):\n  File "providers.py", line 88, in complete\n'
            "Throttled: fast/chat-large answered 429: 60 requests a minute are used up; try again in 12 s",
        },
    }
    query = {"gen_ai.retrieval.query.text": QUESTION, "gen_ai.retrieval.documents": DOCUMENTS}
    return [
        span(3, 2, "embeddings all-MiniLM-L6-v2", 22, 38,
             attributes={"gen_ai.usage.input_tokens": 24, "wb.cost_usd": 4e-8}),
        span(2, 1, "retrieval hybrid", 20, 184,
             attributes=query | {"wb.retrieval.k": 3, "wb.retrieval.strategy": "hybrid"}),
        span(4, 1, "cache_lookup semantic", 206, 9,
             attributes={"wb.cache.hit": False, "wb.cache.kind": "semantic", "wb.cache.similarity": 0.871,
                         "wb.cache.threshold": 0.93}),
        attempt(5, 217, 154, "fast/chat-large", 1, status="error", events=[throttled],
                message="fast/chat-large answered 429: 60 requests a minute are used up; try again in 12 s",
                attributes={"error.type": "Throttled", "gen_ai.input.messages": ASKED}),
        attempt(6, 372, 918, "steady/chat-medium", 2,
                attributes=answered((812, 21), 0.00042, **{
                    "wb.route": "failover", "wb.reason": "first model throttled", "gen_ai.input.messages": ASKED,
                    "gen_ai.output.messages": [CALLED], "gen_ai.response.finish_reasons": ["tool_calls"]})),
        span(7, 1, "execute_tool signature", 1292, 6,
             attributes={"gen_ai.tool.name": "signature", "gen_ai.tool.call.id": "call_1",
                         "gen_ai.tool.call.arguments": CALL["arguments"], "gen_ai.tool.call.result": SIGNATURE}),
        attempt(8, 1300, 1084, "steady/chat-medium", 1,
                attributes=answered((904, 96), 0.00068, **{
                    "gen_ai.input.messages": [*ASKED, CALLED, RETURNED], "gen_ai.response.finish_reasons": ["stop"],
                    "gen_ai.output.messages": [{"role": "assistant", "parts": [{"type": "text", "content": ANSWER}]}],
                    "gen_ai.response.model": "chat-medium-2026-09", "gen_ai.response.time_to_first_chunk": 0.211})),
        span(9, 1, "evaluate names_accepted_function", 2386, 3,
             attributes={"gen_ai.evaluation.name": "names_accepted_function", "gen_ai.evaluation.score.value": 1.0,
                         "gen_ai.evaluation.score.label": "pass",
                         "gen_ai.evaluation.explanation": "The answer names pandas.DataFrame.merge: accepted."}),
        span(1, 0, "invoke_workflow answer", 0, 2391, attributes={"input.value": QUESTION, "output.value": ANSWER}),
    ]  # fmt: skip


def cached() -> list[SpanRow]:
    """The same question again, served from the semantic cache."""
    hit = {"wb.cache.hit": True, "wb.cache.kind": "semantic", "wb.cache.similarity": 0.971, "wb.cache.threshold": 0.93,
           "wb.saved_usd": 0.0011, "gen_ai.output.messages": [{"role": "assistant", "content": ANSWER}]}  # fmt: skip
    return [
        span(2, 1, "cache_lookup semantic", 1, 7, attributes=hit),
        span(1, 0, "invoke_workflow answer", 0, 9, attributes={"input.value": QUESTION}),
    ]
