"""What the tests of the caches share: requests, callers, a clock that stands still, an encoder with known cosines."""

import datetime as dt
import math
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import sqlalchemy as sa

from workbench.caching.cache import SemanticCache
from workbench.inference.messages import CacheUse, Request, Response, Usage
from workbench.telemetry.attribution import Attribution

WHO = Attribution(tenant_id="acme", user_id="ann", feature="answer")
USE = CacheUse(visibility="tenant", corpus_version="v1")


@dataclass
class StillClock:
    """Moves only when told to."""

    s: float = 1_800_000_000.0

    def now(self) -> dt.datetime:
        return dt.datetime.fromtimestamp(self.s, dt.UTC)

    def monotonic(self) -> float:
        return self.s

    def sleep(self, seconds: float) -> None:
        self.s += seconds


@dataclass
class Angles:
    """The first number of a text is its angle in degrees: the cosine of two texts is that of the difference."""

    encoder_id: str = "angles"
    dimension: int = 2
    seen: list[str] = field(default_factory=list)

    def embed(self, texts):
        self.seen += texts
        angles = [math.radians(float(re.findall(r"-?\d+(?:\.\d+)?", t)[0])) for t in texts]
        return np.array([(math.cos(a), math.sin(a)) for a in angles], np.float32).reshape(len(texts), 2)


def ask(text: str, **other: Any) -> Request:
    """A request with a system prompt and one question."""
    messages = ({"role": "system", "content": "Answer."}, {"role": "user", "content": text})
    return Request(**{"model": "local/one", "messages": messages, **other})


def answer(text: str, **other: Any) -> Response:
    """An answer that was paid for."""
    return Response(text, "local/one", Usage(10, 0, 0, 5), **other)


def angle_cache(engine: sa.Engine, clock: StillClock | None = None, *, degrees: float = 20.0, **options: Any):
    """A semantic cache that serves up to so many degrees apart."""
    embedder = options.pop("embedder", None) or Angles()
    threshold = math.cos(math.radians(degrees))
    return SemanticCache(engine, embedder=embedder, threshold=threshold, clock=clock or StillClock(), **options)


def keep(
    cache: Any, text: str, said: str = "", *, who=WHO, use=USE, cost_nanos: int = 1000, since: int | None = None
) -> None:
    """Keep an answer; it says the question unless told otherwise."""
    since = cache.moment() if since is None else since
    cache.keep(ask(text), answer(said or f"answer to {text}"), who, use, cost_nanos=cost_nanos, since=since)


def found(cache: Any, text: str, *, who=WHO, use=USE) -> str | None:
    """What the cache answers."""
    hit = cache.find(ask(text), who, use)
    return hit and hit.response.text


def count(engine: sa.Engine) -> int:
    """Entries in the database."""
    with engine.begin() as connection:
        return connection.execute(sa.text("SELECT count(*) FROM wb_cache")).scalar_one()
