"""Every operation on the rows of one tenant, each with a check that finds out whether it keeps to them.

The tenants of a `World` have documents of the same ids, so that only the tenant tells their rows apart.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any

import numpy as np

from tests.leaks.isolation import Leak, is_narrowed
from tests.leaks.mutants import half_unscoped
from tests.retrieval.tables import EMBEDDER, row
from workbench.retrieval.filters import Equals, OneOf
from workbench.retrieval.store import ChunkRow, Store
from workbench.retrieval.strategies import Hybrid, Question
from workbench.retrieval.tenant import ChunkHit, Fusion, TenantHandle

QUERY = np.ones(EMBEDDER.dimension, dtype=np.float32) / 4
# Marks that end, escape or comment out a text in some dialect, alone and in every position of a name.
MARKS = ("'", "''", '"', '""', "`", "\\", "\\\\", "\\'", '\\"', "--", "/*", "*/", "/* */", ";")
HOSTILE = (
    *(name for mark in MARKS for name in (mark, f"{mark}acme", f"ac{mark}me", f"acme{mark}")),
    "acme",
    "it's",
    'say "hi"',
    "a' OR '1'='1",
    "a'' OR ''1''=''1",
    "a\\' OR 1=1 --",
    "\\' OR tenant_id <> \\'",
    "huge' --",
    "x'; DELETE FROM chunks; --",
    "tenant_id",
    "naïve ünïcode 租户",
    "👩‍💻🔥",
    "new\nline\ttab",
    "nul\x00byte",
    "\\n",
    "\\u0041",
    "%",
    "hug_",
    "HUGE",
    "huge ",
    "n" * 10_000,
)
# PostgreSQL's text takes no NUL: such a tenant is refused.
HOSTILE_TO = {"lance": HOSTILE, "postgres": tuple(name for name in HOSTILE if "\x00" not in name)}


@dataclass(frozen=True)
class World:
    """A store in which every tenant has the same few documents, and how a handle on it is made."""

    store: Store
    tenants: tuple[str, ...]
    handle: Callable[[str], TenantHandle]
    row: type[ChunkRow] = ChunkRow

    @classmethod
    def of(cls, store: Store, tenants: Iterable[str], *, row: type[ChunkRow] = ChunkRow) -> "World":
        """Write the documents of every tenant into the store, and index it."""
        world = cls(store, tuple(dict.fromkeys(tenants)), store.for_tenant, row)
        store.upsert([r for tenant in world.tenants for r in world.rows(tenant)])
        store.index()
        return world

    def rows(self, tenant: str, said: str = "first") -> list[ChunkRow]:
        """Rows of one tenant: two documents of every tenant, and one that is called like the tenant."""
        place, kinds = self.tenants.index(tenant), ("a class", "a method", tenant)
        made = [
            row(
                tenant,
                doc_id,
                f"common {said} of{place}",
                QUERY,
                document_type=kind,
                date=self.date(tenant),
                content_hash=f"{said} {place}.{i}",
            )
            for i, (doc_id, kind) in enumerate(zip(self.documents(tenant), kinds, strict=True))
        ]
        return [self.row(**{name: getattr(r, name) for name in ChunkRow.__slots__}) for r in made]

    def date(self, tenant: str) -> date:
        """The day of all documents of one tenant, and of no other's."""
        return date(2000, 1, 1) + timedelta(days=self.tenants.index(tenant))

    def documents(self, tenant: str) -> list[str]:
        """Ids of the documents of one tenant."""
        return ["readme", "it's \\ here", f"of {tenant}"]

    def neighbour(self, tenant: str) -> str:
        """The tenant that stands beside this one."""
        return self.tenants[self.tenants.index(tenant) - 1]


Check = Callable[[World, str], None]
OPERATIONS: dict[str, Check] = {}
# What is public and asks for no tenant: it makes, indexes and describes the table as a whole, or binds the tenant.
OF_THE_TABLE = {
    "Store.dimension",
    "Store.for_tenant",
    "Store.index",
    "Store.optimize",
    "Store.describe",
    "TenantHandle.tenant_id",
    "TenantHandle.remembering",  # gives a handle of the same rows
}


def public_operations() -> set[str]:
    """Whatever can be called on a handle and on a store."""
    return {f"{c.__name__}.{n}" for c in (TenantHandle, Store) for n in dir(c) if not n.startswith("_")}


def checks(operation: str) -> Callable[[Check], Check]:
    """Register the check of an operation."""

    def register(check: Check) -> Check:
        OPERATIONS[operation] = check
        return check

    return register


def expect(asked: str, tenant: str, found: object, wanted: object) -> None:
    """Raise `Leak` unless that is what was found."""
    if found != wanted:
        raise Leak(f"{asked} of tenant {tenant[:40]!r}: found {found!r:.300}, its own is {wanted!r:.300}")


def _search(world: World, tenant: str, search: Callable[..., Sequence[object]], asked: str) -> None:
    own = world.rows(tenant)
    k = len(own) + 5
    expect(asked, tenant, {h.chunk_id for h in search(k)}, {r.chunk_id for r in own})
    for where, rows in (
        (Equals("document_type", tenant), own[2:]),
        (OneOf("doc_id", world.documents(tenant)[1:]), own[1:]),
    ):
        hits = search(k, where=where)
        expect(f"{asked} where {where!r:.60}", tenant, {h.chunk_id for h in hits}, {r.chunk_id for r in rows})


@checks("TenantHandle.vector")
def check_vector(world: World, tenant: str) -> None:
    """Hits by vector, which are as near in every tenant."""
    handle = world.handle(tenant)
    _search(world, tenant, lambda k, **given: handle.vector(QUERY, k, **given), "vector search")


@checks("TenantHandle.vectors")
def check_vectors(world: World, tenant: str) -> None:
    """Hits of several vectors that are searched for in one go."""
    handle = world.handle(tenant)

    def found(k: int, **given: Any) -> list[ChunkHit]:
        first, second = handle.vectors([QUERY, QUERY], k, **given)
        return first if first == second else []

    _search(world, tenant, found, "search by two vectors")


@checks("TenantHandle.full_text")
def check_full_text(world: World, tenant: str) -> None:
    """Hits by a word that every row holds."""
    handle = world.handle(tenant)
    _search(world, tenant, lambda k, **given: handle.full_text("common", k, **given), "full-text search")


@checks("TenantHandle.fused")
def check_fused(world: World, tenant: str) -> None:
    """Both legs in one statement, in the stores that have one."""
    fusion, own = Fusion(len(world.tenants) + 10, len(world.tenants) + 10, rank_constant=60), world.documents(tenant)
    hits = world.handle(tenant).fused(QUERY, "common", len(world.tenants) + 10, fusion)
    if hits is not None:
        expect("fused search", tenant, {h.doc_id for h in hits}, set(own))


@checks("TenantHandle.plan")
def check_plans(world: World, tenant: str) -> None:
    """The store's account of both legs, which names the tenant's condition."""
    for where in (None, Equals("doc_id", tenant)):
        plans = world.handle(tenant).plan(vector=QUERY, words="common", where=where)
        expect("legs in the plan", tenant, set(plans), {"vector", "full_text"})
        for leg, plan in plans.items():
            if not is_narrowed(world.handle(tenant), plan):
                raise Leak(f"plan of tenant {tenant[:40]!r}: no condition on the tenant below the {leg} leg:\n{plan}")


@checks("TenantHandle.documents")
def check_documents(world: World, tenant: str) -> None:
    """Texts, which say whose they are."""
    own = {r.doc_id: (r.text,) for r in world.rows(tenant)}
    asked = [*own, f"of {world.neighbour(tenant)}", "' OR 1=1 --"]
    expect("texts", tenant, world.handle(tenant).documents(asked), own)


@checks("TenantHandle.document_hashes")
def check_hashes(world: World, tenant: str) -> None:
    """Hashes, which say whose they are."""
    own = {r.doc_id: r.content_hash for r in world.rows(tenant)}
    expect("hashes", tenant, world.handle(tenant).document_hashes(), own)


@checks("TenantHandle.count")
def check_count(world: World, tenant: str) -> None:
    """Numbers of rows, all and those that match; only the day tells whose the rows are."""
    handle = world.handle(tenant)
    expect("count", tenant, handle.count(), 3)
    expect("count of its day", tenant, handle.count(Equals("date", world.date(tenant))), 3)
    expect("count where", tenant, handle.count(Equals("document_type", tenant)), 1)
    expect("count where", tenant, handle.count(OneOf("doc_id", world.documents(tenant))), 3)


@checks("Store.upsert")
def check_upsert(world: World, tenant: str) -> None:
    """New texts of the tenant take the place of its old ones, and of nobody else's."""
    _check_write(world, tenant, lambda: world.store.upsert(world.rows(tenant, "second")), 3, 0)
    said = {r.doc_id: (r.text,) for r in world.rows(tenant, "second")}
    expect("texts after upsert", tenant, world.store.for_tenant(tenant).documents(world.documents(tenant)), said)
    world.store.upsert(world.rows(tenant))


@checks("Store.delete_documents")
def check_delete_documents(world: World, tenant: str) -> None:
    """The documents of the tenant go, those of the same id stay."""
    asked = [*world.documents(tenant), "' OR 1=1 --"]
    _check_write(world, tenant, lambda: world.store.delete_documents(tenant, asked), 3, 3)
    expect("hashes after delete", tenant, world.store.for_tenant(tenant).document_hashes(), {})
    world.store.upsert(world.rows(tenant))


@checks("Store.delete_stale")
def check_delete_stale(world: World, tenant: str) -> None:
    """What is old of the tenant goes; of others everything is old by these hashes, and stays."""
    first, *rest = world.rows(tenant)
    current = {first.doc_id: first.content_hash} | {r.doc_id: f"new {tenant}" for r in rest}
    _check_write(world, tenant, lambda: world.store.delete_stale(tenant, current), 2, 2)
    left = {first.doc_id: first.content_hash}
    expect("hashes after delete_stale", tenant, world.store.for_tenant(tenant).document_hashes(), left)
    world.store.upsert(rest)


@checks("Hybrid.search")
def check_hybrid(world: World, tenant: str) -> None:
    """Both legs as the product fuses them; only what narrows to the tenant's own document tells whose a hit is."""
    for where in (None, OneOf("doc_id", world.documents(tenant))):
        hits = Hybrid(where=where).search(world.handle(tenant), Question("common", QUERY), len(world.tenants) + 10)
        expect("hybrid search", tenant, {h.doc_id for h in hits}, set(world.documents(tenant)))


def _check_write(world: World, tenant: str, write: Callable[[], int], told: int, gone: int) -> None:
    """Raise `Leak` unless the write touches as many rows as it should, and none of another tenant's."""
    neighbour = world.neighbour(tenant)
    others, rows = world.store.for_tenant(neighbour), world.store.describe().rows
    expect("rows told by a write", tenant, write(), told)
    expect("rows after a write", tenant, world.store.describe().rows, rows - gone)
    if neighbour != tenant:
        theirs = {r.doc_id: (r.text,) for r in world.rows(neighbour)}
        expect(f"after a write of {tenant[:40]!r} the texts", neighbour, others.documents(list(theirs)), theirs)


def leaky(world: World, operation: str) -> World:
    """The same world, in which the handle's condition on the tenant is taken out of this one operation."""
    return replace(world, handle=lambda tenant: half_unscoped(world.store, tenant, operation))
