"""What a check found, for machines and for a comment."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tests.notebooks.zoo import add_notebook, make_settings
from tests.runner.test_accept_and_check import DECISION
from workbench.config import Settings
from workbench.evaluation.gate import Gate, GateClaim
from workbench.evaluation.run_record import RunRecord
from workbench.project.check_report import MARKER, check_json, check_markdown
from workbench.runner import Check

ROOT = Path(__file__).parents[2]
SAYS = """_ = (run_dir / "gate.json").write_text(
    f'{{"status": "%s", "exit_code": %d, "sentence": "limit is {limit}", "claims": []}}')"""


def found(status: str, exit_code: int, *, changed: tuple[str, ...] = (), run: str = "done") -> Check:
    claim = GateClaim("sameness", "vec|tor", status, "2 of 40 items scored otherwise.", changed)
    gate = Gate(status, exit_code, f"it is {status} <b>", (claim,))
    return Check("mine", DECISION, RunRecord(Path("runs/r1"), run, error="died" if run == "failed" else None), gate)


def test_json_has_every_decision_with_its_claims_and_the_worst_exit_code() -> None:
    told = json.loads(check_json([found("holds", 0), found("broken", 1, changed=("q1", "q2"))]))
    assert told["exit_code"] == 1
    assert [d["status"] for d in told["decisions"]] == ["holds", "broken"]
    assert told["decisions"][1]["claims"][0]["changed"] == ["q1", "q2"]
    assert told["decisions"][1]["run"] == "r1"
    assert told["decisions"][1]["report"] is None


def test_a_run_that_failed_is_an_error_whatever_an_early_gate_said() -> None:
    (told,) = json.loads(check_json([found("holds", 0, run="failed")]))["decisions"]
    assert (told["status"], told["sentence"], told["exit_code"]) == ("error", "died", 3)


def test_comment_puts_the_worst_first_names_changed_items_and_shows_foreign_text_as_text() -> None:
    text = check_markdown([found("holds", 0), found("broken", 1, changed=tuple(f"q{i}" for i in range(12)))])
    assert text.startswith(f"{MARKER}\n### 1 of 2 accepted decisions hold\n")
    rows = [line for line in text.splitlines() if line.startswith("| ") and "mine" in line]
    assert ["broken" in row for row in rows] == [True, False]
    assert "<b>" not in text.replace(MARKER, "")
    assert "and 2 more" in text
    assert check_markdown([found("holds", 0)]).splitlines()[1] == "### Every decision holds"


def test_comment_keeps_below_the_limit() -> None:
    assert len(check_markdown([found("broken", 1)] * 2000)) < 65_536


@pytest.fixture
def project(tmp_path: Path) -> Settings:
    settings = make_settings(tmp_path)
    (settings.evalsets / "mine" / "decisions").mkdir(parents=True)
    add_notebook(settings, "retrieval", gate=SAYS % ("holds", 0))
    accepted = replace(DECISION, settings={"limit": 7})
    (settings.evalsets / "mine" / "decisions" / "retrieval.json").write_text(accepted.to_json(), encoding="utf-8")
    return settings


def environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WORKBENCH_", "GITHUB_"))}
    return kept | {"PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


@pytest.mark.parametrize(("status", "code"), [("holds", 0), ("broken", 1)])
def test_action_checks_keeps_its_files_and_ends_as_the_check_does(project: Settings, status: str, code: int) -> None:
    add_notebook(project, "retrieval", gate=SAYS % (status, code))
    (project.root / "bin").mkdir()
    command = project.root / "bin" / "workbench"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m workbench.cli "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    steps = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))["runs"]["steps"]
    written = {name: project.root / name for name in ("output", "summary")}
    env = environment() | {
        "GITHUB_OUTPUT": str(written["output"]), "GITHUB_STEP_SUMMARY": str(written["summary"]), "NOTEBOOKS": "",
    }  # fmt: skip
    env["PATH"] = f"{command.parent}:{env['PATH']}"
    (checks,) = (step for step in steps if step.get("id") == "check")
    (ends,) = (step for step in steps if str(step.get("name")).startswith("Exit code of"))
    shell = ["bash", "-e", "-c"]
    run = [subprocess.run([*shell, checks["run"]], cwd=project.root, env=env, capture_output=True, text=True)]
    outputs = dict(line.split("=", 1) for line in written["output"].read_text(encoding="utf-8").splitlines())
    run.append(subprocess.run([*shell, ends["run"]], env=env | {"CODE": outputs["exit-code"], "VERIFIED": "0"}))
    assert [done.returncode for done in run] == [0, code], run[0].stderr
    assert json.loads((project.root / "check.json").read_text(encoding="utf-8"))["decisions"][0]["status"] == status
    assert "limit is 7" in written["summary"].read_text(encoding="utf-8")


@pytest.mark.parametrize(("notebooks", "verified"), [("", ["a/1", "a/2", "b/1"]), ("1 3", ["a/1", "b/1"]), ("3", [])])
def test_action_verifies_what_it_checks_and_is_red_where_that_contradicts(
    tmp_path: Path, notebooks: str, verified: list[str]
) -> None:
    files = {f"evalsets/{name.replace('/', '/decisions/')}.json" for name in ("a/1", "a/2", "b/1")}
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}", encoding="utf-8")
    (tmp_path / "workbench").write_text('#!/bin/sh\necho "$@" > asked\nexit 1\n', encoding="utf-8")
    (tmp_path / "workbench").chmod(0o755)
    steps = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))["runs"]["steps"]
    (verifies,) = (step["run"] for step in steps if step.get("id") == "verify")
    env = environment() | {"GITHUB_OUTPUT": str(tmp_path / "o"), "NOTEBOOKS": notebooks}
    env["PATH"] = f"{tmp_path}:{env['PATH']}"
    subprocess.run(["bash", "-e", "-c", verifies], cwd=tmp_path, env=env, check=True)
    asked = (tmp_path / "asked").read_text().split() if verified else ["verify"]
    assert asked[0] == "verify"
    assert sorted(asked[1:]) == sorted(f"evalsets/{name.replace('/', '/decisions/')}.json" for name in verified)
    code = "1" if verified else "0"
    assert (tmp_path / "o").read_text() == f"exit-code={code}\n"
    (ends,) = (step["run"] for step in steps if str(step.get("name")).startswith("Exit code of"))
    for checked, ended in (("0", code), ("1", "1"), ("2", code if verified else "2")):
        told = env | {"CODE": checked, "VERIFIED": code}
        assert subprocess.run(["bash", "-e", "-c", ends], env=told).returncode == int(ended)


def test_action_says_that_nothing_is_accepted_and_stays_green(tmp_path: Path) -> None:
    (tmp_path / "evalsets").mkdir()
    steps = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))["runs"]["steps"]
    (checks,) = (step["run"] for step in steps if step.get("id") == "check")
    env = environment() | {"GITHUB_OUTPUT": str(tmp_path / "o"), "GITHUB_STEP_SUMMARY": str(tmp_path / "s")}
    done = subprocess.run(["bash", "-e", "-c", checks], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert (done.returncode, (tmp_path / "o").read_text()) == (0, "exit-code=0\n"), done.stderr
    assert "Nothing is accepted yet" in (tmp_path / "s").read_text()
