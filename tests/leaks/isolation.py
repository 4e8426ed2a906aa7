"""The isolation check: every leg, for one tenant, against what is known to be that tenant's."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from workbench.retrieval.filters import Equals, Filter
from workbench.retrieval.store import ChunkRow
from workbench.retrieval.tenant import ChunkHit, TenantHandle

K = 10
CLASSES = Equals("document_type", "class")
# A tenant's condition below a leg: an index lookup, or a filter on the rows as they are read.
TENANT_FILTER = re.compile(r"ScalarIndexQuery: query=\S*\[tenant_id = |(?:full_filter|FilterExec:).*tenant_id")


class Leak(Exception):
    """A row of another tenant was found, or a row of the tenant's own was not."""


@dataclass(frozen=True)
class Leg:
    """One way to search, and how it narrows."""

    name: str
    where: Filter | None
    parts: tuple[str, ...]


LEGS = tuple(
    Leg(f"{name}{' of classes' if where else ''}", where, parts)
    for where in (None, CLASSES)
    for name, parts in {
        "vector": ("vector",),
        "full text": ("full_text",),
        "hybrid": ("vector", "full_text"),
    }.items()
)


def run(handle: TenantHandle, leg: Leg, query: np.ndarray, words: str) -> list[ChunkHit]:
    """Hits of the leg; those of a hybrid are fused from both of its parts by reciprocal rank."""
    search: Mapping[str, Callable[[int], list[ChunkHit]]] = {
        "vector": lambda k: handle.vector(query, k, where=leg.where),
        "full_text": lambda k: handle.full_text(words, k, where=leg.where),
    }
    if len(leg.parts) == 1:
        return search[leg.parts[0]](K)
    scores, by_id = dict[str, float](), dict[str, ChunkHit]()
    for part in leg.parts:
        for rank, hit in enumerate(search[part](100), 1):
            by_id[hit.chunk_id] = hit
            scores[hit.chunk_id] = scores.get(hit.chunk_id, 0) + 1 / (60 + rank)
    return [by_id[c] for c in sorted(scores, key=lambda c: -scores[c])[:K]]


def check_rows(handle: TenantHandle, leg: Leg, own: Sequence[ChunkRow], query: np.ndarray, words: str) -> None:
    """Raise `Leak` unless the leg finds rows of the tenant only, and as many as there are, up to ten.

    Every row of the tenant must hold one of the words.
    """
    wanted = {r.chunk_id for r in own if leg.where is None or r.document_type == "class"}
    hits = run(handle, leg, query, words)
    if foreign := [h for h in hits if h.chunk_id not in wanted]:
        raise Leak(f"{leg.name}: {len(foreign)} of {len(hits)} hits are not the tenant's, first {foreign[0]}")
    if len(hits) != min(K, len(wanted)):
        raise Leak(f"{leg.name}: {len(hits)} hits where {min(K, len(wanted))} are there to be found")


def check_plan(handle: TenantHandle, leg: Leg, query: np.ndarray, words: str) -> None:
    """Raise `Leak` unless LanceDB's plan has the tenant's condition below every part of the leg."""
    asked = {"vector": {"vector": query}, "full_text": {"words": words}}
    plans = {part: handle.plan(where=leg.where, **asked[part])[part] for part in leg.parts}
    for part in leg.parts:
        if not TENANT_FILTER.search(plans[part]):
            raise Leak(f"{leg.name}: no condition on the tenant below the {part} search:\n{plans[part]}")
