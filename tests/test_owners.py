"""Each named package has one owner and is really used: with the package taken out, what it is used for is gone.

JupyterLab is what people open the notebooks in (``make lab``): `tests.test_jupyterlab` runs one there.
"""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Who imports the package. A library's values are spelled where they are meant: filters, indices, axes.
OWNERS = {
    "datasets": {"evalset/imports/hub.py"},
    "dbos": {"orchestration/durable.py"},
    "lancedb": {"retrieval/lance.py"},
    "litellm": {"inference/hosted_connections.py", "inference/hosted_models.py", "inference/provider_errors.py"},
    "matplotlib": {"reports/figure.py"},
    "pandas": {"rendering/table.py"},
    "papermill": {"runner/kernels.py"},
    "pydantic": {"codec.py"},
    "ragas": {"evalset/echoes.py"},
}
USES = {
    "datasets": """
from workbench.config import load_settings
from workbench.evalset.imports.hub import load_hub
load_hub("BeIR/scifact", settings=load_settings({"WORKBENCH_ROOT": folder}))""",
    "dbos": """
from dataclasses import replace
from workbench.config import load_settings
from workbench.orchestration.flows import Flows
Flows.open(load_settings({"WORKBENCH_ROOT": folder}, folder))""",
    "lancedb": """
from workbench.retrieval.store import open_table
open_table(folder, "chunks", dimension=8)""",
    "litellm": """
from workbench.config import load_settings
from workbench.inference.embedding import load_embedder
load_embedder("litellm:openai/text-embedding-3-small", load_settings({"WORKBENCH_ROOT": folder})).embed(["a word"])""",
    "matplotlib": """
from tests.reports import samples
from workbench.reports.charts import forest
decision = samples.decision()
forest(decision.claims, decision.rule)""",
    "pandas": """
from workbench.rendering.table import Table
Table.of(["arm"], [["full_text"]]).to_pandas()""",
    "papermill": """
from tests.notebooks.zoo import add_notebook, make_settings
from workbench.config import SystemClock
from workbench.runner import Job, run_headless
settings = make_settings(folder)
add_notebook(settings, "retrieval")
run_headless([Job("retrieval")], settings=settings, clock=SystemClock())""",
    "pydantic": """
from workbench.records import Decision
Decision.from_json("{}")""",
    "polars": """
from workbench.retrieval.metrics import measure""",
    "ragas": """
from tests.evalset.small_evalset import settings_in, write
from workbench.evalset.check import check_evalset
documents = [{"_id": "d1", "text": "Join two frames by a key."}]
queries = [{"_id": f"q{i}", "text": "how do I join two frames"} for i in (1, 2)]
judged = {"dev": ["q1\\td1\\t1"], "test": ["q2\\td1\\t1"]}
check_evalset(write(folder, documents=documents, queries=queries, **judged), settings_in(folder))""",
}


@pytest.mark.parametrize("package", USES)
def test_nothing_stands_in_for_the_package(package: str, tmp_path: Path) -> None:
    take_out = f"import pathlib, sys\nsys.modules[{package!r}] = None\nfolder = pathlib.Path({str(tmp_path)!r})"
    done = subprocess.run(
        [sys.executable, "-c", take_out + USES[package]], cwd=ROOT, capture_output=True, text=True, check=False
    )
    last = "".join(done.stderr.strip().splitlines()[-1:])
    halted = f"import of {package} halted; None in sys.modules"
    assert last.startswith("ModuleNotFoundError: "), done.stderr
    assert last.endswith((halted, f"'{package}' is not a package")), done.stderr


@pytest.mark.parametrize("package", OWNERS)
def test_package_is_imported_by_its_owner_alone(package: str) -> None:
    home = ROOT / "workbench"
    found = {path.relative_to(home).as_posix() for path in home.rglob("*.py") if package in imported(path)}
    assert found == OWNERS[package]


@cache
def imported(path: Path) -> set[str]:
    """Packages that a module imports when it runs; what only a type checker reads is left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing = [n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test)]
    skipped = {id(inner) for block in typing for inner in ast.walk(block)}
    nodes = [n for n in ast.walk(tree) if id(n) not in skipped]
    names = {alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names}
    names |= {n.module for n in nodes if isinstance(n, ast.ImportFrom) and n.module}
    return {name.split(".")[0] for name in names}


def test_running_notebooks_builds_no_grammar_that_nothing_reads_and_loads_no_statistics_that_it_does_not_use() -> None:
    code = """
import sys, workbench.runner.kernels
print("jsonschema" in sys.modules, *sorted({"rfc3987_syntax", "scipy.stats"} & set(sys.modules)))
import rfc3987_syntax"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"]
