"""Parameters of a notebook: what its ``parameters`` cell declares, and whether given values fit.

papermill only logs a warning for an unknown name and takes any value: a typo runs green with the default. Its
`inspect_notebook` (2.7.0) refuses nothing either: it reads the cell line by line with a pattern, leaves out what that
does not match (``int | None``, a default with ``=`` in it) and ends a default at ``#``, also within quotes. So the cell
is read as Python syntax here; it is never executed.
"""

import ast
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.errors import ConfigError
from workbench.evalset.gates import unknown_parameter


@dataclass(frozen=True, slots=True)
class Parameter:
    """One declared parameter; ``type`` is ``int``, ``float``, ``str``, ``bool`` or ``list[str]``."""

    name: str
    type: str
    default: Any


def prepare_parameters(notebook_path: Path, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return every parameter of the notebook with the value that a run will use.

    Parameters
    ----------
    notebook_path : Path
        A notebook with one cell tagged ``parameters`` that holds only assignments of literals.
    parameters : Mapping[str, Any]
        Values to use in place of the defaults; text (as it comes from a command line) is converted to the
        declared type, a list of strings is given as ``a,b`` or as JSON.

    Raises
    ------
    ConfigError
        If the file is no notebook, has no such cell, a name is not declared or a value does not fit its type.
    """
    declared = declared_parameters(notebook_path)
    for name in parameters:
        if name not in declared:
            raise ConfigError(f"{notebook_path.name}: {unknown_parameter(name, list(declared))}")
    return {
        name: _typed_parameter(parameters.get(name, p.default), p, notebook_path.name) for name, p in declared.items()
    }


def declared_parameters(notebook_path: Path) -> dict[str, Parameter]:
    """Read the ``parameters`` cell.

    Raises
    ------
    ConfigError
        If there is not exactly one such cell, or it holds anything but plain assignments.
    """
    cells = _parameter_cells(notebook_path, "parameters")
    if len(cells) != 1:
        raise ConfigError(
            f"{notebook_path.name} needs exactly one cell tagged 'parameters', found {len(cells)}; "
            "tag the cell that assigns the defaults"
        )
    try:
        statements = ast.parse(cells[0]).body
    except SyntaxError as error:
        raise ConfigError(f"{notebook_path.name}: the parameters cell is not Python: {error}") from error
    found = [_parameter_declaration(s, notebook_path.name) for s in statements if not _parameter_is_text(s)]
    return {p.name: p for p in found}


def _parameter_cells(notebook_path: Path, tag: str) -> list[str]:
    try:
        notebook = json.loads(notebook_path.read_text(encoding="utf-8"))
        cells = [c for c in notebook["cells"] if tag in c["metadata"].get("tags", [])]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{notebook_path} cannot be read as a notebook: {error!r}") from error
    return ["".join(c["source"]) for c in cells]


def _parameter_is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _parameter_declaration(statement: ast.stmt, notebook: str) -> Parameter:
    annotation: ast.expr | None
    match statement:
        case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation, value=ast.expr() as value):
            pass
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            annotation = None
        case _:
            raise ConfigError(
                f"{notebook}: the parameters cell may only hold 'name: type = value', found {ast.unparse(statement)!r}"
            )
    try:
        default = ast.literal_eval(value)
    except ValueError as error:
        found = ast.unparse(value)
        raise ConfigError(f"{notebook}: default of {name!r} must be a literal, found {found!r}") from error
    kind = ast.unparse(annotation) if annotation else _parameter_type(default)
    if kind not in _CONVERTERS:
        known = ", ".join(_CONVERTERS)
        raise ConfigError(f"{notebook}: parameter {name!r} is declared {kind!r}; use one of {known}")
    parameter = Parameter(name, kind, default)
    _typed_parameter(default, parameter, notebook)
    return parameter


def _parameter_type(default: Any) -> str:
    return "list[str]" if isinstance(default, list) else type(default).__name__


def _typed_parameter(value: Any, parameter: Parameter, notebook: str) -> Any:
    try:
        return _CONVERTERS[parameter.type](value)
    except ValueError:
        raise ConfigError(
            f"{notebook}: parameter {parameter.name!r} must be {parameter.type}, "
            f"like its default {parameter.default!r}; found {value!r}"
        ) from None


def _parameter_as_int(value: Any) -> int:
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return int(value)
    raise ValueError(value)


def _parameter_as_float(value: Any) -> float:
    if isinstance(value, str | int | float) and not isinstance(value, bool) and math.isfinite(float(value)):
        return float(value)
    raise ValueError(value)


def _parameter_as_bool(value: Any) -> bool:
    text = value.lower() if isinstance(value, str) else value
    if text in ("true", "false"):
        return bool(text == "true")
    if isinstance(value, bool):
        return value
    raise ValueError(value)


def _parameter_as_str(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise ValueError(value)


def _parameter_as_strings(value: Any) -> list[str]:
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = json.loads(value)
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    if isinstance(value, list | tuple):
        return [_parameter_as_str(part) for part in value]
    raise ValueError(value)


_CONVERTERS: dict[str, Callable[[Any], Any]] = {
    "int": _parameter_as_int,
    "float": _parameter_as_float,
    "str": _parameter_as_str,
    "bool": _parameter_as_bool,
    "list[str]": _parameter_as_strings,
}
