"""What a notebook declares, and what is refused before a kernel starts."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.notebooks.zoo import add_notebook, make_settings
from workbench.errors import ConfigError
from workbench.runner import prepare
from workbench.runner.parameters import declared_parameters

DECLARED = '''"""What can be set."""
limit: int = 5  # questions, 0 = all
margin: float = 1
label: str = "#fff"
rerank: bool = False
arms: list[str] = [
    "vector",  # exact
    "hybrid",
]
seed = -7
'''


def notebook(tmp_path: Path, parameters: str | None = DECLARED) -> Path:
    return add_notebook(make_settings(tmp_path), "x", parameters=parameters)


def test_defaults_come_back_in_their_declared_types(tmp_path: Path) -> None:
    assert prepare(notebook(tmp_path), {}) == {
        "limit": 5,
        "margin": 1.0,
        "label": "#fff",
        "rerank": False,
        "arms": ["vector", "hybrid"],
        "seed": -7,
    }


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("limit", "12", 12),
        ("margin", "0.5", 0.5),
        ("margin", 2, 2.0),
        ("margin", "1e-3", 0.001),
        ("label", "12", "12"),
        ("rerank", "true", True),
        ("rerank", "False", False),
        ("arms", "vector, text", ["vector", "text"]),
        ("arms", "", []),
        ("arms", '["vector", "a,b"]', ["vector", "a,b"]),
        ("seed", "-1", -1),
        ("arms", ("vector", "text"), ["vector", "text"]),  # papermill 2.7.0 writes a tuple as text
    ],
)
def test_text_of_a_command_line_becomes_the_declared_type(tmp_path: Path, name: str, given: Any, value: Any) -> None:
    got = prepare(notebook(tmp_path), {name: given})[name]
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("limit", "yes"),
        ("limit", 5.0),
        ("limit", "5.0"),
        ("limit", True),
        ("limit", None),
        ("margin", "0.5x"),
        ("margin", "nan"),
        ("margin", False),
        ("label", 5),
        ("rerank", "1"),
        ("rerank", 1),
        ("arms", [1, 2]),
        ("arms", {"a": 1}),
        ("arms", '["vector"'),
        ("rerank", np.False_),
        ("limit", np.int64(5)),
        ("margin", np.float32(0.5)),
        ("arms", (1, 2)),
    ],
)
def test_value_that_does_not_fit_is_refused_with_name_type_and_value(tmp_path: Path, name: str, given: Any) -> None:
    with pytest.raises(ConfigError, match=rf"'{name}' must be .*; found {re.escape(repr(given))}$"):
        prepare(notebook(tmp_path), {name: given})


def test_typo_is_refused_with_the_near_match(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown parameter 'margn'; did you mean 'margin'"):
        prepare(notebook(tmp_path), {"margn": 0.1})


def test_notebook_without_a_parameters_cell_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="exactly one cell tagged 'parameters', found 0"):
        prepare(notebook(tmp_path, None), {})


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ("limit: int | None = None", r"declared 'int \| None'"),
        ("limit = None", "declared 'NoneType'"),
        ("limit: int = 'five'", "'limit' must be int"),
        ("limit: int = 2 * 3", "must be a literal, found '2 \\* 3'"),
        ("limit: int", "may only hold"),
        ("import os", "may only hold"),
        ("limit = = 3", "is not Python"),
    ],
)
def test_parameters_cell_that_cannot_be_checked_is_refused(tmp_path: Path, cell: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        prepare(notebook(tmp_path, cell), {})


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"cells": [1]}'])
def test_file_that_is_no_notebook_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "01_x.ipynb"
    path.write_text(content)
    with pytest.raises(ConfigError, match="cannot be read as a notebook"):
        prepare(path, {})


@pytest.mark.parametrize(
    "source", sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem
)
def test_papermill_reads_every_parameter_of_our_notebooks_too_and_complains_of_none(source: Path) -> None:
    papermill = pytest.importorskip("papermill")
    assert set(papermill.inspect_notebook(str(source))) == set(declared_parameters(source))
