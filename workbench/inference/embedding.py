"""Text to vectors: the local MiniLM by default, a hosted model or one of sentence-transformers by name."""

import math
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np

from workbench.config import Settings
from workbench.errors import (
    AnswerMismatch,
    CallFailed,
    ConfigError,
    ProviderError,
    RateLimited,
    Throttled,
    unknown_name,
)
from workbench.inference.call_attempt import Books, CallAccount, worst_attempt_tokens
from workbench.inference.call_tapes import refuse_offline
from workbench.inference.encoders import MiniLM, MiniLML3, WordLlama, unit_vectors
from workbench.inference.failover import Cooldowns, RetryPolicy, call_with_failover
from workbench.inference.hosted_models import load_litellm
from workbench.inference.messages import Request, Response, Usage
from workbench.inference.provider_errors import typed_provider_error
from workbench.inference.streams import stream_in_time
from workbench.inference.token_usage import counted_text_tokens
from workbench.inference.vendors import OVERLOADED, vendor_of
from workbench.rendering.numbers import counted
from workbench.telemetry.attribution import current_attribution

LOCAL_EMBEDDERS: Mapping[str, type[MiniLM | WordLlama]] = {
    "minilm": MiniLM, "wordllama": WordLlama, "minilm-l3": MiniLML3,
}  # fmt: skip
EMBEDDERS = (*LOCAL_EMBEDDERS, "litellm:MODEL", "sentence-transformers:MODEL")


class Embedder(Protocol):
    """What turns texts into unit vectors; ``encoder_id`` changes whenever the vectors would."""

    @property
    def encoder_id(self) -> str:
        """Name of the encoder."""

    @property
    def dimension(self) -> int:
        """Length of a vector."""

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of unit length, float32, shape (texts, dimension)."""


# French and Turkish have 0.3 of such characters where they have many, another alphabet than Latin at least 0.5.
UNREAD_SHARE = 1 / 3


def unread_by_embedder(embedder: Embedder, texts: Sequence[str], *, strict: bool = False) -> np.ndarray:
    """Which texts an encoder cannot read, shape (texts,): more than a third of their characters says nothing to it.

    An encoder that does not say what it knows, as a hosted one, is taken to read everything.

    Parameters
    ----------
    strict : bool
        Whether one unknown piece is too much: "what does ✅ mean" and "what does ❌ mean" have the same vector.

    >>> from workbench.testing import HashEmbedder
    >>> unread_by_embedder(HashEmbedder(), ["any", "text"]).tolist()
    [False, False]
    """
    found, pieces = unread_share_of_embedder(embedder, texts) > UNREAD_SHARE, getattr(embedder, "unknown_share", None)
    return found | (pieces(texts) > 0) if strict and pieces and texts else found


def unread_share_of_embedder(embedder: Embedder, texts: Sequence[str]) -> np.ndarray:
    """Share of the characters of each text that an encoder does not read, shape (texts,); 0 where it does not say.

    It is what the encoder's ``unread_share`` says, else its ``unknown_share``, of its pieces.
    """
    share = getattr(embedder, "unread_share", None) or getattr(embedder, "unknown_share", None)
    found: np.ndarray = np.zeros(len(texts)) if share is None or not texts else share(texts)
    return found


def rest_embedder(embedder: object) -> None:
    """Let an encoder give back the memory of its layers until the next text, where it can: one of ours that has layers.

    >>> from workbench.testing import HashEmbedder
    >>> rest_embedder(HashEmbedder())
    """
    if callable(give := getattr(embedder, "rest", None)):
        give()


def wake_embedder(embedder: object) -> None:
    """Let an encoder load its layers now, where it has any: for whoever serves, so that no first request waits for it.

    >>> from workbench.testing import HashEmbedder
    >>> wake_embedder(HashEmbedder())
    """
    if callable(load := getattr(embedder, "wake", None)):
        load()


class SentenceTransformerEmbedder:
    """A sentence-transformers model, where that package is installed and its weights are at hand."""

    def __init__(self, model: str) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise ConfigError(f"embedder {model!r} needs: pip install sentence-transformers") from error
        self._model = SentenceTransformer(model)
        self.encoder_id = f"sentence-transformers:{model}"
        self.dimension = int(self._model.get_sentence_embedding_dimension())

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors, float32."""
        refuse_offline(f"embedding by {self.encoder_id}")
        return unit_vectors(np.asarray(self._model.encode(list(texts)), np.float32))


def check_embedder(name: str) -> None:
    """Refuse a name that `load_embedder` would refuse, without loading anything.

    Raises
    ------
    ConfigError
        If the name is none of `EMBEDDERS`.
    """
    kind, _, model = name.partition(":")
    if name not in LOCAL_EMBEDDERS and not (model and kind in ("litellm", "sentence-transformers")):
        raise ConfigError(unknown_name("embedder", name, EMBEDDERS))


def load_embedder(name: str, settings: Settings, books: Books | None = None) -> Embedder:
    """Embedder by name: one of `LOCAL_EMBEDDERS`, ``litellm:MODEL`` or ``sentence-transformers:MODEL``.

    A hosted one (``litellm:``) is paid for on ``books``, by default the project's own.

    Raises
    ------
    ConfigError
        If the name is none of these.
    UnknownPrice
        If it is a hosted one without a price.
    """
    check_embedder(name)
    kind, _, model = name.partition(":")
    if name in LOCAL_EMBEDDERS:
        return LOCAL_EMBEDDERS[name](settings.cache / "weights")
    if kind == "sentence-transformers":
        return SentenceTransformerEmbedder(model)
    return HostedEmbedder(model, books or Books.open(settings))


BATCH = 128
# Vocabularies that are not published: their counts were at most so far above that of cl100k_base in any usual script.
_OTHER_VOCABULARY = 1.3
# A longer text is cut here first: no vocabulary has more characters a token on average, and counting takes its time.
_LONGEST_TOKEN = 16
# Work that nobody waits for goes on when its turn comes: a minute later the windows of vendors' limits are others.
_PATIENT, _PAUSE_S, _PAUSES = frozenset({"ingest", "eval"}), 60.0, 10
_Answer = tuple[np.ndarray, str, Usage | None]


class HostedEmbedder:
    """Any embedding model that litellm reaches, by litellm's name for it: ``openai/text-embedding-3-small``.

    Texts go in calls of at most 128, and of what the vendor takes at once (see `Vendor`), for whom `attributed` says.
    A longer text than the model reads is cut, as `MiniLM` cuts it. A blank one, which vendors refuse, is not sent: all
    have one vector, which is near to none.

    To ingest and to evaluate, calls wait for their turn at our own limit and at the vendor's; a product's do not wait
    longer than the policy says.

    Raises
    ------
    UnknownPrice
        If the model has no price, before anything is asked.
    """

    def __init__(self, model: str, books: Books, *, policy: RetryPolicy | None = None) -> None:
        books.prices.cost_nanos(model, Usage())
        self.model, self.books, self.policy = model, books, policy or RetryPolicy()
        self.encoder_id = f"litellm:{model}"
        self.vendor = vendor_of(model)
        self.max_tokens = self.vendor.text_tokens
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
        BudgetExceeded, RateLimited
            If it may not be asked, or not in time.
        CallFailed
            After the last attempt, also where the answers are not as many vectors as texts.
        """
        sent = [self._cut(_embeddable_text(text)) for text in texts]
        asked = [i for i, text in enumerate(sent) if text.strip()]
        parts = [self._patiently(tuple(part)) for part in self._batches([sent[i] for i in asked])]
        if len(asked) == len(texts):
            return np.concatenate([np.zeros((0, self._dimension), np.float32), *parts])
        out = np.full((len(texts), self.dimension), self.dimension**-0.5, np.float32)
        if asked:
            out[asked] = np.concatenate(parts)
        return out

    def is_cut(self, text: str) -> bool:
        """Whether the model does not read all of a text; an estimate where its vocabulary is not published."""
        return self._cut(text) != text

    def _cut(self, text: str) -> str:
        if len(text.encode(errors="replace")) <= self.max_tokens:  # no token is shorter than a byte
            return text
        vocabulary, most = self._vocabulary(), int(self.max_tokens / self._margin)
        kept, take = text[: _LONGEST_TOKEN * most], most
        tokens = vocabulary.encode_ordinary(kept)
        while len(tokens) > most:  # without half a character at its end, a text may have more tokens than before
            kept = vocabulary.decode(tokens[:take], errors="ignore")
            tokens, take = vocabulary.encode_ordinary(kept), take - 1
        return kept

    def _batches(self, texts: Sequence[str]) -> Iterator[list[str]]:
        """Texts in their order, as many at once as the vendor and our own limit take."""
        most = min(BATCH, self.vendor.texts)
        limiter = self.books.limiter
        announced = (limiter.tokens_per_minute(self.model) if limiter else None) or math.inf
        part: list[str] = []
        size = weight = 0
        for text in texts:
            tokens, bound = self._tokens(text, most), worst_attempt_tokens(_embedding_request(self.model, (text,)))
            if part and (len(part) == most or size + tokens > self.vendor.tokens or weight + bound > announced):
                yield part
                part, size, weight = [], 0, 0
            part.append(text)
            size, weight = size + tokens, weight + bound
        if part:
            yield part

    def _tokens(self, text: str, most: int) -> int:
        """Tokens at most; short texts are not counted, because so many of them fit in any case."""
        size = len(text.encode())
        if size * most <= self.vendor.tokens:
            return size
        return math.ceil(self._margin * len(self._vocabulary().encode_ordinary(text)))

    @property
    def _margin(self) -> float:
        return 1.0 if self.vendor.counts_as else _OTHER_VOCABULARY

    def _vocabulary(self) -> Any:
        return load_litellm().utils.encoding  # cl100k_base, which comes with litellm

    def _patiently(self, texts: tuple[str, ...]) -> np.ndarray:
        """Vectors of one call; one that came too early is made again, where nobody waits for it."""
        pauses = 0
        while True:
            try:
                return self._call(texts)
            except RateLimited as error:
                if error.retry_after_s is None or current_attribution().purpose not in _PATIENT:
                    raise
                self.books.clock.sleep(error.retry_after_s)
            except CallFailed as error:
                pauses += 1
                if pauses > _PAUSES or current_attribution().purpose not in _PATIENT or not _embedding_too_early(error):
                    raise
                self.books.clock.sleep(max(error.retry_after_s or 0.0, _PAUSE_S))

    def _call(self, texts: tuple[str, ...]) -> np.ndarray:
        request, clock, encoding = (
            _embedding_request(self.model, texts),
            self.books.clock,
            _HostedEncoding(self._dimension),
        )
        deadline = clock.monotonic() + self.policy.deadline_s
        with self.books.span(f"call {self.model}") as span:
            account = CallAccount(
                uuid.uuid4().hex, span.trace_id if span else "", current_attribution(), self.books, deadline
            )
            call_with_failover(
                (self.model,),
                lambda _model, **limits: account.ask(encoding, request, on_text=None, **limits),
                policy=self.policy,
                cooldowns=self._cooldowns,
                clock=clock,
                deadline=deadline,
            )
        self._dimension = self._dimension or encoding.vectors.shape[1]
        return encoding.vectors


def _embedding_request(model: str, texts: Sequence[str]) -> Request:
    return Request(model, tuple({"role": "user", "content": text} for text in texts), max_tokens=0)


def _embeddable_text(text: str) -> str:
    """What can be sent of a text: half a surrogate pair cannot."""
    return text.encode(errors="replace").decode()


def _embedding_too_early(error: CallFailed) -> bool:
    """Whether nothing is wrong but the moment: the vendor turns requests away, or the model is left alone for that."""
    cause = error.__cause__
    busy = isinstance(cause, Throttled) or (isinstance(cause, ProviderError) and cause.status in OVERLOADED)
    return busy or (cause is None and error.retry_after_s is not None)


@dataclass(slots=True, eq=False)
class _HostedEncoding:
    """A provider whose answers are vectors, kept here, and no text; ``dimension`` is theirs where it is known."""

    dimension: int = 0
    vectors: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))

    def complete(self, request: Request, *, timeout_s: float, on_text: Callable[[str], None] | None = None) -> Response:
        del on_text
        load_litellm()  # seconds, once, which are not the provider's
        started = time.monotonic()
        ask = partial(_ask_embedding_vectors, request, timeout_s)
        with closing(stream_in_time(ask, timeout_s=timeout_s, asked=request.model)) as came:
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


def _ask_embedding_vectors(request: Request, timeout_s: float, give: Callable[[_Answer], bool]) -> None:
    texts = [message["content"] for message in request.messages]
    options = {"num_retries": 0, "max_retries": _NoRetries(0), "timeout": max(1, math.ceil(timeout_s))}
    try:
        answer: Any = load_litellm().embedding(model=request.model, input=texts, **options)
        rows = sorted(answer.data, key=lambda row: row["index"])
        vectors = unit_vectors(np.array([row["embedding"] for row in rows], np.float32).reshape(len(rows), -1))
        if [row["index"] for row in rows] != list(range(len(texts))):
            raise ValueError(
                f"{counted(len(rows), 'vector')} came for {counted(len(texts), 'text')}, or not one for each"
            )
        give((vectors, answer.model, counted_text_tokens(answer.usage)))
    except Exception as error:  # litellm raises its own errors, openai's, httpx's and plain ones
        raise typed_provider_error(error, request.model) from error
