"""No search of one tenant finds a row of another, whatever the index, the filter and the tenant's name."""

from dataclasses import replace

import numpy as np
import pytest

from tests.leaks.isolation import LEGS, Leak, check_plan, check_rows
from tests.leaks.mutants import half_unscoped, unscoped, without_policies
from tests.leaks.operations import HOSTILE, HOSTILE_TO, QUERY
from tests.retrieval.stores import KINDS
from tests.retrieval.tables import open_store, random_rows, row
from workbench.errors import TenantError
from workbench.retrieval.index_kinds import Exact, Hnsw, HnswSq, IvfPq
from workbench.retrieval.postgres import PostgresStore
from workbench.retrieval.strategies import Hybrid, Question

SIZES = {"huge": 1500, "middle": 200, "tiny": 5, "empty": 0, **dict.fromkeys(HOSTILE, 12)}
REFUSED = {"lance": (), "postgres": tuple(t for t in HOSTILE if t not in HOSTILE_TO["postgres"])}
INDICES = {
    "lance exact": Exact(),
    # Many short lists: the rows of a small tenant lie in few of them, far from most queries.
    "lance ivf_pq": IvfPq(partitions=64, sub_vectors=4),
    "lance hnsw_sq": HnswSq(),
    "postgres exact": Exact(),
    "postgres hnsw": Hnsw(),
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
def cell(request):
    return request.param


@pytest.fixture(scope="module")
def index(cell):
    return INDICES[cell]


@pytest.fixture(scope="module")
def store(cell, index, tmp_path_factory):
    kind = cell.split()[0]
    rows = [r for tenant, rows in ROWS.items() if tenant not in REFUSED[kind] for r in rows]
    store = open_store(tmp_path_factory.mktemp(index.name), rows, kind=kind)
    store.upsert(CANARIES)
    store.index(index)
    return store


@pytest.fixture(scope="module")
def grown(cell, index, tmp_path_factory):
    """A table that was indexed when half full."""
    kind = cell.split()[0]
    kept = [rows for tenant, rows in ROWS.items() if tenant not in REFUSED[kind]]
    half = [r for rows in kept for r in rows[::2]]
    store = open_store(tmp_path_factory.mktemp("grown"), half, kind=kind)
    store.index(index)
    store.upsert([r for rows in kept for r in rows[1::2]])
    store.upsert(CANARIES)
    return store


@pytest.mark.parametrize(("tenant", "leg"), CELLS)
def test_tenant_finds_all_of_its_own_and_nothing_else(store, cell, index, tenant, leg):
    if tenant in REFUSED[cell.split()[0]]:
        with pytest.raises(TenantError, match="holds NUL"):
            store.for_tenant(tenant)
        return
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


@pytest.mark.parametrize("optimised", [False, True], ids=["before optimize", "after optimize"])
def test_isolation_outlives_growth_and_optimisation(grown, index, optimised):
    if optimised:
        grown.optimize()
    for tenant in ("huge", "middle", "tiny", "empty", "it's", 'say "hi"', "a\\' OR 1=1 --"):
        for leg in LEGS:
            check_rows(grown.for_tenant(tenant), leg, index, ROWS[tenant], QUERY, WORDS)
            check_plan(grown.for_tenant(tenant), leg, index, QUERY, WORDS)


@pytest.mark.parametrize("tenant", ["huge", "middle", "tiny", "empty", "a' OR '1'='1", "\\acme"])
def test_check_turns_red_when_the_tenant_filter_is_taken_out(store, index, tenant):
    handle = unscoped(store, tenant)
    with without_policies(store):
        for leg in LEGS:
            with pytest.raises(Leak, match="are not the tenant's"):
                check_rows(handle, leg, index, ROWS[tenant], QUERY, WORDS)
            with pytest.raises(Leak, match="no condition on the tenant"):
                check_plan(handle, leg, index, QUERY, WORDS)


@pytest.mark.parametrize("operation", ["vector", "full_text"])
@pytest.mark.parametrize("tenant", ["huge", "tiny", "empty", "\\acme"])
def test_check_turns_red_when_one_search_of_a_hybrid_has_no_filter(store, index, tenant, operation):
    handle = half_unscoped(store, tenant, operation)
    with without_policies(store):
        for leg in (leg for leg in LEGS if leg.kind == "hybrid"):
            with pytest.raises(Leak, match="are not the tenant's"):
                check_rows(handle, leg, index, ROWS[tenant], QUERY, WORDS)


@pytest.mark.parametrize("tenant", ["huge", "tiny", "empty", "\\acme"])
def test_filter_and_policy_are_each_enough_and_the_check_misses_either(store, index, tenant):
    """Only in PostgreSQL there are both: a query that forgets the tenant still sees the tenant's rows alone."""
    if not isinstance(store, PostgresStore):
        pytest.skip("LanceDB has no policies")
    for leg in LEGS:
        forgetful = unscoped(store, tenant)
        check_rows(forgetful, leg, index, ROWS[tenant], QUERY, WORDS)
        with pytest.raises(Leak, match="no condition on the tenant"):
            check_plan(forgetful, leg, index, QUERY, WORDS)
        with without_policies(store):
            check_rows(store.for_tenant(tenant), leg, index, ROWS[tenant], QUERY, WORDS)
            with pytest.raises(Leak, match="no condition on the tenant"):
                check_plan(store.for_tenant(tenant), leg, index, QUERY, WORDS)


def test_check_turns_red_when_own_rows_are_missing(store, index):
    with pytest.raises(Leak, match="0 hits where 5 are there"):
        check_rows(store.for_tenant("empty"), LEGS[0], index, ROWS["tiny"], QUERY, WORDS)


def test_texts_of_another_tenant_cannot_be_read(store):
    handle = store.for_tenant("tiny")
    assert handle.documents([r.doc_id for r in CANARIES]) == {}
    assert set(handle.documents([r.doc_id for r in (*CANARIES, *ROWS["huge"], *ROWS["tiny"])])) == {
        r.doc_id for r in ROWS["tiny"]
    }


@pytest.mark.parametrize("kind", KINDS)
def test_deleting_a_document_leaves_that_of_another_tenant(tmp_path, kind):
    tenants = HOSTILE_TO[kind]
    store = open_store(tmp_path, [row(t, "readme", "common") for t in tenants], kind=kind)
    for i, tenant in enumerate(tenants, 1):
        assert store.delete_documents(tenant, ["readme", "' OR 1=1 --"]) == 1
        assert (store.for_tenant(tenant).count(), store.describe().rows) == (0, len(tenants) - i)
