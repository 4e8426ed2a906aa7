"""One list of dependencies, and everything that installs agrees with it."""

import ast
import json
import os
import re
import site
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import distributions, packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import workbench
from workbench.errors import MissingExtra
from workbench.extras import DISTRIBUTION, MODULES, VERSION, extras_named

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = {
    extra: [r for r in map(Requirement, texts) if r.name != DISTRIBUTION]
    for extra, texts in PROJECT["optional-dependencies"].items()
}
CORE = [Requirement(text) for text in PROJECT["dependencies"]]
RUNTIME = [*CORE, *(r for extra in ("notebooks", "models", "data") for r in EXTRAS[extra])]
DEV = EXTRAS["dev"]
POSTGRES = EXTRAS["postgres"]
DOCUMENTS = EXTRAS["documents"]
NAMED = {"jupyterlab", "pandas", "polars", "lancedb", "datasets", "litellm", "ragas", "matplotlib", "papermill"}
# Used where users have installed it: the first needs torch, which nothing here may need, the last but one is 240 MB.
OPTIONAL = {"sentence_transformers", "ranx", "ray", "ipywidgets"}
# An address outside documentation is one that somebody must be able to reach; these are names, not addresses.
ADDRESS = re.compile(r"https?://(?!127\.0\.0\.1|localhost|www\.w3\.org|json\.schemastore\.org)[\w.-]+")
INDEX = re.compile(r"--(extra-)?index-url|--find-links|pypi\.org|files\.pythonhosted|/simple\b")
HOME = re.compile(r"(?<![\w.{}-])/(home|root|Users|work|opt|private|mnt)/\w")


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", pin) for pin in pins), "names and versions only"
    return {canonicalize_name(name): version for name, version in (pin.split("==") for pin in pins)}


def names(requirements: list[Requirement]) -> set[str]:
    return {canonicalize_name(r.name) for r in requirements}


def test_named_packages_are_dependencies() -> None:
    assert names(RUNTIME) >= NAMED


def test_every_pin_runs_on_the_oldest_python_that_is_promised() -> None:
    """Debian 12 has Python 3.11.2, and soupsieve 4.1 asks for 3.11.5: the first command of the guide failed there."""
    oldest, pins = f"{PROJECT['requires-python'].removeprefix('>=')}.0", constraints()
    asked = {d.name: d.metadata.get("Requires-Python") for d in distributions() if canonicalize_name(d.name) in pins}
    assert len(asked) > len(pins) / 2
    assert {
        name: versions for name, versions in asked.items() if not SpecifierSet(versions or "").contains(oldest)
    } == {}


@pytest.mark.parametrize("requirement", sorted({*RUNTIME, *POSTGRES, *DOCUMENTS, *DEV}, key=str), ids=str)
def test_dependency_is_pinned_within_its_range(requirement: Requirement) -> None:
    assert requirement.specifier.contains(constraints()[canonicalize_name(requirement.name)])


def test_corpus_of_docs_qa_is_read_from_the_versions_that_are_installed() -> None:
    lock = (ROOT / "evalsets/docs_qa/corpus.toml").read_text(encoding="utf-8")
    libraries = tomllib.loads(lock)["libraries"]
    assert {name: constraints()[name] for name in libraries} == libraries


def test_torch_is_not_needed() -> None:
    assert not {name for name in constraints() if "torch" in name or name.startswith("nvidia")}


def test_conda_takes_its_packages_from_pyproject_at_the_tested_versions() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    *from_conda, pip = environment["dependencies"]
    assert {re.split(r"[=<>]", name)[0] for name in from_conda} == {"python", "pip"}
    assert pip == {"pip": ["--constraint constraints.txt", "--editable .[dev]"]}


def test_name_on_the_index_is_not_that_of_somebody_else() -> None:
    assert PROJECT["name"] == DISTRIBUTION == "evals-workbench"
    assert workbench.__version__ == VERSION


def test_all_is_every_extra_that_runs_something_and_development_has_all() -> None:
    asked = PROJECT["optional-dependencies"]
    assert asked["all"] == [f"{DISTRIBUTION}[notebooks,models,data]"]
    assert asked["dev"][0] == f"{DISTRIBUTION}[all]"


def test_each_module_that_is_missing_in_a_light_install_names_the_extra_that_brings_it() -> None:
    homes = packages_distributions()
    used = set().union(*(imported(path) for path in (ROOT / "workbench").rglob("*.py"))) - OPTIONAL
    light = names(CORE)
    for module in used - set(sys.stdlib_module_names) - {"workbench", "pytest"}:
        found = {canonicalize_name(d) for d in homes.get(module, [])}
        if found & light:
            assert module not in MODULES
        else:
            assert found & names(EXTRAS[MODULES[module]]), module
    assert set(MODULES) - used <= {"ipykernel"}  # a kernel is started as a process


# What a light install is for, each with what it prints; nothing that an extra brings can be imported.
LIGHT = {
    "--version": f"workbench {VERSION}",
    "init . --ci gitlab": "next: workbench run retrieval",
    "evalset check sample": "not looked for: questions in the words of their documents; that needs",
    "import pairs pairs.jsonl --name own": "written: ",
    "runs": "retrieval",
    f"verify {ROOT}/evalsets/routing_demo/decisions/routing.json": "this install: it is a light one",
    f"verify {ROOT}/evalsets/docs_qa/decisions/quality.json": "docs_qa/quality: nothing contradicts it",
    "summary": "### ",
    "budgets": "no call has been charged",
    "run retrieval": "this needs nbformat, which a light install leaves out; pip install 'evals-workbench[notebooks]'",
    "new docs --documents manual.pdf --questions asked.txt": "pip install 'evals-workbench[documents]'",
    "import hub a/b": "this needs datasets, which a light install leaves out; pip install 'evals-workbench[data]'",
}


def test_light_install_does_what_it_is_for_and_names_the_extra_for_the_rest(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    block = f"""import json, sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {sorted(MODULES)}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
import importlib.util
there = importlib.util.find_spec
import workbench.extras
workbench.extras.find_spec = lambda name: None if name in {sorted(MODULES)} else there(name)
from typer.testing import CliRunner
from workbench.cli import app
for command in sys.argv[1:]:
    done = CliRunner().invoke(app, command.split())
    print(json.dumps([command, done.output, repr(done.exception)]))
"""
    (tmp_path / "light.py").write_text(block, encoding="utf-8")
    (tmp_path / "manual.pdf").write_bytes(b"%PDF-1.4")
    (tmp_path / "asked.txt").write_text("what is it?\n", encoding="utf-8")
    (tmp_path / "pairs.jsonl").write_text(
        '{"query_a": "a b", "query_b": "b a", "same_answer": 1}\n{"query_a": "c", "query_b": "d", "same_answer": 0}\n'
    )
    run = tmp_path / "runs" / "20261129T000000-retrieval-abcdefgh"
    run.mkdir(parents=True)
    env = {k: v for k, v in os.environ.items() if not k.startswith("WORKBENCH_")} | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "light.py", *LIGHT], cwd=tmp_path, env=env, capture_output=True, text=True)
    said = {command: rest for command, *rest in map(json.loads, done.stdout.splitlines())}
    assert said.keys() == LIGHT.keys(), done.stderr
    for command, told in LIGHT.items():
        assert told in said[command][0], (command, said[command])


def test_error_of_any_other_module_stays_what_it_is() -> None:
    with pytest.raises(ModuleNotFoundError, match="nothing_of_ours") as caught, extras_named():
        raise ModuleNotFoundError("No module named 'nothing_of_ours'", name="nothing_of_ours")
    assert not isinstance(caught.value, MissingExtra)


@pytest.mark.parametrize(
    ("folder", "allowed"),
    [
        ("workbench", names(RUNTIME + POSTGRES + DOCUMENTS) | {"pytest"}),
        # markitdown[pptx], the exporter of OpenTelemetry and papermill's nbclient bring the last three
        ("tests", names(RUNTIME) | names(DEV) | names(DOCUMENTS) | {"python-pptx", "protobuf", "jupyter-client"}),
    ],
)
def test_every_imported_package_is_listed(folder: str, allowed: set[str]) -> None:
    homes = packages_distributions()
    ours = {"workbench", "tests"} | OPTIONAL | set(sys.stdlib_module_names)
    for path in (ROOT / folder).rglob("*.py"):
        for module in imported(path) - ours:
            found = {canonicalize_name(d) for d in homes.get(module, [])}
            assert found & allowed, f"{path}: {module!r} comes with {found or 'nothing installed'}, list it"


@cache
def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found - {"_typeshed"}


def tracked() -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git clone")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_no_file_names_a_machine_or_a_package_index() -> None:
    for path in tracked():
        if path == Path(__file__) or path.suffix in (".parquet", ".jsonl", ".lock", ".tsv", ".png", ".eval"):
            continue
        text = path.read_text(encoding="utf-8")
        made_up = ROOT / "tests" in path.parents  # tests make up paths
        for pattern in (INDEX,) if made_up else (INDEX, HOME):
            found = pattern.search(text)
            assert not found, f"{path.relative_to(ROOT)}: {found.group() if found else ''!r}"


@pytest.mark.parametrize("name", ["Makefile", ".ci/run", "environment.yml", "constraints.txt", "pyproject.toml"])
def test_set_up_reaches_nothing_but_the_package_index(name: str) -> None:
    assert not ADDRESS.search((ROOT / name).read_text(encoding="utf-8"))


def test_no_unknown_file_runs_code_at_every_start_of_python() -> None:
    """Such a file in a release of litellm sent secrets away (OSV MAL-2026-2144)."""
    known = re.compile(r"distutils-precedence|_virtualenv|__editable__\.(workbench|evals_workbench)-.*|a1_coverage")
    for folder in {Path(path) for path in site.getsitepackages()}:
        for file in folder.glob("*.pth"):
            runs = any(
                line.startswith(("import ", "import\t")) for line in file.read_text(errors="replace").splitlines()
            )
            assert not runs or known.fullmatch(file.stem), (
                f"{file} runs code at every start of Python; who put it there?"
            )
