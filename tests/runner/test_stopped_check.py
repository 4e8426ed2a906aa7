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
from typing import Any

import pytest

from tests.command_line import workbench_process
from tests.notebooks.zoo import add_notebook, make_settings
from tests.runner.test_accept_and_check import DECISION, PARAMETERS, SAYS_PARAMETERS
from workbench.config import Settings, SystemClock, load_settings
from workbench.evaluation.accepted_decision import note_test_use
from workbench.evaluation.gate import Gate
from workbench.evaluation.run_record import RunRecord, close_run, open_run, process_token
from workbench.runner import Job, accepted_decisions, check_decisions, list_runs
from workbench.runner.accept_and_check import KEPT_H, begin_check
from workbench.runner.result_reuse import result_rests_on

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


def begin(settings: Settings, names: tuple[str, ...] = (), **given: bool) -> tuple[list[Job], list[str], str]:
    """Jobs of a check that begins now, the notebooks whose result it takes, and what it tells of that."""
    accepted = accepted_decisions(settings, names)
    jobs = [Job(d.notebook, d.profile, d.settings) for _, d in accepted]
    jobs, taken, told = begin_check(settings, accepted, jobs, clock=SystemClock(), **given)
    return jobs, [record.notebook for record in taken if record], told


def leave(settings: Settings, jobs: list[Job], *endings: str, **changes: Any) -> list[RunRecord]:
    """Runs of a check as the runner leaves them: done, interrupted, or failed for a reason; the last with changes."""
    records = []
    for job, ending in zip(jobs, endings, strict=False):
        record = open_run(settings, job.notebook, profile="ci", parameters={}, clock=SystemClock(), check=job.check)
        if ending == "running":
            records.append(record)
            continue
        status, _, reason = ending.partition(":")
        gate = Gate("holds", 0, "all is well", ()) if status == "done" else None
        if gate:
            (record.run_dir / "gate.json").write_text(gate.to_json(), encoding="utf-8")
        mark = job.check if gate else record.check
        outcome = {"status": status, "exit_reason": reason, "gate": gate and gate.status, "check": mark}
        records.append(close_run(record, SystemClock(), **outcome))
    records[-1] = replace(records[-1], **changes)
    records[-1].save()
    return records


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_check_that_was_stopped_goes_on_with_what_is_left(tmp_path: Path, number: int) -> None:
    go = tmp_path / "go"
    settings = make_project(
        tmp_path / "project", waits=f"while not pathlib.Path({str(go)!r}).exists(): time.sleep(0.1)"
    )
    command = [sys.executable, "-m", "workbench.cli", "check"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("WORKBENCH_")}
    env |= {"PYTHONPATH": str(Path(__file__).parents[2])}
    with (tmp_path / "told").open("w") as told_to:
        stopped = subprocess.Popen(command, cwd=settings.root, env=env, stderr=told_to)
    try:
        wait_for(lambda: len(list_runs(settings)) == 3 and "done" in {r.status for r in list_runs(settings)})
        stopped.send_signal(number)
        stopped.wait(timeout=60)
    finally:
        stopped.kill()
        stopped.wait()
    assert ("the same command goes on" in (tmp_path / "told").read_text()) == (number != signal.SIGKILL)
    (first,) = (r for r in list_runs(settings) if r.status == "done")
    go.touch()

    def again(*words: str) -> tuple[str, list[str]]:
        before = {r.run_dir for r in list_runs(settings)}
        done = workbench_process(settings.root, "check", *words)
        assert done.returncode == 0, done.stderr
        return done.stdout, sorted(r.notebook for r in list_runs(settings) if r.run_dir not in before)

    told, ran = again()
    assert told.startswith(f"1 of 3 taken from the check that was interrupted at {datetime.now(UTC):%Y-%m-%d} ")
    assert str(first.report) in told
    assert ran == ["retrieval", "routing"]
    if number == signal.SIGINT:  # whatever had stopped the one before
        told, ran = again()
        assert ("taken from" in told, ran) == (False, list(NAMES)), "a finished check is none to go on with"


def test_what_ended_is_taken_unless_all_is_asked_for_and_a_finished_check_is_none_to_go_on_with(tmp_path: Path) -> None:
    settings = make_project(tmp_path)
    jobs, taken, told = begin(settings)
    assert (taken, told) == ([], "")
    leave(settings, jobs, "done:completed", "interrupted:interrupted")
    jobs, taken, told = begin(settings)
    assert taken == ["caching"]
    assert told.startswith("1 of 3 taken from the check that was interrupted at ")
    assert told.endswith(" UTC; --fresh runs all again")
    fresh, taken, told = begin(settings, fresh=True)
    assert (taken, told) == ([], "")
    assert {job.check.began for job in fresh} != {job.check.began for job in jobs}  # type: ignore[union-attr]
    leave(settings, jobs[1:], "done:gate_failed", "failed:cell_error")  # each came to its own end
    assert begin(settings)[1:] == ([], "")
    leave(settings, fresh, "interrupted:interrupted")
    assert begin(settings)[1:] == ([], ""), "nothing had ended of the newest"


def test_what_was_taken_is_taken_once_more_where_the_second_check_is_stopped_too(tmp_path: Path) -> None:
    settings = make_project(tmp_path)
    leave(settings, begin(settings)[0], "done:completed")
    again = begin(settings)[0]
    gone = f"{process_token(os.getpid()).rpartition(':')[0]}:gone"
    leave(settings, again[1:], "done:completed", "running", process=gone)
    _, taken, told = begin(settings)
    assert (taken, told[:12]) == (["caching", "retrieval"], "2 of 3 taken")


def test_a_run_that_was_killed_at_its_time_out_leaves_the_others_to_take(tmp_path: Path) -> None:
    settings = make_project(tmp_path)
    leave(settings, begin(settings)[0], "done:completed", "done:completed", "failed:hard_timeout")
    assert begin(settings)[1] == ["caching", "retrieval"]


def test_a_check_that_another_process_is_at_work_on_is_left_alone(tmp_path: Path) -> None:
    settings = make_project(tmp_path)
    leave(settings, begin(settings)[0], "done:completed", "running", process=process_token(os.getppid()))
    assert begin(settings)[1:] == ([], "")


def test_another_selection_of_decisions_is_another_check(tmp_path: Path) -> None:
    settings = make_project(tmp_path)
    leave(settings, begin(settings)[0], "done:completed", "interrupted:interrupted")
    assert begin(settings, ("caching", "routing"))[1:] == ([], "")
    leave(settings, begin(settings, ("caching",))[0], "done:completed")
    assert begin(settings)[1] == ["caching"], "the check of all still waits to go on"


def test_an_old_result_or_one_that_was_touched_or_of_which_something_moved_is_not_taken(tmp_path: Path) -> None:
    settings = make_project(tmp_path)
    old = (datetime.now(UTC) - timedelta(hours=KEPT_H, minutes=1)).isoformat()
    for changes in ({"ended": old}, {"gate": "broken"}, {"host": "another"}):
        jobs = begin(settings, fresh=True)[0]
        process = {"process": f"another:1:{changes['host']}"} if "host" in changes else {}
        leave(settings, jobs, "done:completed", **{n: v for n, v in changes.items() if n != "host"}, **process)
        assert begin(settings)[1] == []
    (record,) = leave(settings, begin(settings, fresh=True)[0], "done:completed")
    assert begin(settings)[1] == ["caching"]
    gate = (record.run_dir / "gate.json").read_text(encoding="utf-8")
    (record.run_dir / "gate.json").write_text("{", encoding="utf-8")
    assert begin(settings)[1] == []
    (record.run_dir / "gate.json").write_text(gate, encoding="utf-8")
    (tmp_path / "search.py").write_text("x = 1", encoding="utf-8")
    _, taken, told = begin(settings)
    assert taken == []
    assert "0 of 3 taken" in told
    assert told.endswith("1 more had ended, but what they rest on has moved, or nothing tells that it has not")


def test_without_a_commit_nothing_is_taken_and_that_is_told(tmp_path: Path) -> None:
    settings = make_project(tmp_path)
    (tmp_path / ".git").rename(tmp_path / "not-git")
    leave(settings, begin(settings)[0], "done:completed", "interrupted:interrupted")
    _, taken, told = begin(settings)
    assert (taken, "nothing tells that it has not" in told) == ([], True)


def test_a_result_of_inputs_that_moved_while_it_was_made_is_not_taken(tmp_path: Path) -> None:
    settings = make_project(tmp_path, NAMES[:1])
    card = settings.evalsets / "mine" / "card.md"
    gate = SAYS_PARAMETERS % ("holds", 0) + f"\n_ = pathlib.Path({str(card)!r}).write_text('moved')"
    add_notebook(settings, "caching", gate=gate, parameters=PARAMETERS)
    for writes in (True, False):  # the second time what is there already
        (result,) = check_decisions(settings, clock=SystemClock())
        assert result.record.check is not None
        assert (result.record.check.rests_on == "") == writes


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
        return result_rests_on(settings, "retrieval", "ci", parameters)

    before = now()
    (settings.runs / "another").mkdir(parents=True)
    (settings.runs / "another" / "run.json").write_text("{}", encoding="utf-8")
    assert before == now() != ""
    MOVES[what](settings, monkeypatch)
    assert now() not in (before, "")
    assert result_rests_on(settings, "retrieval", "ci", parameters | {"depth": 10}) != now()


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


INSTALLED = {  # a file of what is installed beside, what it holds before and after
    "a version": ("mine-1.dist-info/METADATA", "Name: mine\nVersion: 1\n", "Name: mine\nVersion: 2\n"),
    "an egg's version": ("mine.egg-info/PKG-INFO", "Name: mine\nVersion: 1\n", "Name: mine\nVersion: 2\n"),
    "a version in a lone file": ("mine.egg-info", "Name: mine\nVersion: 1\n", "Name: mine\nVersion: 2\n"),
    "code of the same version": ("mine-1.dist-info/RECORD", "mine.py,sha256=a,1\n", "mine.py,sha256=b,1\n"),
    "a commit of the same version": (
        "mine-1.dist-info/direct_url.json",
        '{"url": "git+https://example.org/mine", "vcs_info": {"vcs": "git", "commit_id": "a"}}',
        '{"url": "git+https://example.org/mine", "vcs_info": {"vcs": "git", "commit_id": "b"}}',
    ),
}


@pytest.mark.parametrize("what", INSTALLED)
def test_whatever_is_installed_anew_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    settings, (name, text, other) = make_project(tmp_path / "project"), INSTALLED[what]
    site = tmp_path / "site"
    _write(site / name, text)
    if name.startswith("mine-1") and not name.endswith("METADATA"):
        _write(site / "mine-1.dist-info" / "METADATA", "Name: mine\nVersion: 1\n")
    monkeypatch.syspath_prepend(site)
    before = result_rests_on(settings, "retrieval", "ci", {"evalset": "mine"})
    assert before == result_rests_on(settings, "retrieval", "ci", {"evalset": "mine"}) != ""
    _write(site / name, other)
    assert result_rests_on(settings, "retrieval", "ci", {"evalset": "mine"}) != before


@pytest.mark.parametrize("how", ["PYTHONPATH", "editable"])
def test_code_beside_that_no_repository_knows_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    settings, code = make_project(tmp_path / "project"), tmp_path / "code"
    _write(code / "search.py", "before = 1")
    if how == "PYTHONPATH":
        monkeypatch.setenv("PYTHONPATH", str(code))
    else:
        about = tmp_path / "site" / "mine-1.dist-info"
        _write(about / "METADATA", "Name: mine\nVersion: 1\n")
        _write(about / "direct_url.json", json.dumps({"url": code.as_uri(), "dir_info": {"editable": True}}))
        monkeypatch.syspath_prepend(about.parent)
    before = result_rests_on(settings, "retrieval", "ci", {"evalset": "mine"})
    _write(code / "__pycache__" / "search.cpython-311.pyc", "compiled")
    assert before == result_rests_on(settings, "retrieval", "ci", {"evalset": "mine"}) != ""
    _write(code / "search.py", "after = 1")
    assert result_rests_on(settings, "retrieval", "ci", {"evalset": "mine"}) != before


def test_another_folder_of_the_same_repository_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = make_project(tmp_path)
    found = set()
    for folders in (["evalsets", "notebooks"], ["notebooks", "evalsets"], ["notebooks"]):
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(str(settings.root / folder) for folder in folders))
        found.add(result_rests_on(settings, "retrieval", "ci", {"evalset": "mine"}))
    assert len(found) == 3


def test_a_repository_that_ignores_the_project_tells_nothing_of_it(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("project/\n", encoding="utf-8")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-q", "-m", "all")
    settings = make_settings(tmp_path / "project")
    (settings.evalsets / "mine" / "qrels").mkdir(parents=True)
    assert result_rests_on(settings, "retrieval", "ci", {"evalset": "mine"}) == ""


def wait_for(condition: Callable[[], object], timeout_s: float = 90) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
