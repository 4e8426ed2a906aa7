"""What the real caches serve across scopes: canaries, and requests in words that another tenant uses too.

The replays of the notebook compute each scope apart and could not see it.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from workbench.bench.caching_lab import Step
from workbench.caching.canaries import CHANGES, NEAR, QUESTION, Crossing, ask, send_canaries, temporary_engine
from workbench.caching.response import ResponseCache
from workbench.caching.semantic import SemanticCache
from workbench.evaluation.bounds import GRID
from workbench.evaluation.traffic import Stream
from workbench.inference.cache_protocol import CacheUse
from workbench.inference.embedding import Embedder
from workbench.inference.messages import Request
from workbench.rendering.table import Column, Table
from workbench.telemetry.context import Attribution

LEAST_THRESHOLD = float(GRID[-1])  # of all that a decision can choose: the most is near enough
CANARY_TEXTS = (QUESTION, NEAR)
MOST_REQUESTS = 1000


@dataclass(frozen=True, repr=False)
class Scopes(Step):
    """What came of the canaries, and of the requests in shared words.

    Attributes
    ----------
    shared : int
        Requests in words that another tenant uses too, sent through both caches.
    foreign : int
        How many of them got what was kept for another tenant.
    """

    crossings: tuple[Crossing, ...]
    shared: int
    foreign: int

    @property
    def invariants(self) -> dict[str, int]:
        """Counts that must be 0; the fields of the scope that leak stand in the name."""
        leaking = dict.fromkeys(c.change.field for c in self.crossings if c.crossed)
        named = f" ({', '.join(leaking)})" if leaking else ""
        return {
            f"hits across scopes{named}": sum(c.crossed for c in self.crossings),
            "canaries not served in their own scope": sum(c.unserved for c in self.crossings),
            "hits of another tenant": self.foreign,
        }


@dataclass(frozen=True, slots=True)
class KnownVectors:
    """An encoder whose vectors are there already, by text."""

    encoder_id: str
    vectors: dict[str, npt.NDArray[np.float32]]

    @classmethod
    def of(cls, embedder: Embedder, texts: Sequence[str], vectors: npt.NDArray[np.float32]) -> "KnownVectors":
        """Vectors of these texts, shape (texts, dimension), up to blanks at their ends."""
        return cls(embedder.encoder_id, dict(zip((text.strip() for text in texts), vectors, strict=True)))

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return len(next(iter(self.vectors.values())))

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Vectors of the texts."""
        return np.array([self.vectors[text.strip()] for text in texts], np.float32)


def shared_requests(stream: Stream) -> list[int]:
    """Positions of the requests whose text another tenant asks too, up to blanks at its ends; the first 1,000."""
    tenants = defaultdict(set)
    for text, tenant in zip(stream.queries, stream.tenants, strict=True):
        tenants[text.strip()].add(tenant)
    return [i for i, text in enumerate(stream.queries) if len(tenants[text.strip()]) > 1][:MOST_REQUESTS]


def foreign_hits(stream: Stream, positions: Sequence[int], embedder: Embedder) -> int:
    """Requests that either cache answers with what was kept for another tenant; answers are for the whole tenant."""
    use, out = CacheUse(visibility="tenant"), 0
    with temporary_engine() as engine:
        for cache in (ResponseCache(engine), SemanticCache(engine, embedder=embedder, threshold=LEAST_THRESHOLD)):
            for i in positions:
                request = Request("local/one", ({"role": "user", "content": stream.queries[i]},))
                who = Attribution(stream.tenants[i], feature=stream.features[i] if stream.features else "")
                answer = ask(cache, request, who, use, str(i))
                out += answer is not None and stream.tenants[int(answer)] != stream.tenants[i]
    return out


def try_scopes(stream: Stream, embedder: Embedder) -> Scopes:
    """Send everything through both caches, each in a database of its own; ``embedder`` knows all texts."""
    crossings = send_canaries(embedder, threshold=LEAST_THRESHOLD)
    positions = shared_requests(stream)
    foreign = foreign_hits(stream, positions, embedder)
    return Scopes(_table(crossings, len(positions), foreign), crossings, len(positions), foreign)


def _table(crossings: Sequence[Crossing], shared: int, foreign: int) -> Table:
    rows: list[tuple[str | int, ...]] = []
    for change in CHANGES:
        mine = [c for c in crossings if c.change is change]
        counts = (sum(getattr(c, name) for c in mine) for name in ("asked", "crossed", "unserved"))
        rows.append((change.name, change.field, *counts))
    rows.append(("words that another tenant uses too", "tenant_id", 2 * shared, foreign, 0))
    columns = (
        Column("what differs"),
        Column("field of the scope"),
        Column("asked", "count"),
        Column("hits across", "count"),
        Column("own answers not served", "count"),
    )
    caption = (
        "Hits across scopes. Both caches as they serve, at the lowest threshold and without a guard; every count but "
        "the first must be 0"
    )
    return Table(columns, tuple(rows), caption)
