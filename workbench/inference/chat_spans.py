"""What a span says of one request, in OpenTelemetry's GenAI names."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from workbench.inference.messages import Request, Response
from workbench.telemetry.spans import Span, Tracing


@contextmanager
def chat_span(tracing: Tracing | None, request: Request, told: Mapping[str, Any]) -> Iterator[Span | None]:
    """Span of one attempt, None where nothing is traced; an exception inside is recorded and goes on.

    ``told`` is what else is known of it by its name below ``wb.``, None what is not.
    """
    if tracing is None:
        yield None
        return
    attributes = {
        "gen_ai.request.model": request.model,
        "gen_ai.request.max_tokens": request.max_tokens,
        "gen_ai.request.temperature": request.temperature,
        **{f"wb.{name}": value for name, value in told.items()},
    }
    operation = "chat" if request.max_tokens else "embeddings"
    with tracing.span(f"{operation} {request.model}", operation, attributes) as span:
        span.content("gen_ai.input.messages", request.messages)
        yield span


def note(span: Span | None, response: Response, cost_nanos: int, *, free: bool = False) -> None:
    """Answer, tokens and cost; tokens only where they were asked for now."""
    if span is None:
        return
    told: dict[str, str | int | float] = {
        "gen_ai.response.model": response.model,
        "gen_ai.response.finish_reasons": response.finish_reason,
        "wb.cost_usd": cost_nanos / 1e9,
    }
    if response.usage and not free:
        told |= {
            "gen_ai.usage.input_tokens": response.usage.input,
            "gen_ai.usage.output_tokens": response.usage.output,
            "gen_ai.usage.cache_read.input_tokens": response.usage.cache_read,
            "gen_ai.usage.cache_creation.input_tokens": response.usage.cache_write,
        }
    span.set(told)
    parts: list[dict[str, str]] = [{"type": "text", "content": response.text}] if response.text else []
    parts += [
        {"type": "tool_call", "id": c.call_id, "name": c.name, "arguments": c.arguments} for c in response.tool_calls
    ]
    if parts:
        answer = [{"role": "assistant", "parts": parts, "finish_reason": response.finish_reason}]
        span.content("gen_ai.output.messages", answer)
