"""Calls as a prompt cache sees them: segments in order, by hash and size, never by text."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from math import isfinite
from pathlib import Path
from typing import Any, Literal

from workbench.codec import from_json, to_plain
from workbench.config import Clock, SystemClock
from workbench.errors import ConfigError
from workbench.inference.hosted_models import Provider
from workbench.inference.messages import LONG_TTL, MARKERS, Message, Request, Response, Usage
from workbench.records import content_hash
from workbench.rendering.numbers import counted
from workbench.telemetry.attribution import current_attribution

Kind = Literal["tools", "system", "message"]
LONG_TTL_S = 3600
STABLE_SHARE = 0.5
BYTES_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Segment:
    """One part of a prompt that is the same or is not.

    ``breakpoint`` marks that the prefix up to its end is to be kept, ``ttl_s`` for how long (None: as usual).
    """

    kind: Kind
    sha256: str
    tokens: int
    breakpoint: bool = False
    ttl_s: int | None = None

    def __post_init__(self) -> None:
        if self.tokens < 0:
            raise ConfigError(f"a segment cannot have {counted(self.tokens, 'token')}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptCallRecord:
    """One call of a log.

    Attributes
    ----------
    at : float
        Seconds, from any start, when it was sent.
    scope : str
        Account, workspace or key at the vendor: calls of different scopes share nothing. A vendor knows nothing of
        tenants: those of one scope read each other's prefixes, and can tell by the time that they were there.
    started_ms : float
        Milliseconds until its answer began: before that nobody can read what it writes. With 0 where it is not known
        the simulation is too good for calls sent at once.
    billed_read, billed_write : int or None
        What the vendor counted, where that is known; ``billed_write_long`` is the part of the latter kept longer.
    """

    at: float
    scope: str
    tenant_id: str
    feature: str
    model: str
    segments: tuple[Segment, ...]
    output_tokens: int = 0
    started_ms: float = 0.0
    billed_read: int | None = None
    billed_write: int | None = None
    billed_write_long: int = 0

    def __post_init__(self) -> None:
        if not self.segments:
            raise ConfigError("a call of the log has no segments; log its tools, system prompt and messages")
        if not isfinite(self.at) or not 0 <= self.started_ms < float("inf") or self.output_tokens < 0:
            raise ConfigError(f"at, started_ms or output_tokens cannot be: {self.at}, {self.started_ms}")

    @property
    def input_tokens(self) -> int:
        """All tokens of the prompt."""
        return sum(s.tokens for s in self.segments)


def approximate_prompt_tokens(text: str) -> int:
    """Tokens at four bytes each: about right for English, where a vendor's own tokenizer is not at hand."""
    return -(-len(text.encode(errors="replace")) // BYTES_PER_TOKEN)


def prompt_call_of(
    request: Request,
    count_tokens: Callable[[str], int],
    *,
    at: float,
    tenant_id: str,
    feature: str,
    scope: str | None = None,
    output_tokens: int = 0,
    started_ms: float = 0.0,
    billed: Usage | None = None,
) -> PromptCallRecord:
    """Log record of a request; what it says is hashed and counted, and not kept.

    Parameters
    ----------
    count_tokens : callable
        Tokens of a text, by the vendor's tokenizer where it is at hand.
    scope : str, optional
        As in `PromptCallRecord`; by default each tenant has its own.
    billed : Usage, optional
        What the vendor counted.
    """
    return PromptCallRecord(
        at=at, scope=tenant_id if scope is None else scope, tenant_id=tenant_id, feature=feature, model=request.model,
        segments=tuple(_prompt_segments(request, count_tokens)), output_tokens=output_tokens, started_ms=started_ms,
        billed_read=billed.cache_read if billed else None, billed_write=billed.cache_write if billed else None,
        billed_write_long=billed.cache_write_long if billed else 0,
    )  # fmt: skip


def _prompt_segments(request: Request, count_tokens: Callable[[str], int]) -> Iterator[Segment]:
    """Tools, the answer's schema, then the messages: the order in which vendors read a prompt."""
    schema = [request.schema] if request.schema is not None else []
    for part in (*request.tools, *schema):
        yield _prompt_segment("tools", "", part, count_tokens)
    for message in request.messages:
        kind: Kind = "system" if message["role"] == "system" else "message"
        for part in _segment_parts(message):
            yield _prompt_segment(kind, message["role"], part, count_tokens)


def _segment_parts(message: Message) -> Iterator[Mapping[str, Any]]:
    """Parts of the content, with what else the message holds beside the last: tool calls, names, markers."""
    content = message.get("content")
    beside = {key: value for key, value in message.items() if key not in ("role", "content")}
    parts = content if isinstance(content, list | tuple) and content else [{"type": "text", "text": content or ""}]
    yield from parts[:-1]
    yield {**parts[-1], **beside}


def _prompt_segment(kind: Kind, role: str, part: Mapping[str, Any], count_tokens: Callable[[str], int]) -> Segment:
    said = {key: value for key, value in part.items() if key not in MARKERS}
    # keys stay in their order: another order is another prompt, and breaks the prefix
    text = json.dumps(said, ensure_ascii=False, default=dict)
    shown = str(said["text"]) if set(said) == {"type", "text"} else text
    marker = next((part[name] for name in MARKERS if part.get(name)), None)
    long = isinstance(marker, Mapping) and marker.get("ttl") == LONG_TTL
    return Segment(kind, content_hash(role, text), count_tokens(shown), bool(marker), LONG_TTL_S if long else None)


def mark_stable_prefix(calls: Sequence[PromptCallRecord]) -> tuple[PromptCallRecord, ...]:
    """Return the calls with one breakpoint, behind the last of tools and system prompt: what one would mark first."""
    out = []
    for call in calls:
        last = max((i for i, s in enumerate(call.segments) if s.kind != "message"), default=-1)
        marked = tuple(replace(s, breakpoint=i == last) for i, s in enumerate(call.segments))
        out.append(replace(call, segments=marked))
    return tuple(out)


def prompt_calls_with_ttl(calls: Sequence[PromptCallRecord], ttl_s: int) -> tuple[PromptCallRecord, ...]:
    """What if every breakpoint were kept for ``ttl_s`` seconds."""
    return tuple(
        replace(c, segments=tuple(replace(s, ttl_s=ttl_s) if s.breakpoint else s for s in c.segments)) for c in calls
    )


def volatile_segments_last(calls: Sequence[PromptCallRecord]) -> tuple[PromptCallRecord, ...]:
    """What if tools and system prompts that change from call to call stood behind the messages.

    One changes where under half of the tenant's calls of the feature to that model hold it. Its breakpoint goes to
    the last of tools and system prompt that stays. Messages stay as they are: their order has a meaning.
    """
    held, sizes = Counter[tuple[str, ...]](), Counter[tuple[str, ...]]()
    for call in calls:
        sizes[_segment_group(call)] += 1
        held.update((*_segment_group(call), sha256) for sha256 in {s.sha256 for s in call.segments})
    out = []
    for call in calls:
        group = _segment_group(call)
        moving = [s.kind != "message" and held[(*group, s.sha256)] < STABLE_SHARE * sizes[group] for s in call.segments]
        stay = [s for s, moves in zip(call.segments, moving, strict=True) if not moves]
        moved = [s for s, moves in zip(call.segments, moving, strict=True) if moves]
        marks = [s for s in moved if s.breakpoint]
        last = max((i for i, s in enumerate(stay) if s.kind != "message"), default=None)
        if marks and last is not None and not stay[last].breakpoint:
            stay[last] = replace(stay[last], breakpoint=True, ttl_s=marks[-1].ttl_s)
        behind = (replace(s, kind="message", breakpoint=False, ttl_s=None) for s in moved)
        out.append(replace(call, segments=(*stay, *behind)))
    return tuple(out)


def _segment_group(call: PromptCallRecord) -> tuple[str, ...]:
    return call.scope, call.model, call.feature, call.tenant_id


CALLS = "calls.jsonl"  # in an evalset's folder


@dataclass(frozen=True, slots=True)
class CallLog:
    """Provider that notes the calls that another one answers, one line each: hashes and sizes, never text.

    ``Client.open(settings, providers={"": CallLog(LiteLLMProvider(), settings.evalsets / "shop" / CALLS)})``

    Attributes
    ----------
    scope : str
        As in `PromptCallRecord`: the one account at the vendor that all these calls are made with.
    """

    provider: Provider
    path: Path
    scope: str = "account"
    count_tokens: Callable[[str], int] = approximate_prompt_tokens
    clock: Clock = field(default_factory=SystemClock)

    def complete(self, request: Request, *, timeout_s: float, on_text: Callable[[str], None] | None = None) -> Response:
        """Answer as the other provider does; an attempt that fails is not noted."""
        who, at = current_attribution(), self.clock.now().timestamp()
        with self.path.open("a", encoding="utf-8") as file:  # whatever cannot be logged is told before anything is paid
            asked = prompt_call_of(
                request, self.count_tokens, at=at, tenant_id=who.tenant_id, feature=who.feature, scope=self.scope
            )
            response = self.provider.complete(request, timeout_s=timeout_s, on_text=on_text)
            # one write a line: threads and processes mix nothing up
            file.write(json.dumps(to_plain(_answered_prompt_call(asked, response))) + "\n")
        return response


def _answered_prompt_call(call: PromptCallRecord, response: Response) -> PromptCallRecord:
    usage, first = response.usage, response.first_token_ms
    call = replace(call, started_ms=response.latency_ms if first is None else first)
    if usage is None:
        return call
    return replace(
        call, output_tokens=usage.output, billed_read=usage.cache_read, billed_write=usage.cache_write,
        segments=tuple(_fitted_segments(call, usage.input)),
    )  # fmt: skip


def _fitted_segments(call: PromptCallRecord, tokens: int) -> Iterable[Segment]:
    """Segments whose sizes add up to the tokens that the vendor counted."""
    ends = accumulate((s.tokens for s in call.segments), initial=0)
    whole = max(call.input_tokens, 1)
    for segment, (start, end) in zip(call.segments, pairwise(tokens * end // whole for end in ends), strict=True):
        yield replace(segment, tokens=end - start)


def read_prompt_calls(path: Path) -> tuple[PromptCallRecord, ...]:
    """Calls of a log.

    Raises
    ------
    ConfigError
        If a line is no call.
    """
    lines = enumerate(path.read_bytes().split(b"\n"), start=1)
    told = "is no logged call (drop the line, or log anew)"
    return tuple(from_json(PromptCallRecord, line, f"{path}:{number} {told}") for number, line in lines if line)
