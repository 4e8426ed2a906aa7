"""The isolation check: every leg, for one tenant, against what is known to be that tenant's."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from workbench.records import Hit
from workbench.retrieval.filters import Equals, Filter
from workbench.retrieval.index_kinds import VectorIndex
from workbench.retrieval.lance import LanceRows
from workbench.retrieval.postgres import PostgresRows
from workbench.retrieval.store import ChunkRow
from workbench.retrieval.strategies import FullText, Hybrid, Question, Strategy, Vector
from workbench.retrieval.tenant import TenantHandle

K = 10
CLASSES = Equals("document_type", "class")
# What a plan must show below a leg. LanceDB: an index lookup, or a filter on the rows as they are read. PostgreSQL: the
# query's own condition and that of the policy, either of which would be enough.
TENANT_FILTERS = {
    LanceRows: (re.compile(r"ScalarIndexQuery: query=\S*\[tenant_id = |(?:full_filter|FilterExec:).*tenant_id"),),
    PostgresRows: (
        re.compile(r"(?:Filter|Cond): \(.*\btenant_id = E?'"),
        re.compile(r"(?:Filter|Cond): \(.*\bcurrent_setting\('workbench\.tenant'"),
    ),
}


class Leak(Exception):
    """A row of another tenant was found or touched, or a row of the tenant's own was not."""


@dataclass(frozen=True)
class Leg:
    """One way to search, and how it narrows: the product's own strategy of that name."""

    kind: str
    where: Filter | None

    @property
    def name(self) -> str:
        return f"{self.kind}{' of classes' if self.where else ''}"

    def strategy(self, index: VectorIndex) -> Strategy:
        """The strategy on a table with this vector index."""
        if self.kind == "full text":
            return FullText(where=self.where)
        if self.kind == "vector":
            return Vector(index, where=self.where)
        return Hybrid(Vector(index), where=self.where)


KINDS = ("vector", "full text", "hybrid")
LEGS = tuple(Leg(kind, where) for where in (None, CLASSES) for kind in KINDS)


def check_rows(
    handle: TenantHandle, leg: Leg, index: VectorIndex, own: Sequence[ChunkRow], query: np.ndarray, words: str
) -> list[Hit]:
    """Raise `Leak` unless the leg finds documents of the tenant only, and as many as there are, up to ten.

    Every row of the tenant must be a document of its own that no other tenant has, and hold one of the words.
    """
    wanted = {r.doc_id for r in own if leg.where is None or r.document_type == "class"}
    hits = leg.strategy(index).search(handle, Question(words, query), K)
    if foreign := [h for h in hits if h.doc_id not in wanted]:
        raise Leak(f"{leg.name}: {len(foreign)} of {len(hits)} hits are not the tenant's, first {foreign[0]}")
    if len(hits) != min(K, len(wanted)):
        raise Leak(f"{leg.name}: {len(hits)} hits where {min(K, len(wanted))} are there to be found")
    return hits


def check_plan(handle: TenantHandle, leg: Leg, index: VectorIndex, query: np.ndarray, words: str) -> None:
    """Raise `Leak` unless the store's plan has every condition on the tenant below every part of the leg."""
    plans = leg.strategy(index).plan(handle, Question(words, query))
    for part, plan in plans.items():
        if part != "fusion" and not is_narrowed(handle, plan):
            raise Leak(f"{leg.name}: no condition on the tenant below the {part} search:\n{plan}")


def is_narrowed(handle: TenantHandle, plan: str) -> bool:
    """Whether a plan has every condition on the tenant that the handle's store puts there."""
    conditions = next(found for kind, found in TENANT_FILTERS.items() if isinstance(handle._rows, kind))
    return all(condition.search(plan) for condition in conditions)
