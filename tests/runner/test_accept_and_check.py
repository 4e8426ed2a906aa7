"""Accepting the decision of a run, and running accepted decisions again with exactly their parameters."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import get_args

import polars as pl
import pytest

from tests.notebooks.zoo import add_notebook, make_settings
from workbench.config import SystemClock
from workbench.errors import ConfigError, EvalsetError, RunError
from workbench.evaluation.accepted_decision import anchor_path
from workbench.evaluation.gate import EXIT_CODES, Gate, GateClaim
from workbench.evaluation.run_record import close_run, open_run
from workbench.records import Claim, Decision, Fingerprint, GateStatus, PairedBounds, Rule
from workbench.runner import Check, RunRecord, accept_decision, accepted_decisions, check_decisions
from workbench.runner.accept_and_check import worst_exit_code

RULE = Rule("ndcg@10", "usd_per_1k_requests", "vector", 0.02, 0.95)
CLAIM = Claim("vector", {}, "identical", 0.7, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0, None, 1.0, 40, 40, 0)
DECISION = Decision(
    notebook="retrieval",
    question="?",
    profile="ci",
    rule=RULE,
    verdict="keep_reference",
    arm="vector",
    parameters={},
    sentence="Keep vector.",
    claims=(CLAIM, replace(CLAIM, arm="text")),
    n_items=40,
    n_clusters=40,
    items_needed=None,
    test_uses=1,
    fingerprint=Fingerprint({"queries": "abc"}),
    settings={"evalset": "mine", "limit": 7},
)
PARAMETERS = 'limit: int = 5\nevalset: str = "x"'
SAYS_PARAMETERS = (
    """_ = (run_dir / "gate.json").write_text(f'{{"status": "%s", "exit_code": %d, """
    """"sentence": "limit is {limit}", "claims": []}}')"""
)


class Christmas:
    """A clock that stands still."""

    def now(self):
        return datetime(2026, 12, 24, 18, tzinfo=UTC)


@pytest.fixture
def settings(tmp_path):
    made = make_settings(tmp_path)
    (made.evalsets / "mine" / "qrels").mkdir(parents=True)
    return made


def finished(settings, decision=DECISION, *, status="done", scores=None, parameters=None):
    """A run as the runner leaves it; returns its folder."""
    record = open_run(settings, decision.notebook, profile="ci", parameters=parameters or {}, clock=SystemClock())
    rows = [
        ("vector", "q1", 0, "ndcg@10", 0.5, "test"),
        ("vector", "q1", 0, "mrr@10", 0.1, "test"),
        ("vector", "q2", 0, "ndcg@10", 0.6, "dev"),
        ("text", "q1", 0, "ndcg@10", None, "test"),
        ("dropped", "q1", 0, "ndcg@10", 0.9, "test"),
    ]
    names = ["arm", "item_id", "repeat", "metric", "value", "split"]
    frame = pl.DataFrame(rows, schema=names, orient="row") if scores is None else scores
    frame.write_parquet(record.run_dir / "scores.parquet")
    (record.run_dir / "decision.json").write_text(decision.to_json(), encoding="utf-8")
    close_run(record, SystemClock(), status=status, gate="stale")
    return record.run_dir


def later(arm="text", low=-0.01, **changes):
    """Decision of another arm, which lies at least ``low`` from ``vector``, the anchor."""
    pair = PairedBounds("vector", low + 0.01, low, low + 0.02, 20, "holds" if low > -0.02 else "inconclusive")
    claims = (CLAIM, replace(CLAIM, arm="text", pairs=(pair,)))
    return replace(DECISION, verdict="chosen", arm=arm, claims=claims, **changes)


def take(settings, **given):
    return accept_decision(settings, "retrieval", **{"reason": "it pays", "clock": Christmas(), **given})


def test_a_decision_is_accepted_into_its_evalset_with_reason_and_day(settings):
    finished(settings)
    path = take(settings, reason="  it pays ")
    assert path == settings.evalsets / "mine" / "decisions" / "retrieval.json"
    expected = replace(DECISION, accepted_because="it pays", accepted_on="2026-12-24")
    assert Decision.load(path) == expected
    assert accepted_decisions(settings) == [("mine", expected)]


def test_the_scores_kept_are_those_that_sameness_is_checked_against(settings):
    finished(settings)
    kept = pl.read_parquet(take(settings).with_suffix(".scores.parquet"))
    assert kept.rows() == [("text", "q1", 0, None), ("vector", "q1", 0, 0.5)]


def test_the_newest_finished_run_is_taken_unless_one_is_named(settings):
    first = finished(settings, replace(DECISION, sentence="first"))
    finished(settings, replace(DECISION, sentence="second"))
    finished(settings, replace(DECISION, sentence="broken off"), status="failed")
    assert Decision.load(take(settings)).sentence == "second"
    assert Decision.load(take(settings, run=first.name)).sentence == "first"
    assert not [p for p in (settings.evalsets / "mine" / "decisions").iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"reason": " "}, "needs a reason, for whoever reads the history"),
        ({"run": "20200101T000000-retrieval-00000000"}, "no finished run 20200101T000000-retrieval-00000000 in"),
    ],
)
def test_an_acceptance_that_cannot_be_is_refused(settings, given, says):
    finished(settings)
    with pytest.raises(ConfigError, match=says):
        take(settings, **given)
    assert not (settings.evalsets / "mine" / "decisions").exists()


def test_without_a_finished_run_there_is_nothing_to_accept(settings):
    finished(settings, status="failed")
    finished(settings, replace(DECISION, notebook="caching"))
    with pytest.raises(ConfigError, match="no finished run of 'retrieval'"):
        take(settings)


def test_an_evalset_that_is_gone_is_named(settings):
    finished(settings, replace(DECISION, settings={"evalset": "gone"}))
    with pytest.raises(EvalsetError, match="unknown evalset 'gone'"):
        take(settings)


def test_a_decision_on_a_folder_from_elsewhere_is_accepted_into_that_folder(settings, tmp_path):
    folder = tmp_path / "elsewhere" / "ours"
    (folder / "qrels").mkdir(parents=True)
    finished(settings, replace(DECISION, settings={"evalset": "ours@0a1b2c3d"}), parameters={"evalset": str(folder)})
    assert take(settings) == folder / "decisions" / "retrieval.json"


def test_an_evalset_that_cannot_be_written_is_a_clear_error(settings):
    finished(settings)
    (settings.evalsets / "mine" / "decisions").write_text("a file, not a folder", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"the decision cannot be written to .*retrieval\.json"):
        take(settings)


def test_a_later_acceptance_takes_the_place_of_the_first(settings):
    finished(settings)
    take(settings)
    finished(settings, later())
    take(settings, reason="cheaper")
    ((_, decision),) = accepted_decisions(settings)
    assert (decision.arm, decision.accepted_because) == ("text", "cheaper")


def test_a_run_that_cannot_tell_is_not_accepted_unless_told_so(settings):
    finished(settings, replace(DECISION, verdict="inconclusive", sentence="Cannot tell: too few questions."))
    with pytest.raises(ConfigError, match=r"cannot tell.*too few questions\. .*--even-if inconclusive"):
        take(settings)
    assert not (settings.evalsets / "mine" / "decisions").exists()
    assert Decision.load(take(settings, even_if=["inconclusive"])).verdict == "inconclusive"


@pytest.mark.parametrize(
    ("gates", "says"),
    [
        ("margin = 0.05", "margin was 0.02, is 0.05"),
        ("margin = 0.02\nrequests_per_month = 5", "requests_per_month was 100000, is 5"),
        ("margin = 0.02\nfloor = 0.4", "floor was None, is 0.4"),
    ],
)
def test_a_run_by_another_rule_than_now_is_not_accepted_unless_told_so(settings, gates, says):
    (settings.evalsets / "mine" / "gates.toml").write_text(f"[retrieval]\n{gates}\n", encoding="utf-8")
    finished(settings)
    with pytest.raises(ConfigError, match=rf"another rule than mine/gates\.toml.*{says}.*--even-if other-rule"):
        take(settings)
    assert take(settings, even_if=["other-rule"]).is_file()


def test_of_a_rate_alpha_is_the_margin_and_there_is_no_anchor(settings):
    (settings.evalsets / "mine" / "gates.toml").write_text("[caching]\nalpha = 0.05\n", encoding="utf-8")
    rate = replace(RULE, metric="false_hit_rate", direction="lower", margin=0.05)
    finished(settings, replace(DECISION, notebook="caching", rule=rate))
    path = accept_decision(settings, "caching", reason="it pays", clock=Christmas())
    assert path.is_file()
    assert not anchor_path(settings.evalsets / "mine", "caching").exists()


def test_an_exception_that_nobody_knows_is_refused(settings):
    finished(settings)
    with pytest.raises(ConfigError, match="did you mean 'other-rule'"):
        take(settings, even_if=["other_rule"])


def test_the_first_accepted_arm_is_the_anchor_and_stays_it(settings):
    finished(settings)
    take(settings)
    path = anchor_path(settings.evalsets / "mine", "retrieval")
    assert Decision.load(path).arm == "vector"
    assert pl.read_parquet(path.with_suffix(".scores.parquet")).rows() == [("vector", "q1", 0, 0.5)]
    finished(settings, later())
    take(settings, reason="cheaper")
    assert (Decision.load(path).arm, Decision.load(path).accepted_on) == ("vector", "2026-12-24")
    assert [name for name, _ in accepted_decisions(settings)] == ["mine"], "the anchor itself is not run again"


def test_a_new_anchor_is_set_when_it_is_asked_for(settings):
    finished(settings)
    take(settings)
    finished(settings, later(low=-0.3))
    with pytest.raises(ConfigError, match=r"text may lie 0\.300 ndcg@10 below the anchor vector.*the margin is 0\.02"):
        take(settings)
    take(settings, anchor=True, reason="vector is no longer made")
    path = anchor_path(settings.evalsets / "mine", "retrieval")
    assert (Decision.load(path).arm, Decision.load(path).accepted_because) == ("text", "vector is no longer made")
    assert set(pl.read_parquet(path.with_suffix(".scores.parquet"))["arm"]) == {"text"}


def test_an_arm_at_the_margin_below_the_anchor_is_refused(settings):
    finished(settings)
    take(settings)
    finished(settings, later(low=-0.02))
    with pytest.raises(ConfigError, match="below the anchor"):
        take(settings)
    finished(settings, later(low=-0.0199))
    assert Decision.load(take(settings)).arm == "text"


def test_an_arm_of_unknown_distance_from_the_anchor_is_refused(settings):
    finished(settings)
    take(settings)
    finished(settings, replace(DECISION, verdict="chosen", arm="text"))
    with pytest.raises(ConfigError, match="nothing is known of the distance of text from the anchor vector"):
        take(settings)


def test_an_arm_without_scores_is_no_anchor(settings):
    finished(settings, replace(DECISION, arm="kept", claims=(replace(CLAIM, arm="kept"),)))
    with pytest.raises(ConfigError, match="no test scores of kept"):
        take(settings)
    assert not (settings.evalsets / "mine" / "decisions").exists()


def test_runs_of_several_evalsets_are_not_mixed_up(settings):
    (settings.evalsets / "ours" / "qrels").mkdir(parents=True)
    finished(settings, parameters={"evalset": "mine"})
    finished(settings, replace(DECISION, sentence="ours"), parameters={"evalset": "ours"})
    with pytest.raises(ConfigError, match=r"runs of 'retrieval' on mine, ours; .*--evalset NAME"):
        take(settings)
    assert take(settings, evalset="mine") == settings.evalsets / "mine" / "decisions" / "retrieval.json"
    assert Decision.load(take(settings, evalset="ours")).sentence == "ours"
    with pytest.raises(ConfigError, match="no finished run of 'retrieval' on theirs"):
        take(settings, evalset="theirs")


def test_what_is_not_accepted_cannot_be_checked(settings):
    with pytest.raises(ConfigError, match="no accepted decision for any notebook: run it, then workbench accept"):
        accepted_decisions(settings)
    finished(settings)
    take(settings)
    with pytest.raises(ConfigError, match=r"no accepted decision for caching: .* Accepted: mine/retrieval$"):
        check_decisions(settings, ["retrieval", "caching"], clock=SystemClock())


def test_one_evalsets_decision_is_named_with_a_slash_as_check_shows_it(settings):
    (settings.evalsets / "ours" / "qrels").mkdir(parents=True)
    for name in ("mine", "ours"):
        finished(settings, parameters={"evalset": name})
        take(settings, evalset=name)
    assert [name for name, _ in accepted_decisions(settings, ["ours/retrieval"])] == ["ours"]
    assert [name for name, _ in accepted_decisions(settings, ["retrieval"])] == ["mine", "ours"]
    with pytest.raises(ConfigError, match=r"no accepted decision for theirs/retrieval: "):
        accepted_decisions(settings, ["ours/retrieval", "theirs/retrieval"])


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"rule": 3}'])
def test_an_accepted_file_that_is_no_decision_is_named(settings, text):
    path = settings.evalsets / "mine" / "decisions" / "retrieval.json"
    path.parent.mkdir()
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"retrieval\.json is not a decision this version reads"):
        accepted_decisions(settings)


def found(tmp_path, status, code, *, run="done"):
    gate = Gate(status, code, "", (GateClaim("sameness", "a", status, ""),))
    return Check("mine", DECISION, RunRecord(tmp_path, run), gate)


def test_the_exit_code_is_that_of_the_gate_and_3_where_the_run_failed(tmp_path):
    assert found(tmp_path, "holds", 0).exit_code == 0
    assert found(tmp_path, "stale", 0).exit_code == 0, "softened by the policy"
    assert found(tmp_path, "holds", 0, run="failed").exit_code == 3
    assert Check("mine", DECISION, RunRecord(tmp_path, "done"), None).exit_code == 3


@pytest.mark.parametrize("status", get_args(GateStatus))
def test_every_status_of_a_gate_has_an_exit_code_and_new_and_not_tested_are_0(tmp_path, status):
    expected = {"broken": 1, "inconclusive": 2, "stale": 2, "error": 3}.get(status, 0)
    assert worst_exit_code([found(tmp_path, status, EXIT_CODES[status])]) == expected


@pytest.mark.parametrize(
    ("codes", "worst"), [((), 0), ((0, 0), 0), ((0, 2), 2), ((2, 1), 1), ((1, 3, 2), 3), ((0, 99), 99)]
)
def test_the_worst_of_several_decides_error_before_broken_before_open(tmp_path, codes, worst):
    assert worst_exit_code([found(tmp_path, "holds", code) for code in codes]) == worst


@pytest.mark.parametrize(("status", "code"), [("holds", 0), ("broken", 1)])
def test_a_check_runs_the_notebook_with_exactly_the_accepted_parameters(settings, status, code):
    add_notebook(
        settings, "retrieval", gate=SAYS_PARAMETERS % (status, code), parameters='limit: int = 5\nevalset: str = "x"'
    )
    (settings.notebooks / "profiles" / "retrieval.ci.yaml").write_text("limit: 3\n", encoding="utf-8")
    finished(settings)
    take(settings)
    (result,) = check_decisions(settings, clock=SystemClock())
    assert (result.evalset, result.gate.sentence) == ("mine", "limit is 7")
    assert result.record.parameters == DECISION.settings
    assert (result.gate.status, result.exit_code) == (status, code)


def test_a_gate_that_cannot_be_read_is_an_error_of_the_run(settings):
    writes = """_ = (run_dir / "gate.json").write_text('{"status": "holds"}')"""
    add_notebook(settings, "retrieval", gate=writes, parameters=PARAMETERS)
    finished(settings)
    take(settings)
    with pytest.raises(RunError, match=r"gate\.json is not a gate this version reads"):
        check_decisions(settings, clock=SystemClock())


def test_parameters_that_the_notebook_no_longer_takes_are_refused_before_anything_runs(settings):
    add_notebook(settings, "retrieval", parameters='evalset: str = "x"')
    finished(settings)
    take(settings)
    before = len(list(settings.runs.iterdir()))
    with pytest.raises(ConfigError, match="unknown parameter 'limit'"):
        check_decisions(settings, clock=SystemClock())
    assert len(list(settings.runs.iterdir())) == before


def test_the_stored_decision_reads_well_in_a_diff(settings):
    finished(settings)
    text = take(settings).read_text(encoding="utf-8")
    assert text.endswith("}\n")
    assert len(text.splitlines()) > 40
    assert json.loads(text)["accepted_because"] == "it pays"


def test_a_notebook_that_decides_nothing_is_checked_where_it_is_named(tmp_path):
    check = Check("", None, RunRecord(tmp_path, "done", notebook="costs"), None)
    assert check.place == ("costs",)
    assert Check("mine", DECISION, RunRecord(tmp_path, "done"), None).place == ("mine", DECISION.notebook)
