"""No search of one tenant finds a row of another, whatever the index, the filter and the tenant's name."""

from dataclasses import replace

import numpy as np
import pytest

from tests.leaks.isolation import LEGS, Leak, check_plan, check_rows
from tests.leaks.operations import HOSTILE, QUERY
from tests.retrieval.tables import EMBEDDER, open_store, random_rows, row
from workbench.retrieval.indexing import Exact, HnswSq, IvfPq
from workbench.retrieval.strategies import Hybrid, Question
from workbench.retrieval.tenant import TenantHandle

SIZES = {"huge": 1500, "middle": 200, "tiny": 5, "empty": 0, **dict.fromkeys(HOSTILE, 12)}
INDICES = {
    "exact": Exact(),
    # Many short lists: the rows of a small tenant lie in few of them, far from most queries.
    "ivf_pq": IvfPq(partitions=64, sub_vectors=4),
    "hnsw_sq": HnswSq(),
}
WORDS = "common join"


def away_from_query(rows, owner):
    """The same rows, none of them near the query, as documents that no other tenant has."""
    vectors = [r.vector - max(0.0, float(r.vector @ QUERY)) * QUERY for r in rows]
    units = [(v / np.linalg.norm(v)).astype(np.float32) for v in vectors]
    return [replace(r, vector=v, doc_id=f"{owner}.{r.doc_id}") for r, v in zip(rows, units, strict=True)]


ROWS = {tenant: away_from_query(random_rows(tenant, n, seed=i), i) for i, (tenant, n) in enumerate(SIZES.items())}
# Another tenant's rows that are better hits than every own row: nearest by vector, and by words.
CANARIES = [
    row("canary", f"c{i}", "common join join join join", QUERY, document_type=("class", "method")[i % 2])
    for i in range(600)
]
# A hybrid runs both of its parts: enough for a name that is only odd.
CELLS = [
    pytest.param(tenant, leg, id=f"{tenant[:12]!r}-{leg.name}")
    for tenant in SIZES
    for leg in LEGS
    if tenant not in HOSTILE or leg.kind == "hybrid"
]


@pytest.fixture(scope="module", params=INDICES)
def index(request):
    return INDICES[request.param]


@pytest.fixture(scope="module")
def store(index, tmp_path_factory):
    store = open_store(tmp_path_factory.mktemp(index.name), [r for rows in ROWS.values() for r in rows])
    store.upsert(CANARIES)
    store.index(index)
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
def test_tenant_finds_all_of_its_own_and_nothing_else(store, index, tenant, leg):
    handle = store.for_tenant(tenant)
    check_rows(handle, leg, index, ROWS[tenant], QUERY, WORDS)
    check_plan(handle, leg, index, QUERY, WORDS)
    assert handle.count() == SIZES[tenant]


def test_the_hybrid_that_is_checked_is_the_one_that_is_sold(store, index):
    """Its hits are those of the product's strategy, for a tenant whose two legs do not agree."""
    handle = store.for_tenant("huge")
    leg = next(leg for leg in LEGS if leg.name == "hybrid")
    sold = Hybrid(replace(Hybrid().vector, index=index)).search(handle, Question(WORDS, QUERY), 10)
    assert check_rows(handle, leg, index, ROWS["huge"], QUERY, WORDS) == sold
    for part in ("vector", "full text"):
        alone = next(leg for leg in LEGS if leg.name == part)
        assert check_rows(handle, alone, index, ROWS["huge"], QUERY, WORDS) != sold


@pytest.mark.parametrize("name", INDICES)
@pytest.mark.parametrize("optimised", [False, True], ids=["before optimize", "after optimize"])
def test_isolation_outlives_growth_and_optimisation(grown, name, optimised):
    if optimised:
        grown[name].optimize()
    for tenant in ("huge", "middle", "tiny", "empty", "it's", 'say "hi"', "a\\' OR 1=1 --"):
        for leg in LEGS:
            check_rows(grown[name].for_tenant(tenant), leg, INDICES[name], ROWS[tenant], QUERY, WORDS)
            check_plan(grown[name].for_tenant(tenant), leg, INDICES[name], QUERY, WORDS)


class Unscoped(TenantHandle):
    """A handle as it would be if somebody took the tenant's condition out."""

    def _scope(self, where):
        from lancedb.expr import col, lit

        return col("position") >= lit(0) if where is None else where.expression()


class HalfScoped(TenantHandle):
    """A handle as it would be if the condition were missing in one of the two searches that a hybrid makes."""

    def vector(self, *args, **given):
        return Unscoped(self._table, self.tenant_id, self._dimension).vector(*args, **given)


class OtherHalfScoped(TenantHandle):
    """The other one."""

    def full_text(self, *args, **given):
        return Unscoped(self._table, self.tenant_id, self._dimension).full_text(*args, **given)


@pytest.mark.parametrize("tenant", ["huge", "middle", "tiny", "empty", "a' OR '1'='1", "\\acme"])
@pytest.mark.parametrize("leg", LEGS, ids=lambda leg: leg.name)
def test_check_turns_red_when_the_tenant_filter_is_taken_out(store, index, tenant, leg):
    handle = Unscoped(store._table, tenant, EMBEDDER.dimension)
    with pytest.raises(Leak, match="are not the tenant's"):
        check_rows(handle, leg, index, ROWS[tenant], QUERY, WORDS)
    with pytest.raises(Leak, match="no condition on the tenant"):
        check_plan(handle, leg, index, QUERY, WORDS)


@pytest.mark.parametrize("kind", [HalfScoped, OtherHalfScoped])
@pytest.mark.parametrize("tenant", ["huge", "tiny", "empty", "\\acme"])
def test_check_turns_red_when_one_search_of_a_hybrid_has_no_filter(store, index, tenant, kind):
    handle = kind(store._table, tenant, EMBEDDER.dimension)
    for leg in LEGS:
        if leg.kind == "hybrid":
            with pytest.raises(Leak, match="are not the tenant's"):
                check_rows(handle, leg, index, ROWS[tenant], QUERY, WORDS)


def test_check_turns_red_when_own_rows_are_missing(store, index):
    with pytest.raises(Leak, match="0 hits where 5 are there"):
        check_rows(store.for_tenant("empty"), LEGS[0], index, ROWS["tiny"], QUERY, WORDS)


def test_texts_of_another_tenant_cannot_be_read(store):
    handle = store.for_tenant("tiny")
    assert handle.documents([r.doc_id for r in CANARIES]) == {}
    assert set(handle.documents([r.doc_id for r in (*CANARIES, *ROWS["huge"], *ROWS["tiny"])])) == {
        r.doc_id for r in ROWS["tiny"]
    }


def test_deleting_a_document_leaves_that_of_another_tenant(tmp_path):
    store = open_store(tmp_path, [row(t, "readme", "common") for t in HOSTILE])
    for i, tenant in enumerate(HOSTILE, 1):
        assert store.delete_documents(tenant, ["readme", "' OR 1=1 --"]) == 1
        assert (store.for_tenant(tenant).count(), store.describe().rows) == (0, len(HOSTILE) - i)
