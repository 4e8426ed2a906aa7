"""No search of one tenant finds a row of another, whatever the index, the filter and the tenant's name."""

from dataclasses import replace

import numpy as np
import pytest

from tests.leaks.isolation import LEGS, Leak, check_plan, check_rows
from tests.retrieval.tables import EMBEDDER, open_store, random_rows, row
from workbench.retrieval.indexing import Exact, HnswSq, IvfPq
from workbench.retrieval.tenant import TenantHandle

HOSTILE = (
    "it's",
    'say "hi"',
    "a' OR '1'='1",
    "huge' --",
    "x'; DELETE FROM chunks; --",
    "tenant_id",
    "naïve ünïcode 租户",
    "👩‍💻🔥",
    "new\nline\ttab",
    "%",
    "hug_",
    "HUGE",
    "huge ",
    "n" * 10_000,
)
SIZES = {"huge": 1500, "middle": 200, "tiny": 5, "empty": 0, **dict.fromkeys(HOSTILE, 12)}
INDICES = {
    "exact": Exact(),
    # Many short lists: the rows of a small tenant lie in few of them, far from most queries.
    "ivf_pq": IvfPq(partitions=64, sub_vectors=4),
    "hnsw_sq": HnswSq(),
}
QUERY = np.ones(EMBEDDER.dimension, dtype=np.float32) / 4
WORDS = "common join"


def away_from_query(rows):
    """The same rows, none of them near the query."""
    vectors = [r.vector - max(0.0, float(r.vector @ QUERY)) * QUERY for r in rows]
    units = [(v / np.linalg.norm(v)).astype(np.float32) for v in vectors]
    return [replace(r, vector=v) for r, v in zip(rows, units, strict=True)]


ROWS = {tenant: away_from_query(random_rows(tenant, n, seed=i)) for i, (tenant, n) in enumerate(SIZES.items())}
# Another tenant's rows that are better hits than every own row: nearest by vector, and by words.
CANARIES = [
    row("canary", f"c{i}", "common join common join", QUERY, document_type=("class", "method")[i % 2])
    for i in range(600)
]
# A hybrid runs both of its parts: enough for a name that is only odd.
CELLS = [
    pytest.param(tenant, leg, id=f"{tenant[:12]!r}-{leg.name}")
    for tenant in SIZES
    for leg in LEGS
    if tenant not in HOSTILE or len(leg.parts) > 1
]


@pytest.fixture(scope="module", params=INDICES)
def store(request, tmp_path_factory):
    store = open_store(tmp_path_factory.mktemp(request.param), [r for rows in ROWS.values() for r in rows])
    store.upsert(CANARIES)
    store.index(INDICES[request.param])
    return store


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """For each index a table that was indexed when half full, and optimised when full."""
    stores = {}
    for name, index in INDICES.items():
        stores[name] = open_store(tmp_path_factory.mktemp(f"grown-{name}"), [r for t in ROWS for r in ROWS[t][::2]])
        stores[name].index(index)
        stores[name].upsert([r for t in ROWS for r in ROWS[t][1::2]])
        stores[name].upsert(CANARIES)
    return stores


@pytest.mark.parametrize(("tenant", "leg"), CELLS)
def test_tenant_finds_all_of_its_own_and_nothing_else(store, tenant, leg):
    handle = store.for_tenant(tenant)
    check_rows(handle, leg, ROWS[tenant], QUERY, WORDS)
    check_plan(handle, leg, QUERY, WORDS)
    assert handle.count() == SIZES[tenant]


@pytest.mark.parametrize("index", INDICES)
@pytest.mark.parametrize("optimised", [False, True], ids=["before optimize", "after optimize"])
def test_isolation_outlives_growth_and_optimisation(grown, index, optimised):
    if optimised:
        grown[index].optimize()
    for tenant in ("huge", "middle", "tiny", "empty", *HOSTILE[:3]):
        for leg in LEGS:
            check_rows(grown[index].for_tenant(tenant), leg, ROWS[tenant], QUERY, WORDS)
            check_plan(grown[index].for_tenant(tenant), leg, QUERY, WORDS)


class Unscoped(TenantHandle):
    """A handle as it would be if somebody took the tenant's condition out."""

    def _scope(self, where):
        from lancedb.expr import col, lit

        return col("position") >= lit(0) if where is None else where.expression()


@pytest.mark.parametrize("tenant", ["huge", "middle", "tiny", "empty", HOSTILE[2]])
@pytest.mark.parametrize("leg", LEGS, ids=lambda leg: leg.name)
def test_check_turns_red_when_the_tenant_filter_is_taken_out(store, tenant, leg):
    handle = Unscoped(store._table, tenant, EMBEDDER.dimension)
    with pytest.raises(Leak, match="are not the tenant's"):
        check_rows(handle, leg, ROWS[tenant], QUERY, WORDS)
    with pytest.raises(Leak, match="no condition on the tenant"):
        check_plan(handle, leg, QUERY, WORDS)


def test_check_turns_red_when_own_rows_are_missing(store):
    with pytest.raises(Leak, match="0 hits where 5 are there"):
        check_rows(store.for_tenant("empty"), LEGS[0], ROWS["tiny"], QUERY, WORDS)


def test_texts_of_another_tenant_cannot_be_read(store):
    handle = store.for_tenant("tiny")
    assert handle.documents([r.doc_id for r in CANARIES]) == {}
    assert set(handle.documents([r.doc_id for r in (*CANARIES, *ROWS["huge"])])) == {r.doc_id for r in ROWS["tiny"]}


def test_deleting_a_document_leaves_that_of_another_tenant(tmp_path):
    store = open_store(tmp_path, [row(t, "readme", "common") for t in HOSTILE])
    for i, tenant in enumerate(HOSTILE):
        assert store.delete_documents(tenant, ["readme", "' OR 1=1 --"]) == 1
        assert [store.for_tenant(t).count() for t in HOSTILE] == [0] * (i + 1) + [1] * (len(HOSTILE) - i - 1)
