"""Repeats: an item's answers are averaged before families are resampled, and the parts of the variance add up."""

import numpy as np
import polars as pl
import pytest

from tests.evalset.small_evalset import settings_in
from tests.routing.routing_tables import planted
from workbench.evalset.imports.outcome_tables import import_outcomes
from workbench.evalset.outcomes import load_outcomes, outcomes_of
from workbench.evaluation.compare import bootstrap_t
from workbench.evaluation.decision import ArmFacts, make_claims
from workbench.evaluation.repeats import (
    RepeatComponents,
    pass_all_repeats,
    repeat_components,
    repeat_flip_rate,
    repeats_difference_note,
)
from workbench.records import Rule
from workbench.routing.notebook import RoutingExperiment, RoutingParameters


def nested(families=200, items=3, repeats=4, *, sd=(1.0, 0.7, 0.5), seed=0):
    """Values of items in families, each answered several times, with the standard deviation of each part."""
    rng = np.random.default_rng(seed)
    clusters = np.repeat(np.arange(families), rng.integers(1, 2 * items, families))
    means = sd[0] * rng.normal(size=families)[clusters] + sd[1] * rng.normal(size=len(clusters))
    return means[:, None] + sd[2] * rng.normal(size=(len(clusters), repeats)), clusters


def test_parts_of_the_variance_add_up_to_the_square_of_the_standard_error():
    values, clusters = nested()
    parts = repeat_components(values, clusters)
    se = bootstrap_t(values.mean(1)[None], clusters, draws=1).se[0]
    assert parts.total == pytest.approx(se**2, rel=0.1)
    n, sizes = len(values), np.bincount(clusters)
    assert parts.families == pytest.approx(1.0 * (sizes**2).sum() / n**2, rel=0.25)
    assert parts.items == pytest.approx(0.49 / n, rel=0.25)
    assert parts.repeats == pytest.approx(0.25 / 4 / n, rel=0.1)


def test_answers_that_are_missing_leave_the_parts_as_they_are():
    values, clusters = nested(families=400)
    whole = repeat_components(values, clusters)
    values[np.random.default_rng(1).random(values.shape) < 0.2] = np.nan
    kept = ~np.isnan(values).all(1)
    ragged = repeat_components(values[kept], np.unique(clusters[kept], return_inverse=True)[1])
    assert ragged.n_repeats < whole.n_repeats
    assert ragged.repeats * ragged.n_repeats == pytest.approx(whole.repeats * whole.n_repeats, rel=0.1)
    assert ragged.families == pytest.approx(whole.families, rel=0.1)


def test_questions_help_where_repeats_hardly_vary_and_repeats_where_they_do():
    assert RepeatComponents(2.0, 2.0, 0.1, n_items=100, n_repeats=3).better() == "questions"
    assert RepeatComponents(0.1, 0.1, 4.0, n_items=300, n_repeats=1).better() == "repeats"
    even = RepeatComponents(0.0, 1.0, 1.0, n_items=100, n_repeats=1)
    assert even.better(questions=50, repeats=2) == "either"
    assert even.after(questions=50) == pytest.approx(even.after(repeats=2))
    assert RepeatComponents(0.0, 0.0, 0.0, 10, 2).sentence() == ""
    assert "20 more questions do more than 3 more repeats" in RepeatComponents(2.0, 2.0, 0.1, 100, 3).sentence()


def test_pass_k_and_flip_rate_are_those_of_all_pairs_of_answers():
    rng = np.random.default_rng(0)
    values = (rng.random((50, 4)) < rng.random((50, 1))).astype(float)
    pairs = [(a, b) for a in range(4) for b in range(4) if a != b]
    assert repeat_flip_rate(values) == pytest.approx(np.mean([np.mean(values[:, a] != values[:, b]) for a, b in pairs]))
    assert pass_all_repeats(values) == np.mean(values.min(1) == 1)
    assert repeat_flip_rate(values[:, :1]) is None


def scores_of(values, clusters, arm):
    n, k = values.shape
    return pl.DataFrame(
        {
            "arm": [arm] * (n * k),
            "item_id": np.repeat([f"i{i:04d}" for i in range(n)], k),
            "repeat": np.tile(np.arange(k, dtype=np.int32), n),
            "metric": ["correctness"] * (n * k),
            "value": values.ravel(),
            "cluster": np.repeat([f"f{c}" for c in clusters], k),
        }
    )


def test_a_claim_from_repeats_is_that_of_the_items_means_and_repeats_are_no_items():
    values, clusters = nested(families=40, sd=(0.1, 0.1, 0.1))
    one, other = np.clip(0.5 + values, 0, 1), np.clip(0.55 - values[::-1], 0, 1)
    facts = [ArmFacts(name, {}, 1.0, None, i) for i, name in enumerate("ab")]
    rule = Rule("correctness", "usd_per_1k_requests", "a", 0.05, 0.95)
    every = pl.concat([scores_of(one, clusters, "a"), scores_of(other, clusters, "b")])
    means = pl.concat([scores_of(v.mean(1, keepdims=True), clusters, n) for v, n in ((one, "a"), (other, "b"))])
    for told, meant in zip(make_claims(every, facts, rule), make_claims(means, facts, rule), strict=True):
        assert (told.n_items, told.n_clusters, told.coverage) == (meant.n_items, 40, 1.0)
        assert (told.estimate, told.low, told.high) == pytest.approx((meant.estimate, meant.low, meant.high))
    assert "repeats" in repeats_difference_note(every, "a", "b")
    assert repeats_difference_note(means, "a", "b") == ""
    mixed = pl.concat([scores_of(one, clusters, "a"), scores_of(other[:, :1], clusters, "b")])
    assert [c.coverage for c in make_claims(mixed, facts, rule)] == [1.0, 1.0]  # each of its own repeats


def epochs(n=60, k=3, *, seed=0):
    """A log of several epochs, in which right and wrong change from one to the next."""
    rng = np.random.default_rng(seed)
    once = planted(n, seed=seed).drop("quality")
    return pl.concat(
        once.with_columns(epoch=pl.lit(e + 1), correct=pl.Series((rng.random(len(once)) < 0.7).astype(float)))
        for e in range(k)
    )


def test_a_log_of_three_epochs_has_the_means_over_epochs_and_then_over_samples(tmp_path):
    log = epochs()
    log.write_csv(tmp_path / "log.csv")
    outcomes = load_outcomes(import_outcomes(tmp_path / "log.csv", tmp_path / "out"))
    by_sample = log.group_by("model", "prompt_id").agg(pl.col("correct").mean())
    expected = dict(by_sample.group_by("model").agg(pl.col("correct").mean()).iter_rows())
    for model, column in zip(outcomes.models, outcomes.quality.T, strict=True):
        assert column.mean() == pytest.approx(expected[model], abs=1e-12)
    assert len(outcomes) == 60
    assert len(outcomes.repeats) == 3
    assert np.mean([one.quality for one in outcomes.repeats], axis=0) == pytest.approx(outcomes.quality)


def test_an_answer_of_a_cache_is_no_repeat_and_is_counted(tmp_path):
    log = epochs().with_columns(cached=pl.col("epoch") > 2)
    log.write_csv(tmp_path / "log.csv")
    said = []
    folder = import_outcomes(tmp_path / "log.csv", tmp_path / "out", tell=said.append)
    assert "left out, as no repeats: 120 answers of a cache" in said
    assert "left out, as no repeats: 120 answers of a cache" in (folder / "card.md").read_text()
    assert len(load_outcomes(folder).repeats) == 2
    log.with_columns(cached=True).write_csv(tmp_path / "all.csv")
    said.clear()
    all_hits = load_outcomes(import_outcomes(tmp_path / "all.csv", tmp_path / "two", tell=said.append))
    assert len(all_hits.repeats) == 1
    assert any("120 answers are known from a cache alone" in line for line in said)


def test_prompts_of_unequal_repeats_are_averaged_and_still_show_their_flips():
    log = epochs().rename({"correct": "quality", "epoch": "repeat"})
    ragged = outcomes_of(log.filter((pl.col("repeat") < 3) | (pl.col("prompt_id") < "p00010")))
    assert len(ragged.repeats) == 1
    assert "2 to 3 times" in ragged.notes[0]
    assert np.isnan(ragged.answers[2, 0]).sum() == 100


def test_the_routing_notebook_shows_repeats_where_there_are_some(tmp_path):
    folder = tmp_path / "evalsets" / "mine"
    epochs(240).write_csv(tmp_path / "log.csv")
    import_outcomes(tmp_path / "log.csv", folder)
    given = RoutingParameters(evalset="mine", policies=("length",), draws=20)
    run = RoutingExperiment(given, settings_in(tmp_path))
    assert {"pass^3", "flip rate"} <= {c.name for c in run.contents().columns}
    arms = run.fit()
    dev = run.score(arms, "dev")
    finalists = run.finalists(dev)
    test = run.test(dev, finalists)
    assert test.scores["repeat"].unique().sort().to_list() == [0, 1, 2]
    shown = dict(zip([c.name for c in test.table.columns], test.table.rows[0], strict=True))
    assert shown["flip rate"] == pytest.approx(2 * 0.7 * 0.3, abs=0.12)
    decision = run.decide(test, finalists)
    assert any("repeats" in note and "more prompts" in note for note in decision.notes)
    assert "repeats" in finalists.table.caption
    assert decision.n_items == len(run.clusters("test"))
    run.save(decision, test, dev=dev)
    gate = run.close(decision, test)
    assert [c.sentence for c in gate.claims if "3 repeats" in c.sentence] != []
