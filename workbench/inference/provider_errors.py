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
from workbench.inference.vendors import FAILED_ENDS, OVERLOADED, vendor_bills, vendor_of
from workbench.telemetry.redaction import redact

_TOLD_CHARACTERS = 300
_TOLD_BYTES = 65_536  # an error is told in less
# Statuses that vendors' types and codes stand for, where the body of an answer that is called 200 tells an error:
# OpenAI's and Anthropic's types, and Google's names of gRPC.
_STATUSES: Mapping[str, int] = MappingProxyType({
    "overloaded_error": 529, "overloaded": 529, "unavailable": 503, "service_unavailable": 503,
    "service_unavailable_error": 503, "engine_overloaded": 503, "server_overloaded": 503, "rate_limit_error": 429,
    "rate_limit_exceeded": 429, "rate_limit": 429, "resource_exhausted": 429, "too_many_requests": 429,
    "insufficient_quota": 429, "authentication_error": 401, "invalid_api_key": 401, "unauthenticated": 401,
    "billing_error": 402, "permission_error": 403, "permission_denied": 403, "not_found_error": 404, "not_found": 404,
    "model_not_found": 404, "request_too_large": 413, "invalid_request_error": 400, "invalid_argument": 400,
    "failed_precondition": 400, "timeout_error": 504, "deadline_exceeded": 504, "api_error": 500, "server_error": 500,
    "internal_server_error": 500, "internal": 500,
})  # fmt: skip
_ANSWERS = ("choices", "candidates", "content", "output", "data", "usage", "usageMetadata")  # of one that did work
# Inside a text of JSON each quotation mark has a backslash before it, so this is no part of what a model wrote.
_FAILED_END = re.compile(rf'"finish_reason"\s*:\s*"(?:{"|".join(FAILED_ENDS)})"', re.IGNORECASE)
_OVERLOAD = re.compile(r"\boverloaded\b|\bat capacity\b|over capacity|temporarily unavailable", re.IGNORECASE)
_REFUSALS: Mapping[int, type[ProviderError]] = MappingProxyType({
    401: AccountRefused, 402: AccountRefused, 403: AccountRefused, 404: ModelMissing, 407: AccountRefused,
    410: ModelMissing, 413: ContextTooLong, 451: AccountRefused,
})  # fmt: skip
# Some vendors say with status 400, or 429, what concerns their key, credit or models and not the request: Anthropic
# ("usage limits", "credit balance", "organization has been disabled"), Gemini ("API key not valid", "expired",
# "location is not supported"), xAI ("Incorrect API key"), OpenAI ("billing_hard_limit_reached", "insufficient_quota",
# "account is not active"), Groq ("model_decommissioned", "organization_restricted"), DeepSeek ("Model Not Exist"),
# Mistral ("Invalid model"), OpenRouter ("not a valid model ID"), Bedrock ("security token", "model identifier is
# invalid", "on-demand throughput isn't supported"), Cohere ("model ... was removed").
_ACCOUNT = re.compile(
    r"usage limits?\b|spend(?:ing)? limit|credit balance|insufficient[ _](?:account )?(?:balance|credit|fund|quota)"
    r"|billing[ _]hard[ _]limit|billing[ _]not[ _]active|account is not active|payment[ _]required"
    r"|organi[sz]ation(?: has been |_)(?:disabled|restricted)|security token (?:included|in the request)[^.]*"
    r"(?:expired|invalid)|api[ _]key (?:not valid|(?:has )?expired)|(?:incorrect|invalid)[ _]api[ _]key|api_key_invalid"
    r"|location is not supported",
    re.IGNORECASE,
)
_NO_MODEL = re.compile(
    r"model_(?:decommissioned|not_found|not_available)|model not exist|\b(?:invalid|unknown|unsupported) model\b"
    r"|not a valid model|model identifier is invalid|no endpoints found|throughput isn.t supported"
    r"|\bmodel\b[^.]{0,80}(?:does not exist|decommissioned|deprecated|retired|no longer|was removed|not available)",
    re.IGNORECASE,
)


def typed_provider_error(error: Exception, model: str) -> ProviderError:
    """The package's error for one of litellm's, with its cause chain down to the HTTP library."""
    import httpx
    import litellm

    chain = list(_error_chain(error))
    said = f"{model}: {_error_words(error)}"
    for cause in chain:
        if isinstance(cause, AnswerMismatch | MalformedAnswer):  # of our own check of each answer
            return type(cause)(f"{model}: {cause}", billed=cause.billed)
    if isinstance(error, litellm.ContextWindowExceededError) or _error_code(
        chain, "context_length_exceeded", "exceed_context_size_error"
    ):
        return ContextTooLong(said, status=400, billed=vendor_bills(model, 400, told=True))
    refused = _error_code(chain, "content_filter", "content_policy_violation")
    if isinstance(error, litellm.ContentPolicyViolationError) or refused:
        return ContentRefused(said, status=400, billed=vendor_bills(model, 400, told=True))
    for cause in chain:
        if isinstance(cause, ToldInside):
            return cause.typed(model)
        if isinstance(cause, httpx.HTTPStatusError):
            whole, told = " ".join(map(str, chain)), error_told_inside(_error_response_body(cause.response)) is not None
            return error_of_status(
                cause.response.status_code, cause.response.headers, said, whole, model=model, told=told
            )
    for cause in chain:
        if isinstance(cause, httpx.TransportError):
            return _error_of_transport(cause, said)
    return _error_of_library(error, chain, said, model)


def error_of_status(
    status: int, headers: Mapping[str, str], said: str, whole: str = "", *, model: str = "", told: bool = False
) -> ProviderError:
    """The error for an HTTP status, which is billed as `billed` believes of the model's vendor.

    ``whole`` is all that the vendor says, of which ``said`` is a part; ``told`` is whether it says so in words.
    """
    retry_after_s, bill = retry_wait_asked(headers), vendor_bills(model, status, told=told)
    if status >= 500 or status == 408:
        if told and _OVERLOAD.search(whole):
            bill = vendor_bills(model, min(OVERLOADED), told=told)
        return Unavailable(said, status=status, retry_after_s=retry_after_s, billed=bill)
    refused = provider_refusal(status, said, whole) or Throttled(said, status=status, retry_after_s=retry_after_s)
    refused.billed = bill
    return refused


class ToldInside(Exception):
    """The body of an answer that is called 200 tells an error, and counts no tokens; a cause of litellm's errors."""

    def __init__(self, said: str, status: int | None, headers: Mapping[str, str]) -> None:
        self.said, self.status, self.headers = said, status, headers
        super().__init__(said)

    def typed(self, model: str) -> ProviderError:
        """The error as if its status had been that of HTTP; one without any may be told again."""
        said = f"{model}: the answer tells an error: {redact(self.said)[:_TOLD_CHARACTERS]}"
        if self.status is None:
            return Unavailable(said, billed=vendor_bills(model, None, told=True))
        return error_of_status(self.status, self.headers, said, self.said, model=model, told=True)


class FailedEnd(ToldInside):
    """An answer of status 200 that ended in a failure of the vendor's, after ``worked``, or after no tokens at all."""

    def __init__(self, said: str, status: int | None, headers: Mapping[str, str], *, worked: bool) -> None:
        self.worked = worked
        super().__init__(said, status, headers)

    def typed(self, model: str) -> ProviderError:
        """The error of its status; it may be billed, unless the vendor says that such an end is free."""
        error = super().typed(model)
        error.billed = "no" if vendor_of(model).free_ends and not self.worked else "unknown"
        return error


def error_told_inside(text: str, headers: Mapping[str, str] | None = None) -> ToldInside | None:
    """The error that a body tells, None if it tells none, holds an answer, or counts tokens.

    A body whose ``finish_reason`` is a failure holds no answer, however much text it has: it is a `FailedEnd`.
    It stands below ``error`` (OpenAI, Anthropic, Google), ``detail`` (FastAPI), or is the body itself (Cohere, vLLM).

    >>> error_told_inside('{"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}').status
    529
    >>> error_told_inside('{"error": {"message": "?", "code": 503}, "usage": {"prompt_tokens": 9}}') is None
    True
    >>> error_told_inside('{"choices": [{"finish_reason": "error", "error": {"code": 502}}]}').status
    502
    """
    failed = ends_in_failure(text)
    try:
        body = json.loads(text) if failed or len(text) <= _TOLD_BYTES else None
    except ValueError:
        return None
    body = body[0] if isinstance(body, list) and len(body) == 1 else body
    if failed and isinstance(body, dict) and (end := _failed_end_in(body, headers or {})):
        return end
    if not isinstance(body, dict) or any(body.get(name) for name in _ANSWERS):
        return None
    plain = isinstance(body.get("message"), str) and body.keys() <= {
        "object",
        "message",
        "code",
        "status",
        "type",
        "id",
    }
    error = body.get("error") or body.get("errors") or body.get("detail") or (body if plain else None)
    if not error or (isinstance(error, dict) and any(error.get(name) for name in _ANSWERS)):
        return None
    return ToldInside(str(error), _error_status_told(error, body), headers or {})


def ends_in_failure(text: str) -> bool:
    """Whether a body, or an event of a stream, may be a `FailedEnd`; quick, for every event is asked.

    >>> ends_in_failure('{"finish_reason": "error"}'), ends_in_failure('{"finish_reason": "stop"}')
    (True, False)
    """
    return _FAILED_END.search(text) is not None


def _failed_end_in(body: Mapping[str, Any], headers: Mapping[str, str]) -> FailedEnd | None:
    """The failure in a choice of OpenAI's protocol, or in the body or the delta of Cohere's."""
    choices = body.get("choices")
    for part in [body, body.get("delta"), *(choices if isinstance(choices, list) else ())]:
        reason = str(part.get("finish_reason")).lower() if isinstance(part, Mapping) else ""
        if reason in FAILED_ENDS:
            error = part.get("error") or body.get("error")
            usage = body.get("usage")
            worked = not isinstance(usage, Mapping) or usage.get("completion_tokens") != 0
            said = f"finish_reason {reason}" + (f", {error}" if error else "")
            return FailedEnd(said, _error_status_told(error or reason, {}), headers, worked=worked)
    return None


def _error_status_told(error: object, body: Mapping[str, Any]) -> int | None:
    """Status that an error has in its code, its type or its words; None if in none."""
    parts = [part for part in (error, body) if isinstance(part, Mapping)]
    for value in [part.get(name) for part in parts for name in ("code", "status", "type")]:
        text = str(value).lower()
        if text.isdecimal() and 400 <= int(text) < 600:
            return int(text)
        if text in _STATUSES:
            return _STATUSES[text]
    return 503 if _OVERLOAD.search(str(error)) else None


def _error_response_body(response: Any) -> str:
    """Body of a response; empty if it was not read, or could not be."""
    import httpx

    try:
        return str(response.text)
    except httpx.StreamError:
        return ""


def provider_refusal(status: int | None, said: str, whole: str) -> ProviderError | None:
    """What is refused: the account, the model, the prompt's length, or the request; None if only its moment (429)."""
    if status in (400, 429, None) and _ACCOUNT.search(whole):
        return AccountRefused(said, status=status)
    if status == 429:
        return None
    if status in (400, None) and _NO_MODEL.search(whole):
        return ModelMissing(said, status=status)
    return _REFUSALS.get(status or 400, Rejected)(said, status=status)


def retry_wait_asked(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
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


def _error_of_transport(cause: Any, said: str) -> ProviderError:
    import httpx

    said = f"{said} ({type(cause).__name__}: {_error_words(cause)})"
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


def _error_of_library(error: Exception, chain: list[BaseException], said: str, model: str) -> ProviderError:
    """No HTTP error lies below: an answer that cannot be read, or a request that never left."""
    import litellm
    import openai

    if any(isinstance(cause, json.JSONDecodeError) for cause in chain):
        return MalformedAnswer(said, billed="unknown")
    if any(type(cause) is openai.OpenAIError or isinstance(cause, ImportError) for cause in chain):  # no key, no SDK
        return AccountRefused(said)
    if any(isinstance(cause, UnicodeEncodeError) for cause in chain):  # the prompt cannot be written as UTF-8
        return Rejected(said)
    for cause in chain:
        if type(cause) is openai.APIError:  # an error told inside a stream
            inside = error_told_inside(json.dumps({"error": cause.body}, default=str))
            return inside.typed(model) if inside else Unavailable(said, billed="unknown")
    status = getattr(error, "status_code", None)
    if isinstance(error, litellm.RateLimitError):
        return error_of_status(429, {}, said, str(error))
    refused = (
        litellm.BadRequestError,
        litellm.AuthenticationError,
        litellm.NotFoundError,
        openai.PermissionDeniedError,
    )
    if isinstance(error, refused) and status != 422:  # 422 is litellm's word for an answer that it cannot read
        return provider_refusal(status, said, str(error)) or Rejected(said, status=status)
    if isinstance(error, litellm.Timeout):
        return AttemptTimeout(said, billed="unknown")
    if isinstance(error, litellm.ServiceUnavailableError | litellm.BadGatewayError | litellm.APIConnectionError):
        return Unavailable(said, billed="unknown")
    return MalformedAnswer(said, billed="unknown")


def _error_words(error: BaseException) -> str:
    """What an error says, cut after its secrets are out: half a secret could not be told any more."""
    return redact(str(error))[:_TOLD_CHARACTERS]


def _error_code(chain: list[BaseException], *codes: str) -> bool:
    """Whether a body of the provider's, which openai's errors quote as a dict, holds one of these codes."""
    return any(f"'{code}'" in str(cause) for cause in chain for code in codes)


def _error_chain(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
