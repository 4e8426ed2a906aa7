"""One way to call a model: every call attributed, priced, budgeted, limited, retried, failed over, recorded, traced."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Self

from sqlalchemy.exc import SQLAlchemyError

from workbench.config import Clock, Settings
from workbench.errors import (
    CallFailed,
    ConfigError,
    ProviderError,
    RateLimited,
    RecordingMiss,
    WorkbenchError,
)
from workbench.inference.budgets import DEFAULT_BUDGETS, Budget
from workbench.inference.call_attempt import Books, CallAccount, attempt_provider, tell_route
from workbench.inference.call_tapes import current_tape, why_again
from workbench.inference.failover import Cooldowns, RetryPolicy, call_with_failover
from workbench.inference.hosted_models import LiteLLMProvider, Provider
from workbench.inference.messages import (
    LOCAL,
    PREFIX,
    Cache,
    CacheHit,
    CacheUse,
    Completion,
    Message,
    Request,
    Response,
    Route,
    Routes,
    Shadows,
    last_user_text,
)
from workbench.inference.rate_limits import RateLimit
from workbench.inference.recordings import Recordings
from workbench.inference.streams import Stream
from workbench.telemetry.attribution import attributed, current_attribution
from workbench.telemetry.spans import Span

Messages = Sequence[Message] | Callable[[str], Sequence[Message]]


@dataclass(frozen=True, slots=True)
class _How:
    """What a caller says beside the request itself."""

    fallbacks: tuple[str, ...]
    use: CacheUse | None
    on_text: Callable[[str], None] | None
    policy: RetryPolicy
    deadline: float  # moment on the monotonic clock
    patient: bool = True  # False where another arm can be asked


@dataclass(frozen=True, slots=True)
class Client:
    """Calls models through providers.

    Attributes
    ----------
    providers : mapping of str to Provider
        By the longest prefix of the model's name that fits; "" takes every other model.
    books : Books
        Where calls are paid, queued and written; a replay needs none of it but the prices.
    routers : mapping of str to Routed
        What ``router/NAME`` stands for.
    shadow : Shadow
        Sends a part of the product's calls to a challenger as well, see `workbench.quality.shadow`.
    """

    providers: Mapping[str, Provider]
    books: Books
    recordings: Recordings | None = None
    cache: Cache | None = None
    routers: Mapping[str, Routes] = field(default_factory=dict)
    shadow: Shadows | None = None
    policy: RetryPolicy = field(default_factory=RetryPolicy)
    cooldowns: Cooldowns = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "cooldowns", Cooldowns(self.policy, self.books.clock))
        if self.shadow:
            self.shadow.bind(self)

    @classmethod
    def open(
        cls,
        settings: Settings,
        *,
        budgets: Sequence[Budget] = DEFAULT_BUDGETS,
        limits: Mapping[str, RateLimit] | None = None,
        clock: Clock | None = None,
        **parts: Any,
    ) -> Self:
        """Client with everything on, on the project's state database and prices; ``parts`` are its other fields.

        Where one of its ``routers`` is a cascade, hosted models are asked for the probabilities of their tokens too.
        """
        from workbench.inference.local_models import local_provider

        books = Books.open(settings, budgets=budgets, limits=limits, clock=clock)
        hosted = LiteLLMProvider(logprobs=any(routed.cascade for routed in parts.get("routers", {}).values()))
        providers = {LOCAL: local_provider(settings.cache / "weights"), "": hosted}
        whole: dict[str, Any] = {"providers": providers, "books": books} | parts
        return cls(**whole)

    def complete(
        self,
        messages: Messages,
        *,
        model: str,
        fallbacks: Sequence[str] = (),
        question: str | None = None,
        use: CacheUse | None = None,
        on_text: Callable[[str], None] | None = None,
        deadline_s: float | None = None,
        max_tokens: int = 512,
        temperature: float = 0.0,
        seed: int | None = 0,
        stop: Sequence[str] = (),
        tools: Sequence[Mapping[str, Any]] = (),
        schema: Mapping[str, Any] | None = None,
        tenant_id: str | None = None,
        user_id: str | None = None,
        feature: str | None = None,
        purpose: str | None = None,
        item_id: str | None = None,
    ) -> Completion:
        """``client.complete(messages, model="openai/gpt-5.4-nano", max_tokens=40).text``: answer one request.

        Parameters
        ----------
        messages : sequence of mappings, or function of a configuration
            A function where a router may choose between configurations (such as how much context): it gets the name
            of the chosen one, and is called for no other.
        model, fallbacks : str
            Asked in this order, but one that would keep the call waiting for longer than the policy's ``patience_s``
            after the others; ``router/NAME`` asks an accepted routing decision.
        question : str, optional
            What the user asked, without what was retrieved for it: this is what a router has learned on and looks at.
            By default the text of the last user message; needed where ``messages`` is a function.
        use : CacheUse, optional
            That the answer may come from the cache, and who may share it; without it the cache is not asked.
        on_text : callable, optional
            Gets the text piece by piece, as it comes.
        deadline_s : float, optional
            Seconds for everything: waiting, attempts and the pauses between them; both models of a cascade share them.
        max_tokens, temperature, seed, stop, tools, schema
            As in `Request`.
        tenant_id, user_id, feature, purpose, item_id : str, optional
            Where they differ from what `attributed` set.

        Raises
        ------
        BudgetExceeded, RateLimited, UnknownPrice
            If it may not be asked, or not in time.
        CallFailed
            After the last attempt.
        SettlementFailed
            If the state database does not take what came of an attempt; the answer, if there is one, is in it.
        RecordingMiss
            If answers are replayed and none fits.
        """
        said = {"tenant_id": tenant_id, "user_id": user_id, "feature": feature, "purpose": purpose, "item_id": item_id}
        who = {name: value for name, value in said.items() if value is not None}
        given: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed,
                                 "stop": tuple(stop), "tools": tuple(tools), "schema": schema}  # fmt: skip
        policy = self.policy if deadline_s is None else replace(self.policy, deadline_s=deadline_s)
        deadline = self.books.clock.monotonic() + policy.deadline_s
        how = _How(tuple(fallbacks), use, on_text, policy, deadline)
        with attributed(**who):
            if (tape := current_tape()) is None:
                return self._complete(messages, model, question, given, how)
            asked: list[Completion] = []

            def ask() -> Completion:
                asked.append(self._complete(messages, model, question, given, how))
                return asked[-1]

            done = tape.answer(lambda chosen: Request(model, _made(messages, chosen), **given).sha256, ask)
            if not asked and on_text and done.text:
                on_text(done.text)
            return done

    def _complete(
        self, messages: Messages, model: str, question: str | None, given: Mapping[str, Any], how: _How
    ) -> Completion:
        if self.shadow and callable(messages):
            messages = cache(messages)  # the shadow needs what was sent, and nobody makes it twice
        with self.books.span(f"call {model}") as span:
            if model.startswith(PREFIX):
                routed = self._router(model)
                asked = _router_question(messages, question, routed)
                done = self._routed(messages, asked, routed, given, how, span)
            else:
                done = self._answer(Request(model, _fixed(messages, model), **given), Route(model), how, span)
        if self.shadow and done.source == "model":
            self.shadow.offer(
                done, lambda: Request(done.route.model, _made(messages, done.route.configuration), **given)
            )
        return done

    def stream(
        self,
        messages: Messages,
        *,
        model: str,
        fallbacks: Sequence[str] = (),
        question: str | None = None,
        use: CacheUse | None = None,
        deadline_s: float | None = None,
        max_tokens: int = 512,
        temperature: float = 0.0,
        seed: int | None = 0,
        stop: Sequence[str] = (),
        tools: Sequence[Mapping[str, Any]] = (),
        schema: Mapping[str, Any] | None = None,
        tenant_id: str | None = None,
        user_id: str | None = None,
        feature: str | None = None,
        purpose: str | None = None,
        item_id: str | None = None,
    ) -> Stream[Completion]:
        """``for piece in client.stream(messages, model="openai/gpt-5.4-nano"): ...``: answer piece by piece.

        Parameters are those of `complete`; what it returns is the stream's ``result``, once all was read.
        """
        return Stream(
            lambda on_text: self.complete(
                messages, model=model, fallbacks=fallbacks, question=question, use=use, on_text=on_text,
                deadline_s=deadline_s, max_tokens=max_tokens, temperature=temperature, seed=seed, stop=stop,
                tools=tools, schema=schema, tenant_id=tenant_id, user_id=user_id, feature=feature, purpose=purpose,
                item_id=item_id,
            )
        )  # fmt: skip

    def _router(self, model: str) -> Routes:
        name = model.removeprefix(PREFIX)
        if name not in self.routers:
            raise ConfigError(
                f"this client has no router {name!r}, only: {', '.join(sorted(self.routers)) or 'none'}. Give it "
                f"routers={{{name!r}: load_routed(settings, {name!r})}}"
            )
        return self.routers[name]

    def _routed(
        self, messages: Messages, question: str, routed: Routes, given: Mapping[str, Any], how: _How, span: Span | None
    ) -> Completion:
        """Ask the arm that the router picks; a cascade asks its first arm in any case, and pays for it."""

        def ask(route: Route, how: _How) -> Completion:
            if how.use:
                how = replace(how, use=replace(how.use, configuration=route.configuration))
            made = _made(messages, route.configuration)
            return self._answer(Request(route.model, made, **given), route, how, span)

        feature = current_attribution().feature
        if not routed.cascade:
            return ask(routed.pick(question, feature), how)
        try:
            first = ask(routed.first, replace(how, fallbacks=(), on_text=None, patient=False))
        except (CallFailed, RateLimited, RecordingMiss) as error:
            if not _may_be_answered(error):
                raise
            return _ask_next_arm(error, routed.instead(question, feature), lambda route: ask(route, how))
        route = _cascade_is_sure(routed, question, feature, first)
        if route.arm == routed.first.arm:
            tell_route(span, route)
            if how.on_text:
                how.on_text(first.text)
            return replace(first, route=route)
        second = ask(route, how)
        attempts, cost = first.attempts + second.attempts, first.cost_nanos + second.cost_nanos
        return replace(second, attempts=attempts, cost_nanos=cost)

    def _answer(self, request: Request, route: Route, how: _How, span: Span | None) -> Completion:
        """Answer from a recording, the cache, or a model: in this order, since the first two cost nothing."""
        trace_id = span.trace_id if span else ""
        reason = "; ".join(filter(None, (route.reason, why_again())))
        account = CallAccount(
            uuid.uuid4().hex, trace_id, current_attribution(), self.books, how.deadline, route.arm, reason
        )
        tell_route(span, route)
        others = [request.to(model) for model in how.fallbacks]
        if self.recordings is not None and (
            found := self.recordings.take(request, *others, item_id=account.who.item_id)
        ):
            return self._free(account, request, found, "recording", route, how)
        hit, since = self._cached(request, account, how, span)
        if hit:
            if self.recordings is not None:  # a session is replayed as it was, hits too
                self.recordings.add(request, account.who.item_id, hit.response)
            return self._free(account, request, hit.response, "cache", route, how, hit)
        response = self._asked(request, account, how)
        answered = request.to(account.answered)  # after a failover another model's answer must not pass for this one's
        if self.recordings is not None:
            self.recordings.add(answered, account.who.item_id, response, asked=request)
        self._keep(answered, response, account, how, since)
        return Completion(
            response, account.call_id, account.trace_id, "model", route, account.cost_nanos, account.attempts
        )

    def _asked(self, request: Request, account: CallAccount, how: _How) -> Response:
        """Ask the models; an error says what was charged all the same."""
        try:
            return call_with_failover(
                (request.model, *how.fallbacks),
                lambda model, **limits: account.ask(
                    attempt_provider(self.providers, model), request.to(model), on_text=how.on_text, **limits
                ),
                policy=how.policy,
                cooldowns=self.cooldowns,
                clock=self.books.clock,
                deadline=how.deadline,
                patient=how.patient,
            )
        except CallFailed as failed:
            failed.cost_nanos = account.cost_nanos
            raise

    def _cached(
        self, request: Request, account: CallAccount, how: _How, span: Span | None
    ) -> tuple[CacheHit | None, int | None]:
        """Hit of the cache, and the moment that it was asked; one that fails is a miss, and keeps nothing."""
        if self.cache is None or how.use is None:
            return None, None
        hit, since, why = None, None, ""
        try:
            since = self.cache.moment()
            hit = self.cache.find(request, account.who, how.use)
            told = getattr(self.cache, "why_missed", None)
            why = told(request, how.use) if span and told and hit is None else ""
        except (WorkbenchError, SQLAlchemyError) as error:
            self._doubt("find", error)
            since = None
        if span and hit is None:  # of a hit the span of its answer tells
            why = why or getattr(self.cache, "miss_reason", "")
            span.set({"wb.cache.hit": False} | ({"wb.cache.reason": why} if why else {}))
        return hit, since

    def _keep(self, request: Request, response: Response, account: CallAccount, how: _How, since: int | None) -> None:
        """Keep an answer; it is paid for, and is given whether or not it can be kept."""
        if self.cache is None or how.use is None or since is None:
            return
        try:
            self.cache.keep(request, response, account.who, how.use, cost_nanos=account.answer_nanos, since=since)
        except (WorkbenchError, SQLAlchemyError) as error:
            self._doubt("keep", error)

    def _doubt(self, step: str, error: Exception) -> None:
        if self.books.tracing:
            with self.books.tracing.span(f"cache {step}") as span:
                span.error(error)

    def _free(
        self, account: CallAccount, request: Request, response: Response, source: str, route: Route, how: _How,
        hit: CacheHit | None = None,
    ) -> Completion:  # fmt: skip
        account.free(request, response, status="cached" if hit else "replayed", hit=hit)
        if how.on_text and response.text:
            how.on_text(response.text)
        return Completion(response, account.call_id, account.trace_id, source, route, hit=hit)


def _cascade_is_sure(routed: Routes, question: str, feature: str, first: Completion) -> Route:
    """What a cascade does after its first answer; without token probabilities nobody knows whether that will do."""
    sure = first.response.confidence
    route = routed.pick(question, feature, confidence=sure or 0.0)
    if sure is not None:
        return route
    return replace(route, reason=f"{route.reason}; {first.route.arm} gave no token probabilities: taken as unsure")


def _may_be_answered(error: Exception) -> bool:
    """Whether another model may answer what the first arm of a cascade did not."""
    cause = error.__cause__
    return not isinstance(cause, ProviderError) or cause.retryable or cause.elsewhere


def _ask_next_arm(error: Exception, route: Route, ask: Callable[[Route], Completion]) -> Completion:
    """Ask another arm after the first gave no answer; what that had cost is in the sum."""
    failure = error if isinstance(error, CallFailed) else CallFailed("")
    why = type(error.__cause__ or error).__name__
    try:
        done = ask(replace(route, reason=f"{route.reason}: {why}"))
    except CallFailed as failed:
        failed.add_note(f"The first arm of the cascade had failed before: {error}")
        failed.attempts = (*failure.attempts, *failed.attempts)
        failed.cost_nanos += failure.cost_nanos
        raise
    attempts, cost = done.attempts + len(failure.attempts), done.cost_nanos + failure.cost_nanos
    return replace(done, attempts=attempts, cost_nanos=cost)


def _made(messages: Messages, configuration: str) -> tuple[Message, ...]:
    return tuple(messages(configuration) if callable(messages) else messages)


def _fixed(messages: Messages, model: str) -> tuple[Message, ...]:
    if callable(messages):
        raise ConfigError(f"messages that depend on a configuration need a router, found model {model!r}")
    return tuple(messages)


def _router_question(messages: Messages, question: str | None, routed: Routes) -> str:
    """What the router looks at; refused before anything is asked where nobody said it."""
    if not callable(messages):
        if configured := [arm for arm in routed.models if "@" in arm]:
            raise ConfigError(
                f"the router chooses between configurations of the prompt ({', '.join(configured)}): give complete() a "
                "function that makes the messages of a configuration, not one list of messages"
            )
        question = last_user_text(messages) if question is None else question
    if not question:
        found = "messages that are a function of the configuration" if callable(messages) else "no text of the user"
        raise ConfigError(
            f"router {routed.name!r} looks at what the user asked, found {found}: give complete() that as question="
        )
    return question
