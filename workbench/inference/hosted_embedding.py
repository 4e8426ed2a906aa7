"""Vectors of hosted encoders: paid for, limited, retried and written down as calls of chat models are."""

import math
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from workbench.errors import AnswerMismatch
from workbench.inference.attempts import Bill, Books
from workbench.inference.embedding import unit
from workbench.inference.failover import Cooldowns, RetryPolicy, call_models
from workbench.inference.litellm_answer import counted
from workbench.inference.messages import Request, Response, Usage
from workbench.inference.provider_errors import typed
from workbench.inference.providers import load_litellm
from workbench.inference.waiting import in_time
from workbench.telemetry.context import current

BATCH = 128
_Answer = tuple[np.ndarray, str, Usage | None]


class HostedEmbedder:
    """Any embedding model that litellm reaches, by litellm's name for it: ``openai/text-embedding-3-small``.

    Each 128 texts are one call, for whom `attributed` says.
    """

    def __init__(self, model: str, books: Books, *, policy: RetryPolicy | None = None) -> None:
        self.model, self.books, self.policy = model, books, policy or RetryPolicy()
        self.encoder_id = f"litellm:{model}"
        self._dimension = 0
        self._cooldowns = Cooldowns(self.policy, books.clock)

    @property
    def dimension(self) -> int:
        """Length of a vector, as the first answer had it; where nothing was asked yet, one word is, and paid for."""
        return self._dimension or int(self.embed(["dimension"]).shape[1])

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors, float32, shape (texts, dimension).

        Raises
        ------
        UnknownPrice, BudgetExceeded, RateLimited
            If it may not be asked, or not in time.
        CallFailed
            After the last attempt, also where the answers are not as many vectors as texts.
        """
        parts = [self._call(tuple(texts[i : i + BATCH])) for i in range(0, len(texts), BATCH)]
        return np.concatenate([np.zeros((0, self._dimension), np.float32), *parts])

    def _call(self, texts: tuple[str, ...]) -> np.ndarray:
        request = Request(self.model, tuple({"role": "user", "content": text} for text in texts), max_tokens=0)
        clock, encoding = self.books.clock, _Encoding(self._dimension)
        deadline = clock.monotonic() + self.policy.deadline_s
        with self.books.span(f"call {self.model}") as span:
            bill = Bill(uuid.uuid4().hex, span.trace_id if span else "", current(), self.books, deadline)
            call_models(
                (self.model,),
                lambda _model, **limits: bill.ask(encoding, request, on_text=None, **limits),
                policy=self.policy,
                cooldowns=self._cooldowns,
                clock=clock,
                deadline=deadline,
            )
        self._dimension = self._dimension or encoding.vectors.shape[1]
        return encoding.vectors


@dataclass(slots=True)
class _Encoding:
    """A provider whose answers are vectors, kept here, and no text; ``dimension`` is theirs where it is known."""

    dimension: int = 0
    vectors: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))

    def complete(self, request: Request, *, timeout_s: float, on_text: Callable[[str], None] | None = None) -> Response:
        del on_text
        load_litellm()  # seconds, once, which are not the provider's
        started = time.monotonic()
        ask = partial(_ask, request, timeout_s)
        with closing(in_time(ask, timeout_s=timeout_s, asked=request.model)) as came:
            self.vectors, model, usage = next(came)
        if self.dimension and self.vectors.shape[1] != self.dimension:
            raise AnswerMismatch(
                f"{request.model}: vectors of {self.vectors.shape[1]} numbers came, where all before had "
                f"{self.dimension}: they are another encoder's",
                billed="unknown",
            )
        return Response("", model or request.model, usage, latency_ms=round(1000 * (time.monotonic() - started), 1))


class _NoRetries(int):
    """A zero that litellm does not take for "not given", as it does 0 where it embeds: it would retry twice, unpaid."""

    def __bool__(self) -> bool:
        return True


def _ask(request: Request, timeout_s: float, give: Callable[[_Answer], bool]) -> None:
    texts = [message["content"] for message in request.messages]
    options = {"num_retries": 0, "max_retries": _NoRetries(0), "timeout": max(1, math.ceil(timeout_s))}
    try:
        answer: Any = load_litellm().embedding(model=request.model, input=texts, **options)
        rows = sorted(answer.data, key=lambda row: row["index"])
        vectors = unit(np.array([row["embedding"] for row in rows], np.float32).reshape(len(rows), -1))
        if [row["index"] for row in rows] != list(range(len(texts))):
            raise ValueError(f"{len(rows)} vectors came for {len(texts)} texts, or not one for each")
        give((vectors, answer.model, counted(answer.usage)))
    except Exception as error:  # litellm raises its own errors, openai's, httpx's and plain ones
        raise typed(error, request.model) from error
