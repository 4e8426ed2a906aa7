"""Fakes for tests, the package's own and those of its users; nothing in the package imports this."""

import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from workbench.config import Clock
from workbench.errors import AttemptTimeout, ProviderError, WorkbenchError
from workbench.inference.messages import Request, Response, Usage
from workbench.rendering.numbers import counted

Said = str | Response | BaseException


@dataclass(frozen=True, slots=True)
class WordTokenizer:
    """Words and single punctuation marks are the tokens.

    >>> WordTokenizer().offsets("a bc.")
    [(0, 1), (2, 4), (4, 5)]
    """

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Characters of each token."""
        return [m.span() for m in re.finditer(r"\w+|[^\w\s]", text)]


@dataclass(frozen=True, slots=True)
class HashEmbedder:
    """Bag of hashed words: texts that share words are near, the same text is always the same vector.

    >>> near, same = HashEmbedder().embed(["join two frames", "join two tables"])
    >>> bool(near @ same > 0.5)
    True
    """

    dimension: int = 64
    seed: int = 0

    @property
    def encoder_id(self) -> str:
        """Name of the encoder with all that its vectors depend on."""
        return f"hash-{self.dimension}-{self.seed}"

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Sum of one fixed random direction for each word, of unit length."""
        rows = [sum(_direction(word, self.seed, self.dimension) for word in _words(text)) for text in texts]
        sums = np.array(rows).reshape(len(texts), self.dimension)
        unit: npt.NDArray[np.float32] = (sums / np.linalg.norm(sums, axis=1, keepdims=True)).astype(np.float32)
        return unit


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower()) or ["", text]


@lru_cache(maxsize=10_000)
def _direction(word: str, seed: int, dimension: int) -> npt.NDArray[np.float64]:
    digest = blake2b(f"{seed}:{word}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(digest, "big")).standard_normal(dimension)


class FakeClock:
    """Time that stands still until somebody sleeps; safe to use from several threads.

    >>> clock = FakeClock()
    >>> clock.sleep(90)
    >>> clock.now().isoformat(), clock.monotonic()
    ('2026-01-01T00:01:30+00:00', 90.0)
    """

    def __init__(self, now: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._start, self._passed_s = now, 0.0
        self._lock = threading.Lock()

    def now(self) -> datetime:
        """Wall-clock time in UTC."""
        return self._start + timedelta(seconds=self.monotonic())

    def monotonic(self) -> float:
        """Seconds that somebody slept."""
        with self._lock:
            return self._passed_s

    def sleep(self, seconds: float) -> None:
        """Let time pass at once."""
        with self._lock:
            self._passed_s += seconds


@dataclass(slots=True)
class ScriptedModel:
    """A provider that says what its script says, in order, and counts.

    Attributes
    ----------
    script : sequence or callable
        Texts, whole responses or errors, one for each call; or a function of the request. Without one, each request
        is answered with its last message.
    usage : Usage or None
        Tokens of the answers that are plain texts; None as from a provider that does not count.
    delay_ms : float
        Time that an answer takes on ``clock``; past the time-out it is an `AttemptTimeout`.
    requests : list of Request
        What was asked.

    Examples
    --------
    >>> model = ScriptedModel(["Paris"])
    >>> asked = Request("fake", ({"role": "user", "content": "The capital of France?"},))
    >>> model.complete(asked, timeout_s=1).text, len(model.requests)
    ('Paris', 1)
    """

    script: Sequence[Said] | Callable[[Request], Said] = ()
    usage: Usage | None = Usage(fresh=10, output=5)
    delay_ms: float = 0.0
    clock: Clock = field(default_factory=FakeClock)
    requests: list[Request] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def complete(self, request: Request, *, timeout_s: float, on_text: Callable[[str], None] | None = None) -> Response:
        """Say what comes next; with ``on_text`` word by word."""
        with self._lock:
            said = self._next(request)
            self.requests.append(request)
        self.clock.sleep(min(self.delay_ms / 1000, timeout_s))
        if self.delay_ms / 1000 > timeout_s:
            raise AttemptTimeout(f"{request.model}: no answer within {timeout_s:g} s", billed="unknown")
        if isinstance(said, BaseException):
            if isinstance(said, ProviderError) and said.streamed and on_text:
                on_text("a part of ")
            raise said
        if isinstance(said, str):
            said = Response(said, request.model, self.usage, latency_ms=self.delay_ms)
        if on_text:
            for word in re.findall(r"\S+\s*|\s+", said.text):
                on_text(word)
        return said

    def _next(self, request: Request) -> Said:
        if callable(self.script):
            return self.script(request)
        if not self.script:
            return str(request.messages[-1].get("content"))
        if len(self.requests) >= len(self.script):
            raise WorkbenchError(
                f"the script of {counted(len(self.script), 'answer')} has ended, and {request.model} is asked again"
            )
        return self.script[len(self.requests)]
