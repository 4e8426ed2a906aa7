"""`pytest --workbench`: a decision is a test."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.notebooks.zoo import add_notebook, make_settings
from tests.project.test_check_report import SAYS
from tests.runner.test_accept_and_check import DECISION
from workbench.config import Settings

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path: Path) -> Settings:
    settings = make_settings(tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    (tmp_path / "test_mine.py").write_text("def test_mine():\n    assert True\n", encoding="utf-8")
    (settings.evalsets / "mine" / "decisions").mkdir(parents=True)
    decision = replace(DECISION, settings={"limit": 7})
    (settings.evalsets / "mine" / "decisions" / "retrieval.json").write_text(decision.to_json(), encoding="utf-8")
    return settings


def run(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("WORKBENCH_", "PYTEST_"))}
    env |= {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "workbench.project.pytest_plugin", "-p", "no:cacheprovider"]
    return subprocess.run([*command, *arguments], cwd=settings.root, env=env, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("status", "code", "exit_code", "told"),
    [("holds", 0, 0, "2 passed"), ("broken", 1, 1, "1 failed, 1 passed"), ("stale", 0, 0, "1 passed, 1 skipped")],
)
def test_a_decision_is_a_test(project: Settings, status: str, code: int, exit_code: int, told: str) -> None:
    add_notebook(project, "retrieval", gate=SAYS % (status, code))
    done = run(project, "--workbench", "-rs")
    assert (done.returncode, told in done.stdout) == (exit_code, True), done.stdout + done.stderr
    if status != "holds":
        assert f"{status}: limit is 7" in done.stdout
        assert "Traceback" not in done.stdout
        assert "runtest" not in done.stdout


def test_decisions_alone_and_by_name(project: Settings) -> None:
    add_notebook(project, "retrieval", gate=SAYS % ("holds", 0))
    alone = run(project, "--workbench", "-v", "evalsets")
    assert "\nworkbench::mine/retrieval PASSED" in alone.stdout
    assert (alone.returncode, "1 passed" in alone.stdout) == (0, True)
    none = run(project, "--workbench", "-k", "nothing_of_it", "-q")
    assert "2 deselected" in none.stdout


def test_without_the_option_nothing_is_added_and_nothing_loaded(project: Settings) -> None:
    (project.root / "test_mine.py").write_text(
        "import sys\ndef test_mine():\n    assert not {'polars', 'numpy', 'workbench.records'} & set(sys.modules)\n"
    )
    assert "1 passed" in run(project).stdout


def test_a_project_without_decisions_is_a_usage_error_that_says_what_to_do(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    done = run(settings, "--workbench")
    assert done.returncode == 4
    assert "workbench accept NAME" in done.stderr
