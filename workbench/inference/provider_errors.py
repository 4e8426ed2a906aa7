"""What went wrong with a call, by what the wire said rather than by what a library called it."""

import json
import math
import re
import traceback
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import MappingProxyType
from typing import Any

from workbench.errors import (
    AccountRefused,
    AnswerMismatch,
    AttemptTimeout,
    ConnectionLost,
    ContentRefused,
    ContextTooLong,
    MalformedAnswer,
    ModelMissing,
    ProviderError,
    Rejected,
    Throttled,
    Unavailable,
)
from workbench.telemetry.redaction import redact

_TOLD_CHARACTERS = 300
_SLOW_DOWN = {"429", "rate_limit_exceeded", "rate_limit_error"}  # codes and types of OpenAI's protocol
_REFUSALS: Mapping[int, type[ProviderError]] = MappingProxyType({
    401: AccountRefused, 402: AccountRefused, 403: AccountRefused, 404: ModelMissing, 407: AccountRefused,
    410: ModelMissing, 413: ContextTooLong, 451: AccountRefused,
})  # fmt: skip
# Some vendors say with status 400, or 429, what concerns their key, credit or models and not the request: Anthropic
# ("usage limits", "credit balance"), Gemini ("API key not valid", "location is not supported"), xAI ("Incorrect API
# key"), OpenAI ("billing_hard_limit_reached", "insufficient_quota"), Groq ("model_decommissioned"), DeepSeek ("Model
# Not Exist"), Mistral ("Invalid model"), OpenRouter ("not a valid model ID").
_ACCOUNT = re.compile(
    r"usage limits?\b|credit balance|insufficient[ _](?:balance|credit|fund|quota)|billing[ _]hard[ _]limit"
    r"|api[ _]key not valid|(?:incorrect|invalid)[ _]api[ _]key|api_key_invalid|location is not supported",
    re.IGNORECASE,
)
_NO_MODEL = re.compile(
    r"model_(?:decommissioned|not_found)|model not exist|\binvalid model\b|not a valid model"
    r"|\bmodel\b[^.]{0,80}(?:does not exist|decommissioned|deprecated|retired|no longer)",
    re.IGNORECASE,
)


def typed(error: Exception, model: str) -> ProviderError:
    """The package's error for one of litellm's, with its cause chain down to the HTTP library."""
    import httpx
    import litellm

    chain = list(_chain(error))
    said = f"{model}: {_told(error)}"
    for cause in chain:
        if isinstance(cause, AnswerMismatch | MalformedAnswer):  # of our own check of each answer
            return type(cause)(f"{model}: {cause}", billed=cause.billed)
    if isinstance(error, litellm.ContextWindowExceededError) or _code(
        chain, "context_length_exceeded", "exceed_context_size_error"
    ):
        return ContextTooLong(said, status=400)
    refused = _code(chain, "content_filter", "content_policy_violation")
    if isinstance(error, litellm.ContentPolicyViolationError) or refused:
        return ContentRefused(said, status=400)
    for cause in chain:
        if isinstance(cause, httpx.HTTPStatusError):
            return of_status(cause.response.status_code, cause.response.headers, said, " ".join(map(str, chain)))
    for cause in chain:
        if isinstance(cause, httpx.TransportError):
            return _of_transport(cause, said)
    return _of_library(error, chain, said)


def of_status(status: int, headers: Mapping[str, str], said: str, whole: str = "") -> ProviderError:
    """The error for an HTTP status; after 5xx and 408 nobody knows whether the work was done.

    ``whole`` is all that the vendor says, of which ``said`` is a part.
    """
    retry_after_s = wait_asked(headers)
    if status >= 500 or status == 408:
        return Unavailable(said, status=status, retry_after_s=retry_after_s, billed="unknown")
    return refusal(status, said, whole) or Throttled(said, status=status, retry_after_s=retry_after_s)


def refusal(status: int | None, said: str, whole: str) -> ProviderError | None:
    """What is refused: the account, the model, the prompt's length, or the request; None if only its moment (429)."""
    if status in (400, 429, None) and _ACCOUNT.search(whole):
        return AccountRefused(said, status=status)
    if status == 429:
        return None
    if status in (400, None) and _NO_MODEL.search(whole):
        return ModelMissing(said, status=status)
    return _REFUSALS.get(status or 400, Rejected)(said, status=status)


def wait_asked(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds of a Retry-After header, given as a number or as a date (RFC 9110, 10.2.3); None without a usable one."""
    value = headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            date = parsedate_to_datetime(value)
            date = date if date.tzinfo else date.replace(tzinfo=UTC)
            return max((date - (now or datetime.now(UTC))).total_seconds(), 0.0)
        except (ValueError, OverflowError):  # no date, or one of no year that there is
            return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _of_transport(cause: Any, said: str) -> ProviderError:
    import httpx

    said = f"{said} ({type(cause).__name__}: {_told(cause)})"
    never_sent = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.WriteError, httpx.WriteTimeout)
    if isinstance(cause, never_sent):
        return Unavailable(said)
    if isinstance(cause, httpx.TimeoutException):
        return AttemptTimeout(said, billed="unknown")
    if isinstance(cause, httpx.UnsupportedProtocol | httpx.LocalProtocolError):
        return Rejected(said)
    if any(frame.name == "iter_raw" for frame in traceback.extract_tb(cause.__traceback__)):  # reading the body
        return ConnectionLost(said, billed="unknown")
    return Unavailable(said, billed="unknown")


def _of_library(error: Exception, chain: list[BaseException], said: str) -> ProviderError:
    """No HTTP error lies below: an answer that cannot be read, or a request that never left."""
    import litellm
    import openai

    if any(isinstance(cause, json.JSONDecodeError) for cause in chain):
        return MalformedAnswer(said, billed="unknown")
    if any(type(cause) is openai.OpenAIError for cause in chain):  # no key
        return AccountRefused(said)
    if any(isinstance(cause, UnicodeEncodeError) for cause in chain):  # the prompt cannot be written as UTF-8
        return Rejected(said)
    for cause in chain:
        if type(cause) is openai.APIError:  # an error told inside a stream
            slow_down = {str(cause.code), cause.type} & _SLOW_DOWN
            return Throttled(said, status=429) if slow_down else Unavailable(said, billed="unknown")
    status = getattr(error, "status_code", None)
    if isinstance(error, litellm.RateLimitError):
        return of_status(429, {}, said, str(error))
    refused = (
        litellm.BadRequestError,
        litellm.AuthenticationError,
        litellm.NotFoundError,
        openai.PermissionDeniedError,
    )
    if isinstance(error, refused) and status != 422:  # 422 is litellm's word for an answer that it cannot read
        return refusal(status, said, str(error)) or Rejected(said, status=status)
    if isinstance(error, litellm.Timeout):
        return AttemptTimeout(said, billed="unknown")
    if isinstance(error, litellm.ServiceUnavailableError | litellm.BadGatewayError | litellm.APIConnectionError):
        return Unavailable(said, billed="unknown")
    return MalformedAnswer(said, billed="unknown")


def _told(error: BaseException) -> str:
    """What an error says, cut after its secrets are out: half a secret could not be told any more."""
    return redact(str(error))[:_TOLD_CHARACTERS]


def _code(chain: list[BaseException], *codes: str) -> bool:
    """Whether a body of the provider's, which openai's errors quote as a dict, holds one of these codes."""
    return any(f"'{code}'" in str(cause) for cause in chain for code in codes)


def _chain(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
