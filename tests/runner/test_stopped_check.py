"""A check that was stopped half-way goes on where it was, and takes no result of which anything has moved."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.notebooks.zoo import add_notebook, make_settings
from tests.runner.test_decisions import DECISION, PARAMETERS, SAYS_PARAMETERS
from workbench.config import Settings, SystemClock, load_settings
from workbench.evaluation.in_use import note_test_use
from workbench.evaluation.run_record import RunRecord, process_token
from workbench.runner import check, list_runs
from workbench.runner.basis import rests_on
from workbench.runner.decisions import KEPT_H

NAMES = ("caching", "retrieval", "routing")


@pytest.fixture(autouse=True)
def _no_code_beside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody may be at work on this repository while its tests run."""
    monkeypatch.delenv("PYTHONPATH", raising=False)


def git(root: Path, *words: str) -> None:
    who = ("-c", "user.name=T", "-c", "user.email=t@example.org")
    subprocess.run(["git", "-C", str(root), *who, *words], check=True, capture_output=True)


def make_project(root: Path, names: tuple[str, ...] = NAMES, waits: str = "") -> Settings:
    """Project in a repository with an accepted decision for each name; ``waits`` is a cell of all but the first."""
    settings = load_settings({}, start=make_settings(root).root)
    (settings.evalsets / "mine" / "decisions").mkdir(parents=True)
    for name in names:
        body = [waits] if waits and name != names[0] else []
        add_notebook(settings, name, *body, gate=SAYS_PARAMETERS % ("holds", 0), parameters=PARAMETERS)
        accepted = settings.evalsets / "mine" / "decisions" / f"{name}.json"
        accepted.write_text(replace(DECISION, notebook=name).to_json(), encoding="utf-8")
    (root / ".gitignore").write_text("data/\nruns/\n", encoding="utf-8")
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "all")
    return settings


def run_check(settings: Settings, **given: bool) -> tuple[list[str], list[str]]:
    """Notebooks that a check ran now, and what it told of an interrupted one."""
    told, before = list[str](), set(settings.runs.glob("*"))
    found = check(settings, clock=SystemClock(), tell=told.append, **given)
    assert [c.exit_code for c in found] == [0] * len(found)
    return sorted(c.record.notebook for c in found if c.record.run_dir not in before), told


def stop_half_way(settings: Settings, **changes: object) -> list[RunRecord]:
    """Leave the last check as one whose last run was interrupted; gives its others, which stay as they are."""
    mine = [r for r in list_runs(settings) if r.check]
    newest = max(r.check.began for r in mine if r.check)
    *ended, last = [r for r in mine if r.check and r.check.began == newest]
    raw = json.loads((last.run_dir / "run.json").read_text(encoding="utf-8"))
    changed = raw | {"status": "interrupted", "exit_reason": "interrupted"} | changes
    (last.run_dir / "run.json").write_text(json.dumps(changed), encoding="utf-8")
    return ended


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_check_that_was_stopped_goes_on_with_what_is_left(tmp_path: Path, number: int) -> None:
    go = tmp_path / "go"
    settings = make_project(
        tmp_path / "project", waits=f"while not pathlib.Path({str(go)!r}).exists(): time.sleep(0.1)"
    )
    command = [sys.executable, "-m", "workbench.cli", "check"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("WORKBENCH_")}
    env |= {"PYTHONPATH": str(Path(__file__).parents[2])}
    stopped = subprocess.Popen(command, cwd=settings.root, env=env, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: len(list_runs(settings)) == 3 and "done" in {r.status for r in list_runs(settings)})
    stopped.send_signal(number)
    assert ("the same command goes on" in stopped.communicate(timeout=60)[1]) == (number != signal.SIGKILL)
    (first,) = (r for r in list_runs(settings) if r.status == "done")
    go.touch()

    def again(*words: str) -> tuple[str, list[str]]:
        before = {r.run_dir for r in list_runs(settings)}
        done = subprocess.run(
            [*command, *words], cwd=settings.root, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout, sorted(r.notebook for r in list_runs(settings) if r.run_dir not in before)

    told, ran = again()
    assert told.startswith(f"1 of 3 taken from the check that was interrupted at {datetime.now(UTC):%Y-%m-%d} ")
    assert str(first.report) in told
    assert ran == ["retrieval", "routing"]
    told, ran = again()
    assert ("taken from" in told, ran) == (False, list(NAMES)), "a finished check is none to go on with"


def test_all_run_again_where_that_is_asked(tmp_path: Path) -> None:
    settings = make_project(tmp_path, NAMES[:2])
    assert run_check(settings) == (["caching", "retrieval"], [])
    (ended,) = stop_half_way(settings)
    assert run_check(settings, fresh=True) == (["caching", "retrieval"], [])
    assert run_check(settings)[0] == ["caching", "retrieval"], "the newest check was whole"
    assert ended.run_dir.is_dir()


def test_what_was_taken_is_taken_once_more_where_the_second_check_is_stopped_too(tmp_path: Path) -> None:
    settings = make_project(tmp_path)
    run_check(settings)
    *kept, _ = stop_half_way(settings)
    (kept[-1].run_dir / "run.json").unlink()  # of three decisions, one has ended
    first = kept[0].notebook
    assert run_check(settings)[0] == sorted(set(NAMES) - {first})
    stop_half_way(settings, status="running", process=kept[0].process.rpartition(":")[0] + ":gone")
    ran, told = run_check(settings)
    assert (len(ran), told[0][:12]) == (1, "2 of 3 taken")


def test_a_run_that_was_killed_at_its_time_out_leaves_the_others_to_take(tmp_path: Path) -> None:
    settings = make_project(tmp_path, NAMES[:2])
    run_check(settings)
    (ended,) = stop_half_way(settings, status="failed", exit_reason="hard_timeout")
    assert ended.notebook not in run_check(settings)[0]
    run_check(settings)
    stop_half_way(settings, status="failed", exit_reason="cell_error")
    assert run_check(settings)[0] == ["caching", "retrieval"], "that check came to its own end"


def test_a_check_that_another_process_is_at_work_on_is_left_alone(tmp_path: Path) -> None:
    settings = make_project(tmp_path, NAMES[:2])
    run_check(settings)
    stop_half_way(settings, status="running", process=process_token(os.getppid()))
    assert run_check(settings) == (["caching", "retrieval"], [])


def test_another_selection_of_decisions_is_another_check(tmp_path: Path) -> None:
    settings = make_project(tmp_path, NAMES[:2])
    run_check(settings)
    stop_half_way(settings)
    (alone,) = check(settings, ["caching"], clock=SystemClock())
    assert alone.record.run_dir == list_runs(settings)[-1].run_dir
    assert len(run_check(settings)[0]) == 1, "the check of all still waits to go on"


def test_an_old_result_or_one_that_was_touched_is_not_taken(tmp_path: Path) -> None:
    settings = make_project(tmp_path, NAMES[:2])
    run_check(settings)
    (ended,) = stop_half_way(settings)
    gate = ended.run_dir / "gate.json"
    whole = gate.read_text(encoding="utf-8")
    for text in (whole.replace("holds", "broken"), "{"):
        gate.write_text(text, encoding="utf-8")
        ran, told = run_check(settings)
        assert (ran, told[0][:10]) == (["caching", "retrieval"], "0 of 2 tak")
        assert "1 more had ended" in told[0]
        *_, ended = stop_half_way(settings)
        gate = ended.run_dir / "gate.json"
    old = (datetime.now(UTC) - timedelta(hours=KEPT_H, minutes=1)).isoformat()
    replace(ended, ended=old).save()
    assert run_check(settings)[0] == ["caching", "retrieval"]


def test_a_result_of_inputs_that_moved_while_it_was_made_is_not_taken(tmp_path: Path) -> None:
    settings = make_project(tmp_path, NAMES[:2])
    card = settings.evalsets / "mine" / "card.md"
    gate = SAYS_PARAMETERS % ("holds", 0) + f"\n_ = pathlib.Path({str(card)!r}).write_text('moved')"
    add_notebook(settings, "caching", gate=gate, parameters=PARAMETERS)
    check(settings, ["caching"], clock=SystemClock())
    (record,) = list_runs(settings)
    assert record.check is not None
    assert record.check.rests_on == ""
    check(settings, ["caching"], clock=SystemClock())
    assert list_runs(settings)[-1].check != record.check, "the second time it wrote what was there"
    assert list_runs(settings)[-1].check.rests_on  # type: ignore[union-attr]


def test_without_a_commit_nothing_is_taken_and_that_is_told(tmp_path: Path) -> None:
    settings = make_project(tmp_path, NAMES[:2])
    (tmp_path / ".git").rename(tmp_path / "not-git")
    run_check(settings)
    stop_half_way(settings)
    ran, told = run_check(settings)
    assert (len(ran), "nothing tells that it has not" in told[0]) == (2, True)


def _append(path: str) -> Callable[[Settings, pytest.MonkeyPatch], None]:
    def change(settings: Settings, _: pytest.MonkeyPatch) -> None:
        file = settings.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(file.read_text(encoding="utf-8") + " " if file.is_file() else "x", encoding="utf-8")

    return change


def note(settings: Settings) -> None:
    note_test_use(settings, settings.evalsets / "mine", "retrieval", "0a1b2c3d4e5f6071")


MOVES: dict[str, Callable[[Settings, pytest.MonkeyPatch], None]] = {
    "a file of the repository": _append("evalsets/mine/decisions/retrieval.json"),
    "a new file": _append("search.py"),
    "a file that git ignores in the evalset": _append("evalsets/mine/private/answers.jsonl"),
    "a module that git ignores": _append("ignored.py"),
    "a file that a parameter names": _append("data/run.trec"),
    "weights": _append("data/.cache/weights/model.onnx"),
    "the notebook": _append("notebooks/01_retrieval.ipynb"),
    "uses of the test split": lambda s, _: note(s),
    "a commit": lambda s, _: git(s.root, "commit", "-q", "--allow-empty", "-m", "another"),
    "a setting": lambda _, patch: patch.setenv("WORKBENCH_THREADS", "1"),
    "code beside": lambda s, patch: patch.setenv("PYTHONPATH", str(s.root)),
    "a file that is gone": lambda s, _: (s.root / "evalsets/mine/decisions/routing.json").unlink(),
}


@pytest.mark.parametrize("what", MOVES)
def test_whatever_moves_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    settings = make_project(tmp_path)
    (tmp_path / ".gitignore").write_text("data/\nruns/\nprivate/\nignored.py\n", encoding="utf-8")
    (tmp_path / "data").mkdir(exist_ok=True)
    (tmp_path / "data" / "run.trec").write_text("1 Q0 a 1 1 x", encoding="utf-8")
    parameters = {"evalset": "mine", "systems": ["ours=data/run.trec@0.5"]}

    def now() -> str:
        return rests_on(settings, "retrieval", "ci", parameters)

    before = now()
    (settings.runs / "another").mkdir(parents=True)
    (settings.runs / "another" / "run.json").write_text("{}", encoding="utf-8")
    assert before == now() != ""
    MOVES[what](settings, monkeypatch)
    assert now() not in (before, "")
    assert rests_on(settings, "retrieval", "ci", parameters | {"depth": 10}) != now()


def test_a_repository_that_ignores_the_project_tells_nothing_of_it(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("project/\n", encoding="utf-8")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-q", "-m", "all")
    settings = make_settings(tmp_path / "project")
    (settings.evalsets / "mine" / "qrels").mkdir(parents=True)
    assert rests_on(settings, "retrieval", "ci", {"evalset": "mine"}) == ""


def wait_for(condition: Callable[[], object], timeout_s: float = 90) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
