"""One attempt at one model: paid for before it is made, settled once, written down whatever comes of it."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from workbench.clock import Clock, SystemClock
from workbench.config import Settings
from workbench.errors import (
    AttemptTimeout,
    ConfigError,
    MalformedAnswer,
    ProviderError,
    UnknownPrice,
    WorkbenchError,
)
from workbench.inference.answer_schema import misfit, validator_of
from workbench.inference.budget import DEFAULT_BUDGETS, Budget
from workbench.inference.budgets import Budgets
from workbench.inference.cache_protocol import CacheHit
from workbench.inference.chat_spans import chat_span, note
from workbench.inference.limits import Limit, RateLimiter, Slot
from workbench.inference.messages import Request, Response, Usage
from workbench.inference.prices import PriceTable, project_prices
from workbench.inference.providers import Provider
from workbench.state import open_engine
from workbench.telemetry.context import Attribution
from workbench.telemetry.ledger import Ledger, LedgerRow
from workbench.telemetry.spans import Span, Tracing

TOKENS_PER_MESSAGE = 8
# What vendors add to a prompt without showing it: instructions for tools, and the tokens of a picture behind a link.
TOKENS_FOR_TOOLS, TOKENS_PER_PICTURE = 600, 4000


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
        limits: Mapping[str, Limit] | None = None,
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
class Bill:
    """Attempts of one call, and what they cost so far.

    Attributes
    ----------
    deadline : float
        Moment on the monotonic clock.
    answered, answer_nanos : str, int
        The model that answered, and what that attempt alone cost; 1e-9 USD, 0 where nobody knows.
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

    def ask(
        self, provider: Provider, request: Request, *, timeout_s: float, on_text: Callable[[str], None] | None
    ) -> Response:
        """Reserve the worst case, wait for a slot, ask, and settle at what it cost.

        What was charged stays charged where nobody knows whether the provider bills it.

        Raises
        ------
        UnknownPrice, BudgetExceeded, RateLimited, ConfigError
            If it may not be asked.
        ProviderError
            What the provider made of it.
        """
        books, tokens, validator = self.books, worst_input_tokens(request), validator_of(request)
        worst = worst_nanos(books.prices, request)
        number, self.attempts = self.attempts, self.attempts + 1
        unsettled = self.row(request, number, books.clock.now().isoformat(), cost_nanos=worst, status="unknown",
                             error_class="NeverSettled")  # fmt: skip
        hold = books.budgets.reserve(unsettled) if books.budgets else ""
        slot = self._slot(request, tokens + request.max_tokens, hold)
        timeout_s = min(timeout_s, self.deadline - books.clock.monotonic())
        if timeout_s <= 0:
            self._give_up(slot, hold)
            raise AttemptTimeout(f"{request.model}: the deadline passed before the request could be sent")
        shown = _Shown(on_text)
        started, began = books.clock.now().isoformat(), books.clock.monotonic()
        with chat_span(books.tracing, request) as span:
            try:
                response = provider.complete(request, timeout_s=timeout_s, on_text=shown if on_text else None)
            except BaseException as error:
                billed = _may_be_billed(error)
                row = replace(unsettled, started=started, latency_ms=1000 * (books.clock.monotonic() - began),
                              error_class=type(error).__name__)  # fmt: skip
                self.settle(hold, row if billed else replace(row, status="error", cost_nanos=0))
                if isinstance(error, ProviderError):
                    error.streamed = shown.anything
                raise
            cost, doubt = self._cost(request, response, worst)
            if wrong := misfit(validator, response):
                doubt = MalformedAnswer.__name__
            row = self.row(request, number, started, response=response, cost_nanos=cost,
                           latency_ms=response.latency_ms, error_class=doubt)  # fmt: skip
            self.settle(hold, row)
            if slot and books.limiter and response.usage:
                books.limiter.settle(slot, response.usage.input + response.usage.output)
            note(span, response, cost)
            if wrong:
                raise MalformedAnswer(f"{request.model}: {wrong}", billed="unknown", streamed=shown.anything)
        self.answered, self.answer_nanos = request.model, 0 if doubt else cost
        return response

    def _cost(self, request: Request, response: Response, worst: int) -> tuple[int, str]:
        """Nano-dollars of an answer; where they cannot be known, the reservation, and why."""
        if response.usage is None:
            return worst, "UsageMissing"
        try:
            return self.books.prices.cost_nanos(request.model, response.usage), ""
        except UnknownPrice:  # of a token class that nobody expected: the answer is there and is worth its price
            return worst, UnknownPrice.__name__

    def _slot(self, request: Request, tokens: int, hold: str) -> Slot | None:
        if self.books.limiter is None:
            return None
        deadline_s = self.deadline - self.books.clock.monotonic()
        try:
            return self.books.limiter.wait(request.model, tokens, deadline_s=deadline_s)
        except BaseException:  # refused, or Ctrl-C while it waits: nothing was asked
            self._give_up(None, hold)
            raise

    def _give_up(self, slot: Slot | None, hold: str) -> None:
        """Take back what was reserved for an attempt that was never made."""
        self.attempts -= 1
        if slot and self.books.limiter:
            self.books.limiter.cancel(slot)
        self.settle(hold)

    def settle(self, hold: str, *rows: LedgerRow) -> None:
        """Close the hold and write the rows: one transaction."""
        self.cost_nanos += sum(row.cost_nanos for row in rows)
        if self.books.budgets and self.books.ledger:
            self.books.budgets.settle(hold, rows, self.books.ledger)
        elif self.books.ledger and rows:
            self.books.ledger.add(rows)

    def free(self, request: Request, response: Response, *, status: str, hit: CacheHit | None = None) -> None:
        """Write down an answer that cost nothing."""
        saved = hit.saved_nanos if hit else 0
        shown = {k: v for k, v in asdict(hit).items() if k != "response"} if hit else {}
        row = self.row(request, 0, self.books.clock.now().isoformat(), response=response, status=status,
                       saved_nanos=saved, cache=json.dumps(shown) if hit else "")  # fmt: skip
        if self.books.ledger:
            self.books.ledger.add([row])
        with chat_span(self.books.tracing, request) as span:
            note(span, response, 0, free=True)
            if span:
                span.set({f"wb.cache.{k}": v for k, v in shown.items()} | {"wb.source": status})

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


def _may_be_billed(error: BaseException) -> bool:
    """Whether a provider may charge for an attempt that ended like this; in doubt it may."""
    refused_here = isinstance(error, WorkbenchError) and not isinstance(error, ProviderError)
    return not refused_here and getattr(error, "billed", "unknown") != "no"


@dataclass(slots=True)
class _Shown:
    """Hands text on, and remembers whether there was any: what a user has seen cannot be taken back by a retry."""

    on_text: Callable[[str], None] | None
    anything: bool = False

    def __call__(self, text: str) -> None:
        self.anything = True
        if self.on_text:
            self.on_text(text)


def worst_nanos(prices: PriceTable, request: Request) -> int:
    """Nano-dollars of one attempt at most.

    Raises
    ------
    UnknownPrice
        If the model has no price, or none for a cache of an hour where the request asks for one.
    """
    tokens = worst_input_tokens(request)
    return prices.worst_nanos(
        request.model, input_tokens=tokens, max_tokens=request.max_tokens, keeps_long=request.keeps_long
    )


def worst_input_tokens(request: Request) -> int:
    """Upper bound of the prompt's tokens: byte-level vocabularies make at most one of each UTF-8 byte.

    For what vendors count beside the text it has an allowance.
    """
    text = json.dumps([request.messages, request.tools, request.schema], ensure_ascii=False, default=dict)
    parts = [p for m in request.messages if isinstance(m.get("content"), list) for p in m["content"]]
    pictures: int = sum(isinstance(p, Mapping) and p.get("type", "text") != "text" for p in parts)
    extra = TOKENS_PER_PICTURE * pictures + TOKENS_FOR_TOOLS * bool(request.tools)
    return len(text.encode(errors="replace")) + TOKENS_PER_MESSAGE * len(request.messages) + extra


def provider_of(providers: Mapping[str, Provider], model: str) -> Provider:
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
