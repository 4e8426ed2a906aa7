"""The routing notebook's steps on drawn outcomes: known answers, and what a check says when something changed."""

import json
import shutil
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest

from tests.evalset.small_evalset import settings_in
from tests.routing.routing_tables import dominated, planted
from workbench.config import Settings, SystemClock
from workbench.errors import ConfigError, EvalsetError, GateFailed
from workbench.evalset.outcomes import FILE
from workbench.evaluation.fingerprint import build_parameters
from workbench.evaluation.gate import Gate
from workbench.evaluation.run_record import close_run
from workbench.records import Decision
from workbench.routing.notebook import RoutingExperiment, RoutingParameters
from workbench.routing.policies import load_router
from workbench.runner import RunRecord, accept_decision
from workbench.testing import HashEmbedder

POLICIES = ["random", "length", "logistic_words", "knn_embedding"]
GATES = '[routing]\nmargin = 0.05\non_stale = "fail"\n'


def project(root: Any, table: pl.DataFrame) -> Settings:
    settings = settings_in(root)
    folder = settings.evalsets / "drawn"
    if not folder.is_dir():
        folder.mkdir(parents=True)
        table.write_parquet(folder / FILE)
        (folder / "gates.toml").write_text(GATES, encoding="utf-8")
    return settings


def open_bench(settings: Settings, **given: Any) -> RoutingExperiment:
    values = {"evalset": "drawn", "policies": POLICIES, "draws": 200, **given}
    return RoutingExperiment(build_parameters(RoutingParameters, values), settings, embedder=HashEmbedder(32))


def run_all(bench: RoutingExperiment, shown: dict[str, Any] | None = None) -> Decision:
    """Every step of the notebook, up to the gate's word on disk; what they show by the name of the step."""
    shown = {} if shown is None else shown
    tables = [bench.contents(), bench.power(), bench.opportunity()]
    arms = bench.fit()
    found = bench.study(arms)
    tables += [bench.policies_table(found), bench.within(found)]
    shown |= {"study": found, "curves": bench.curves(found), "deferral": bench.deferral(found)}
    dev = bench.candidates(bench.score(arms, "dev"), found)
    finalists = bench.finalists(dev)
    test = bench.test(dev, finalists)
    decision = bench.decide(test, finalists)
    shown |= {"forest": bench.forest(decision), "slices": bench.slices(decision, test), "test": test}
    shown["regressions"] = bench.regressions(decision, test)
    bench.save(decision, test, *tables, dev=dev)
    with suppress(GateFailed):  # raised after everything is on disk
        bench.gate(decision, test)
    return decision


def quick(settings: Settings, **given: Any) -> Decision:
    """Only what decides."""
    bench = open_bench(settings, **given)
    arms = bench.fit()
    dev = bench.candidates(bench.score(arms, "dev"), bench.study(arms))
    finalists = bench.finalists(dev)
    return bench.decide(bench.test(dev, finalists), finalists)


def test_dominated_pair_ends_in_always_the_better_one(tmp_path):
    settings = project(tmp_path, dominated())
    decision = run_all(open_bench(settings), shown := {})
    assert (decision.verdict, decision.arm) == ("chosen", "better and cheap")
    assert shown["deferral"].rows == (("none: better and cheap is the cheapest and the strongest",),)
    assert shown["regressions"] is None, "one arm alone loses against none"
    named = quick(settings, reference="worse and dear")
    assert (named.verdict, named.arm) == ("chosen", "better and cheap")


def test_shuffled_labels_end_in_one_model(tmp_path):
    """What makes a prompt hard is not in its text: nothing but the strongest is good enough, whatever the draw."""
    verdicts = []
    for seed in range(5):
        settings = project(tmp_path / str(seed), planted(800, seed=seed, readable=False))
        verdicts.append((decision := quick(settings)).verdict)
        assert decision.arm == "large"
    assert set(verdicts) == {"chosen"}


@pytest.mark.slow
def test_planted_gain_is_found_with_the_stated_power(tmp_path):
    """800 prompts, 40 % of them hard and saying so: a router saves half; the power stated beforehand is 0.8."""
    found = 0
    for seed in range(20):
        settings = project(tmp_path / str(seed), planted(800, seed=seed))
        decision = quick(settings, policies=["logistic_words"])
        found += decision.verdict == "chosen" and decision.arm == "logistic_words"
    assert found >= 16


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A first run whose decision is accepted, as its runner would have left it."""
    root = tmp_path_factory.mktemp("project")
    settings = project(root, planted(600))
    bench = open_bench(settings)
    decision = run_all(bench, shown := {})
    close_run(RunRecord(bench.folder, "running", "routing", "ci"), SystemClock(), status="done", gate="stale")
    accept_decision(settings, "routing", reason="first of its kind", clock=SystemClock())
    return root, bench, decision, shown


@pytest.fixture
def copy(first, tmp_path):
    """A copy of the project with its accepted decision."""
    shutil.copytree(first[0], tmp_path / "copy")
    return settings_in(tmp_path / "copy")


def gate_of(settings: Settings, **given: Any) -> Gate:
    bench = open_bench(settings, **given)
    run_all(bench)
    return Gate.load(bench.folder / "gate.json")


def test_planted_gain_is_chosen_and_saves_what_was_planted(first):
    decision = first[2]
    assert decision.verdict == "chosen"
    claim, reference = decision.claim(decision.arm), decision.claim("large")
    assert claim.cost_usd_per_1k < 0.75 * reference.cost_usd_per_1k


def points(figure: Any) -> dict[str, list[tuple[float, float]]]:
    """Points of a line chart by the name of the line."""
    out: dict[str, list[tuple[float, float]]] = {}
    for line, x, y in figure.data.rows:
        out.setdefault(line, []).append((x, y))
    return out


def test_curves_and_deferral_show_the_gain_that_was_planted(first):
    """40 % of the prompts are hard and say so: with half of them sent to the large model nothing is lost."""
    shown = first[3]
    part = shown["study"].outcomes
    mean = dict(zip(part.models, part.quality.mean(0), strict=True))
    cost = dict(zip(part.models, 1000 * part.cost_usd.mean(0), strict=True))
    hull = points(shown["curves"])["hull of the single models"]
    assert hull[0] == pytest.approx((cost["small"], mean["small"]))
    assert hull[-1] == pytest.approx((cost["large"], mean["large"]))
    lines = points(shown["deferral"])
    assert lines["random"] == [(0.0, pytest.approx(mean["small"])), (1.0, pytest.approx(mean["large"]))]
    for name in ("length", "oracle"):
        at = {round(100 * x, -1): y for x, y in lines[name]}
        assert at[0] == pytest.approx(mean["small"])
        assert at[20] > mean["small"] + 0.3 * (mean["large"] - mean["small"])
        assert at[50] >= mean["large"]
    assert all(best >= mine for (_, best), (_, mine) in zip(lines["oracle"], lines["length"], strict=True))


def test_regressions_list_the_prompts_on_which_the_decided_arm_loses(first):
    _, bench, decision, shown = first
    assert shown["regressions"].rows == ()
    assert shown["regressions"].caption == f"{decision.arm} loses on no question against large"
    test = shown["test"]
    large = test.scores.filter((pl.col("arm") == "large") & (pl.col("value") == 1))
    lost = large["item_id"].to_list()[:3]
    mine = (pl.col("arm") == decision.arm) & pl.col("item_id").is_in(lost)
    spoiled = replace(test, scores=test.scores.with_columns(value=pl.when(mine).then(0.0).otherwise("value")))
    prompt = dict(zip(test.outcomes.prompt_ids, test.outcomes.requests.prompts, strict=True))
    rows = bench.regressions(decision, spoiled).rows
    assert {row[0] for row in rows} == {prompt[i] for i in lost}
    assert {row[2] for row in rows} == {"large"}


def test_a_test_split_that_was_used_before_is_told_once_in_the_report(tmp_path):
    bench = open_bench(project(tmp_path, planted(200)), policies=["length"])
    bench.count_test_use(["another", "set"])
    run_all(bench)
    page = (bench.folder / "report.html").read_text(encoding="utf-8")
    assert page.count("2 different sets of arms have been judged on this test split") == 1


def test_check_of_an_accepted_router_holds_and_every_prompt_goes_where_it_went(copy):
    gate = gate_of(copy)
    assert gate.status == "holds"
    assert {c.status for c in gate.claims if c.kind == "sameness"} == {"identical"}


def test_router_beside_the_decision_is_the_one_that_was_tested(first, copy):
    decision, bench = first[2], first[1]
    router = load_router(copy.evalsets / "drawn" / "decisions" / "routing.artefact", decision.arm)
    assert router.sha256 == decision.parameters["sha256"]
    test = bench.outcomes.part("test")
    chosen = np.array(router.models)[router.route(test.requests)]
    assert 0.2 < (chosen == "small").mean() < 0.9


def test_router_that_is_not_the_tested_one_breaks_the_gate(copy):
    path = copy.evalsets / "drawn" / "decisions" / "routing.artefact"
    routers = json.loads(path.read_text(encoding="utf-8"))
    for router in routers.values():
        router["value_usd"] = 0.0  # the cheapest model, always
    path.write_text(json.dumps(routers), encoding="utf-8")
    assert gate_of(copy).status == "broken"


def test_other_outcomes_make_the_decision_stale(copy):
    planted(600, seed=9).write_parquet(copy.evalsets / "drawn" / FILE)
    assert gate_of(copy).status == "stale"


def test_synthetic_table_gives_at_most_a_provisional_decision(copy):
    folder = copy.evalsets / "drawn"
    (folder / "card.md").write_text("---\nsynthetic: true\n---\n# Drawn\n", encoding="utf-8")
    shutil.rmtree(folder / "decisions")
    assert quick(copy).verdict == "provisional"


def test_policies_without_what_they_read_are_left_out_and_said(copy):
    bench = open_bench(copy, policies=["cascade", "by_feature", "length"])
    assert [p.name for p in bench.policies] == ["length"]
    assert [note.split()[0] for note in bench.outcomes.notes if "left out" in note] == ["cascade", "by_feature"]


def test_unknown_policy_and_evalset_without_outcomes_are_refused(copy):
    with pytest.raises(ConfigError, match="did you mean 'length'"):
        open_bench(copy, policies=["lenght"])
    (copy.evalsets / "drawn" / FILE).rename(copy.evalsets / "drawn" / "other.parquet")
    with pytest.raises(EvalsetError):
        open_bench(copy)
