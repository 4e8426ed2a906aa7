"""Every error of the package: one root, so that ``except WorkbenchError`` catches what we mean to raise.

WorkbenchError
├── ConfigError        a setting, parameter or profile that cannot be used
│   ├── MissingExtra    a package that a light install leaves out
│   └── UnknownPrice    a model, or a class of its tokens, whose price nobody has told
├── BudgetExceeded     a call that might cost more than is left of a budget
├── RateLimited        a call whose turn would come after its deadline
├── SettlementFailed   an attempt that was made and could not be written down
├── EvalsetError       files of an evalset that cannot be used; carries every defect found
├── SplitError         items of test, or of no split, where dev alone may fit, tune or choose
├── TenantError        a tenant that is missing, malformed or not the handle's own
├── StoreError         a table, index or filter that is not what was asked for
├── WeightsError       model files that are absent or not the pinned ones
├── ProviderError      a model or a model provider that did not answer as promised
│   ├── Throttled       too many requests or tokens, says the provider
│   ├── Unavailable     the provider is down, overloaded or out of reach
│   ├── AttemptTimeout  no whole answer in the time that the attempt had
│   ├── ConnectionLost  the answer broke off
│   ├── MalformedAnswer an answer came that is none
│   ├── AnswerMismatch  an answer came that is another request's
│   ├── Rejected        the request itself is refused
│   ├── AccountRefused  the vendor refuses the key or the account; another vendor has its own
│   ├── ContentRefused  the provider's content policy refuses prompt or answer
│   ├── ContextTooLong  prompt and answer do not fit the model
│   ├── ModelMissing    the model cannot be had here
│   └── CallFailed      no attempt at a call gave an answer
├── RecordingMiss      a request that no recorded answer fits
├── OfflineError       a model or a connection, asked for by what must do without
├── FlowError          a flow, or a run of one, that is not there or cannot be used as asked
│   ├── StepFailed      a step of a flow that raised
│   └── ReplayMismatch  a recorded run that the present code does not repeat
├── TraceError         a trace that is not stored, or not that one
├── RunError           a notebook run that did not end as it should
└── GateFailed         an accepted decision no longer holds

A message says what was asked, what was found and what to do next; the numbers are attributes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, ClassVar, Literal

Billed = Literal["no", "unknown"]


class WorkbenchError(Exception):
    """Root of the package's own errors."""


class ConfigError(WorkbenchError):
    """A setting, parameter or profile cannot be used."""


class MissingExtra(ConfigError):
    """A package is not installed that a light install leaves out; ``extra`` is what brings it."""

    def __init__(self, message: str, *, extra: str) -> None:
        self.extra = extra
        super().__init__(message)


class NothingToFit(ConfigError):
    """The dev questions teach nothing that is to be fitted on them."""


class UnknownPrice(ConfigError):
    """A model, or a class of its tokens, has no price; what nobody has priced is not called."""

    def __init__(self, message: str, *, model: str) -> None:
        self.model = model
        super().__init__(message)


class BudgetExceeded(WorkbenchError):
    """A call might cost more than is left of a budget; nothing was reserved.

    Amounts are nano-dollars (1e-9 USD); ``resets`` is an ISO time in UTC, empty where the window never ends.
    """

    def __init__(
        self,
        *,
        scope: str,
        window: str,
        limit_nanos: int,
        spent_nanos: int,
        reserved_nanos: int,
        amount_nanos: int,
        resets: str,
    ) -> None:
        self.scope, self.window, self.resets = scope, window, resets
        self.limit_nanos, self.spent_nanos = limit_nanos, spent_nanos
        self.reserved_nanos, self.amount_nanos = reserved_nanos, amount_nanos
        limit, spent, held, amount = (
            f"${n / 1e9:.9f}".rstrip("0").rstrip(".") for n in (limit_nanos, spent_nanos, reserved_nanos, amount_nanos)
        )
        super().__init__(
            f"a call that may cost {amount} does not fit the budget of {limit} for {scope} ({window}): {spent} are "
            f"spent and {held} reserved. "
            + (f"It starts anew at {resets}" if resets else "It never starts anew")
            + "; raise the budget, or ask for a shorter answer"
        )


class RateLimited(WorkbenchError):
    """A call's turn would come after its deadline; ``retry_after_s`` is None where it can never come."""

    def __init__(self, message: str, *, model: str, retry_after_s: float | None) -> None:
        self.model, self.retry_after_s = model, retry_after_s
        super().__init__(message)


class SettlementFailed(WorkbenchError):
    """An attempt was made, and the state database did not take what came of it.

    Attributes
    ----------
    response : Response or None
        The answer, which may be billed; None where the attempt gave none.
    """

    def __init__(self, message: str, *, response: Any) -> None:
        self.response = response
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Defect:
    """One thing wrong with one place of a file; ``line`` is 0 where the whole file is meant."""

    file: str
    line: int
    problem: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.problem}" if self.line else f"{self.file}: {self.problem}"


class EvalsetError(WorkbenchError):
    """The files of an evalset cannot be used; ``defects`` lists each place."""

    def __init__(self, message: str, defects: Sequence[Defect] = ()) -> None:
        self.defects = tuple(defects)
        shown = "".join(f"\n  {defect}" for defect in self.defects[:20])
        more = len(self.defects) - 20
        super().__init__(message + shown + (f"\n  ... and {more} more" if more > 0 else ""))


class SplitError(WorkbenchError):
    """Items that are not of dev came where dev alone may fit, tune or choose; ``items`` names them, sorted."""

    def __init__(self, message: str, items: Sequence[str] = ()) -> None:
        self.items = tuple(items)
        super().__init__(message)


class TenantError(WorkbenchError):
    """A tenant is missing, malformed, or not the one that the handle is bound to."""


class StoreError(WorkbenchError):
    """A table, index, row or filter is not what was asked for."""


class WeightsError(WorkbenchError):
    """Model files are absent, or are not the pinned ones."""


class ProviderError(WorkbenchError):
    """A model or a model provider did not answer as promised.

    Attributes
    ----------
    retryable : bool
        Whether the same request to the same model may succeed later.
    elsewhere : bool
        Whether only another model can take the request: no other attempt at this one is made.
    billed : {"no", "unknown"}
        Whether the provider may charge for it: "no" where no work can have been done.
    retry_after_s : float or None
        Seconds that the provider asks to wait.
    status : int or None
        HTTP status, where there was one.
    streamed : bool
        Whether a part of the answer has been shown, so that no other answer may follow it.
    """

    retryable: ClassVar[bool] = False
    elsewhere: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        billed: Billed = "no",
        retry_after_s: float | None = None,
        status: int | None = None,
        streamed: bool = False,
    ) -> None:
        self.billed, self.retry_after_s, self.status, self.streamed = billed, retry_after_s, status, streamed
        super().__init__(message)


class Throttled(ProviderError):
    """The provider asks for fewer requests or tokens (429)."""

    retryable = True


class Unavailable(ProviderError):
    """The provider fails (5xx, 408), refuses the connection, or hangs up before the first byte of an answer."""

    retryable = True


class AttemptTimeout(ProviderError):
    """No whole answer came in the time that the attempt had.

    ``cut`` says that this was not the whole time of an attempt, because a deadline was near or the request had to wait
    for its turn: then it tells nothing of the model's health.
    """

    retryable = True
    cut = False


class ConnectionLost(ProviderError):
    """The answer broke off in its middle."""

    retryable = True


class MalformedAnswer(ProviderError):
    """What came is no answer: no JSON, another content type, no choices, or not what its schema asks for."""

    retryable = True


class AnswerMismatch(ProviderError):
    """What came answers another request, whose id it echoes or has; it is shown to nobody, and asked again."""

    retryable = True


class Rejected(ProviderError):
    """The request itself is refused (400, 422 ...), as any other model would refuse it: nothing else is asked."""


class AccountRefused(ProviderError):
    """The vendor refuses the key, the account or its credit (401, 402, 403); another vendor has its own."""

    elsewhere = True


class ContentRefused(ProviderError):
    """The provider's content policy refuses the request."""


class ContextTooLong(ProviderError):
    """Prompt and answer together do not fit the model (also 413); a larger one may take them."""

    elsewhere = True


class ModelMissing(ProviderError):
    """The model cannot be had here: no source gives its weights, or its vendor does not offer it any more (404)."""

    elsewhere = True


class CallFailed(ProviderError):
    """No attempt at a call gave an answer; ``__cause__`` is the last error.

    Attributes
    ----------
    attempts : tuple of (str, str, float)
        Model, name of the error and milliseconds of each attempt.
    cost_nanos : int
        1e-9 USD, charged for the attempts all the same.
    """

    cost_nanos = 0

    def __init__(
        self,
        message: str,
        *,
        attempts: Sequence[tuple[str, str, float]] = (),
        retry_after_s: float | None = None,
        streamed: bool = False,
    ) -> None:
        self.attempts = tuple(attempts)
        super().__init__(message, retry_after_s=retry_after_s, streamed=streamed)


class RecordingMiss(WorkbenchError):
    """No recorded answer fits a request of ``item_id`` that must not go to a model; ``command`` records one."""

    def __init__(self, message: str, *, item_id: str = "", command: str = "") -> None:
        self.item_id, self.command = item_id, command
        super().__init__(message)


class OfflineError(WorkbenchError):
    """A model or a connection was asked for by work that must do without."""


class FlowError(WorkbenchError):
    """A flow, or a run of one, is not there or cannot be used as asked; ``run_id`` names the run."""

    def __init__(self, message: str, *, run_id: str = "") -> None:
        self.run_id = run_id
        super().__init__(message)


class StepFailed(FlowError):
    """A step of a flow raised: live, after a recovery and in a replay it is this error, since records keep no classes.

    Attributes
    ----------
    step, kind, reason : str
        Name of the step; class and message of what it raised.
    record : mapping
        What its record holds beside: the inputs of the step, and its model calls.
    """

    def __init__(
        self, step: str, kind: str, reason: str, *, run_id: str = "", record: Mapping[str, Any] | None = None
    ) -> None:
        self.step, self.kind, self.reason, self.record = step, kind, reason, dict(record or {})
        super().__init__(f"step {step!r} failed: {kind}: {reason}", run_id=run_id)


class ReplayMismatch(FlowError):
    """A recorded run is not repeated by the present code.

    Attributes
    ----------
    flow, step : str
        Where; the step is empty where the flow's own result differs.
    number : int
        Place of the step in the record, from 1.
    what : str
        What differs: name, inputs, output, error, result or length.
    expected, got : object
        The record, and what came now.
    cause : str
        What explains it most likely.
    """

    def __init__(
        self, flow: str, step: str, *, number: int, what: str, expected: Any, got: Any, cause: str, run_id: str = ""
    ) -> None:
        self.flow, self.step, self.number, self.what = flow, step, number, what
        self.expected, self.got, self.cause = expected, got, cause
        where = f"step {number} ({step})" if step else "the whole"
        super().__init__(
            f"run {run_id} of {flow} is not repeated: {what} of {where} differs. Expected {_short(expected)}, "
            f"got {_short(got)}. {cause}",
            run_id=run_id,
        )


class TraceError(WorkbenchError):
    """A trace is not stored, or more than one fits."""


class RunError(WorkbenchError):
    """A notebook run did not end as it should; ``run_dir`` holds what there is."""

    def __init__(self, message: str, run_dir: str = "") -> None:
        self.run_dir = run_dir
        super().__init__(message)


class GateFailed(WorkbenchError):
    """An accepted decision no longer holds; ``status`` is the gate's, ``exit_code`` the shell's."""

    def __init__(self, message: str, *, status: str, exit_code: int) -> None:
        self.status, self.exit_code = status, exit_code
        super().__init__(message)


_SHORT = 300


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHORT else f"{text[:_SHORT]}... ({len(text):,} characters)"


def unknown_name(kind: str, name: str, known: Sequence[str]) -> str:
    """Sentence for a name that is not known, with the nearest that is.

    >>> unknown_name("parameter", "margn", ["margin", "seed"])
    "unknown parameter 'margn'; did you mean 'margin'? Known: margin, seed"
    """
    near = get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"unknown {kind} {name!r}{hint} Known: {', '.join(sorted(known))}"
