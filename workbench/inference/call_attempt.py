"""One call's attempts: worst case reserved, asked, checked against its schema, settled, written down and traced."""

import json
import math
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

import sqlalchemy as sa

from workbench.config import Clock, Settings, SystemClock
from workbench.errors import (
    AttemptTimeout,
    BudgetExceeded,
    ConfigError,
    MalformedAnswer,
    ProviderError,
    RateLimited,
    SettlementFailed,
    StoreError,
    UnknownPrice,
    WorkbenchError,
)
from workbench.inference.budgets import DEFAULT_BUDGETS, Budget, Budgets
from workbench.inference.call_tapes import refuse_offline
from workbench.inference.hosted_models import Provider
from workbench.inference.messages import CacheHit, Request, Response, Route, UnpricedUsage, Usage
from workbench.inference.prices import PriceTable, project_prices
from workbench.inference.rate_limits import RateLimit, RateLimiter, RateSlot
from workbench.inference.streams import stream_still_read
from workbench.state import open_engine, together
from workbench.telemetry.attribution import Attribution
from workbench.telemetry.ledger import Ledger, LedgerRow
from workbench.telemetry.spans import Span, Tracing, span_here

_TOLD_CHARACTERS = 200


def attempt_answer_validator(request: Request) -> Any:
    """Validator of jsonschema's for the answers to a request; None where it asks for no schema.

    Raises
    ------
    ConfigError
        If the schema is none.
    """
    if request.schema is None:
        return None
    from jsonschema import SchemaError
    from jsonschema.validators import validator_for
    from referencing import Registry

    kind = validator_for(request.schema)
    try:
        kind.check_schema(request.schema)
    except SchemaError as error:
        raise ConfigError(f"the schema of this request is no JSON schema: {error.message}") from error
    return kind(request.schema, registry=Registry())  # else it would fetch schemas that are referred to


def answer_misfit(validator: Any, response: Response) -> str:
    """What is wrong with an answer; empty where nothing is, or where it only calls tools."""
    if validator is None or (response.tool_calls and not response.text):
        return ""
    from referencing.exceptions import Unresolvable

    try:
        first = next(validator.iter_errors(json.loads(response.text)), None)
    except ValueError as error:
        return f"the answer is no JSON, which its schema asks for: {error}"
    except Unresolvable as error:
        return f"the answer cannot be checked, because its schema refers to one elsewhere: {error}"
    return f"the answer does not fulfil its schema: {first.message[:_TOLD_CHARACTERS]}" if first else ""


TOKENS_PER_MESSAGE = 8
# What vendors add to a prompt without showing it: instructions for tools, and the tokens of a picture behind a link.
TOKENS_FOR_TOOLS, TOKENS_PER_PICTURE = 600, 4000


def worst_attempt_nanos(prices: PriceTable, request: Request, tokens: int | None = None) -> int:
    """Nano-dollars of one attempt at most; ``tokens`` is its `worst_attempt_tokens`, where those are known already.

    Raises
    ------
    UnknownPrice
        If the model has no price, or none for a cache of an hour where the request asks for one.
    """
    tokens = worst_attempt_tokens(request) if tokens is None else tokens
    return prices.worst_nanos(
        request.model, input_tokens=tokens, max_tokens=request.max_tokens, keeps_long=request.keeps_long
    )


def worst_attempt_tokens(request: Request) -> int:
    """Upper bound of the prompt's tokens: byte-level vocabularies make at most one of each UTF-8 byte.

    For what vendors count beside the text it has an allowance.
    """
    text = json.dumps([request.messages, request.tools, request.schema], ensure_ascii=False, default=dict)
    parts = [p for m in request.messages if isinstance(m.get("content"), list) for p in m["content"]]
    pictures: int = sum(isinstance(p, Mapping) and p.get("type", "text") != "text" for p in parts)
    extra = TOKENS_PER_PICTURE * pictures + TOKENS_FOR_TOOLS * bool(request.tools)
    return len(text.encode(errors="replace")) + TOKENS_PER_MESSAGE * len(request.messages) + extra


PATIENCE_S = 60.0  # on SQLite each of the tries waits 30 s by itself
BUSY = (sa.exc.OperationalError, sa.exc.TimeoutError)


def settle_attempt(
    hold_id: str,
    rows: Sequence[LedgerRow],
    *,
    budgets: Budgets | None,
    ledger: Ledger | None,
    clock: Clock,
    response: Response | None,
) -> None:
    """Close the hold and write the rows, in one transaction; a database that does not take them is asked again.

    Raises
    ------
    SettlementFailed
        If it does not for a minute; ``response`` is in it.
    """
    until = clock.monotonic() + PATIENCE_S
    while True:
        try:
            if budgets and ledger:
                budgets.settle(hold_id, rows, ledger)
            elif ledger:
                ledger.add(rows)
            return
        except BUSY as error:
            if clock.monotonic() >= until:
                raise SettlementFailed(
                    f"what came of an attempt could not be written down in {PATIENCE_S:g} s ({error}); "
                    + ("its answer is this error's response. " if response else "")
                    + "What was reserved for it stays charged until: workbench budgets --close-holds-before",
                    response=response,
                ) from error
        clock.sleep(1)


def may_be_billed(error: BaseException) -> bool:
    """Whether a provider may charge for an attempt that ended like this; in doubt it may."""
    refused_here = isinstance(error, WorkbenchError) and not isinstance(error, ProviderError)
    return not refused_here and getattr(error, "billed", "unknown") != "no"


@contextmanager
def attempt_span(
    tracing: Tracing | None, request: Request, told: Mapping[str, Any], place: Any = None
) -> Iterator[Span | None]:
    """Span of one attempt, None where nothing is traced; an exception inside is recorded and goes on.

    ``told`` is what else is known of it by its name below ``wb.``, None what is not; ``place`` is as in `Tracing.span`.
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
    with tracing.span(f"{operation} {request.model}", operation, attributes, place) as span:
        span.content("gen_ai.input.messages", request.messages)
        yield span


def tell_route(span: Span | None, route: Route) -> None:
    """Say which arm was chosen and why, where a router chose."""
    if span and route.arm:
        span.set({"wb.route": route.arm, "wb.reason": route.reason})


def note_attempt(span: Span | None, response: Response, cost_nanos: int, *, free: bool = False) -> None:
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


# After a wait for its turn a request with less time than this is not sent: it would be paid for and give no answer.
LEAST_USEFUL_S = 1.0


@dataclass(frozen=True, slots=True)
class Books:
    """Where an attempt is paid, queued and written; what is None is left out."""

    prices: PriceTable
    budgets: Budgets | None = None
    ledger: Ledger | None = None
    limiter: RateLimiter | None = None
    tracing: Tracing | None = None
    clock: Clock = field(default_factory=SystemClock)

    def __post_init__(self) -> None:
        if self.budgets and self.ledger is None:
            raise ConfigError("budgets are settled together with ledger rows; give the books a ledger too")

    @classmethod
    def open(
        cls,
        settings: Settings,
        *,
        budgets: Sequence[Budget] = DEFAULT_BUDGETS,
        limits: Mapping[str, RateLimit] | None = None,
        clock: Clock | None = None,
    ) -> Self:
        """Books of a project with everything in them: its prices, and the rest in its state database."""
        engine, clock = open_engine(settings.state_url), clock or SystemClock()
        return cls(
            project_prices(settings.root),
            Budgets(engine, budgets, clock),
            Ledger(engine),
            RateLimiter(engine, limits or {}, clock),
            Tracing(engine),
            clock,
        )

    def span(self, name: str) -> AbstractContextManager[Span | None]:
        """Span around all attempts at a call, None where nothing is traced."""
        return self.tracing.span(name, "invoke_workflow") if self.tracing else nullcontext()


@dataclass(slots=True)
class CallAccount:
    """Attempts of one call, and what they cost so far.

    Attributes
    ----------
    deadline : float
        Moment on the monotonic clock.
    answered, answer_nanos : str, int
        The model that answered, and what that attempt alone cost; 1e-9 USD, 0 where nobody knows.
    place : object or None
        Where the account was opened in the tree of spans: each attempt's span stands below it, whatever code in
        between made of the thread's context.
    """

    call_id: str
    trace_id: str
    who: Attribution
    books: Books
    deadline: float
    route: str = ""
    reason: str = ""
    attempts: int = 0
    cost_nanos: int = 0
    answered: str = ""
    answer_nanos: int = 0
    place: Any = field(init=False)

    def __post_init__(self) -> None:
        self.place = span_here() if self.books.tracing else None

    def ask(
        self, provider: Provider, request: Request, *, timeout_s: float, on_text: Callable[[str], None] | None,
        patience_s: float = math.inf,
    ) -> Response:  # fmt: skip
        """Reserve the worst case, wait for a slot at most ``patience_s``, ask, and settle at what it cost.

        What was charged stays charged where nobody knows whether the provider bills it.

        Raises
        ------
        UnknownPrice, BudgetExceeded, RateLimited, ConfigError
            If it may not be asked.
        ProviderError
            What the provider made of it.
        SettlementFailed
            If the state database does not take what came of it.
        """
        refuse_offline(f"asking {request.model}")
        books, tokens, whole_s = self.books, worst_attempt_tokens(request), timeout_s
        worst, validator = worst_attempt_nanos(books.prices, request, tokens), attempt_answer_validator(request)
        number, self.attempts = self.attempts, self.attempts + 1
        due = self.row(request, number, books.clock.now().isoformat(), cost_nanos=worst, status="unknown",
                       error_class="NeverSettled")  # fmt: skip
        shown, attempt = _Shown(on_text), _OpenAttempt(due)
        try:  # wherever an interruption falls, it leaves no hold
            stream_still_read()
            self._enter(request, tokens, attempt, due, patience_s)
            timeout_s = min(timeout_s, self._left_s(request, attempt.slot))
            waited_s = attempt.slot.waited_s if attempt.slot else 0.0
            told = {"attempt": number + 1, "waited_s": waited_s or None}
            with attempt_span(books.tracing, request, told, self.place) as span, self._charged(span, attempt):
                attempt.due = due = replace(due, started=books.clock.now().isoformat())
                attempt.began = books.clock.monotonic()
                response = provider.complete(request, timeout_s=timeout_s, on_text=shown if on_text else None)
                cost, doubt = self._cost(request, response, worst)
                if wrong := answer_misfit(validator, response):
                    doubt = MalformedAnswer.__name__
                attempt.due = self.row(request, number, due.started, response=response, cost_nanos=cost,
                                       latency_ms=response.latency_ms, error_class=doubt)  # fmt: skip
                attempt.response = response
                with together():
                    self._return_tokens(attempt.slot, response)
                    self._settle(attempt)
                note_attempt(span, response, cost)
                if wrong:
                    raise MalformedAnswer(f"{request.model}: {wrong}", billed="unknown")
        except BaseException as error:
            self._broken_off(attempt, error)
            if isinstance(error, ProviderError):
                error.streamed = shown.anything
            if isinstance(error, AttemptTimeout):
                error.cut = error.cut or timeout_s < whole_s
            raise
        self.answered, self.answer_nanos = request.model, 0 if doubt else cost
        return response

    def _cost(self, request: Request, response: Response, worst: int) -> tuple[int, str]:
        """Nano-dollars of an answer; where they cannot be known, the reservation, and why."""
        if response.usage is None:
            return worst, "UsageMissing"
        try:
            cost = self.books.prices.cost_nanos(request.model, response.usage)
        except UnknownPrice:  # of a token class that nobody expected: the answer is there and is worth its price
            return worst, UnknownPrice.__name__
        if isinstance(response.usage, UnpricedUsage):
            cost = max(cost, worst)
        return cost, response.usage.doubt

    def _enter(
        self, request: Request, tokens: int, attempt: "_OpenAttempt", worst: LedgerRow, patience_s: float
    ) -> None:
        """Reserve and wait for a slot; both are written in one transaction."""
        if self.books.budgets:
            attempt.hold = uuid.uuid4().hex
        try:
            with together():
                if self.books.budgets:
                    self.books.budgets.reserve(worst, hold_id=attempt.hold)
                attempt.slot = self._slot(request, tokens + request.max_tokens, patience_s)
        except (BudgetExceeded, *BUSY):
            attempt.hold = ""
            raise

    def _slot(self, request: Request, tokens: int, patience_s: float) -> RateSlot | None:
        if self.books.limiter is None:
            return None
        useful_s = self.deadline - self.books.clock.monotonic() - LEAST_USEFUL_S
        return self.books.limiter.wait(request.model, tokens, deadline_s=max(min(patience_s, useful_s), 0.0))

    def _left_s(self, request: Request, slot: RateSlot | None) -> float:
        """Seconds that are left for the answer; after a wait for the slot they must be enough for one."""
        left_s = self.deadline - self.books.clock.monotonic()
        if slot and slot.waited_s and left_s < LEAST_USEFUL_S:
            raise RateLimited(
                f"the limit of {request.model} let this request start {left_s:.1f} s before its deadline, which is too "
                "late for an answer; try again, or raise the limit",
                model=request.model,
                retry_after_s=LEAST_USEFUL_S,
            )
        if left_s <= 0:
            raise AttemptTimeout(f"{request.model}: the deadline passed before the request could be sent")
        return left_s

    def _return_tokens(self, slot: RateSlot | None, response: Response) -> None:
        if slot and self.books.limiter and response.usage:
            with suppress(*BUSY):  # the answer is paid for; those behind then wait for tokens that were not used
                self.books.limiter.settle(slot, response.usage.input + response.usage.output)

    def _broken_off(self, attempt: "_OpenAttempt", error: BaseException) -> None:
        """Take back an attempt that was never made, settle one that was."""
        if attempt.began is None:
            self.attempts, attempt.due = self.attempts - 1, None
            if attempt.hold:
                with suppress(StoreError):  # interrupted before it was made
                    self._settle(attempt)
            if attempt.slot and self.books.limiter:
                with suppress(*BUSY):  # the turn is lost
                    self.books.limiter.cancel(attempt.slot)
        elif attempt.due and not isinstance(error, SettlementFailed):
            if attempt.response is None:
                latency_ms = 1000 * (self.books.clock.monotonic() - attempt.began)
                row = replace(attempt.due, latency_ms=latency_ms, error_class=type(error).__name__)
                attempt.due = row if may_be_billed(error) else replace(row, status="error", cost_nanos=0)
            self._settle(attempt)

    @contextmanager
    def _charged(self, span: Span | None, attempt: "_OpenAttempt") -> Iterator[None]:
        """Settle what fails before its span ends, so that the span has the cost that the ledger has."""
        try:
            yield
        except BaseException as error:
            self._broken_off(attempt, error)
            if span and attempt.due is None:
                span.set({"wb.cost_usd": attempt.charged_nanos / 1e9})
            raise

    def _settle(self, attempt: "_OpenAttempt") -> None:
        books, rows = self.books, [attempt.due] if attempt.due else []
        settle_attempt(attempt.hold, rows, budgets=books.budgets, ledger=books.ledger, clock=books.clock,
               response=attempt.response)  # fmt: skip
        attempt.charged_nanos = sum(row.cost_nanos for row in rows)
        self.cost_nanos += attempt.charged_nanos
        attempt.due = None

    def free(self, request: Request, response: Response, *, status: str, hit: CacheHit | None = None) -> None:
        """Write down an answer that cost nothing."""
        saved = hit.saved_nanos if hit else 0
        shown = {k: v for k, v in asdict(hit).items() if k != "response"} if hit else {}
        row = self.row(request, 0, self.books.clock.now().isoformat(), response=response, status=status,
                       saved_nanos=saved, cache=json.dumps(shown) if hit else "")  # fmt: skip
        if self.books.ledger:
            self.books.ledger.add([row])
        told = {f"cache.{k}": v for k, v in shown.items()} | {"cache.hit": bool(hit) or None, "source": status}
        with attempt_span(self.books.tracing, request, told, self.place) as span:
            note_attempt(span, response, 0, free=True)

    def row(
        self, request: Request, attempt: int, started: str, *, response: Response | None = None, status: str = "ok",
        **values: Any,
    ) -> LedgerRow:  # fmt: skip
        """One row of the ledger; tokens only where a provider counted them for this attempt."""
        usage = (response.usage if response and status == "ok" else None) or Usage()  # others were not billed
        return LedgerRow(
            call_id=self.call_id, attempt=attempt, started=started, trace_id=self.trace_id,
            **asdict(self.who), model_asked=request.model, model_served=response.model if response else "",
            route=self.route, reason=self.reason, fresh_tokens=usage.fresh, cache_read_tokens=usage.cache_read,
            cache_write_tokens=usage.cache_write, output_tokens=usage.output,
            price_version=self.books.prices.version, status=status, **({"cost_nanos": 0, "latency_ms": 0.0} | values),
        )  # fmt: skip


@dataclass(slots=True)
class _OpenAttempt:
    """An attempt that is not settled: ``due`` is its row as things stand, ``began`` when it was sent."""

    due: LedgerRow | None
    hold: str = ""
    slot: RateSlot | None = None
    began: float | None = None
    response: Response | None = None
    charged_nanos: int = 0


@dataclass(slots=True)
class _Shown:
    """Hands text on, and remembers whether there was any: what a user has seen cannot be taken back by a retry."""

    on_text: Callable[[str], None] | None
    anything: bool = False

    def __call__(self, text: str) -> None:
        self.anything = True
        if self.on_text:
            self.on_text(text)


def attempt_provider(providers: Mapping[str, Provider], model: str) -> Provider:
    """Provider with the longest prefix of the model's name.

    Raises
    ------
    ConfigError
        If none fits.
    """
    fits = [prefix for prefix in providers if model.startswith(prefix)]
    if not fits:
        raise ConfigError(f"no provider for model {model!r}; prefixes known: {', '.join(sorted(providers)) or 'none'}")
    return providers[max(fits, key=len)]
