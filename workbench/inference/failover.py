"""Retry, cool down, fail over: one owner for a call's attempts, its deadline and its order of models."""

import math
import random
import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from workbench.config import Clock
from workbench.errors import (
    AccountRefused,
    AttemptTimeout,
    CallFailed,
    ConfigError,
    ModelMissing,
    ProviderError,
    RateLimited,
)
from workbench.inference.messages import Response
from workbench.inference.streams import pause


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long and how often a call is tried.

    Attributes
    ----------
    base_s, cap_s : float
        The k-th delay is drawn from [0, min(cap, base * 2^k)] ("full jitter", Brooker 2015, AWS Architecture Blog),
        and is never shorter than what the provider asks for.
    deadline_s : float
        Limit of the whole call over all models, delays included, where the caller gives none.
    attempt_timeout_s : float
        Limit of one attempt. What a shorter deadline cuts off is no failure that counts for the cooldown.
    patience_s : float
        Longest wait for one model, be it for our own rate limit or since its provider asks for it, while another could
        be asked; the model is then asked when no other is left, or its time has come.
    cooldown_failures, cooldown_s : int, float
        A model that failed so often in a row is left alone so long; then one call probes it.
    """

    attempts_per_model: int = 3
    base_s: float = 0.5
    cap_s: float = 30.0
    deadline_s: float = 120.0
    attempt_timeout_s: float = 60.0
    patience_s: float = 5.0
    cooldown_failures: int = 5
    cooldown_s: float = 30.0

    def __post_init__(self) -> None:
        if min(self.attempts_per_model, self.cooldown_failures) < 1:
            raise ConfigError(f"attempts_per_model and cooldown_failures must be 1 or more, found {self}")
        if (
            min(self.deadline_s, self.attempt_timeout_s) <= 0
            or min(self.base_s, self.cap_s, self.cooldown_s, self.patience_s) < 0
        ):
            raise ConfigError(f"times must be positive, found {self}")

    def delay_s(self, failures: int, error: ProviderError, rng: random.Random) -> float:
        """Seconds to wait after so many failures of one model, counted from 1."""
        longest = min(self.cap_s, self.base_s * 2.0 ** min(failures - 1, 60))
        return max(error.retry_after_s or 0.0, rng.random() * longest)


class Cooldowns:
    """Which models are left alone: closed, open after failures in a row, half open with one probe at a time."""

    def __init__(self, policy: RetryPolicy, clock: Clock) -> None:
        self._policy, self._clock = policy, clock
        self._lock = threading.Lock()
        self._models: dict[str, _CooldownState] = defaultdict(_CooldownState)

    def admits(self, model: str) -> bool:
        """Whether a call may be made now; of a half-open model the caller is then the one probe."""
        with self._lock:
            state = self._models[model]
            if state.failures < self._policy.cooldown_failures:
                return True
            if state.prober or self._clock.monotonic() < state.open_until:
                return False
            state.prober = threading.get_ident()
            return True

    def wait_s(self, model: str) -> float:
        """Seconds until a call may be made; 0 where it may now."""
        with self._lock:
            return max(self._models[model].open_until - self._clock.monotonic(), 0.0)

    def succeeded(self, model: str) -> None:
        """Close: the model answers."""
        with self._lock:
            self._models[model] = _CooldownState()

    def failed(self, model: str) -> None:
        """Count a failure; the last of a row, or that of a probe, opens."""
        with self._lock:
            state = self._models[model]
            state.failures += 1
            if state.failures >= self._policy.cooldown_failures:
                state.open_until = self._clock.monotonic() + self._policy.cooldown_s
        self.released(model)

    def released(self, model: str) -> None:
        """End a call of this thread; where it was the probe and said nothing of the model's health, another may be."""
        with self._lock:
            if self._models[model].prober == threading.get_ident():
                self._models[model].prober = 0


@dataclass(slots=True)
class _CooldownState:
    failures: int = 0
    open_until: float = float("-inf")
    prober: int = 0  # the thread of the probe


class Ask(Protocol):
    """One attempt at a model."""

    def __call__(self, model: str, /, *, timeout_s: float, patience_s: float) -> Response:
        """Answer within a time, or raise a `ProviderError`; or `RateLimited`, if its turn is further off."""


def call_with_failover(
    models: Sequence[str],
    ask: Ask,
    *,
    policy: RetryPolicy,
    cooldowns: Cooldowns,
    clock: Clock,
    deadline: float,
    rng: random.Random | None = None,
    patient: bool = True,
) -> Response:
    """Ask the models in order until one answers, or the deadline (a moment on the monotonic clock) passes.

    A retryable error is tried again after a delay, unless the delay would pass the deadline or the model now cools
    down: then it is the next model's turn. A model that would keep the call waiting longer than `patience_s` comes
    after those that would not. An error that only another model can help with (`elsewhere`) goes to the next one at
    once. Other provider errors end the call, unless a model was put off for the one that has them; any error after text
    was shown does. A caller who can ask something else is not ``patient``: then no model is waited for longer than
    `patience_s`. What is no `ProviderError` (a refused budget, an unknown price) passes through unchanged.

    Raises
    ------
    RateLimited
        If no attempt was made because our own limits let none start in time.
    CallFailed
        If no attempt gave an answer.
    """
    call = _FailoverCall(policy, clock, deadline, cooldowns, rng or random.Random())
    turns = [_FailoverTurn(model) for model in models]
    while turns and call.left_s() > 0:
        turn = call.next_of(turns)
        if not patient and turn.at - clock.monotonic() > policy.patience_s:
            break
        others = any(not cooldowns.wait_s(other.model) for other in turns if other is not turn)
        if not turn.in_line and (wait_s := turn.at - clock.monotonic()) > 0:
            pause(clock, wait_s)
        if call.left_s() <= 0 or not cooldowns.admits(turn.model):
            turns.remove(turn)
            continue
        waits = patient and (turn.in_line or not others)
        outcome = call.attempt(turn.model, ask, math.inf if waits else policy.patience_s)
        if isinstance(outcome, Response):
            return outcome
        if not call.again(turn, outcome):
            turns.remove(turn)
        if isinstance(outcome, ProviderError) and call.ended_by(outcome, turns):
            raise call.failed(models) from outcome
    if call.refused and not call.attempts:
        raise call.refused
    raise call.failed(models) from call.last


@dataclass(slots=True, eq=False)
class _FailoverTurn:
    """When a model is asked next: not before ``at``, or where it is in the line of our own limit, probably then."""

    model: str
    failures: int = 0
    at: float = float("-inf")
    in_line: bool = False


@dataclass(slots=True)
class _FailoverCall:
    policy: RetryPolicy
    clock: Clock
    deadline: float
    cooldowns: Cooldowns
    rng: random.Random
    attempts: list[tuple[str, str, float]] = field(default_factory=list)
    last: ProviderError | None = None
    refused: RateLimited | None = None

    def left_s(self) -> float:
        return self.deadline - self.clock.monotonic()

    def next_of(self, turns: Sequence[_FailoverTurn]) -> _FailoverTurn:
        """The first that need not be waited for long, else the one whose time comes first."""
        patient_until = self.clock.monotonic() + self.policy.patience_s
        return next((turn for turn in turns if turn.at <= patient_until), min(turns, key=lambda turn: turn.at))

    def attempt(self, model: str, ask: Ask, patience_s: float) -> Response | ProviderError | RateLimited:
        """One attempt of an admitted call; what it says of the model's health is noted."""
        started, timeout_s = self.clock.monotonic(), min(self.policy.attempt_timeout_s, self.left_s())
        try:
            response = ask(model, timeout_s=timeout_s, patience_s=patience_s)
        except RateLimited as error:
            self.refused = error
            self.cooldowns.released(model)
            return error
        except ProviderError as error:
            self.last = error
            elapsed_ms = round(1000 * (self.clock.monotonic() - started), 1)
            self.attempts.append((model, type(error).__name__, elapsed_ms))
            (self.cooldowns.failed if self._unwell(error, timeout_s) else self.cooldowns.released)(model)
            return error
        except BaseException:
            self.cooldowns.released(model)
            raise
        self.cooldowns.succeeded(model)
        return response

    def _unwell(self, error: ProviderError, timeout_s: float) -> bool:
        """Whether an error says something of the model's health, and not only that the caller was in a hurry."""
        if isinstance(error, AttemptTimeout):
            sent = error.billed != "no"
            return sent and not error.cut and timeout_s >= self.policy.attempt_timeout_s
        return error.retryable or isinstance(error, ModelMissing | AccountRefused)

    def again(self, turn: _FailoverTurn, outcome: ProviderError | RateLimited) -> bool:
        """Whether the model may be asked again, and then when."""
        if isinstance(outcome, RateLimited):
            wait_s = math.inf if turn.in_line or outcome.retry_after_s is None else outcome.retry_after_s
        else:
            turn.failures += 1
            tired = turn.failures == self.policy.attempts_per_model or self.cooldowns.wait_s(turn.model)
            give_up = tired or not outcome.retryable
            wait_s = math.inf if give_up else self.policy.delay_s(turn.failures, outcome, self.rng)
        turn.at, turn.in_line = self.clock.monotonic() + wait_s, isinstance(outcome, RateLimited)
        return wait_s < self.left_s()

    def ended_by(self, error: ProviderError, turns: Sequence[_FailoverTurn]) -> bool:
        """Whether nothing may be asked after this error, as the turns that are left stand."""
        put_off = any(turn.at > float("-inf") for turn in turns)
        return error.streamed or not (error.retryable or error.elsewhere or put_off)

    def failed(self, models: Sequence[str]) -> CallFailed:
        """The error that the call ends in, with every attempt in its message."""
        tried = "; ".join(f"{model}: {name} after {ms:.0f} ms" for model, name, ms in self.attempts)
        waits = {model: self.cooldowns.wait_s(model) for model in models}
        resting = ", ".join(f"{model} for {wait:.1f} s" for model, wait in waits.items() if wait)
        return CallFailed(
            f"no answer from {', '.join(models) or 'no models'} ({tried or 'no attempt was made'}"
            + (f"; left alone: {resting}" if resting else "")
            + (f"; {self.refused}" if self.refused else "")
            + (f"). Last error: {self.last}" if self.last else ")"),
            attempts=self.attempts,
            retry_after_s=(self.last.retry_after_s if self.last else None) or min(waits.values(), default=0.0) or None,
            streamed=bool(self.last and self.last.streamed),
        )
