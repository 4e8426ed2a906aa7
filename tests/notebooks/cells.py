"""The cells of a notebook, run in this process on an experiment that is there already; what they show is drawn."""

import ast
from pathlib import Path
from typing import Any

import nbformat

FOLDER = Path(__file__).parents[2] / "notebooks"


def run_cells(notebook: str, run: Any) -> list[str]:
    """Run every code cell behind the one that starts the experiment; the text of all that they show, in order."""
    shown: list[str] = []
    names: dict[str, Any] = {"run": run, "display": lambda *values: shown.extend(map(draw, values))}
    cells = [c.source for c in nbformat.read(FOLDER / notebook, as_version=4).cells if c.cell_type == "code"]
    begun = next(i for i, source in enumerate(cells) if "workbench.start(" in source)
    for source in cells[begun + 1 :]:
        *body, last = ast.parse(source).body
        value = isinstance(last, ast.Expr)
        exec(compile(ast.Module([*body, *([] if value else [last])], []), notebook, "exec"), names)
        if (
            isinstance(last, ast.Expr)
            and (found := eval(compile(ast.Expression(last.value), notebook, "eval"), names)) is not None
        ):
            shown.append(draw(found))
    return shown


def draw(value: Any) -> str:
    """Text of a value, drawn as HTML too where it can be."""
    if draw_html := getattr(value, "_repr_html_", None):
        assert draw_html()
    return repr(value)
