"""A judge's licence: what may gate, what may inform, and each refusal by its own reason."""

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import cohen_kappa_score, recall_score

from workbench.errors import ConfigError, EvalsetError
from workbench.evaluation.compare import SCORES_SCHEMA
from workbench.quality.labels import Label, truth
from workbench.quality.licence import (
    LicenceAnchors,
    LicenceEvidence,
    LicenceRule,
    licence_agreement_table,
    licences_table,
    license_judge,
    measure_licence_agreement,
)

N = 300
RESTS = {"model": "m 2026-01", "prompt": "p", "rubric": "v1", "parameters": "8 0.0 0 1", "anchors": "a"}
LABELS = (np.random.default_rng(0).random(N) < 0.6).astype(float)


def labels(source="human", rubric="v1", values=LABELS):
    return [Label(f"q{i:03}", "correct", float(v), "ann", source, rubric) for i, v in enumerate(values)]


def verdicts(values, *, clusters=None, tenants="acme") -> pl.DataFrame:
    rows = [
        ("nano", f"q{i:03}", 0, "correct", None if np.isnan(v) else float(v), None,
         f"c{i if clusters is None else clusters[i]}", tenants if isinstance(tenants, str) else tenants[i], None, None)
        for i, v in enumerate(values)
    ]  # fmt: skip
    return pl.DataFrame(rows, schema=SCORES_SCHEMA, orient="row")


def agreeing(share: float) -> np.ndarray:
    same = np.random.default_rng(1).random(N) < share
    return np.where(same, LABELS, 1 - LABELS)


def one(values, evidence=None, *, against=None, clusters=None):
    against = against or truth(labels(), "correct", rubric="v1")
    return license_judge(verdicts(values, clusters=clusters), against, evidence or LicenceEvidence(RESTS))[0]


def kinds(licence) -> list[str]:
    return [kind for kind, _ in licence.reasons]


def test_a_judge_that_agrees_may_gate():
    found = one(agreeing(0.93))
    assert (found.status, found.reasons, found.truth) == ("may gate", (), "human")
    assert found.agreement.label_factor < 0.5
    assert found.expired(RESTS) == []


def test_a_judge_that_is_hardly_ever_wrong_is_no_chance():
    judged = LABELS.copy()
    judged[0] = 1 - judged[0]
    for values, least in ((judged, 0.9), (LABELS, 0.95)):
        found = one(values)
        assert found.status == "may gate"
        assert least < found.agreement.kappa_low < found.agreement.kappa
    small = license_judge(verdicts(judged)[:40], truth(labels(), "correct", rubric="v1"), LicenceEvidence(RESTS))[0]
    assert small.status == "may gate"
    assert 0.7 < small.agreement.kappa_low < 0.9


def test_a_judge_that_knows_a_little_may_inform():
    found = one(agreeing(0.63))
    assert found.status == "may inform"
    assert set(kinds(found)) == {"inform only"}
    assert found.reasons[0][1].startswith("kappa 0.")
    assert found.reasons[-1][1].endswith("labels are still needed, so that it saves too few")


@pytest.mark.parametrize(
    ("values", "evidence", "kind"),
    [
        (np.random.default_rng(5).integers(0, 2, N).astype(float), LicenceEvidence(RESTS), "chance"),
        (np.ones(N), LicenceEvidence(RESTS), "constant"),
        (agreeing(0.1), LicenceEvidence(RESTS), "wrong way"),
        (agreeing(0.93), LicenceEvidence(RESTS, flips=(31, 100)), "order"),
        (agreeing(0.93), LicenceEvidence(RESTS, measured=RESTS | {"model": "m 2026-05"}), "moved"),
        (agreeing(0.93), LicenceEvidence(RESTS, measured=RESTS | {"anchors": "b"}), "moved"),
        (np.where(np.arange(N) % 5 == 0, np.nan, agreeing(0.93)), LicenceEvidence(RESTS), "unparseable"),
    ],
)  # fmt: skip
def test_each_bad_judge_is_refused_for_its_own_reason(values, evidence, kind):
    found = one(values, evidence)
    assert found.status == "refused"
    assert kinds(found) == [kind]


def test_a_judge_that_changed_behind_its_name_is_told_by_its_anchors():
    before = {f"a{i}": float(i % 2) for i in range(40)}
    same = LicenceAnchors(before, before, noise=(0, 200))
    few = LicenceAnchors(before, before | {"a0": 1.0}, noise=(6, 200))
    changed = LicenceAnchors(before, before | {f"a{i}": 1.0 for i in range(0, 20, 2)}, noise=(0, 200))
    assert one(agreeing(0.93), LicenceEvidence(RESTS, anchors=same)).status == "may gate"
    assert one(agreeing(0.93), LicenceEvidence(RESTS, anchors=few)).status == "may gate"
    found = one(agreeing(0.93), LicenceEvidence(RESTS, anchors=changed))
    assert kinds(found) == ["changed"]
    assert "10 of 40 anchors" in found.reasons[0][1]
    with pytest.raises(ConfigError, match="none both times"):
        LicenceAnchors({"a": 1.0}, {"b": 1.0}).changed(0.5, 0.95)


def test_anchors_of_a_judge_that_stayed_the_same_are_rarely_called_changed():
    rng, wrong = np.random.default_rng(2), 0
    base = rng.integers(0, 2, 60).astype(float)
    for _ in range(500):
        noise = int(rng.binomial(300, 0.04))
        now = np.where(rng.random(60) < 0.04, 1 - base, base)
        before = {str(i): v for i, v in enumerate(base)}
        wrong += bool(LicenceAnchors(before, {str(i): v for i, v in enumerate(now)}, (noise, 300)).changed(0.5, 0.95))
    assert wrong / 500 <= 0.05


@pytest.mark.parametrize("part", ["model", "prompt", "rubric", "parameters", "anchors"])
def test_a_licence_expires_when_what_it_rests_on_moves(part):
    assert one(agreeing(0.93)).expired(RESTS | {part: "other"}) == [part]


def test_labels_of_a_model_or_of_another_rubric_are_no_truth():
    with pytest.raises(EvalsetError, match="labels of a model"):
        truth(labels("model"), "correct", rubric="v1", source="model")
    for others in (labels("model"), labels(rubric="v0")):
        against = truth(others, "correct", rubric="v1")
        found = license_judge(verdicts(agreeing(0.93)), against, LicenceEvidence(RESTS))[0]
        assert kinds(found) == ["no labels"]
        assert f"{N} labels" in found.warnings[0]


def test_the_truth_of_a_program_is_shown_as_such():
    found = license_judge(
        verdicts(agreeing(0.93)), truth(labels("code"), "correct", rubric="v1", source="code"), LicenceEvidence(RESTS)
    )[0]
    assert (found.status, found.truth) == ("may gate", "code")
    assert "a program's check" in found.warnings[0]


def test_a_judge_of_its_own_family_is_warned_of():
    evidence = LicenceEvidence(
        RESTS, model="openai/gpt-5.4-nano", judged_models=["openai/gpt-5.4", "local/qwen2.5-coder-0.5b"]
    )
    assert one(agreeing(0.93), evidence).warnings == ("the judge judges its own family: openai/gpt-5.4",)


def test_each_slice_has_its_own_licence_and_too_few_labels_are_refused_there():
    tenants = ["big" if i < 280 else "small" for i in range(N)]
    against = truth(labels(), "correct", rubric="v1")
    found = license_judge(
        verdicts(agreeing(0.93), tenants=tenants), against, LicenceEvidence(RESTS), slice_by="tenant_id"
    )
    assert [(f.slice, f.status) for f in found] == [("all", "may gate"), ("big", "may gate"), ("small", "refused")]
    assert kinds(found[2]) == ["few labels"]
    assert "20 in 20 clusters, 30 clusters" in found[2].reasons[0][1]


def test_clusters_count_and_not_items():
    found = one(agreeing(0.93), clusters=np.arange(N) // 15)
    assert kinds(found) == ["few labels"]


@pytest.mark.parametrize("between", [0.5, 0.75, 0.9])
def test_a_judge_that_is_off_by_more_agrees_less_whatever_the_grades_are_called(between):
    """scikit-learn 1.9.1 weighs grades by their places in the alphabet, or among those that occur."""
    labels, codes = np.repeat([0.0, between, 1.0], 40), np.arange(120)
    one_off, two_off = labels.copy(), labels.copy()
    one_off[100:], two_off[100:] = between, 0.0
    near, far = (measure_licence_agreement(labels, judged, codes, LicenceRule()) for judged in (one_off, two_off))
    assert near.kappa == pytest.approx(1.0)
    assert far.kappa == pytest.approx(2 / 3)


def test_agreement_is_that_of_an_independent_implementation():
    judged = agreeing(0.8)
    found = measure_licence_agreement(LABELS, judged, np.arange(N), LicenceRule())
    assert found.kappa == pytest.approx(cohen_kappa_score(LABELS, judged))
    assert found.sensitivity == pytest.approx(recall_score(LABELS, judged))
    assert found.specificity == pytest.approx(recall_score(LABELS, judged, pos_label=0))
    assert found.constant == pytest.approx(max(LABELS.mean(), 1 - LABELS.mean()))
    assert found.agreement == pytest.approx((judged == LABELS).mean())


def test_the_bound_of_kappa_covers():
    rng, below = np.random.default_rng(3), 0
    p, err = 0.6, 0.15
    q = p * (1 - err) + (1 - p) * err
    pe = p * q + (1 - p) * (1 - q)
    true = (1 - err - pe) / (1 - pe)
    for seed in range(200):
        y = (rng.random(120) < p).astype(float)
        f = np.where(rng.random(120) < err, 1 - y, y)
        below += measure_licence_agreement(y, f, np.arange(120), LicenceRule(), seed=seed).kappa_low <= true
    assert 0.9 <= below / 200 <= 0.995


def test_a_chance_level_judge_is_licensed_in_at_most_alpha():
    rng, licensed = np.random.default_rng(4), 0
    for _ in range(200):
        licensed += one(rng.integers(0, 2, N).astype(float)).status != "refused"
    assert licensed / 200 <= 0.08


def test_the_table_shows_every_number_and_runs_nothing():
    hostile = verdicts(agreeing(0.93)).with_columns(arm=pl.lit("<script>alert(1)</script>\x1b[31m"))
    found = license_judge(hostile, truth(labels(), "correct", rubric="v1"), LicenceEvidence(RESTS, flips=(2, 50)))
    page = licences_table(found).to_html() + licence_agreement_table(found).to_html()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "\x1b" not in licences_table(found).to_text() + licence_agreement_table(found).to_text()
    assert ">4 %<" in page or ">4.0 %<" in page
    assert "may gate" in page


def test_several_judges_at_a_time_are_refused():
    both = pl.concat([verdicts(agreeing(0.9)), verdicts(agreeing(0.9)).with_columns(arm=pl.lit("other"))])
    with pytest.raises(ConfigError, match="one judge and one metric"):
        license_judge(both, truth(labels(), "correct", rubric="v1"), LicenceEvidence(RESTS))
