"""The arm that was accepted first stays in every later test, also where a run cannot ask it again."""

import shutil
from dataclasses import replace

import polars as pl
import pytest

from tests.retrieval.tiny import HYBRID, TEXT, change_query, judge, open_bench, project
from workbench.config import SystemClock
from workbench.errors import ConfigError
from workbench.evaluation.accepted_decision import anchor_path
from workbench.evaluation.run_record import close_run
from workbench.records import Decision
from workbench.runner import RunRecord, accept_decision


def run(root, **given):
    """Run the notebook's steps as its runner would, up to a finished run."""
    bench = open_bench(root, **given)
    dev, finalists, test, decision = judge(bench, bench.prepare())
    bench.gate(decision, test, dev)
    record = RunRecord(bench.folder, "running", "retrieval", "ci", parameters={"evalset": "tiny"})
    close_run(record, SystemClock(), status="done", gate="new")
    return bench, finalists, decision


def accepted(root, bench, **how):
    name = bench.folder.name
    return Decision.load(
        accept_decision(project(root), "retrieval", reason="why", clock=SystemClock(), run=name, **how)
    )


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A project whose first decision is accepted; copied for each test."""
    root = tmp_path_factory.mktemp("begun")
    bench, _, _ = run(root, reference="")
    return root, accepted(root, bench)


@pytest.fixture
def first(begun, tmp_path):
    shutil.copytree(begun[0], tmp_path, dirs_exist_ok=True)
    return tmp_path, begun[1]


def test_the_first_accepted_arm_is_the_anchor_and_always_tested(first):
    root, decision = first
    assert Decision.load(anchor_path(root / "evalsets" / "tiny", "retrieval")) == decision
    change_query(root / "evalsets" / "tiny")
    bench, finalists, later = run(root, reference="")
    assert "the accepted arm, in use" in finalists.roles[decision.arm]
    assert (later.rule.reference, later.rule.anchor) == (decision.arm, decision.arm)
    assert bench.anchor == decision


def test_an_anchor_that_is_no_arm_of_the_run_is_judged_by_its_accepted_scores(first):
    root, decision = first
    strategies = ["vector", "hybrid_rrf"] if decision.arm == TEXT else ["full_text", "vector"]
    _, finalists, later = run(root, strategies=strategies, reference="")
    assert decision.arm not in finalists.names
    assert decision.arm in later.arms
    assert later.claim(decision.arm).estimate == pytest.approx(decision.claim(decision.arm).estimate)
    assert later.rule.reference == decision.arm, "it is still in use"
    others = [c for c in later.claims if c.arm != decision.arm]
    assert all(c.against(decision.arm) is not None for c in others)


def test_an_anchor_that_is_no_arm_of_the_run_costs_what_it_used_at_the_prices_of_today(first):
    root, decision = first
    half = {name: rate / 2 for name, rate in decision.rates.items()}
    claims = tuple(replace(c, cost_usd_per_1k=c.cost_usd_per_1k / 2) for c in decision.claims)
    path = anchor_path(root / "evalsets" / "tiny", "retrieval")
    for there in (path, path.parents[1] / path.name):
        there.write_text(replace(decision, rates=half, claims=claims).to_json(), encoding="utf-8")
    strategies = ["vector", "hybrid_rrf"] if decision.arm == TEXT else ["full_text", "vector"]
    _, _, later = run(root, strategies=strategies, reference="")
    kept = later.claim(decision.arm)
    assert later.rates.items() >= {name: decision.rates[name] for name in kept.amounts}.items()
    assert kept.cost_usd_per_1k == pytest.approx(decision.claim(decision.arm).cost_usd_per_1k)


def test_an_anchor_that_was_judged_on_other_questions_is_told_to_be_out_of_reach(first):
    root, decision = first
    path = anchor_path(root / "evalsets" / "tiny", "retrieval").with_suffix(".scores.parquet")
    pl.read_parquet(path).with_columns(item_id=pl.col("item_id") + "-old").write_parquet(path)
    _, _, later = run(root, strategies=["vector", "hybrid_rrf" if decision.arm == TEXT else "full_text"], reference="")
    assert decision.arm not in later.arms
    assert any("is no arm of this run and was judged on other questions" in note for note in later.notes)


def test_nothing_is_accepted_that_may_lie_further_below_the_anchor_than_the_margin(first):
    root, decision = first
    change_query(root / "evalsets" / "tiny")
    bench, _, later = run(root, reference="")
    other = next(c for c in later.claims if c.arm != decision.arm)
    far = tuple(replace(p, low=-0.9) if p.other == decision.arm else p for p in other.pairs)
    claims = tuple(replace(c, pairs=far) if c is other else c for c in later.claims)
    forged = replace(later, arm=other.arm, claims=claims)
    (bench.folder / "decision.json").write_text(forged.to_json(), encoding="utf-8")
    with pytest.raises(ConfigError, match="anchor"):
        accepted(root, bench)
    assert accepted(root, bench, anchor=True).arm == other.arm
    assert Decision.load(anchor_path(root / "evalsets" / "tiny", "retrieval")).arm == other.arm


def test_the_arm_that_is_named_is_in_use_before_the_accepted_one(first):
    root, decision = first
    change_query(root / "evalsets" / "tiny")
    named = HYBRID if decision.arm != HYBRID else TEXT
    _, finalists, later = run(root, reference=named)
    assert later.rule.reference == named
    assert finalists.roles[named] == "in use, named by you"
    assert finalists.roles[decision.arm] == "the accepted arm"
