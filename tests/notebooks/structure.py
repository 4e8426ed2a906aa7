"""How a notebook of this project is built: every rule that can be checked without running it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat

from workbench.errors import ConfigError
from workbench.runner.parameters import declared_parameters

MAX_CELLS, MAX_LINES = 25, 15
TAGS = {"parameters", "setup", "hide-input", "remove-cell", "results", "gate"}
_FORBIDDEN = {
    ast.FunctionDef: "def",
    ast.AsyncFunctionDef: "def",
    ast.ClassDef: "class",
    ast.Try: "try",
    ast.TryStar: "try",
}
_ABSOLUTE = re.compile(r"(~?/|[A-Za-z]:[\\/])\w")


def structure_problems(path: Path) -> list[str]:
    """Sentences that say what is wrong with the notebook; none when it follows every rule."""
    notebook = nbformat.read(path, as_version=4)
    found = [*_of_whole(notebook), *_of_tags(notebook)]
    for number, cell in enumerate(notebook.cells, start=1):
        problems = _of_code(cell) if cell.cell_type == "code" else ()
        found.extend(f"cell {number}: {problem}" for problem in problems)
    try:
        declared_parameters(path)
    except ConfigError as error:
        found.append(str(error))
    return found


def _of_whole(notebook: Any) -> Iterator[str]:
    if len(notebook.cells) > MAX_CELLS:
        yield f"{len(notebook.cells)} cells, at most {MAX_CELLS}"
    text = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    titles = re.findall(r"^# ", "\n".join(text), re.MULTILINE)
    first = notebook.cells[0]
    if first.cell_type != "markdown" or not first.source.startswith("# ") or len(titles) != 1:
        yield "the first cell must be markdown that begins with the only H1"
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        yield "the kernelspec must be python3"
    if "version" in notebook.metadata.get("language_info", {}):
        yield "language_info.version names one machine's Python"


def _of_tags(notebook: Any) -> Iterator[str]:
    tags = [cell.metadata.get("tags", []) for cell in notebook.cells]
    for tag in ("parameters", "results", "gate"):
        if (n := sum(tag in of_cell for of_cell in tags)) != 1:
            yield f"{n} cells tagged {tag!r}, must be 1"
    if "gate" not in tags[-1]:
        yield "the last cell must be the gate"
    if unknown := {tag for of_cell in tags for tag in of_cell} - TAGS:
        yield f"tags {sorted(unknown)} are not among {sorted(TAGS)}"


def _of_code(cell: Any) -> Iterator[str]:
    if cell.outputs or cell.execution_count is not None:
        yield "outputs or execution count; strip them before committing"
    if (n := len(cell.source.splitlines())) > MAX_LINES:
        yield f"{n} lines, at most {MAX_LINES}; move it into the package"
    if magic := re.search(r"^\s*[%!].*", cell.source, re.MULTILINE):
        yield f"magic {magic.group().strip()!r}"
        return
    try:
        tree = ast.parse(cell.source)
    except SyntaxError as error:
        yield f"no Python: {error}"
        return
    for node in ast.walk(tree):
        if name := _FORBIDDEN.get(type(node)):
            yield f"{name!r} in a cell; move it into the package"
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and _ABSOLUTE.match(node.value):
            yield f"absolute path {node.value!r}"
