"""Hosted models, through litellm: what is asked, what comes back, whole or as a stream, and which request it is of."""

import math
import os
import re
import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, Protocol

from workbench.errors import (
    AnswerMismatch,
    ConnectionLost,
    MalformedAnswer,
    ProviderError,
)
from workbench.inference.messages import LOCAL, Request, Response, ToolCall, Usage
from workbench.inference.provider_errors import typed_provider_error
from workbench.inference.streams import stream_in_time
from workbench.inference.token_usage import counted_last_tokens

IDS_KEPT = 20_000
# Shorter ids, and those of digits alone, come again by chance: Ollama draws one of 999, others take the time.
_LEAST_DRAWN = 16


class HostedAnswerIds:
    """Ids of the newest answers with the hashes of the requests that they answered; safe to use from several threads.

    An id that comes again with the same request is a gateway's cached answer, and is that request's own.

    >>> ids = HostedAnswerIds()
    >>> [ids.belongs("chatcmpl-9f8e7d6c5b4a39281706", request) for request in ("a", "a", "b")]
    [True, True, False]
    """

    def __init__(self, limit: int = IDS_KEPT) -> None:
        self._limit, self._lock = limit, threading.Lock()
        self._request: OrderedDict[str, str] = OrderedDict()

    def belongs(self, answer_id: str, request: str) -> bool:
        """Whether no other request had this answer, as far as is remembered; an id that may be chance tells nothing."""
        drawn = re.sub(r"^[a-z]+[-_]|[^0-9A-Za-z]", "", answer_id)
        if len(drawn) < _LEAST_DRAWN or drawn.isdigit() or drawn.isalpha():
            return True
        with self._lock:
            known = self._request.setdefault(answer_id, request)
            if len(self._request) > self._limit:
                self._request.popitem(last=False)
        return known == request


@cache
def hosted_answer_ids(place: str) -> HostedAnswerIds:
    """Ids of this process in one place, the "body" or a "header" of an answer.

    All clients share them: what one tenant's client was given must not reach another tenant's.
    """
    return HostedAnswerIds()


@dataclass(slots=True)
class HostedAnswer:
    """Parts of one answer; each text is shown to ``on_text`` as it comes."""

    asked: str
    on_text: Callable[[str], None] | None = None
    model: str = ""
    finish: str = ""
    usage: Usage | None = None
    started: float = field(default_factory=time.monotonic)
    first_ms: float | None = None
    texts: list[str] = field(default_factory=list)
    calls: list[list[str]] = field(default_factory=list)  # id, name and arguments, in the order in which they began
    logprobs: list[float] = field(default_factory=list)
    keeps_long: bool = False  # whether the request asked the vendor's prompt cache for an hour
    request: str = ""  # hash of what was asked
    ids: HostedAnswerIds = field(default_factory=HostedAnswerIds)
    _latest: dict[int, list[str]] = field(default_factory=dict)  # by index the call that is coming

    @property
    def shown(self) -> bool:
        """Whether somebody has seen a part of it."""
        return self.on_text is not None and bool(self.texts)

    def identify(self, answer_id: str | None) -> None:
        """Note the provider's id of this answer, before anything of it is shown.

        Raises
        ------
        AnswerMismatch
            If another request was answered under this id.
        """
        if answer_id and not self.ids.belongs(answer_id, self.request):
            raise AnswerMismatch(
                f"{self.asked}: the answer has the id {answer_id} of an answer to another request", billed="unknown"
            )

    def say(self, text: str) -> None:
        """Add text."""
        if text:
            self.first_ms = self.first_ms or round(1000 * (time.monotonic() - self.started), 1)
            self.texts.append(text)
            if self.on_text is not None:
                self.on_text(text)

    def call(self, index: int, call_id: str | None, name: str | None, arguments: str | None) -> None:
        """Add a part of a function call; another id begins another call, also where the index is the same."""
        kept = self._latest.get(index)
        if kept is None or (call_id and kept[0] and call_id != kept[0]):
            kept = self._latest[index] = ["", "", ""]
            self.calls.append(kept)
        kept[0], kept[1], kept[2] = kept[0] or call_id or "", kept[1] or name or "", kept[2] + (arguments or "")

    def count(self, *usages: Any) -> None:
        """Take what litellm says of the tokens, the last in the end; an answer of which none are counted was not."""
        found = counted_last_tokens(usages, model=self.asked, keeps_long=self.keeps_long)
        self.usage = None if found and not found.output and (self.texts or self.calls) else found

    def response(self) -> Response:
        """All parts as one value."""
        return Response(
            "".join(self.texts),
            self.model or self.asked,
            self.usage,
            self.finish or "stop",
            tuple(ToolCall(*call) for call in self.calls),
            round(1000 * (time.monotonic() - self.started), 1),
            self.first_ms if self.on_text is not None else None,
            answer_confidence(self.logprobs),
        )


def answer_confidence(logprobs: list[float]) -> float | None:
    """Geometric mean probability of tokens, in [0, 1]; None without any."""
    return round(min(math.exp(sum(logprobs) / len(logprobs)), 1.0), 4) if logprobs else None


def read_hosted_answer(came: Any, answer: HostedAnswer) -> None:
    """Read an answer of litellm's that came at once.

    Raises
    ------
    MalformedAnswer
        If it holds no choice.
    """
    if not came.choices:
        raise MalformedAnswer(f"{answer.asked}: the answer has no choices", billed="unknown")
    _read_hosted_message(came, came.choices[0].message, answer)
    answer.count(getattr(came, "usage", None))


def read_hosted_part(chunk: Any, answer: HostedAnswer) -> None:
    """Read one chunk of a stream of litellm's."""
    if chunk.choices:
        _read_hosted_message(chunk, chunk.choices[0].delta, answer)


def read_hosted_stream_end(stream: Any, answer: HostedAnswer, *, finished: bool) -> None:
    """Close a stream of litellm's that was read to its end.

    litellm makes up a reason to finish and a count of tokens where the provider sent none; ``finished`` is whether it
    sent a reason, which Gemini does before the last chunk.

    Raises
    ------
    ConnectionLost, MalformedAnswer
        If the provider never finished: the stream was cut, or was none.
    """
    if not finished:
        if answer.texts or answer.calls:
            raise ConnectionLost(f"{answer.asked}: the stream broke off", billed="unknown")
        raise MalformedAnswer(f"{answer.asked}: what came is no stream of an answer", billed="unknown")
    told = [chunk.usage for chunk in stream.chunks if getattr(chunk, "usage", None)]
    answer.count(*told)


def _read_hosted_message(came: Any, said: Any, answer: HostedAnswer) -> None:
    answer.identify(getattr(came, "id", None))
    choice = came.choices[0]
    answer.model = came.model or answer.model
    answer.finish = choice.finish_reason or answer.finish
    for number, call in enumerate(said.tool_calls or ()):
        index = getattr(call, "index", None)
        answer.call(number if index is None else index, call.id, call.function.name, call.function.arguments)
    logprobs = getattr(choice, "logprobs", None)
    answer.logprobs += [token.logprob for token in getattr(logprobs, "content", None) or ()]
    answer.say(said.content or "")


_Part = tuple[Callable[[Any, HostedAnswer], None], Any]


class Provider(Protocol):
    """Answers requests; safe to use from several threads."""

    def complete(self, request: Request, *, timeout_s: float, on_text: Callable[[str], None] | None = None) -> Response:
        """Answer once, or raise a `ProviderError`; with ``on_text`` the answer is also shown as it comes."""


@dataclass(frozen=True, slots=True)
class LiteLLMProvider:
    """Every model that litellm reaches, by litellm's name for it: ``openai/gpt-4o-mini``, ``anthropic/...``.

    Each call is one attempt: retries, caches, budgets and fallbacks of litellm and of the vendor's library are off.
    It has a connection of its own, so that nothing that a server sends beside an answer reaches another call.
    Marks of a vendor's prompt cache (``cache_control`` in a content part) go through as they are. A temperature of 0
    is left out for models that refuse one: they sample as their vendor set them.

    Attributes
    ----------
    api_base : str
        Address of an own server, ``http://.../v1``; a model ``local/NAME`` is asked there by OpenAI's protocol.
    api_key : str
        Key; where empty, litellm takes the vendor's own variable (``OPENAI_API_KEY`` ...).
    logprobs : bool
        Ask for probabilities of tokens, for `Response.confidence`, where the model gives them.
    """

    api_base: str = ""
    api_key: str = field(default="", repr=False)
    logprobs: bool = False

    def complete(self, request: Request, *, timeout_s: float, on_text: Callable[[str], None] | None = None) -> Response:
        """Answer one request.

        Raises
        ------
        ProviderError
            One of its subclasses, by what went wrong; ``streamed`` says whether text had been shown.
        """
        load_litellm()  # seconds, once, which are not the provider's
        answer = HostedAnswer(
            request.model, on_text, keeps_long=request.keeps_long, request=request.sha256, ids=hosted_answer_ids("body")
        )
        ask = partial(self._ask, request, timeout_s, on_text is not None)
        try:
            with closing(stream_in_time(ask, timeout_s=timeout_s, asked=request.model)) as parts:
                for read, part in parts:
                    read(part, answer)
        except ProviderError as error:
            error.streamed = answer.shown
            if answer.model:  # a part came: also a refusal, such as a 429 told inside a stream, comes after work then
                error.billed = "unknown"
            raise
        return answer.response()

    def _ask(self, request: Request, timeout_s: float, stream: bool, give: Callable[[_Part], bool]) -> None:
        from workbench.inference.hosted_connections import connections_closed

        try:
            with connections_closed():  # not every vendor's stream in litellm can be closed
                came = load_litellm().completion(**self._arguments(request, timeout_s, stream=stream))
                if not stream:
                    give((read_hosted_answer, came))
                    return
                finished = False
                for chunk in came:
                    finished = finished or bool(came.received_finish_reason or came.intermittent_finish_reason)
                    if give((read_hosted_part, chunk)):
                        return
                give((partial(read_hosted_stream_end, finished=finished), came))
        except Exception as error:  # litellm raises its own errors, openai's, httpx's and plain ones
            raise typed_provider_error(error, request.model) from error

    def _arguments(self, request: Request, timeout_s: float, *, stream: bool) -> dict[str, Any]:
        model = request.model
        if self.api_base and model.startswith(LOCAL):
            model = "openai/" + model.removeprefix(LOCAL)
        given: dict[str, Any] = {
            "model": model,
            "messages": [dict(m) for m in request.messages],
            "max_tokens": request.max_tokens,
            # Whole seconds, because litellm keeps one HTTP client for each value; the exact limit is `in_time`.
            "timeout": max(1, math.ceil(timeout_s)),
            "num_retries": 0,
            "max_retries": 0,
            "stream": stream,
        }
        if stream:
            given["stream_options"] = {"include_usage": True}
        if self.api_base:
            given["api_base"] = self.api_base
        if self.api_key or self.api_base:
            given["api_key"] = self.api_key or "none"  # else a vendor's key would go to another address
        if request.stop:
            given["stop"] = list(request.stop)
        if request.tools:
            given["tools"] = [dict(t) for t in request.tools]
            given["_skip_mcp_handler"] = True  # else litellm needs the package mcp, which it does not declare
        if request.schema:
            schema = {"name": "answer", "schema": dict(request.schema), "strict": True}
            given["response_format"] = {"type": "json_schema", "json_schema": schema}
        return given | _hosted_sampling(request, model, logprobs=self.logprobs)


def _hosted_sampling(request: Request, model: str, *, logprobs: bool) -> dict[str, Any]:
    """Temperature, seed and whether to give probabilities, each only where litellm knows that the model takes it."""
    litellm, given = load_litellm(), {"temperature": request.temperature}
    takes = litellm.get_supported_openai_params(model=model) or ()
    if request.seed is not None and "seed" in takes:
        given["seed"] = request.seed
    if logprobs and "logprobs" in takes:
        given["logprobs"] = True
    if not request.temperature:
        name, vendor, _, _ = litellm.get_llm_provider(model)
        try:
            litellm.get_optional_params(model=name, custom_llm_provider=vendor, temperature=request.temperature)
        except litellm.UnsupportedParamsError:
            del given["temperature"]
    return given


def load_litellm() -> Any:
    """Import litellm, which takes seconds, without what it would ask the network and print by itself."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else its import asks the network for prices
    import litellm

    from workbench.inference.hosted_connections import guard_connections

    guard_connections(litellm)
    # Its types are built when first used, and pydantic then warns of each.
    warnings.filterwarnings("ignore", message=".*using the `ReadOnly` qualifier", category=UserWarning)
    warnings.filterwarnings("ignore", module=r"litellm\.", category=DeprecationWarning)
    litellm.disable_hf_tokenizer_download = True  # else it looks for a tokenizer to count what a vendor did not
    litellm.suppress_debug_info = True  # else it prints advertisements beside each error
    return litellm
