"""``workbench jobs``, ``replay`` and ``diff``, as a user calls them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from workbench.cli import job_commands
from workbench.errors import ConfigError

OWN = """
import workbench


def shout(text):
    return text.upper()


def split(text):
    if not text:
        raise ValueError("nothing to split")
    return text.split()


@workbench.flow()
def words(step, text, again=1):
    loud = step(shout, text)
    return step(split, loud) * again
"""
ROOT = Path(__file__).parents[1]


@pytest.fixture
def project(tmp_path):
    (tmp_path / "evalsets").mkdir()
    (tmp_path / "own_words.py").write_text(OWN)
    return tmp_path


def called(project, *arguments, code=0):
    env = {name: value for name, value in os.environ.items() if not name.startswith("WORKBENCH_")}
    done = subprocess.run(
        [sys.executable, "-m", "workbench.cli", *arguments],
        cwd=project, env=env | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return done.stderr.splitlines() if code else done.stdout.splitlines()


def test_a_job_from_its_submission_to_its_replay(project):
    (first,) = called(project, "jobs", "submit", "own_words:words", "a b", "again=2")
    (bad,) = called(project, "jobs", "submit", "own_words:words", '""')
    waiting = "\n".join(called(project, "jobs", "list"))
    assert "start one: workbench jobs work" in waiting
    called(project, "jobs", "work", "--when-done")
    listed = called(project, "jobs", "list")
    assert listed[0] == "2 runs, newest first"
    assert any(line.startswith(first) and "done" in line for line in listed)
    assert any(line.startswith(bad) and "ValueError: nothing to split" in line for line in listed)
    shown = "\n".join(called(project, "jobs", "show", first[:14]))
    assert '["A", "B", "A", "B"]' in shown
    assert called(project, "replay", "--all")[0] == "2 of 2 recorded runs are repeated"
    assert called(project, "jobs", "retry", bad) == [bad]
    (refused,) = called(project, "jobs", "cancel", first, code=3)
    assert "is done already" in refused
    different = called(project, "diff", first, bad)
    assert any("'A B'" in line or "A B" in line for line in different)
    (project / "own_words.py").write_text(OWN.replace("text.upper()", "text.title()"))
    env = called(project, "replay", first)  # "A B" is the same either way
    assert env[0] == "1 of 1 recorded run is repeated"
    (project / "own_words.py").write_text(OWN.replace("text.upper()", "text.upper() + '!'"))
    page = project / "replay.html"
    called(project, "replay", "--all", "--html", str(page), code=1)
    assert "own_words.py changed since the record was made" in page.read_text()


def test_jobs_of_an_age_are_deleted_with_traces_if_asked(project):
    called(project, "jobs", "submit", "own_words:words", "a b")
    called(project, "jobs", "work", "--when-done")
    runs, traces = called(project, "jobs", "prune", "--older-than", "0h", "--traces")
    assert runs.startswith("deleted: 1 run that ended before 20")
    assert traces == "deleted: 1 trace with 3 spans"
    (refused,) = called(project, "jobs", "prune", "--older-than", "30", code=3)
    assert refused == "error: --older-than is a whole number of hours, days or weeks: 12h, 30d, 8w; found '30'"


@pytest.mark.parametrize("age", ["", "30", "d", "-1d", "1.5d", "99999d", "\u0663d", "3 d", "3m"])
def test_an_age_that_is_none_is_refused(age):
    with pytest.raises(ConfigError, match="12h, 30d, 8w; found"):
        job_commands.age_option(age)


def test_a_schedule_is_made_listed_and_deleted(project):
    called(project, "jobs", "schedule", "nightly", "0 3 * * *", "own_words:words", "x")
    assert "nightly" in "\n".join(called(project, "jobs", "schedule"))
    called(project, "jobs", "schedule", "nightly", "--delete")
    assert "nightly" not in "\n".join(called(project, "jobs", "schedule"))
    (refused,) = called(project, "jobs", "schedule", "nightly", code=3)
    assert "needs a cron expression and a flow" in refused


def test_what_is_not_there_is_refused_in_one_line(project):
    (missing,) = called(project, "jobs", "show", "nothing", code=3)
    assert missing == "error: no run 'nothing'; list them with: workbench jobs list"
    (which,) = called(project, "replay", code=3)
    assert "takes the id of a run, or --all" in which
    (no_flow,) = called(project, "jobs", "submit", "own_words:shout", code=3)
    assert "is no flow but function" in no_flow
