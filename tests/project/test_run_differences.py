"""Two runs side by side, and the report of a run by part of its name."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from tests.command_line import workbench
from tests.notebooks.zoo import make_settings
from tests.project.test_verify_decision import commit, git
from tests.runner.test_accept_and_check import DECISION, finished, take
from workbench.config import Settings
from workbench.errors import ConfigError
from workbench.evaluation.run_record import RunRecord
from workbench.project.run_differences import (
    find_run,
    load_run_sides,
    require_commit,
    run_arms_table,
    run_differences_since,
    run_differences_told,
    run_moved_items_table,
)
from workbench.records import Fingerprint


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    made = make_settings(tmp_path)
    (made.evalsets / "mine" / "qrels").mkdir(parents=True)
    return made


def run_of(settings: Settings, values: dict[str, float], fingerprint: str) -> str:
    decision = replace(DECISION, fingerprint=Fingerprint({"queries": "abc", "corpus": fingerprint}))
    folder = finished(settings, decision)
    rows = [("vector", item, 0, "ndcg@10", value, "test") for item, value in values.items()]
    rows.append(("vector", "d1", 0, "ndcg@10", 0.0, "dev"))
    schema = ["arm", "item_id", "repeat", "metric", "value", "split"]
    pl.DataFrame(rows, schema=schema, orient="row").write_parquet(folder / "scores.parquet")
    return folder.name


def test_runs_differ_in_inputs_means_and_items(settings: Settings) -> None:
    before = run_of(settings, {"q1": 1.0, "q2": 0.5, "q3": 0.2}, "old")
    after = run_of(settings, {"q1": 0.4, "q2": 0.5, "q3": 0.3}, "new")
    sides = load_run_sides(settings, before, after)
    ((arm, old, new, difference),) = run_arms_table(sides).rows
    assert (arm, old, new, difference) == (
        "vector",
        pytest.approx(1.7 / 3),
        pytest.approx(0.4),
        pytest.approx(-0.5 / 3),
    )
    assert [(row[0], round(row[3], 9)) for row in run_moved_items_table(sides).rows] == [("q1", -0.6), ("q3", 0.1)]
    lines = list(run_differences_told(sides))
    assert lines[0] == f"{before}: Keep vector."
    assert "inputs that differ: corpus" in lines
    done = workbench(settings, "compare", before, after)
    assert done.returncode == 0, done.stderr
    assert "2 items moved for vector" in done.stdout


def test_a_run_is_found_by_part_of_its_name_and_never_guessed(settings: Settings) -> None:
    one, two = run_of(settings, {"q1": 1.0}, "a"), run_of(settings, {"q1": 1.0}, "b")
    assert find_run(settings, one).run_dir.name == one
    assert find_run(settings, str(settings.runs / two)).run_dir.name == two
    with pytest.raises(ConfigError, match="names 2 runs"):
        find_run(settings, one[:8])
    with pytest.raises(ConfigError, match="names none"):
        find_run(settings, "nothing")


def test_runs_without_a_decision_or_of_another_metric_do_not_compare(settings: Settings) -> None:
    one = run_of(settings, {"q1": 1.0}, "a")
    other = finished(settings, replace(DECISION, rule=replace(DECISION.rule, metric="mrr@10")))
    with pytest.raises(ConfigError, match=r"ndcg@10 and retrieval by mrr@10"):
        load_run_sides(settings, one, str(other))
    elsewhere = finished(settings, replace(DECISION, settings={"evalset": "theirs"}))
    with pytest.raises(ConfigError, match="those of mine and theirs"):
        load_run_sides(settings, one, str(elsewhere))
    (other / "decision.json").unlink()
    with pytest.raises(ConfigError, match="made no decision"):
        load_run_sides(settings, one, str(other))


def test_report_says_where_it_is(settings: Settings) -> None:
    name = run_of(settings, {"q1": 1.0}, "a")
    (settings.runs / name / "report.html").write_text("<p>", encoding="utf-8")
    assert workbench(settings, "report", name[9:]).stdout == f"{settings.runs / name / 'report.html'}\n"
    assert workbench(settings, "report").stdout == workbench(settings, "report", name).stdout, "the newest by default"
    shutil.rmtree(settings.runs)
    assert "no runs in" in workbench(settings, "report").stderr


def in_families(settings: Settings, values: list[float]) -> RunRecord:
    """Run of one arm on as many families of one question."""
    folder = finished(settings)
    items = [f"q{i}" for i in range(len(values))]
    columns = {"arm": "vector", "item_id": items, "repeat": 0, "metric": "ndcg@10", "value": values, "cluster": items}
    pl.DataFrame(columns).with_columns(split=pl.lit("test")).write_parquet(folder / "scores.parquet")
    return RunRecord.load(folder)


@pytest.fixture
def committed(settings: Settings) -> Settings:
    in_families(settings, [0.5] * 40)
    take(settings)
    git(settings.root, "init", "-q")
    commit(settings.root, "accepted")
    return settings


def test_a_run_is_compared_with_what_another_commit_accepted(committed: Settings) -> None:
    history = require_commit(committed, "HEAD")
    moved = in_families(committed, [0.5] * 37 + [0.4, 0.9, 0.1])
    said = "\n".join(run_differences_since(committed, history, "mine", moved, "HEAD"))
    assert "HEAD: Keep vector." in said
    assert "3 items moved for vector; those that moved most:" in said
    assert "q39" in said
    assert list(run_differences_since(committed, history, "other", moved, "HEAD")) == [
        "  HEAD has no accepted decision of other/retrieval"
    ]
    with pytest.raises(ConfigError, match="the repository has no commit 'nowhere'"):
        require_commit(committed, "nowhere")
    with pytest.raises(ConfigError, match="no commit '--output=x'"):
        require_commit(committed, "--output=x")


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([0.5] * 40, "no item of vector moved"),
        ([0.5] * 20 + [0.6, 0.4] * 10, r"moved by \+0\.0000; .* so this is no more than noise \(p = 1\.000\)"),
        ([0.5] * 20 + [0.4] * 20, r"moved by -0\.0500; .* so this is more than noise \(p = 0\.000\)"),
    ],
)
def test_noise_is_told_from_a_difference(committed: Settings, values: list[float], says: str) -> None:
    run = in_families(committed, values)
    *_, last = run_differences_since(committed, require_commit(committed, "HEAD"), "mine", run, "HEAD", noise=True)
    assert re.search(says, last), last
