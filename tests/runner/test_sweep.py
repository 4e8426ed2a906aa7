"""A sweep is jobs: one for each combination, each done once, the rest done after a kill."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.notebooks.zoo import add_notebook, make_settings
from workbench.config import load_settings
from workbench.errors import ConfigError, EvalsetError
from workbench.orchestration.flows import Flows
from workbench.runner.runs import list_runs
from workbench.runner.sweep import submit_sweep, sweep_table

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path):
    settings = make_settings(tmp_path)
    return replace(settings, state_url=f"sqlite:///{tmp_path / 'state.sqlite'}")


def test_each_combination_is_run_once(project):
    add_notebook(project, "retrieval", "1 + 1")
    with Flows.open(project) as flows:
        for _ in range(2):
            submitted = submit_sweep(flows, "retrieval", {"limit": ["1", "2"], "label": ["a"]}, parameters={"seed": 3})
            flows.work(when_done=True)
        table = sweep_table(flows, submitted)
        assert [row[:3] for row in table.rows] == [("1", "a", "done"), ("2", "a", "done")]
        assert [row[5] for row in table.rows] == ["holds", "holds"]
        assert flows.jobs().rows[0][2].startswith("cell ")
    records = list_runs(project)
    assert sorted(record.parameters["limit"] for record in records) == [1, 2]
    assert {record.parameters["seed"] for record in records} == {3}


def test_a_changed_notebook_is_another_run(project):
    add_notebook(project, "retrieval", "1 + 1")
    with Flows.open(project) as flows:
        ((first, _),) = submit_sweep(flows, "retrieval", {"limit": ["1"]})
        add_notebook(project, "retrieval", "1 + 2")
        ((second, _),) = submit_sweep(flows, "retrieval", {"limit": ["1"]})
    assert first != second


def test_a_notebook_that_fails_is_told_and_the_others_go_on(project):
    add_notebook(project, "retrieval", "1 / (limit - 1)")
    with Flows.open(project) as flows:
        submitted = submit_sweep(flows, "retrieval", {"limit": ["1", "2"]})
        flows.work(when_done=True)
        rows = sweep_table(flows, submitted).rows
    assert [row[1] for row in rows] == ["failed", "done"]
    assert "RunError" in rows[0][6]


def test_all_is_checked_before_anything_is_submitted(project):
    add_notebook(project, "retrieval")
    with Flows.open(project) as flows:
        with pytest.raises(ConfigError, match="unknown parameter 'limitt'"):
            submit_sweep(flows, "retrieval", {"limitt": ["1"]})
        with pytest.raises(ConfigError, match="is swept and given a value"):
            submit_sweep(flows, "retrieval", {"limit": ["1"]}, parameters={"limit": "2"})
        assert flows.durable.runs() == []


def test_what_one_run_of_a_sweep_would_refuse_keeps_all_from_being_submitted(tmp_path):
    settings = replace(load_settings({}, ROOT), state_url=f"sqlite:///{tmp_path / 'state.sqlite'}")
    with Flows.open(settings) as flows:
        with pytest.raises(EvalsetError, match=r"caching_demo has no outcomes\.parquet"):
            submit_sweep(flows, "routing", {"evalset": ["routing_demo", "caching_demo"]})
        with pytest.raises(ConfigError, match="unknown policy 'boostin'"):
            submit_sweep(
                flows, "routing", {"policies": ["boosting", "boostin"]}, parameters={"evalset": "routing_demo"}
            )
        assert flows.durable.runs() == []


@pytest.mark.slow
def test_a_sweep_that_was_killed_goes_on_by_the_same_command(project):
    add_notebook(project, "retrieval", "time.sleep(2)")
    env = os.environ | {
        "WORKBENCH_ROOT": str(project.root), "WORKBENCH_CACHE": str(project.cache), "WORKBENCH_RUNS": str(project.runs),
        "WORKBENCH_STATE_URL": project.state_url, "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    command = [sys.executable, "-m", "workbench.cli", "run", "retrieval", "--sweep", "limit=1,2,3"]
    first = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not [r for r in list_runs(project) if r.status == "done"] and time.monotonic() < deadline:
        time.sleep(0.1)
    first.kill()
    first.communicate()
    done_before = {r.run_dir.name for r in list_runs(project) if r.status == "done"}
    assert done_before
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    finished = [r for r in list_runs(project) if r.status == "done"]
    limits = sorted(r.parameters["limit"] for r in finished)
    assert set(limits) == {1, 2, 3}
    assert len(limits) <= 3 + 2, (
        "a run is done before its job is: of the two under way at the kill, each may be repeated"
    )
    assert done_before <= {r.run_dir.name for r in finished}
