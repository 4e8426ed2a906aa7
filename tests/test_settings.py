"""What a person gets wrong in settings is one message that says what to correct."""

import os
import pty
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

from tests.command_line import ROOT, workbench
from tests.evalset.small_evalset import settings_in
from tests.reports import samples
from workbench.config import load_settings, require_writable
from workbench.errors import ConfigError
from workbench.evaluation.fingerprint import build_parameters
from workbench.retrieval.notebook import RetrievalParameters
from workbench.runner.headless import _headless_kernel_env
from workbench.runner.parameters import prepare_parameters
from workbench.state import open_engine


@pytest.mark.parametrize(
    ("env", "told"),
    [
        ({"WORKBENCH_STATE_URL": "nonsense"}, "no address; correct WORKBENCH_STATE_URL"),
        ({"WORKBENCH_STATE_URL": ""}, "no address; correct WORKBENCH_STATE_URL"),
        ({"WORKBENCH_STATE_URL": "mysql://me:hidden@host/x"}, "found 'mysql://me:***@host/x'"),
        (
            {"WORKBENCH_STATE_URL": "postgresql://me:hidden@127.0.0.1:1/x"},
            "me:***@127.0.0.1:1/x cannot be opened: conn",
        ),
        ({"WORKBENCH_STATE_URL": "sqlite:///{file}/x.sqlite"}, "cannot be written: File exists"),
        ({"WORKBENCH_STATE_URL": "sqlite:///{file}"}, "cannot be opened: file is not a database"),
        ({"WORKBENCH_CACHE": "{file}/cache"}, "cannot be written: Not a directory"),
        ({"WORKBENCH_ROOT": "{file}/none"}, "which is no folder; name that of the project"),
        ({"WORKBENCH_CAHCE": "x"}, "unknown variable 'WORKBENCH_CAHCE'; did you mean 'WORKBENCH_CACHE'?"),
    ],
)
def test_a_bad_setting_is_one_message_on_the_command_line(tmp_path, env, told):
    file = tmp_path / "file"
    file.write_text("this is no database, and it is longer than the head of one" * 40)
    given = {"WORKBENCH_CACHE": str(tmp_path / "c"), **{k: v.format(file=file) for k, v in env.items()}}
    done = workbench(ROOT, "budgets", env=given)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("error: ")
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert "hidden" not in done.stderr


def test_variables_of_tests_and_of_others_are_left_alone(tmp_path):
    env = {"WORKBENCH_TEST_ANYTHING": "1", "WORKBENCHES": "2", "OTHER": "3"}
    assert load_settings(env, tmp_path).root == tmp_path


def test_a_kernel_has_the_places_of_the_run_whichever_folder_it_works_in(tmp_path, monkeypatch):
    relative = {"WORKBENCH_CACHE": "c", "WORKBENCH_STATE_URL": "sqlite:///state/here.sqlite?timeout=3",
                "WORKBENCH_TABLES_URL": "tables", "WORKBENCH_STORE_URL": "postgresql://db/vectors"}  # fmt: skip
    monkeypatch.chdir(tmp_path)
    settings = load_settings(relative, tmp_path)
    assert settings.state_url == f"sqlite:///{tmp_path}/state/here.sqlite?timeout=3"
    record = SimpleNamespace(run_dir=tmp_path / "run", profile="smoke")
    for inherited in ({}, relative):
        monkeypatch.setattr(os, "environ", inherited)
        given = _headless_kernel_env(settings, record)
        (tmp_path / "notebooks").mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / "notebooks")
        assert load_settings(given) == settings
    for url in ("sqlite://", "sqlite:///:memory:", "sqlite:////x.sqlite", "postgresql://db/state"):
        assert load_settings({"WORKBENCH_STATE_URL": url}, tmp_path).state_url == url


def test_kernels_that_run_at_once_share_the_cores_unless_the_user_says_otherwise(tmp_path, monkeypatch):
    settings, record = load_settings({}, tmp_path), SimpleNamespace(run_dir=tmp_path / "run", profile="ci")
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "environ", {})
    assert [_headless_kernel_env(settings, record, n)["OPENBLAS_NUM_THREADS"] for n in (1, 2, 8, 20)] == [
        "8",
        "4",
        "1",
        "1",
    ]
    monkeypatch.setattr(
        os, "environ", mine := {"OPENBLAS_NUM_THREADS": "3", "MALLOC_ARENA_MAX": "9", "_RJEM_MALLOC_CONF": "narenas:4"}
    )
    assert _headless_kernel_env(settings, record, 2).items() >= mine.items()


def test_every_variable_that_is_read_is_known():
    from workbench.config import VARIABLES

    read = set()
    for path in (ROOT / "workbench").rglob("*.py"):
        read |= set(re.findall(r"\bWORKBENCH_[A-Z_]*[A-Z]\b", path.read_text(encoding="utf-8")))
    assert read <= {*VARIABLES}


@pytest.mark.parametrize("words", [("run", "retrieval"), ("check",), ("accept", "retrieval", "--reason", "x")])
def test_outside_of_a_project_is_said_with_what_to_do(tmp_path, words):
    done = workbench(tmp_path, *words)
    assert done.returncode == 3
    assert f"you are not in a project: {tmp_path} has no evalsets/ and no notebooks/; change into the" in done.stderr


def test_a_name_of_an_evalset_outside_of_a_project_is_said_to_be_that(tmp_path):
    done = workbench(tmp_path, "evalset", "check", "docs_qa")
    assert "you are not in a project" in done.stdout + done.stderr


def test_what_gates_toml_sets_is_told_to_be_there():
    for refuse in (
        lambda: prepare_parameters(ROOT / "notebooks" / "01_retrieval.ipynb", {"margin": "0.1"}),
        lambda: build_parameters(RetrievalParameters, {"margin": 0.1}),
    ):
        with pytest.raises(ConfigError, match=r"'margin' is no parameter: it is in gates.toml"):
            refuse()
    with pytest.raises(ConfigError, match="unknown parameter 'deth'; did you mean 'depth'"):
        build_parameters(RetrievalParameters, {"deth": 1})


def test_a_folder_that_cannot_be_written_names_its_variable(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot be written: .*WORKBENCH_CACHE"):
        require_writable(tmp_path / "file" / "cache", "WORKBENCH_CACHE")
    require_writable(tmp_path / "new" / "cache", "WORKBENCH_CACHE")
    assert (tmp_path / "new" / "cache").is_dir()


def test_a_database_that_is_there_is_opened(tmp_path):
    engine = open_engine(f"sqlite:///{tmp_path}/deep/state.sqlite")
    engine.dispose()
    assert (tmp_path / "deep" / "state.sqlite").is_file()


def test_a_summary_in_a_terminal_is_text_and_in_a_pipe_is_markdown(tmp_path):
    folder = samples.write_run(settings_in(tmp_path).runs / "run")
    piped = workbench(tmp_path, "summary", str(folder)).stdout
    own = {k: v for k, v in os.environ.items() if not k.startswith("WORKBENCH_")} | {"PYTHONPATH": str(ROOT)}
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "workbench.cli", "summary", str(folder)]
    with subprocess.Popen(command, cwd=tmp_path, env=own, stdout=theirs, stderr=theirs) as child:
        os.close(theirs)
        shown = b""
        while part := _read(ours):
            shown += part
    assert child.returncode == 0
    assert "&#" in piped
    assert "&#" not in shown.decode()
    assert not re.search("</?(details|summary)>", shown.decode())


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65_536)
    except OSError:  # Linux says so where the other end is closed
        return b""


def test_jupyterlab_starts_as_root_and_does_not_ask_for_news():
    lab = (ROOT / "Makefile").read_text(encoding="utf-8").partition("lab: install")[2].partition("clean:")[0]
    assert "$(if $(filter 0,$(shell id -u)),--allow-root)" in lab
    assert "labextension disable --level=sys_prefix @jupyterlab/apputils-extension:announcements" in lab
    assert "--preferred-dir=notebooks" in lab, (
        "links of notebooks lead out of their folder, and not out of the server's"
    )
