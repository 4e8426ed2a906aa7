"""What the state database keeps of one tenant is that tenant's alone, whatever the tenants are called."""

from tests.caching.caches import answer
from tests.leaks.operations import HOSTILE
from tests.leaks.test_cache_leaks import Asked
from tests.telemetry.rows import row
from workbench.caching.cache import ResponseCache
from workbench.inference.budgets import Budget, Budgets
from workbench.telemetry.ledger import Ledger


def test_every_tenant_is_billed_for_its_own_calls(engine):
    ledger = Ledger(engine)
    ledger.add([row(f"c{i}", tenant_id=name, cost_nanos=i + 1) for i, name in enumerate(HOSTILE)])
    # A text column of PostgreSQL holds no NUL: the ledger keeps another character in its place.
    kept = {name.replace("\x00", "\N{REPLACEMENT CHARACTER}"): i + 1 for i, name in enumerate(HOSTILE)}
    sums = ledger.totals("tenant_id").select("tenant_id", "calls", "cost_nanos").rows()
    assert {name: cost for name, _, cost in sums} == kept
    assert {calls for _, calls, _ in sums} == {1}
    ledger.add([row("more", tenant_id="''", cost_nanos=500)])
    after = dict(ledger.totals("tenant_id").select("tenant_id", "cost_nanos").iter_rows())
    assert {name: after[name] - cost for name, cost in kept.items() if after[name] != cost} == {"''": 500}


def test_every_tenant_draws_on_its_own_budget(engine):
    budgets = Budgets(engine, [Budget(1.0, "total", by=("tenant_id",))])
    for i, name in enumerate(HOSTILE):
        worst = row(f"c{i}", tenant_id=name, cost_nanos=i + 1)
        budgets.settle(budgets.reserve(worst), [worst], None)
    assert sorted(budgets.table()["spent_nanos"]) == list(range(1, len(HOSTILE) + 1))


def test_what_is_invalidated_of_one_tenant_stays_with_every_other(engine):
    cache = ResponseCache(engine)
    everyone = [Asked(tenant_id=name) for name in HOSTILE]
    for asked in everyone:
        cache.keep(asked.request(), answer("own"), asked.who, asked.use, cost_nanos=1, since=cache.moment())
    for i, asked in enumerate(everyone, 1):
        assert cache.invalidate(tenant_id=asked.tenant_id) == 1
        neighbours = everyone[i : i + 2]
        assert all(cache.find(other.request(), other.who, other.use) for other in neighbours)
        assert cache.find(asked.request(), asked.who, asked.use) is None
