"""What a model is asked and what it answers, and what the client asks of a cache and of a router."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Protocol, Self

from workbench.errors import ConfigError
from workbench.records import content_hash
from workbench.telemetry.attribution import Attribution

Message = Mapping[str, Any]
ROLES = ("system", "user", "assistant", "tool")
MARKERS = ("cache_control", "prompt_cache_breakpoint")  # how vendors write a breakpoint of their prompt cache
LONG_TTL = "1h"
_HASHED = ("model", "max_tokens", "temperature", "seed", "stop", "tools", "schema", "messages")  # always, in this order


def message_text(message: Message) -> str:
    """Text of a message, without its pictures and files."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "\n".join(part.get("text", "") for part in content if part.get("type") == "text")


def last_user_text(messages: Sequence[Message]) -> str:
    """Text of the last user message."""
    return message_text(next((m for m in reversed(messages) if m.get("role") == "user"), {}))


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one answer in classes that are disjoint: ``fresh + cache_read + cache_write`` is the whole input.

    ``cache_write_long`` is the part of ``cache_write`` that is kept for an hour, at a higher price.
    """

    fresh: int = 0
    cache_read: int = 0
    cache_write: int = 0
    output: int = 0
    cache_write_long: int = 0
    doubt: ClassVar[str] = ""  # why the charge is not sure, as it stands in the ledger

    def __post_init__(self) -> None:
        if min(self.fresh, self.cache_read, self.cache_write, self.output, self.cache_write_long) < 0:
            raise ValueError(f"token counts cannot be negative: {self}")
        if self.cache_write_long > self.cache_write:
            raise ValueError(f"no more than all that is written can be kept for an hour: {self}")

    @property
    def input(self) -> int:
        """All tokens of the prompt."""
        return self.fresh + self.cache_read + self.cache_write

    @classmethod
    def of_prompt(
        cls, prompt: int, output: int, *, cache_read: int = 0, cache_write: int = 0, cache_write_long: int = 0
    ) -> Self:
        """Build from a provider's count whose prompt tokens include those read from and written to its cache."""
        return cls(prompt - cache_read - cache_write, cache_read, cache_write, output, cache_write_long)


class DoubtfulUsage(Usage):
    """Counts that contradict each other, in the dearer of the ways in which they can be read."""

    __slots__ = ()
    doubt: ClassVar[str] = "DoubtfulUsage"


class UnpricedUsage(Usage):
    """Counts beside which something was used that has a price of its own, such as sound."""

    __slots__ = ()
    doubt: ClassVar[str] = "UnknownPrice"


@dataclass(frozen=True, slots=True)
class Request:
    """One request to one model.

    Attributes
    ----------
    messages : tuple of mappings
        Chat messages, ``{"role": ..., "content": ...}`` and what tools need beside it.
    max_tokens : int
        Limit of the answer, without which no worst case could be reserved; 0 for an embedding, which has none.
    tools : tuple of mappings
        Functions that the model may call, as JSON schemas.
    schema : mapping or None
        JSON schema that the answer must fulfil.
    """

    model: str
    messages: tuple[Message, ...]
    max_tokens: int = 512
    temperature: float = 0.0
    seed: int | None = 0
    stop: tuple[str, ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()
    schema: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if not self.messages:
            raise ConfigError("a request needs at least one message")
        for i, message in enumerate(self.messages):
            if message.get("role") not in ROLES:
                raise ConfigError(f"message {i} has role {message.get('role')!r}; known: {', '.join(ROLES)}")
        if self.max_tokens < 0:
            raise ConfigError(f"max_tokens must be 0 or more, found {self.max_tokens}")

    @property
    def sha256(self) -> str:
        """Hash of everything that the answer depends on: all fields, also of a class that adds some.

        A field beyond those of this class counts where it has not its default, so that recordings outlive it. Keys of
        tools and schema count in their order: models write an answer in the order of its schema.
        """
        parts = [getattr(self, name) for name in _HASHED]
        later = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _HASHED}
        changed = {f.name: later[f.name] for f in fields(self) if f.name in later and later[f.name] != f.default}
        return content_hash(_spelled([*parts, *([changed] if changed else [])]), *filter(None, [self.key_order]))

    @property
    def key_order(self) -> str:
        """Tools and schema as they are written; empty where their keys are sorted, or there are none."""
        given = [self.tools, self.schema]
        if not any(given):
            return ""
        return "" if (written := _spelled(given, sort_keys=False)) == _spelled(given) else written

    @property
    def keeps_long(self) -> bool:
        """Whether a marker asks the vendor's prompt cache to keep a prefix for an hour."""
        return _keeps_long([self.tools, self.messages])

    def to(self, model: str) -> Self:
        """Return the same request to another model."""
        return replace(self, model=model)


def _spelled(value: object, *, sort_keys: bool = True) -> str:
    return json.dumps(value, sort_keys=sort_keys, ensure_ascii=False, default=dict)


def _keeps_long(part: object) -> bool:
    if isinstance(part, Mapping):
        marks = [part[name] for name in MARKERS if name in part]
        long = any(isinstance(mark, Mapping) and mark.get("ttl") == LONG_TTL for mark in marks)
        return long or any(map(_keeps_long, part.values()))
    return isinstance(part, list | tuple) and any(map(_keeps_long, part))


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One function call that a model asks for; ``arguments`` is JSON text as the model wrote it."""

    call_id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Response:
    """One answer.

    Attributes
    ----------
    model : str
        The model that served it, as the provider names it.
    usage : Usage or None
        None where the provider did not count.
    first_token_ms : float or None
        Milliseconds to the first token, where it was streamed.
    confidence : float or None
        Geometric mean probability of the answer's tokens, in [0, 1], where the provider gives probabilities.
    """

    text: str
    model: str
    usage: Usage | None
    finish_reason: str = "stop"
    tool_calls: tuple[ToolCall, ...] = ()
    latency_ms: float = 0.0
    first_token_ms: float | None = None
    confidence: float | None = None

    def json(self) -> Any:
        """The answer read as JSON.

        Raises
        ------
        ValueError
            If it is none.
        """
        return json.loads(self.text)


PREFIX, LOCAL = "router/", "local/"  # of the names of routers, and of models that run here


@dataclass(frozen=True, slots=True)
class Route:
    """A model to ask, with a configuration of the prompt where the decision is about those too."""

    model: str
    configuration: str = ""
    arm: str = ""
    reason: str = ""


class Routes(Protocol):
    """An accepted routing decision, as the client asks it; ``models`` may name a configuration behind an @."""

    @property
    def name(self) -> str:
        """Name behind ``router/``."""

    @property
    def models(self) -> tuple[str, ...]:
        """Arms, cheapest first."""

    @property
    def cascade(self) -> bool:
        """Whether the first arm is always asked, and the others by how sure it was."""

    @property
    def first(self) -> Route:
        """The cheapest arm."""

    def pick(self, text: str, feature: str, *, confidence: float | None = None) -> Route:
        """Choose for one request; ``confidence`` is that of the first arm's answer, in [0, 1]."""

    def instead(self, text: str, feature: str) -> Route:
        """Choose for one request among the arms beside the first, which gave no answer."""


@dataclass(frozen=True, slots=True)
class CacheUse:
    """What a caller says about an answer, so that it can be kept and served again.

    Attributes
    ----------
    visibility : str
        Who may be served this answer: "user" for this user alone, "tenant" for everyone of the tenant, otherwise the
        name of a permission set, compared exactly.
    corpus_version : str
        Version of corpus and index that the answer rests on.
    intent : str or None
        What the user wants, in their own words, as they stand in the last message; None to take all of the only user
        message. Nothing else is embedded.
    prompt_version : str
        Version of what the last message says around the intent: a template, an instruction. Without it the semantic
        cache is not asked where there is something around it.
    sources : tuple of str
        Documents that the answer cites: a change of one drops the entry.
    configuration : str
        Configuration of the prompt that a router chose; the client says it.
    turns : tuple of str
        What was said before, where the last message or a server tells it and not the messages: compared exactly.
    """

    visibility: str = "user"
    corpus_version: str = ""
    locale: str = ""
    intent: str | None = None
    prompt_version: str = ""
    sources: tuple[str, ...] = ()
    configuration: str = ""
    turns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CacheHit:
    """An answer from a cache, with everything needed to see why it was served."""

    response: Response
    kind: str
    similarity: float
    threshold: float
    entry_id: str
    scope: str
    saved_nanos: int


class Cache(Protocol):
    """A response cache or a semantic cache.

    One that has ``why_missed(request, use) -> str`` tells the span of a miss why no entry could have been served.
    """

    def moment(self) -> int:
        """Count of the invalidations so far: taken before `find`, it tells `keep` what the answer may rest on."""

    def find(self, request: Request, who: Attribution, use: CacheUse) -> CacheHit | None:
        """Cached answer for this request of this caller, None where anything is doubtful."""

    def keep(
        self, request: Request, response: Response, who: Attribution, use: CacheUse, *, cost_nanos: int, since: int
    ) -> None:
        """Keep an answer that was paid for, unless a document that it cites was invalidated ``since`` that moment."""


class Shadows(Protocol):
    """Sends a part of what was asked to a challenger as well, off the caller's path."""

    def bind(self, client: Any) -> None:
        """Get ready beside a client; what is wrong with the challenger is said here."""

    def offer(self, done: "Completion", request: Callable[[], Request]) -> None:
        """Take an answer that a model gave just now, or let it go: at once, and without any error."""


@dataclass(frozen=True, slots=True)
class Completion:
    """An answer with what it cost and where it came from.

    Attributes
    ----------
    source : str
        "model", "recording" or "cache".
    cost_nanos, saved_nanos : int
        1e-9 USD: charged over all attempts; and what an answer from the cache would have cost.
    attempts : int
        Requests that went to a provider.
    route : Route
        Model and configuration, and why where a router chose them.
    """

    response: Response
    call_id: str
    trace_id: str
    source: str
    route: Route
    cost_nanos: int = 0
    attempts: int = 0
    hit: CacheHit | None = None

    @property
    def text(self) -> str:
        """Text of the answer."""
        return self.response.text

    @property
    def usage(self) -> Usage | None:
        """Tokens of the answer, None where nobody counted."""
        return self.response.usage

    @property
    def cost_usd(self) -> float:
        """Dollars charged."""
        return self.cost_nanos / 1e9

    @property
    def saved_nanos(self) -> int:
        """What this answer would have cost, had it not been in the cache; 1e-9 USD."""
        return self.hit.saved_nanos if self.hit else 0
