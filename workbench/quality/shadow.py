"""Part of the live calls goes to a challenger as well, off the user's path, until one can tell whether it will do.

Drawn are calls of the product that a model has just answered in words, by a hash of their ids; a stream once all of it
was read. An answer from a cache or a recording is not drawn: it is none of the model in use. Nor is a call that failed.
The challenger is asked in threads of its own, by a client that has the shadow's budget alone, no cache, no rate limit
(it takes nobody's turn) and cooldowns of its own. Whatever comes of it, the user has the answer already.
"""

import atexit
import copy
import logging
import os
import queue
import re
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import KW_ONLY, asdict, dataclass, field, replace
from typing import NamedTuple, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from workbench.errors import BudgetExceeded, ConfigError, SettlementFailed, StoreError
from workbench.inference.batch import BatchItem, ask_batch_item, estimate_batch
from workbench.inference.budgets import Budget
from workbench.inference.call_attempt import CallAccount, attempt_provider
from workbench.inference.client import Client
from workbench.inference.messages import PREFIX, Completion, Request, Routes, last_user_text, message_text
from workbench.inference.prices import nanos
from workbench.inference.streams import stream_in_time
from workbench.quality.answer_metrics import METRICS, MeasuredAnswer
from workbench.quality.judges import Judge, Judged, parse_judge_verdict
from workbench.quality.monitoring import MarginWatch
from workbench.quality.sampling import sample_trace_fraction
from workbench.quality.shadow_pairs import (
    LABEL,
    ShadowEvidence,
    ShadowPair,
    ShadowPlan,
    shadow_budget,
    shadow_differences,
)
from workbench.telemetry.attribution import Attribution, attributed, current_attribution
from workbench.telemetry.redaction import redact

Metric = Callable[[Request, str], float]
Challenger = Callable[[Request], str | Request]
_OF_LIVE = ("groundedness", "well_formed")  # metrics that need no more than the request
_LONGEST, _LONGEST_ERROR = 20_000, 300  # characters that are kept
_MOST_HUNG = 8  # calls that never came back: with more of them the process would fill with threads
_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")


class _LiveCall(NamedTuple):
    done: Completion
    request: Request
    who: Attribution


class _EndedShadow(Exception):
    """The shadow asks nothing more."""


class _UnaskedShadow(Exception):
    """The program ends, and starts no threads any more."""


_NOT_ITS_FAULT = (
    _EndedShadow,
    _UnaskedShadow,
    SettlementFailed,
    StoreError,
    SQLAlchemyError,
)  # neither answer nor failure


@dataclass(slots=True, eq=False)
class Shadow:
    """``Client.open(settings, shadow=Shadow("nano", "openai/gpt-5.4-nano", metric, margin=0.05, budget_usd=10.0))``.

    Attributes
    ----------
    name : str
        Of the evidence in the state database, with which other processes, and the next one, go on.
    challenger : str or callable
        A model or ``router/NAME``, asked the same; or a function of the live `Request` that returns the answer, or a
        request that is asked instead: another prompt, other passages, another model.
    metric : callable, "groundedness", "well_formed", Judge or None
        Score in [0, 1] of a request and an answer's text; "groundedness" is that in the prompt. What a judge of single
        answers costs is paid by the same budget. None keeps both answers until people have labelled them.
    margin : float
        How far below what is in use the challenger may lie on average, in (0, 1).
    budget_usd : float
        All that the shadow may ever spend; the first call that does not fit ends it.
    rate : float
        Share of the calls that is drawn, in (0, 1].
    confidence : float
        That a verdict is right, whenever it comes; with it the shadow ends.
    only : mapping of str to str
        Fields of `Attribution` that a call must have, such as ``{"feature": "answer"}``.
    cost_usd : float
        What a challenger that answers itself costs a call; charged before it is asked.
    timeout_s : float
        For one answer, and for one score. A later answer has failed, with score 0.
    queue_size, workers : int
        Calls that may wait, beyond which they are dropped and counted; and threads that ask.
    close_s : float
        Longest time that `close` takes, and so the end of the program.

    Raises
    ------
    ConfigError
        If a value is out of its range, or a metric needs what live calls do not have. With the client: if it has no
        budgets, no provider or price for the challenger, keeps no content although there is no metric, or the name
        belongs to the evidence for another question.
    """

    name: str
    challenger: str | Challenger
    metric: Metric | str | Judge | None
    _: KW_ONLY
    margin: float
    budget_usd: float
    rate: float = 0.05
    confidence: float = 0.95
    only: Mapping[str, str] = field(default_factory=dict)
    cost_usd: float = 0.0
    timeout_s: float = 60.0
    queue_size: int = 100
    workers: int = 1
    close_s: float = 5.0
    _client: Client | None = field(default=None, init=False, repr=False)
    _evidence: ShadowEvidence = field(init=False, repr=False)
    _watch: MarginWatch = field(init=False, repr=False)
    _ended: str = field(default="", init=False, repr=False)  # why nothing more is asked
    _pid: int = field(default=0, init=False, repr=False)
    _lock: threading.Lock = field(init=False, repr=False)
    _jobs: "queue.Queue[_LiveCall | None]" = field(init=False, repr=False)
    _threads: list[threading.Thread] = field(init=False, repr=False)
    _counts: Counter[str] = field(init=False, repr=False)
    _open: int = field(init=False, repr=False)  # calls that were taken and came to no end yet
    _inside: int = field(init=False, repr=False)  # challengers and metrics under way, the hung ones too
    _closed: bool = field(init=False, repr=False)
    _told: set[str] = field(default_factory=set, init=False, repr=False)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\w[\w.-]{0,99}", self.name):
            raise ConfigError(f"the name of a shadow is letters, digits, '.', '-' and '_', found {self.name!r}")
        self._require_numbers()
        for what, part, known in (("challenger", self.challenger, str), ("metric", self.metric, str | Judge | None)):
            if not (isinstance(part, known) or callable(part)):
                raise ConfigError(f"{what} of shadow {self.name!r} can be neither asked nor called, found {part!r}")
        only: Mapping[str, object] = self.only
        if odd := [f"{name}={value!r}" for name, value in only.items() if not isinstance(value, str)]:
            raise ConfigError(f"only of shadow {self.name!r} names texts, found {', '.join(odd)}")
        if isinstance(self.metric, str) and self.metric not in _OF_LIVE:
            raise ConfigError(
                f"live calls have no reference, which metric {self.metric!r} may need; give one of "
                f"{', '.join(_OF_LIVE)}, a judge, or a function of request and answer"
            )
        if isinstance(self.metric, Judge) and (self.metric.pairwise or self.metric.samples > 1):
            raise ConfigError(f"judge {self.metric.name!r} must judge single answers, once")
        MarginWatch(self.margin, 1 - self.confidence)
        Budget(self.budget_usd, "total", only=self.only)
        Budget(self.cost_usd, "total")
        self._fresh()

    def _require_numbers(self) -> None:
        names = ("rate", "timeout_s", "close_s", "queue_size", "workers")
        rate, *given = values = [getattr(self, name) for name in names]
        fine = all(isinstance(value, int | float) for value in values) and 0 < rate <= 1
        fine = fine and all(isinstance(count, int) for count in given[2:])
        if not (fine and all(0 < value <= threading.TIMEOUT_MAX for value in given)):  # of NaN it is never true
            found = ", ".join(f"{name}={value!r}" for name, value in zip(names, values, strict=True))
            raise ConfigError(
                "rate must be in (0, 1], timeout_s and close_s seconds above 0, queue_size and workers whole numbers "
                f"from 1; found {found}"
            )

    def _fresh(self) -> None:
        """Begin without threads; again in a process that was forked, where those of its parent are not."""
        self._pid, self._lock, self._open, self._inside, self._closed = os.getpid(), threading.Lock(), 0, 0, False
        self._jobs, self._threads, self._counts = queue.Queue(self.queue_size), [], Counter()

    def bind(self, client: Client) -> None:
        """Get ready beside a client, with the evidence that there is; copies of it share what the first has bound."""
        if self._client:
            return
        if client.books.budgets is None:
            raise ConfigError(f"shadow {self.name!r} spends from a budget of its own; give the client's books budgets")
        if self.metric is None and client.books.tracing and not client.books.tracing.capture_content:
            raise ConfigError(
                f"shadow {self.name!r} keeps answers for labelling, and WORKBENCH_CAPTURE_CONTENT=0 says that "
                "nothing is kept of what people and models wrote; give a metric, or keep content"
            )
        if isinstance(self.challenger, str):
            if not self.challenger.startswith(PREFIX):
                attempt_provider(client.providers, self.challenger)
            elif not (routed := client.routers.get(router := self.challenger[len(PREFIX) :])) or _shadow_configured(
                routed
            ):
                raise ConfigError(
                    f"shadow {self.name!r} asks router {router!r}, which its client does not have or which chooses "
                    "between prompts, of which a live call has one; then give a function that makes the request"
                )
            example = Request(self.challenger, ({"role": "user", "content": "?"},))
            estimate_batch([example], client.books.prices, routers=client.routers)
        budgets = client.books.budgets.instead(shadow_budget(self.name, self.budget_usd))
        self._evidence = ShadowEvidence(budgets.engine)
        self._evidence.begin(self.name, self._plan())
        self._watch = self._evidence.watch(self.name)
        if self._watch.decided_at:
            self._ended = "decided"
        policy = replace(client.policy, deadline_s=self.timeout_s)
        books = replace(client.books, budgets=budgets, limiter=None)
        self._client = replace(client, books=books, policy=policy, cache=None, recordings=None, shadow=None)
        atexit.register(self.close)

    def _plan(self) -> ShadowPlan:
        metric = f"judge {self.metric.name}" if isinstance(self.metric, Judge) else _shadow_named(self.metric or LABEL)
        return ShadowPlan(
            _shadow_named(self.challenger), metric, self.margin, self.confidence, dict(self.only), self.budget_usd
        )

    def offer(self, done: Completion, request: Callable[[], Request]) -> None:
        """Take an answer that a model gave just now, or let it go: at once, and without any error."""
        try:
            if os.getpid() != self._pid:
                self._fresh()
            who = current_attribution()
            if who.purpose != "product" or not done.text or any(getattr(who, n) != v for n, v in self.only.items()):
                return
            self._count("offered")
            if sample_trace_fraction(done.call_id, self.name) >= self.rate:
                return
            self._count("drawn")
            if self._ended or self._inside >= self.workers + _MOST_HUNG:
                return self._count("refused")
            self._take(_LiveCall(done, copy.deepcopy(request()), who))
        except queue.Full:
            self._count("dropped")
        except Exception as error:  # noqa: BLE001  the user has the answer, and gets it
            self._count("lost")
            self._tell("a call was lost", error)

    def _take(self, live: _LiveCall) -> None:
        with self._lock:
            if self._ended:
                self._counts["refused"] += 1
                return
            self._jobs.put_nowait(live)
            self._open += 1
            if not self._threads:
                name = f"shadow {self.name}"
                self._threads = [
                    threading.Thread(target=self._work, name=name, daemon=True) for _ in range(self.workers)
                ]
                for thread in self._threads:
                    thread.start()

    def close(self) -> None:
        """Take nothing more, and wait ``close_s`` at most for what was taken; the rest counts as dropped."""
        if not self._client or self._closed or os.getpid() != self._pid:
            return
        until = time.monotonic() + 0.8 * self.close_s
        with self._lock:
            self._ended = self._ended or "closed"
        for _ in self._threads:
            with suppress(queue.Full):
                self._jobs.put(None, timeout=max(until - time.monotonic(), 0))
        for thread in self._threads:
            thread.join(max(until - time.monotonic(), 0))
        with self._lock:  # who comes back later keeps nothing
            self._closed, self._counts["dropped"] = True, self._counts["dropped"] + self._open
        last = threading.Thread(target=self._keep, daemon=True)  # the database may keep it waiting for longer
        try:
            last.start()
            last.join(0.2 * self.close_s)
        except RuntimeError:  # the interpreter ends, and from 3.12 on starts none
            self._keep()
        atexit.unregister(self.close)

    def _count(self, what: str) -> None:
        with self._lock:
            self._counts[what] += 1

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            pair, came = None, "refused"
            try:
                if self._ended in ("", "closed"):
                    pair, came = self._compare(job), ""
            except _EndedShadow as error:
                self._ended = str(error)
                self._tell("nothing more is asked", error.__cause__ or error)
            except BaseException as error:  # noqa: BLE001  the boundary of one call: what is not kept is counted
                came = "lost"
                self._tell("a pair was lost", error)
            self._end(pair, came)

    def _end(self, pair: ShadowPair | None, came: str) -> None:
        with self._lock:
            if self._closed:
                return
            self._open -= 1
            if came:
                self._counts[came] += 1
            if pair and pair.scored:
                self._watch = self._watch.add(*shadow_differences([pair]))
                self._ended = self._ended or ("decided" if self._watch.decided_at else "")
        self._keep(pair)

    def _keep(self, pair: ShadowPair | None = None) -> None:
        """Write a pair, and what was counted since the last one."""
        with self._lock:
            counts, self._counts = self._counts, Counter()
        if not (counts or pair):
            return
        try:
            self._evidence.add(self.name, counts, pair)
        except Exception as error:  # noqa: BLE001  the counts are written with the next pair
            with self._lock:
                self._counts.update(counts + Counter(lost=int(pair is not None)))
            self._tell("a pair was lost", error)

    def _tell(self, what: str, error: BaseException) -> None:
        """Log the first of its kind; all are counted."""
        if what not in self._told:
            self._told.add(what)
            _LOG.warning("shadow %s: %s: %s: %s", self.name, what, type(error).__name__, redact(str(error)))

    def _compare(self, live: _LiveCall) -> ShadowPair:
        """Ask the challenger and score both answers; what fails is its worst score, what cannot be scored has none."""
        done, request, at = live.done, live.request, self._now()
        began, text, error, cost = time.monotonic(), "", "", 0
        with attributed(**asdict(live.who) | {"purpose": "shadow", "item_id": done.call_id}):
            try:
                text, cost = self._in_time(lambda: self._ask(copy.deepcopy(request)), "challenger")
            except _NOT_ITS_FAULT:
                raise
            except BaseException as failed:  # noqa: BLE001  whatever it is, the user would have got no answer
                error, cost = f"{type(failed).__name__}: {failed}", getattr(failed, "cost_nanos", 0)
            took_ms = 1000 * (time.monotonic() - began)
            score = 0.0 if error else self._score(request, text)
            live_score = self._score(request, done.text)
        waits = self.metric is None
        kept = (last_user_text(request.messages), done.text, text) if waits else ("", "", "")
        return ShadowPair(
            self.name, done.call_id, at, done.response.model, live_score, score, "" if waits else self._now(),
            done.cost_nanos, cost, took_ms, redact(error)[:_LONGEST_ERROR], *(redact(part)[:_LONGEST] for part in kept),
        )  # fmt: skip

    def _ask(self, request: Request) -> tuple[str, int]:
        """Answer of the challenger, and what it cost."""
        if isinstance(self.challenger, str):
            return self._paid(request.to(self.challenger))
        cost = self._charge(request) if self.cost_usd else 0
        asked = self.challenger(request)
        if not isinstance(asked, Request):
            return str(asked), cost
        text, more = self._paid(asked)
        return text, cost + more

    def _paid(self, request: Request) -> tuple[str, int]:
        done = ask_batch_item(self._bound, BatchItem(current_attribution().item_id, request))
        if isinstance(done, BudgetExceeded | ConfigError):
            raise _EndedShadow(str(done)) from done
        if isinstance(done, Exception):
            raise done
        return done.text, done.cost_nanos

    def _charge(self, request: Request) -> int:
        """Charge what a challenger of the user's own costs, before it is asked."""
        books, cost = self._bound.books, nanos(self.cost_usd)
        account = CallAccount(uuid.uuid4().hex, "", current_attribution(), books, 0.0)
        row = account.row(request.to(_shadow_named(self.challenger)), 0, self._now(), cost_nanos=cost)
        if books.budgets and books.ledger:
            try:
                books.budgets.settle(books.budgets.reserve(row), [row], books.ledger)
            except BudgetExceeded as error:
                raise _EndedShadow(str(error)) from error
        return cost

    def _score(self, request: Request, text: str) -> float | None:
        """Score of an answer, None where there is none in [0, 1]."""
        if self.metric is None:
            return None
        try:
            score = self._in_time(lambda: self._measure(request, text), "metric")
            return float(score) if score is not None and 0 <= score <= 1 else None
        except _NOT_ITS_FAULT:
            raise
        except BaseException as error:  # noqa: BLE001  a score that nobody can tell is bounded, and counted
            self._tell("an answer has no score", error)
            return None

    def _measure(self, request: Request, text: str) -> float | None:
        if isinstance(self.metric, Judge):
            judged = Judged(current_attribution().item_id, last_user_text(request.messages), text)
            with attributed(purpose="judge"):
                return parse_judge_verdict(self._paid(self.metric.request(judged))[0])
        if isinstance(self.metric, str):
            prompt = "\n".join(map(message_text, request.messages))
            form = "json" if request.schema else ""
            return METRICS[self.metric](MeasuredAnswer("", text, retrieved={"prompt": prompt}, form=form))
        return self.metric(request, text) if self.metric else None

    def _in_time(self, work: Callable[[], _T], what: str) -> _T:
        """Do it in a thread of its own, which is left behind where it takes too long."""
        begun = threading.Event()

        def run(give: Callable[[_T], bool]) -> None:
            begun.set()
            with self._lock:
                self._inside += 1
            try:
                give(work())
            finally:
                with self._lock:
                    self._inside -= 1

        with closing(stream_in_time(run, timeout_s=self.timeout_s, asked=f"{what} of shadow {self.name}")) as found:
            try:
                return next(found)
            except RuntimeError as error:
                if begun.is_set():
                    raise
                raise _UnaskedShadow(str(error)) from error

    @property
    def _bound(self) -> Client:
        if self._client is None:
            raise ConfigError(f"shadow {self.name!r} stands beside no client: Client.open(settings, shadow=...)")
        return self._client

    def _now(self) -> str:
        return self._bound.books.clock.now().isoformat(timespec="microseconds")


def _shadow_configured(routed: Routes) -> bool:
    return any("@" in arm for arm in routed.models)


def _shadow_named(part: object) -> str:
    """Name of a model, or of a function."""
    return part if isinstance(part, str) else f"{getattr(part, '__module__', '')}:{getattr(part, '__qualname__', part)}"
