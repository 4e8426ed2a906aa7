from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from tests.telemetry.rows import row
from workbench.errors import BudgetExceeded, ConfigError, StoreError
from workbench.inference.budgets import Budget, Budgets
from workbench.state import open_engine
from workbench.telemetry.attribution import Attribution
from workbench.telemetry.ledger import Ledger
from workbench.testing import FakeClock

ACME = Attribution(tenant_id="acme", feature="find")
ZETA = Attribution(tenant_id="zeta", feature="find")
NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)
USD = 1_000_000_000
BOTH = (Budget(10, "day"), Budget(4, "day", by=("tenant_id",)), Budget(6, "month", by=("feature",)))


@pytest.fixture
def ledger(engine):
    return Ledger(engine)


def drawn(budgets):
    """Spent and held by scope and window, in whole dollars."""
    return {(r["scope"], r["window"]): (r["spent_nanos"] / USD, r["held_nanos"] / USD) for r in dicts(budgets)}


def dicts(budgets):
    return budgets.table().rows(named=True)


def count(engine, table):
    with engine.begin() as connection:
        return connection.execute(sa.text(f"SELECT count(*) FROM {table}")).scalar_one()


def check_books(engine, budgets, ledger):
    """What the ledger says was spent is what budgets say; what is held are the open holds."""
    spent, held, calls = defaultdict(int), defaultdict(int), {}
    with engine.begin() as connection:
        for hold in connection.execute(sa.text("SELECT * FROM wb_hold")):
            key = (hold.scope, hold.window)
            held[key] += hold.amount_nanos if hold.state == "open" else 0
            spent[key] += hold.spent_nanos
            calls[hold.hold_id] = hold.spent_nanos
    assert {(r["scope"], r["window"]): (r["spent_nanos"], r["held_nanos"]) for r in dicts(budgets)} == {
        key: (spent[key], held[key]) for key in spent
    }
    assert sum(calls.values()) == ledger.frame()["cost_nanos"].sum()


def reserve(budgets, usd, who=ACME, call_id="c1", attempt=0):
    return budgets.reserve(row(call_id, attempt, round(usd * USD), **asdict(who)))


def settle(budgets, ledger, hold, usd, call_id="c1", **values):
    return budgets.settle(hold, [row(call_id, cost_nanos=round(usd * USD), **values)], ledger)


def test_what_is_reserved_is_held_in_every_budget_that_applies_and_settled_at_its_cost(engine, ledger):
    budgets = Budgets(engine, BOTH, FakeClock(NOON))
    hold = reserve(budgets, 3)
    keys = [("all", "2026-11-30"), ("tenant_id=acme", "2026-11-30"), ("feature=find", "2026-11")]
    assert drawn(budgets) == dict.fromkeys(keys, (0, 3))
    assert settle(budgets, ledger, hold, 1)
    assert drawn(budgets) == dict.fromkeys(keys, (1, 0))
    check_books(engine, budgets, ledger)


def test_a_call_that_does_not_fit_one_budget_is_held_in_none(engine):
    budgets = Budgets(engine, BOTH, FakeClock(NOON))
    reserve(budgets, 3)
    before = drawn(budgets), count(engine, "wb_hold")
    with pytest.raises(
        BudgetExceeded, match=r"may cost \$1.5 does not fit the budget of \$4 for tenant_id=acme"
    ) as found:
        reserve(budgets, 1.5)
    assert (drawn(budgets), count(engine, "wb_hold")) == before
    error = found.value
    assert (error.scope, error.window, error.limit_nanos) == ("tenant_id=acme", "2026-11-30", 4 * USD)
    assert (error.spent_nanos, error.reserved_nanos, error.resets) == (0, 3 * USD, "2026-12-01T00:00:00+00:00")
    reserve(budgets, 3, ZETA)  # another tenant has its own budget
    with pytest.raises(BudgetExceeded, match="feature=find"):
        reserve(budgets, 0.1, Attribution(tenant_id="third", feature="find"))
    assert not {key for key in drawn(budgets) if "third" in key[0]}


def test_a_budget_may_be_used_up_exactly_and_no_nano_dollar_more(engine):
    budgets = Budgets(engine, [Budget(2, "day")], FakeClock(NOON))
    reserve(budgets, 2)
    reserve(budgets, 0, call_id="c2")
    with pytest.raises(BudgetExceeded):
        budgets.reserve(row("c3", 0, 1))


def test_a_budget_of_zero_takes_only_what_is_free(engine):
    budgets = Budgets(engine, [Budget(0, "total")])
    reserve(budgets, 0)
    with pytest.raises(BudgetExceeded, match="It never starts anew") as found:
        budgets.reserve(row("c2", 0, 1))
    assert found.value.resets == ""


def test_what_is_free_fits_also_where_more_is_spent_than_the_limit(engine, ledger):
    clock = FakeClock(NOON)
    reserved = reserve(Budgets(engine, [Budget(2, "day")], clock), 2)
    lowered = Budgets(engine, [Budget(1, "day")], clock)
    reserve(lowered, 0, call_id="c2")
    lowered.settle(reserved, [row("c1", 0, 3 * USD, **asdict(ACME))], ledger)
    reserve(lowered, 0, call_id="c3")
    with pytest.raises(BudgetExceeded):
        lowered.reserve(row("c4", 0, 1))
    check_books(engine, lowered, ledger)


@pytest.mark.parametrize(
    ("window", "before", "resets"),
    [
        ("day", datetime(2026, 11, 30, 23, 59, 59, tzinfo=UTC), "2026-12-01T00:00:00+00:00"),
        ("month", datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC), "2027-01-01T00:00:00+00:00"),
        ("month", datetime(2028, 2, 29, 23, 59, 59, tzinfo=UTC), "2028-03-01T00:00:00+00:00"),
    ],
)
def test_a_budget_starts_anew_at_midnight_utc_and_a_late_settlement_goes_to_the_old_window(
    engine, ledger, window, before, resets
):
    clock = FakeClock(before)
    budgets = Budgets(engine, [Budget(1, window)], clock)
    late = reserve(budgets, 1)
    with pytest.raises(BudgetExceeded) as found:
        reserve(budgets, 1)
    assert found.value.resets == resets
    clock.sleep(1)
    assert clock.now().isoformat() == resets
    reserve(budgets, 1, call_id="c2")
    settle(budgets, ledger, late, 0.25)
    assert sorted(drawn(budgets).values()) == [(0, 1), (0.25, 0)]
    assert dicts(budgets)[-1]["resets"] == resets
    check_books(engine, budgets, ledger)


def test_midnight_is_that_of_utc_where_ever_the_clock_stands(engine):
    class Elsewhere(FakeClock):
        def now(self):
            return super().now().astimezone(__import__("zoneinfo").ZoneInfo("Pacific/Auckland"))

    budgets = Budgets(engine, [Budget(1, "day")], Elsewhere(NOON))
    reserve(budgets, 1)
    assert list(drawn(budgets)) == [("all", "2026-11-30")]


def test_a_second_settlement_changes_nothing(engine, ledger):
    budgets = Budgets(engine, BOTH, FakeClock(NOON))
    hold = reserve(budgets, 3)
    assert settle(budgets, ledger, hold, 1)
    before = budgets.table().rows()
    assert not settle(budgets, ledger, hold, 2, call_id="again")
    assert not settle(budgets, ledger, hold, 1)
    assert budgets.table().rows() == before
    assert ledger.frame()["cost_nanos"].to_list() == [USD]


def test_many_that_settle_one_hold_at_once_settle_it_once(engine, ledger):
    budgets = Budgets(engine, BOTH, FakeClock(NOON))
    hold = reserve(budgets, 3)
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda i: settle(budgets, ledger, hold, 1, call_id=f"c{i}"), range(8)))
    assert done.count(True) == 1
    assert len(ledger.frame()) == 1
    check_books(engine, budgets, ledger)


def test_a_settlement_that_the_ledger_refuses_settles_nothing(engine, ledger):
    budgets = Budgets(engine, BOTH, FakeClock(NOON))
    hold = reserve(budgets, 3)
    ledger.add([row("c1", 1)])
    before = budgets.table().rows()
    with pytest.raises(StoreError, match="c1/0, c1/1 already"):
        budgets.settle(hold, [row("c1", 0, 5), row("c1", 1, 7)], ledger)
    assert budgets.table().rows() == before
    assert ledger.frame()["cost_nanos"].to_list() == [0]
    assert settle(budgets, ledger, hold, 1)  # it is still open
    check_books(engine, budgets, ledger)


def test_no_rows_release_a_hold_and_what_cost_more_is_charged_in_full(engine, ledger):
    budgets = Budgets(engine, [Budget(2, "day")], FakeClock(NOON))
    assert budgets.settle(reserve(budgets, 2), [], ledger)
    assert drawn(budgets) == {("all", "2026-11-30"): (0, 0)}
    settle(budgets, ledger, reserve(budgets, 2), 2.5)
    with pytest.raises(BudgetExceeded, match=r"\$2\.5 are spent and \$0 reserved"):
        budgets.reserve(row("c2", 0, 1))
    check_books(engine, budgets, ledger)


def test_a_hold_outlives_the_process_that_made_it(state_url):
    first, second = open_engine(state_url), open_engine(state_url)
    reserve(Budgets(first, [Budget(2, "total")]), 2)
    first.dispose()
    with pytest.raises(BudgetExceeded, match=r"\$0 are spent and \$2 reserved"):
        reserve(Budgets(second, [Budget(2, "total")]), 1)
    second.dispose()


def test_a_call_under_no_budget_is_counted_all_the_same(engine, ledger):
    budgets = Budgets(engine, [Budget(1, "day", only={"purpose": "judge"})], FakeClock(NOON))
    settle(budgets, ledger, reserve(budgets, 5000), 4000)
    reserve(budgets, 1, Attribution(purpose="judge"))
    assert drawn(budgets) == {("all", "total"): (4000, 0), ("purpose=judge", "2026-11-30"): (0, 1)}
    assert {r["scope"]: r["limit_nanos"] for r in dicts(budgets)} == {"all": None, "purpose=judge": USD}
    check_books(engine, budgets, ledger)


def test_of_budgets_for_the_same_calls_the_smallest_holds(engine):
    several = [Budget(5, "day", by=("tenant_id",)), Budget(1, "day", only={"tenant_id": "acme"})]
    budgets = Budgets(engine, several, FakeClock(NOON))
    reserve(budgets, 3, ZETA)
    with pytest.raises(BudgetExceeded, match=r"budget of \$1 for tenant_id=acme"):
        reserve(budgets, 3, ACME)


def test_a_changed_limit_holds_from_the_next_call_on(engine):
    reserve(Budgets(engine, [Budget(1, "total")]), 1)
    raised = Budgets(engine, [Budget(3, "total")])
    reserve(raised, 2)
    assert dicts(raised)[0]["limit_nanos"] == 3 * USD


def test_no_name_of_a_tenant_is_another_scope():
    budget = Budget(1, "day", by=("feature", "tenant_id"))
    forged = Attribution(tenant_id="a&feature=b", feature="c")
    scopes = {
        budget.scope(who) for who in (forged, Attribution(tenant_id="a", feature="b"), Attribution(feature="all"))
    }
    assert len(scopes) == 3
    assert Budget(1, "day", by=("tenant_id",)).scope(Attribution()) == "tenant_id="
    assert Budget(1, "day").scope(ACME) == "all"


def test_a_correction_reaches_the_ledger_and_the_window_that_was_charged(engine, ledger):
    clock = FakeClock(NOON)
    budgets = Budgets(engine, BOTH, clock)
    settle(budgets, ledger, reserve(budgets, 3), 3, status="unknown")
    clock.sleep(timedelta(days=2).total_seconds())
    made = budgets.correct("c1", 0, -2 * USD, "not on the invoice", ledger=ledger)
    assert made.status == "correction"
    assert set(drawn(budgets).values()) == {(1, 0)}
    assert {window for _, window in drawn(budgets)} == {"2026-11-30", "2026-11"}
    check_books(engine, budgets, ledger)
    with pytest.raises(StoreError, match="below 0"):
        budgets.correct("c1", 0, -2 * USD, "twice", ledger=ledger)
    check_books(engine, budgets, ledger)


def test_corrections_that_are_booked_at_once_are_all_booked(engine, ledger):
    budgets = Budgets(engine, BOTH, FakeClock(NOON))
    settle(budgets, ledger, reserve(budgets, 3), 3)
    with ThreadPoolExecutor(8) as pool:  # each as a process of its own, which waits for no thread of another
        made = pool.map(lambda _: Budgets(engine, BOTH).correct("c1", 0, USD // 8, "more", ledger=ledger), range(8))
        assert sorted(row.attempt for row in made) == [*range(-8, 0)]
    assert set(drawn(budgets).values()) == {(4, 0)}
    check_books(engine, budgets, ledger)


def test_whose_budget_it_is_may_be_any_text(engine, ledger):
    budgets = Budgets(engine, [Budget(1, "day", by=("user_id",))], FakeClock(NOON))
    for user in ("half \ud83d", "half ?"):
        reserve(budgets, 1, Attribution(user_id=user))
    assert len(drawn(budgets)) == 2


def test_an_attempt_that_was_given_up_and_made_again_is_corrected_where_it_cost(engine, ledger):
    clock = FakeClock(NOON)
    budgets = Budgets(engine, [Budget(9, "day")], clock)
    budgets.settle(reserve(budgets, 1), [], ledger)
    clock.sleep(1)
    settle(budgets, ledger, reserve(budgets, 1), 1)
    budgets.correct("c1", 0, -USD, "refunded", ledger=ledger)
    check_books(engine, budgets, ledger)


def test_threads_together_never_reserve_more_than_there_is(engine, ledger):
    budgets = Budgets(engine, [Budget(0.05, "day"), Budget(0.02, "day", by=("tenant_id",))], FakeClock(NOON))

    def call(i):
        who = (ACME, ZETA, Attribution(tenant_id="third"))[i % 3]
        try:
            hold = reserve(budgets, 0.001, who, f"c{i}")
        except BudgetExceeded:
            return 0
        settle(budgets, ledger, hold, 0.0009, call_id=f"c{i}")
        return 1

    with ThreadPoolExecutor(16) as pool:
        admitted = sum(pool.map(call, range(120)))
    assert 50 <= admitted <= 55  # 0.05 / 0.0009, and while others hold 0.001 fewer fit
    assert all(r["spent_nanos"] <= r["limit_nanos"] and r["held_nanos"] == 0 for r in dicts(budgets))
    check_books(engine, budgets, ledger)


def test_holds_that_nobody_will_settle_are_closed_as_spent_in_full_with_a_row_each(engine, ledger):
    clock = FakeClock(NOON)
    budgets = Budgets(engine, BOTH, clock)
    reserve(budgets, 1, call_id="dead")
    forgotten = reserve(budgets, 0.5, ZETA, call_id="slow")
    settle(budgets, ledger, reserve(budgets, 1, call_id="done"), 0.25, call_id="done")
    clock.sleep(timedelta(hours=2).total_seconds())
    reserve(budgets, 2, call_id="alive")
    with pytest.raises(ConfigError, match="may be of calls that are still under way; close those of before"):
        budgets.close_holds(NOON + timedelta(hours=1, seconds=1), ledger)
    closed = budgets.close_holds(NOON + timedelta(hours=1), ledger)
    assert [(r.call_id, r.tenant_id, r.feature, r.cost_nanos) for r in closed] == [
        ("dead", "acme", "find", USD),
        ("slow", "zeta", "find", USD // 2),
    ]
    assert set(ledger.frame()["call_id"]) == {"dead", "slow", "done"}
    assert drawn(budgets)["all", "2026-11-30"] == (1.75, 2)
    check_books(engine, budgets, ledger)
    before = budgets.table().rows(), ledger.frame().rows()
    assert budgets.close_holds(NOON + timedelta(hours=1), ledger) == []
    assert not settle(budgets, ledger, forgotten, 0.1, call_id="slow")  # it lived after all
    assert (budgets.table().rows(), ledger.frame().rows()) == before


def test_a_hold_that_an_earlier_version_made_is_closed_without_a_name(engine, ledger):
    clock = FakeClock(NOON)
    budgets = Budgets(engine, BOTH, clock)
    reserve(budgets, 1)
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE wb_hold_row"))
    budgets = Budgets(engine, BOTH, clock)  # as when the new version meets the old tables
    clock.sleep(timedelta(days=1).total_seconds())
    (closed,) = budgets.close_holds(clock.now() - timedelta(hours=1), ledger)
    assert (closed.tenant_id, closed.status, closed.cost_nanos) == ("", "unknown", USD)
    assert closed.started == NOON.isoformat()
    check_books(engine, budgets, ledger)


def test_only_open_holds_remember_whose_they_are(engine, ledger):
    budgets = Budgets(engine, BOTH, FakeClock(NOON))
    settle(budgets, ledger, reserve(budgets, 1), 1)
    reserve(budgets, 1, call_id="c2")
    assert count(engine, "wb_hold_row") == 1


def test_a_hold_that_nobody_made_is_an_error(engine, ledger):
    with pytest.raises(StoreError, match="no hold 'nothing' to settle"):
        Budgets(engine).settle("nothing", [row()], ledger)
    assert ledger.frame().is_empty()


@pytest.mark.parametrize("limit", [-1, float("nan"), float("inf")])
def test_a_limit_that_is_no_amount_of_money_is_refused(limit):
    with pytest.raises(ConfigError, match="limit of a budget"):
        Budget(limit, "day")


def test_a_mistyped_field_or_window_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'tenant_id'"):
        Budget(1, "day", by=("tenant",))
    with pytest.raises(ConfigError, match="did you mean 'feature'"):
        Budget(1, "day", only={"features": "x"})
    with pytest.raises(ConfigError, match="did you mean 'day'"):
        Budget(1, "days")
