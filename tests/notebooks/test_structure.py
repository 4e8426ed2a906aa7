"""Every notebook follows the rules, and every rule finds the notebook that breaks it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output

from tests.notebooks.structure import structure_problems
from tests.notebooks.zoo import PARAMETERS, add_notebook, make_settings, notebook_of
from workbench.config import PROFILES, load_profile, load_settings
from workbench.errors import ConfigError
from workbench.runner import prepare_parameters

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_follows_the_rules(path: Path) -> None:
    assert structure_problems(path) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_that_decides_shows_until_when_its_decision_stands(path: Path) -> None:
    code = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    decides, shown = (any(call in source for source in code) for call in ("run.decide(", "run.until(decision)"))
    assert shown == decides
    assert decides == (path.stem != "06_costs")


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_profile_fits_its_notebook(path: Path, profile: str) -> None:
    prepare_parameters(path, load_profile(load_settings({}, ROOT), path.stem[3:], profile))


def test_only_the_profile_ci_needs_no_file_and_is_then_the_notebook_s_own_defaults(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    path = add_notebook(settings, "x")
    assert prepare_parameters(path, load_profile(settings, "x", "ci")) == prepare_parameters(path, {})
    with pytest.raises(ConfigError, match=r"x\.full\.yaml; it does not exist. Write it, or take 'ci'"):
        load_profile(settings, "x", "full")
    written = settings.notebooks / "profiles" / "x.ci.yaml"
    written.write_text("limit: 3\n", encoding="utf-8")
    assert prepare_parameters(path, load_profile(settings, "x", "ci"))["limit"] == 3


def test_a_committed_profile_sets_something() -> None:
    for path in (ROOT / "notebooks" / "profiles").iterdir():
        assert load_profile(load_settings({}, ROOT), *path.name.split(".")[:2]), f"{path.name} holds only a comment"


def test_sound_notebook_has_no_problem(tmp_path: Path) -> None:
    assert problems(tmp_path, lambda notebook: None) == []


def _append(source: str) -> Callable[[Any], None]:
    return lambda notebook: notebook.cells.insert(3, new_code_cell(source))


def _set_source(number: int, source: str) -> Callable[[Any], None]:
    return lambda notebook: notebook.cells[number].update(source=source)


def _set_tags(number: int, *tags: str) -> Callable[[Any], None]:
    return lambda notebook: notebook.cells[number].metadata.update(tags=list(tags))


DEFECTS: dict[str, tuple[Callable[[Any], None], str]] = {
    "cells": (
        lambda n: n.cells.__setitem__(slice(3, 3), [new_markdown_cell("x") for _ in range(21)]),
        "26 cells",
    ),
    "lines": (_append("\n".join(["x = 1"] * 16)), "16 lines"),
    "def": (_append("def f(): pass"), "'def' in a cell"),
    "nested def": (_append("for x in 'ab':\n    async def f(): pass"), "'def' in a cell"),
    "class": (_append("class A: pass"), "'class' in a cell"),
    "try": (_append("try:\n    x = 1\nfinally:\n    pass"), "'try' in a cell"),
    "shell": (_append("!pip install x"), "magic '!pip install x'"),
    "magic": (_append("%matplotlib inline"), "magic '%matplotlib inline'"),
    "path": (_append("open('/home/me/data')"), "absolute path '/home/me/data'"),
    "home": (_append("open('~/data')"), "absolute path '~/data'"),
    "drive": (_append(r"open('C:\\data')"), "absolute path"),
    "syntax": (_append("x ="), "no Python"),
    "output": (lambda n: n.cells[2].outputs.append(new_output("stream", text="x")), "strip them"),
    "count": (lambda n: n.cells[2].update(execution_count=3), "strip them"),
    "no parameters": (_set_tags(1), "0 cells tagged 'parameters'"),
    "two parameters": (_set_tags(2, "parameters"), "2 cells tagged 'parameters'"),
    "bad parameters": (_set_source(1, "limit: int | None = None"), "declared 'int | None'"),
    "tag": (_set_tags(2, "setup", "important"), "tags ['important']"),
    "no title": (lambda n: n.cells.pop(0), "the only H1"),
    "two titles": (lambda n: n.cells.insert(3, new_markdown_cell("# Again")), "the only H1"),
    "no results": (_set_tags(3), "0 cells tagged 'results'"),
    "no gate": (_set_tags(4), "0 cells tagged 'gate'"),
    "gate not last": (lambda n: n.cells.append(new_markdown_cell("bye")), "must be the gate"),
    "kernel": (lambda n: n.metadata.kernelspec.update(name="mine"), "must be python3"),
    "version": (lambda n: n.metadata.language_info.update(version="3.11.7"), "language_info.version"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_lint_finds_the_defect(tmp_path: Path, defect: str) -> None:
    spoil, says = DEFECTS[defect]
    found = problems(tmp_path, spoil)
    assert any(says in problem for problem in found), found


def problems(tmp_path: Path, spoil: Callable[[Any], None]) -> list[str]:
    """Problems of a sound notebook that was spoilt in one place."""
    tagged = [(PARAMETERS, "parameters"), ("import workbench", "setup"), ("1 + 1", "results"), ("2", "gate")]
    code = [new_code_cell(source, metadata={"tags": [tag]}) for source, tag in tagged]
    notebook = notebook_of([new_markdown_cell("# Which?\n\nWhy."), *code])
    spoil(notebook)
    path = tmp_path / "01_x.ipynb"
    nbformat.write(notebook, path)
    return structure_problems(path)
