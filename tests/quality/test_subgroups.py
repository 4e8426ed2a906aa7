"""No customer left worse: harm in one of twenty is found, none is invented, and too few questions are no answer."""

import numpy as np
import polars as pl
import pytest

from workbench.errors import ConfigError
from workbench.evaluation.compare import SCORES_SCHEMA
from workbench.quality.subgroups import nobody_worse

TENANTS = 20


def scores(rng, *, n=120, harm=None, small=0, drop=0.25, fail=0.0):
    """Paired 0/1 scores of two arms; one tenant loses, ``small`` tenants have ten questions each."""
    rows = []
    for tenant in range(TENANTS):
        m = 10 if tenant < small else n
        base = rng.random(m) < 0.8
        # an arm answers another tenth otherwise, without being worse
        mine = np.where(rng.random(m) < 0.1, rng.random(m) < 0.8, base)
        if tenant == harm:
            mine = mine & (rng.random(m) >= drop / 0.8)
        for i in range(m):
            who = (None, f"c{tenant}-{i}", f"t{tenant:02}", None, None)
            value = None if rng.random() < fail else float(mine[i])
            rows.append(("new", f"q{tenant}-{i}", 0, "correct", value, *who))
            rows.append(("old", f"q{tenant}-{i}", 0, "correct", float(base[i]), *who))
    return pl.DataFrame(rows, schema=SCORES_SCHEMA, orient="row").with_columns(
        slice_feature=pl.when(pl.col("item_id").str.ends_with("1")).then(pl.lit("find")).otherwise(pl.lit("answer"))
    )


def rates(runs: int, *, n: int = 120) -> tuple[float, float, float]:
    """Share of runs in which the planted harm is found; in which another is named beside it; and any without harm."""
    found = others = any_ = 0
    for run in range(runs):
        rng = np.random.default_rng([run, n])
        harmed = nobody_worse(scores(rng, n=n, harm=7), "new", "old", margin=0.05, draws=1000)
        broken = {c.group for c in harmed.claims if c.status == "broken"}
        found += "t07" in broken
        others += bool(broken - {"t07"})
        any_ += nobody_worse(scores(rng, n=n), "new", "old", margin=0.05, draws=1000).status == "broken"
    return found / runs, others / runs, any_ / runs


@pytest.mark.slow
def test_harm_in_one_of_twenty_tenants_is_found_and_none_is_invented():
    found, others, any_ = rates(60)
    assert found >= 0.8
    assert others <= 0.05
    assert any_ <= 0.05


@pytest.mark.slow
def test_at_the_margin_itself_a_false_alarm_is_rare_over_all_tenants():
    alarms = 0
    for run in range(100):
        rng = np.random.default_rng([run, 5])
        frame = pl.concat([scores(rng, n=60).filter(pl.col("arm") == "old"), at_margin(rng, n=60)])
        alarms += nobody_worse(frame, "new", "old", margin=0.05, draws=1000).status == "broken"
    assert alarms / 100 <= 0.094  # 5 % and two standard errors


def at_margin(rng, *, n):
    rows = []
    for tenant in range(TENANTS):
        for i in range(n):
            value = float(rng.random() < 0.75)
            rows.append(
                ("new", f"q{tenant}-{i}", 0, "correct", value, None, f"c{tenant}-{i}", f"t{tenant:02}", None, None)
            )
    return pl.DataFrame(rows, schema=SCORES_SCHEMA, orient="row").with_columns(slice_feature=pl.lit("answer"))


def test_a_tenant_that_loses_is_named():
    found = nobody_worse(scores(np.random.default_rng(1), harm=7, drop=0.4), "new", "old", margin=0.05)
    assert found.status == "broken"
    assert found.sentence == "new is worse by more than 0.05 for tenant_id t07"
    assert "t07" in found.table.to_text()


def test_too_few_questions_are_told_and_are_no_pass():
    found = nobody_worse(scores(np.random.default_rng(2), small=2, n=400), "new", "old", margin=0.1)
    few = [c for c in found.claims if c.too_few]
    assert [c.group for c in few] == ["t00", "t01"]
    assert all(c.status == "inconclusive" and c.clusters_needed >= 30 for c in few)
    assert found.status == "inconclusive"
    assert found.sentence.endswith("too few questions for tenant_id t00, tenant_id t01")
    assert "18 of 20 groups" in found.sentence


def test_tenants_and_features_are_claimed_at_once_and_bounds_widen():
    frame = scores(np.random.default_rng(3), n=300)
    alone = nobody_worse(frame.filter(pl.col("tenant_id") == "t03"), "new", "old", margin=0.2)
    both = nobody_worse(frame, "new", "old", margin=0.2, by=("tenant_id", "slice_feature"))
    assert len(both.claims) == TENANTS + 2
    mine = next(c for c in both.claims if c.group == "t03")
    assert mine.low < alone.claims[0].low
    assert mine.difference == pytest.approx(alone.claims[0].difference)


def test_what_failed_counts_against_the_arm():
    whole = nobody_worse(scores(np.random.default_rng(4)), "new", "old", margin=0.05)
    failed = nobody_worse(scores(np.random.default_rng(4), fail=0.3), "new", "old", margin=0.05)
    assert failed.claims[0].difference < whole.claims[0].difference - 0.1
    assert failed.status != "holds"


def test_the_same_scores_are_identical():
    frame = scores(np.random.default_rng(5)).filter(pl.col("arm") == "old")
    same = pl.concat([frame, frame.with_columns(arm=pl.lit("new"))])
    assert nobody_worse(same, "new", "old", margin=0.05).status == "identical"


def test_what_cannot_be_compared_is_refused():
    frame = scores(np.random.default_rng(6), n=10)
    with pytest.raises(ConfigError, match="there are new, old"):
        nobody_worse(frame, "newer", "old", margin=0.05)
    with pytest.raises(ConfigError, match="margin above 0"):
        nobody_worse(frame, "new", "old", margin=0)
    with pytest.raises(ConfigError, match="no column 'region'"):
        nobody_worse(frame, "new", "old", margin=0.1, by=("region",))


def test_the_same_scores_on_few_questions_do_not_show_that_nobody_is_worse():
    one = scores(np.random.default_rng(0), n=40).filter(arm="old")
    same = pl.concat([one, one.with_columns(arm=pl.lit("new"))])
    found = nobody_worse(same, "new", "old", margin=0.02)
    assert found.status == "inconclusive"
    assert all(claim.clusters_needed > claim.n_clusters for claim in found.claims)
    assert "cannot tell for" in found.sentence
