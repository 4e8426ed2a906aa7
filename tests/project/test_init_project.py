"""A project of one's own: what `init` writes is whole, works, and overwrites nothing."""

import json
import re
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from workbench.config import load_settings
from workbench.errors import ConfigError
from workbench.evalset.check import check_evalset
from workbench.evalset.folder import read_evalset_folder
from workbench.evalset.gates import NOTEBOOKS, GatePolicy, default_gate_policy, scan_gates
from workbench.extras import VERSION
from workbench.project.init_project import CI, FILES, SAMPLE, init_project, tell_project_written
from workbench.records import file_hash
from workbench.runner.headless import find_notebook
from workbench.runner.parameters import prepare_parameters

ROOT = Path(__file__).parents[2]


def test_notebooks_of_a_project_begin_on_the_sample_and_are_else_those_of_the_repository(tmp_path: Path) -> None:
    init_project(tmp_path)
    settings = load_settings({"WORKBENCH_ROOT": str(tmp_path)})
    for name in NOTEBOOKS:
        ours = find_notebook(load_settings({"WORKBENCH_ROOT": str(ROOT)}), name)
        theirs = find_notebook(settings, name)
        asked = prepare_parameters(ours, {})
        on_sample = "evalset" in asked  # costs are those of the ledger
        assert prepare_parameters(theirs, {}) == asked | ({"evalset": SAMPLE} if on_sample else {})
        lines = [path.read_text(encoding="utf-8").splitlines() for path in (ours, theirs)]
        assert sum(a != b for a, b in zip(*lines, strict=True)) == on_sample


def test_sample_is_sound_and_large_enough_for_a_verdict(tmp_path: Path) -> None:
    init_project(tmp_path)
    settings = load_settings({"WORKBENCH_ROOT": str(tmp_path)})
    assert check_evalset(SAMPLE, settings) == []
    contents = read_evalset_folder(settings.evalsets / SAMPLE, settings)
    families = {s: {r.query_id for r in rows if r.grade > 0} for s, rows in contents.judgements.items()}
    assert len(contents.documents) == 20
    assert {s: len(found) for s, found in families.items()} == {"dev": 13, "test": 47}  # 10 and 30 are needed


def test_nothing_is_overwritten_and_what_was_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / ".gitignore").write_text("runs/\n", encoding="utf-8")
    (tmp_path / ".gitattributes").write_text("* text=auto\nevalsets/**  -text\n", encoding="utf-8")
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "01_retrieval.ipynb").write_text("mine", encoding="utf-8")
    done = init_project(tmp_path)
    assert {path.name for path in done.kept} == {".gitignore", ".gitattributes", "01_retrieval.ipynb"}
    assert (tmp_path / "notebooks" / "01_retrieval.ipynb").read_text(encoding="utf-8") == "mine"
    lines: list[str] = []
    tell_project_written(done, lines.append)
    assert f"left as it is, because it was there: {tmp_path / '.gitignore'}" in lines
    assert "add to .gitignore: data/.cache/  .ipynb_checkpoints/" in lines
    assert "add to .gitattributes: models.toml -text  prices.toml -text" in lines
    assert (tmp_path / ".gitattributes").read_text(encoding="utf-8") == "* text=auto\nevalsets/**  -text\n"
    again = init_project(tmp_path)
    assert again.new == ()
    assert again.kept == done.kept


@pytest.mark.parametrize("own", [None, "* text=auto\nevalsets/** -text\n", "* -text\n"])
def test_a_checkout_that_would_change_line_ends_leaves_what_decisions_rest_on(tmp_path: Path, own: str | None) -> None:
    root, there = tmp_path / "project", tmp_path / "there"
    root.mkdir()
    if own is not None:
        (root / ".gitattributes").write_text(own, encoding="utf-8")
    done = init_project(root)
    assert (".gitattributes" in done.missing) == (own == "* text=auto\nevalsets/** -text\n")
    decisions = root / "evalsets" / SAMPLE / "decisions"
    decisions.mkdir()
    (decisions / "retrieval.json").write_bytes(b'{"verdict": "chosen",\n "by": "hand"}\r\n')
    (decisions / "retrieval.scores.parquet").write_bytes(b"PAR1\r\n\n\x00PAR1")
    git = ["git", "-c", "core.autocrlf=true", "-c", "core.safecrlf=false", "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "begun"], ["clone", "-q", ".", str(there)]):
        subprocess.run([*git, *command], cwd=root, check=True, capture_output=True)
    assert (b"\r\n" in (there / "notebooks" / "01_retrieval.ipynb").read_bytes()) == (own != "* -text\n")
    files = [path for path in (root / "evalsets").rglob("*") if path.is_file()]
    assert {p.name: file_hash(there / p.relative_to(root)) for p in files} == {p.name: file_hash(p) for p in files}


def test_a_folder_where_a_file_is_to_be_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "notebooks").write_text("a file", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"notebooks.01_retrieval\.ipynb cannot be written"):
        init_project(tmp_path)
    with pytest.raises(ConfigError, match="github, gitlab, none"):
        init_project(tmp_path, ci="githob")


def test_gates_show_every_setting_with_its_default(tmp_path: Path) -> None:
    text = (FILES / "gates.toml").read_text(encoding="utf-8")
    policies, defects = scan_gates(FILES / "gates.toml")
    assert not defects
    assert {name: policies[name] == default_gate_policy(name) for name in policies} == dict.fromkeys(policies, True)
    full = re.sub(r"(?m)^# (?=\w+ = )", "", text)
    assert set(tomllib.loads(full)["retrieval"]) == {f.name for f in fields(GatePolicy)} - {
        "alpha",
        "must_differ_limit",
    }
    for line in re.findall(r"(?m)^# (\w+ = .*)$", text):
        ((name, value),) = tomllib.loads(line).items()
        default = getattr(default_gate_policy("retrieval"), name)
        assumed = name == "requests_per_month"
        assert default == value or (default is None and ("; off" in line or assumed)), line


@pytest.mark.parametrize("ci", ["github", "gitlab"])
def test_ci_installs_this_version_and_checks(tmp_path: Path, ci: str) -> None:
    init_project(tmp_path, ci=ci)
    text = (tmp_path / CI[ci][1]).read_text(encoding="utf-8")
    assert yaml.safe_load(text)
    assert f'pip install "evals-workbench[notebooks]=={VERSION}"' in text
    assert "workbench check --json check.json --markdown check.md --junit check.xml" in text
    assert not re.search(r"DISTRIBUTION|=VERSION", text)
    assert not (tmp_path / ".github").exists() or ci == "github"


@pytest.mark.parametrize(
    ("verify", "check", "code"),
    [(0, 0, 0), (1, 0, 1), (0, 2, 2), (1, 2, 1), (1, 3, 3)],
    ids=["both", "verify", "check", "open", "none"],
)
@pytest.mark.parametrize("ci", ["github", "gitlab"])
def test_ci_verifies_and_checks_whatever_the_other_says(
    tmp_path: Path, ci: str, verify: int, check: int, code: int
) -> None:
    """A stand-in for the command line ends as it is told to."""
    init_project(tmp_path, ci=ci)
    said = yaml.safe_load((tmp_path / CI[ci][1]).read_text(encoding="utf-8"))
    if ci == "github":
        steps = said["jobs"]["decisions"]["steps"]
        scripts = [step["run"] for step in steps if step.get("name") == "Accepted decisions"]
        assert steps[0]["with"] == {"fetch-depth": 0}  # without a history nothing says when the gates were fixed
    else:
        scripts = [line for line in said["workbench"]["script"] if "verify" in line]
        assert said["workbench"]["variables"] == {"GIT_DEPTH": 0}
    stand_in = f"#!/bin/sh\necho $1 >> asked\n[ $1 = verify ] && exit {verify}\nexit {check}\n"
    (tmp_path / "workbench").write_text(stand_in, encoding="utf-8")
    (tmp_path / "workbench").chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    run = ["bash", "-e", "-c", *scripts]
    assert subprocess.run(run, cwd=tmp_path, env=env, capture_output=True).returncode == 0  # nothing is accepted yet
    (tmp_path / "evalsets" / SAMPLE / "decisions").mkdir()
    (tmp_path / "evalsets" / SAMPLE / "decisions" / "retrieval.json").write_text("{}", encoding="utf-8")
    assert subprocess.run(run, cwd=tmp_path, env=env, capture_output=True).returncode == code
    assert (tmp_path / "asked").read_text(encoding="utf-8").split() == ["verify", "check"]


def test_package_that_is_built_holds_what_init_writes(tmp_path: Path) -> None:
    source = tmp_path / "source"
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("not a git clone")
    for name in (n for n in listed.stdout.split("\0") if n.startswith(("workbench/", "notebooks/")) or n in PACKED):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(tmp_path / "site")]
    done = subprocess.run(build, cwd=source, capture_output=True, text=True)
    if "No module named 'setuptools'" in done.stderr:
        pytest.skip("setuptools is not installed, which a build without a network needs")
    assert done.returncode == 0, done.stderr
    begin = """import pathlib, workbench; print(workbench.__file__)
from workbench.project.init_project import init_project; init_project(pathlib.Path('p'))"""
    env = {"PYTHONPATH": str(tmp_path / "site"), "PATH": "/usr/bin:/bin"}
    made = subprocess.run([sys.executable, "-c", begin], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith(str(tmp_path))
    init_project(tmp_path / "q")
    assert _contents(tmp_path / "p") == _contents(tmp_path / "q")


PACKED = {"LICENSE", "pyproject.toml", "setup.py", "MANIFEST.in", "README.md"}


def _contents(root: Path) -> dict[str, str]:
    return {p.relative_to(root).as_posix(): p.read_text(encoding="utf-8") for p in root.rglob("*") if p.is_file()}


def test_sample_questions_name_documents_that_are_there() -> None:
    sample = FILES / "evalsets" / SAMPLE
    ids = {json.loads(line)["_id"] for line in (sample / "corpus.jsonl").read_text(encoding="utf-8").splitlines()}
    asked = {json.loads(line)["_id"].rpartition("-")[0] for line in (sample / "queries.jsonl").read_text().splitlines()}
    assert asked == ids  # each document is asked for
