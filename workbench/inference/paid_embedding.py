"""Embeddings on the same bill as everything else: reserved, settled, limited and written down call by call."""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from workbench.inference.attempts import Bill, Books
from workbench.inference.embedding import LiteLLMEmbedder
from workbench.inference.messages import Request, Response, Usage
from workbench.telemetry.context import current

DEADLINE_S = 60.0


@dataclass(frozen=True, slots=True)
class PaidEmbedder:
    """A hosted encoder whose calls are paid for and attributed; an `Embedder` like the one it wraps."""

    embedder: LiteLLMEmbedder
    books: Books

    @property
    def encoder_id(self) -> str:
        """Name of the encoder."""
        return self.embedder.encoder_id

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self.embedder.dimension

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors, float32, shape (texts, dimension).

        Raises
        ------
        UnknownPrice, BudgetExceeded, RateLimited
            If it may not be asked; nothing was then.
        ProviderError
            If the provider fails.
        """
        if not texts:
            return self.embedder.embed(texts)
        clock = self.books.clock
        bill = Bill(uuid.uuid4().hex, "", current(), self.books, clock.monotonic() + DEADLINE_S)
        once = _Once(self.embedder, tuple(texts))
        messages = tuple({"role": "user", "content": text} for text in texts)
        bill.ask(once, Request(self.embedder.model, messages, max_tokens=0), timeout_s=DEADLINE_S, on_text=None)
        return once.vectors


@dataclass(slots=True)
class _Once:
    """One embedding call in the shape of a provider."""

    embedder: LiteLLMEmbedder
    texts: tuple[str, ...]
    vectors: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))

    def complete(self, request: Request, *, timeout_s: float, on_text: Callable[[str], None] | None = None) -> Response:
        """Embed the texts; the answer has no text, only tokens."""
        del timeout_s, on_text
        self.vectors, tokens = self.embedder.embed_counted(self.texts)
        return Response("", request.model, None if tokens is None else Usage(fresh=tokens))
