"""One attempt at one model: paid for before it is made, settled once, written down whatever comes of it."""

import json
import math
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from workbench.clock import Clock, SystemClock
from workbench.config import Settings
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
from workbench.inference.reservation import worst_input_tokens, worst_nanos
from workbench.inference.settlement import BUSY, may_be_billed, settle
from workbench.inference.streaming import still_read
from workbench.state import open_engine
from workbench.telemetry.context import Attribution
from workbench.telemetry.ledger import Ledger, LedgerRow
from workbench.telemetry.spans import Span, Tracing

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
        books, tokens, whole_s = self.books, worst_input_tokens(request), timeout_s
        worst, validator = worst_nanos(books.prices, request), validator_of(request)
        number, self.attempts = self.attempts, self.attempts + 1
        due = self.row(request, number, books.clock.now().isoformat(), cost_nanos=worst, status="unknown",
                       error_class="NeverSettled")  # fmt: skip
        shown, attempt = _Shown(on_text), _Open(due)
        try:  # wherever an interruption falls, it leaves no hold
            still_read()
            self._reserve(due, attempt)
            attempt.slot = self._slot(request, tokens + request.max_tokens, patience_s)
            timeout_s = min(timeout_s, self._left_s(request, attempt.slot))
            waited_s = attempt.slot.waited_s if attempt.slot else 0.0
            with chat_span(books.tracing, request, {"attempt": number + 1, "waited_s": waited_s or None}) as span:
                attempt.due = due = replace(due, started=books.clock.now().isoformat())
                attempt.began = books.clock.monotonic()
                response = provider.complete(request, timeout_s=timeout_s, on_text=shown if on_text else None)
                cost, doubt = self._cost(request, response, worst)
                if wrong := misfit(validator, response):
                    doubt = MalformedAnswer.__name__
                attempt.due = self.row(request, number, due.started, response=response, cost_nanos=cost,
                                       latency_ms=response.latency_ms, error_class=doubt)  # fmt: skip
                attempt.response = response
                self._settle(attempt)
                self._return_tokens(attempt.slot, response)
                note(span, response, cost)
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
            return self.books.prices.cost_nanos(request.model, response.usage), ""
        except UnknownPrice:  # of a token class that nobody expected: the answer is there and is worth its price
            return worst, UnknownPrice.__name__

    def _reserve(self, worst: LedgerRow, attempt: "_Open") -> None:
        if self.books.budgets:
            attempt.hold = uuid.uuid4().hex
            try:
                self.books.budgets.reserve(worst, hold_id=attempt.hold)
            except (BudgetExceeded, *BUSY):
                attempt.hold = ""
                raise

    def _slot(self, request: Request, tokens: int, patience_s: float) -> Slot | None:
        if self.books.limiter is None:
            return None
        useful_s = self.deadline - self.books.clock.monotonic() - LEAST_USEFUL_S
        return self.books.limiter.wait(request.model, tokens, deadline_s=max(min(patience_s, useful_s), 0.0))

    def _left_s(self, request: Request, slot: Slot | None) -> float:
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

    def _return_tokens(self, slot: Slot | None, response: Response) -> None:
        if slot and self.books.limiter and response.usage:
            with suppress(*BUSY):  # the answer is paid for; those behind then wait for tokens that were not used
                self.books.limiter.settle(slot, response.usage.input + response.usage.output)

    def _broken_off(self, attempt: "_Open", error: BaseException) -> None:
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

    def _settle(self, attempt: "_Open") -> None:
        books, rows = self.books, [attempt.due] if attempt.due else []
        settle(attempt.hold, rows, budgets=books.budgets, ledger=books.ledger, clock=books.clock,
               response=attempt.response)  # fmt: skip
        self.cost_nanos += sum(row.cost_nanos for row in rows)
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
        with chat_span(self.books.tracing, request, told) as span:
            note(span, response, 0, free=True)

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
class _Open:
    """An attempt that is not settled: ``due`` is its row as things stand, ``began`` when it was sent."""

    due: LedgerRow | None
    hold: str = ""
    slot: Slot | None = None
    began: float | None = None
    response: Response | None = None


@dataclass(slots=True)
class _Shown:
    """Hands text on, and remembers whether there was any: what a user has seen cannot be taken back by a retry."""

    on_text: Callable[[str], None] | None
    anything: bool = False

    def __call__(self, text: str) -> None:
        self.anything = True
        if self.on_text:
            self.on_text(text)


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
