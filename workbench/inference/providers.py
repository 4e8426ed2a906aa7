"""Models of others: litellm translates, everything else about a call (retries, budgets, caches) is done here."""

import math
import os
import warnings
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from workbench.errors import ProviderError
from workbench.inference.litellm_answer import Answer, answer_ids, read_end, read_part, read_whole
from workbench.inference.messages import Request, Response
from workbench.inference.provider_errors import typed
from workbench.inference.waiting import in_time

LOCAL_PREFIX = "local/"
_Part = tuple[Callable[[Any, Answer], None], Any]


class Provider(Protocol):
    """Whoever answers requests; safe to use from several threads."""

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
        Ask for probabilities of tokens, for `Response.confidence`; not every vendor gives them.
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
        answer = Answer(
            request.model, on_text, keeps_long=request.keeps_long, request=request.sha256, ids=answer_ids("body")
        )
        ask = partial(self._ask, request, timeout_s, on_text is not None)
        try:
            with closing(in_time(ask, timeout_s=timeout_s, asked=request.model)) as parts:
                for read, part in parts:
                    read(part, answer)
        except ProviderError as error:
            error.streamed = answer.shown
            if answer.texts or answer.calls:  # also a refusal, such as a 429 told inside a stream, comes after work
                error.billed = "unknown"
            raise
        return answer.response()

    def _ask(self, request: Request, timeout_s: float, stream: bool, give: Callable[[_Part], bool]) -> None:
        try:
            came = load_litellm().completion(**self._arguments(request, timeout_s, stream=stream))
            if not stream:
                give((read_whole, came))
                return
            try:
                if not any(give((read_part, chunk)) for chunk in came):
                    give((read_end, came))
            finally:
                getattr(came.completion_stream, "close", str)()  # not every vendor's stream can be closed
        except Exception as error:  # litellm raises its own errors, openai's, httpx's and plain ones
            raise typed(error, request.model) from error

    def _arguments(self, request: Request, timeout_s: float, *, stream: bool) -> dict[str, Any]:
        model = request.model
        if self.api_base and model.startswith(LOCAL_PREFIX):
            model = "openai/" + model.removeprefix(LOCAL_PREFIX)
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
        if self.logprobs:
            given["logprobs"] = True
        return given | _sampling(request, model)


def _sampling(request: Request, model: str) -> dict[str, Any]:
    """Temperature and seed; those that make an answer repeatable only where litellm knows that the model takes them."""
    litellm, given = load_litellm(), {"temperature": request.temperature}
    if request.seed is not None and "seed" in (litellm.get_supported_openai_params(model=model) or ()):
        given["seed"] = request.seed
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

    from workbench.inference.connections import guard

    guard(litellm)
    # Its types are built when first used, and pydantic then warns of each.
    warnings.filterwarnings("ignore", message=".*using the `ReadOnly` qualifier", category=UserWarning)
    warnings.filterwarnings("ignore", module=r"litellm\.", category=DeprecationWarning)
    litellm.suppress_debug_info = True  # else it prints advertisements beside each error
    return litellm
