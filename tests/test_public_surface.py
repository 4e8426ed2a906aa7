"""What users may rely on, what it costs to import it, and the size of its parts."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import workbench

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "workbench").rglob("*.py"))
MAX_LINES, MAX_FUNCTION_LINES = 500, 60
LAZY = (
    "IPython", "datasets", "jinja2", "jupyterlab", "lancedb", "litellm", "matplotlib", "nbconvert", "nbformat",
    "numpy", "onnxruntime", "openai", "opentelemetry", "pandas", "papermill", "polars", "pyarrow", "ragas",
    "rich", "scipy", "sklearn", "sqlalchemy", "tokenizers", "typer", "yaml",
)  # fmt: skip


def test_public_names_are_these() -> None:
    assert dir(workbench) == sorted(workbench.__all__)
    assert dir(workbench) == [
        "Budget", "CacheUse", "Client", "Decision", "Document", "Hit", "Query", "SemanticCache", "attributed",
        "load_evalset", "load_routed", "load_semantic", "load_settings", "load_trace", "start",
    ]  # fmt: skip
    for name in workbench.__all__:
        assert getattr(workbench, name).__doc__, f"{name} says nothing about itself"


def test_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = workbench.nothing


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
