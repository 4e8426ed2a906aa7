"""What users may rely on, what it costs to import it, and the size of its parts."""

import ast
import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

import workbench
from workbench.evalset.gates import NOTEBOOKS
from workbench.evaluation.start import EXPERIMENTS

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "workbench").rglob("*.py"))
MAX_LINES, MAX_FUNCTION_LINES = 500, 60
LAZY = (
    "IPython", "datasets", "dbos", "jinja2", "jupyterlab", "lancedb", "litellm", "matplotlib", "nbconvert", "nbformat",
    "numpy", "onnxruntime", "openai", "opentelemetry", "pandas", "papermill", "polars", "pyarrow", "pydantic", "ragas",
    "rich", "scipy", "sklearn", "sqlalchemy", "tokenizers", "typer", "yaml",
)  # fmt: skip


def test_public_names_are_these() -> None:
    assert dir(workbench) == sorted(workbench.__all__)
    assert dir(workbench) == [
        "Budget", "CacheUse", "Client", "Decision", "Document", "Flows", "Hit", "Query", "ResponseCache",
        "SemanticCache", "attributed", "flow", "load_evalset", "load_routed", "load_semantic", "load_settings",
        "load_trace", "outside", "start",
    ]  # fmt: skip
    for name in workbench.__all__:
        assert getattr(workbench, name).__doc__, f"{name} says nothing about itself"


def test_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = workbench.nothing


def test_the_names_that_start_takes_are_the_notebooks_on_disk_in_their_order() -> None:
    files = [path.stem[3:] for path in sorted((ROOT / "notebooks").glob("[0-9]*_*.ipynb"))]
    assert list(NOTEBOOKS) == list(EXPERIMENTS) == files


def test_a_type_checker_is_told_what_each_name_begins() -> None:
    tree = ast.parse((ROOT / "workbench" / "__init__.py").read_text(encoding="utf-8"))
    starts = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == "start" and n.decorator_list]
    told = {ast.unparse(n.args.args[0].annotation): ast.unparse(n.returns) for n in starts if n.returns}
    assert told == {f"Literal[{name!r}]": where.partition(":")[2] for name, where in EXPERIMENTS.items()}


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_an_editor_is_told_every_parameter_of_each_notebook(notebook: str) -> None:
    tree = ast.parse((ROOT / "workbench" / "__init__.py").read_text(encoding="utf-8"))
    starts = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == "start" and n.decorator_list]
    (told,) = (n.args for n in starts if ast.unparse(n.args.args[0]) == f"notebook: Literal[{notebook!r}]")
    module, _, kind = EXPERIMENTS[notebook].partition(":")
    parameters = getattr(importlib.import_module(module), kind).parameters_class()
    shown = {arg.arg: ast.unparse(arg.annotation).partition("[")[0] for arg in told.kwonlyargs if arg.annotation}
    types = {f.name: type(getattr(parameters, f.name)) for f in fields(parameters)}
    assert shown == {name: "list" if kind is tuple else kind.__name__ for name, kind in types.items()}
    assert told.kwarg is None


@pytest.mark.slow
def test_mypy_knows_each_experiment_and_its_steps(tmp_path: Path) -> None:
    asked = tmp_path / "asked.py"
    lines = [f"{n} = workbench.start({n!r}, seed=1)\nreveal_type({n})\n{n}.nothing()\n" for n in NOTEBOOKS]
    asked.write_text("import workbench\n" + "".join(lines), encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--config-file=", "--ignore-missing-imports", str(asked)]
    env = os.environ | {"MYPYPATH": str(ROOT), "MYPY_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    for module, _, kind in (where.partition(":") for where in EXPERIMENTS.values()):
        assert f'Revealed type is "{module}.{kind}"' in done.stdout, done.stdout + done.stderr
        assert f'"{kind}" has no attribute "nothing"' in done.stdout


def test_import_loads_no_other_library() -> None:
    code = f"import sys, workbench; print(*sorted(set({LAZY!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_file_and_its_functions_are_short_enough_to_read(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= MAX_LINES
    long = {name: n for name, n in function_lines(source) if n > MAX_FUNCTION_LINES}
    assert not long, f"at most {MAX_FUNCTION_LINES} lines a function"


def function_lines(source: str) -> Iterator[tuple[str, int]]:
    """Names of functions and the lines of their code, docstring not counted."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[1] if ast.get_docstring(node) and node.body[1:] else node.body[0]
            yield node.name, (node.end_lineno or 0) - first.lineno + 1
