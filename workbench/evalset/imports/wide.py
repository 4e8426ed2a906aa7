"""Wide outcomes, one row a prompt and one column a model, as one row a prompt and model."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from workbench.errors import ConfigError, EvalsetError, unknown_name
from workbench.evalset.cells import Unusable, share
from workbench.evalset.files import Row, TableFile
from workbench.rendering.numbers import counted

RULE = (
    "models are the columns that --models names; else those with a cost beside them (MODEL|total_cost, MODEL_cost, "
    "MODEL_cost_usd) or in --cost; else those that mostly hold true, false or numbers in [0, 1]"
)
_JOINTS = "|_.:/ -"
_PARTS: Mapping[str, Sequence[str]] = {
    "quality": ("quality", "score", "correct", "performance"),
    "cost_usd": ("total_cost", "cost_usd", "cost"),
    "latency_ms": ("latency_ms", "latencyms"),
    "latency_s": ("latency_s", "latency_seconds"),
    "tokens_in": ("tokens_in", "input_tokens", "prompt_tokens"),
    "tokens_out": ("tokens_out", "output_tokens", "completion_tokens"),
    "confidence": ("confidence",),
}
_PRICED = "they have a cost beside them"
_OF_CALLS = {*_PARTS, "model", "config"}
_MOSTLY = 0.5
_VERDICTS = frozenset(("pass", "fail", "passed", "failed", "correct", "incorrect", "c", "i", "yes", "no", "error"))


def unfold(
    table: TableFile,
    columns: Mapping[str, str],
    *,
    models: Sequence[str],
    filters: Collection[str],
    costs: Collection[str],
    notes: list[str],
) -> tuple[list[Row], list[str]]:
    """Calls of a wide table, each with the line of its row, and the columns that nothing here needs.

    Parameters
    ----------
    columns : mapping
        Our names -> those of the table, for the columns that are no model's.
    models, filters, costs : collections of str
        Columns that the user says are models; those that rows were left out by; models whose cost is declared.
    notes : list of str
        Gets a sentence on which columns were taken for models, and why.

    Raises
    ------
    EvalsetError
        If no column is a model's.
    ConfigError
        If a column that is named is not there.
    """
    shared = {ours: theirs for ours, theirs in columns.items() if ours not in _OF_CALLS}
    others = [c for c in table.columns if c not in shared.values() and c not in filters]
    found, why = _models(table, others, models, costs)
    named = models or why == _PRICED or any(name in others for name in costs)
    if not found or ("quality" in columns and not named):  # a log of calls whose column of models has another name
        raise EvalsetError(_no_model(table, columns))
    parts = {model: dict(_columns_of_model(model, others)) for model in found}
    calls: list[Row] = []
    for line, row in table.rows:
        prompt = {ours: row.get(theirs) for ours, theirs in shared.items()}
        for model in found:
            mine = {ours: row.get(theirs) for ours, theirs in parts[model].items()}
            calls.append((line, {**prompt, **mine, "model": model, "columns": parts[model]}))
    used = {theirs for mine in parts.values() for theirs in mine.values()} | set(shared.values()) | set(filters)
    rest = [column for column in table.columns if column not in used]
    notes.append(f"one row a prompt was unfolded into {counted(len(found), 'model')}, {', '.join(found)} ({why})")
    return calls, rest


def _models(
    table: TableFile, others: Sequence[str], models: Sequence[str], costs: Collection[str]
) -> tuple[list[str], str]:
    """Models in the order of their columns, and by which part of the rule they were found."""
    qualities = dict.fromkeys(model for column in others for model in _owners(column, "quality"))
    if models:
        for model in models:
            if model not in others and model not in qualities:
                raise ConfigError(f"--models: {unknown_name('column', model, [*others, *qualities])}")
        return list(dict.fromkeys(models)), "named by --models"
    beside = dict.fromkeys(model for column in others for model in _owners(column, "cost_usd"))
    priced = [model for model in beside if model in others or model in qualities]
    if priced:
        more = [model for model in costs if model in others and model not in priced]
        return [*priced, *more], _PRICED
    parts = {column for model in others for ours, column in _columns_of_model(model, others) if column != model}
    alike = [c for c in others if c in costs or (c not in parts and _holds_quality(table, c))]
    split = [model for model in qualities if any(column in parts for _, column in _columns_of_model(model, others))]
    named = [model for model in qualities if model in costs]
    return list(dict.fromkeys([*alike, *(named or split)])), "they hold true, false or numbers in [0, 1]"


def _owners(column: str, part: str) -> Iterator[str]:
    """Models that a column such as ``gpt-5.5_cost`` may be a part of."""
    for suffix in _PARTS[part]:
        for joint in _JOINTS:
            if column.lower().endswith(joint + suffix) and len(column) > len(suffix) + 1:
                yield column[: -len(suffix) - 1]


def _columns_of_model(model: str, columns: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Columns of one model by our names; its quality stands in its own column, or in ``MODEL_quality``."""
    by_name = {column.lower(): column for column in columns}
    for ours, suffixes in _PARTS.items():
        asked = (f"{model}{joint}{suffix}".lower() for suffix in suffixes for joint in _JOINTS)
        column = next((by_name[name] for name in asked if name in by_name), None)
        if ours == "quality" and model in columns:
            column = model
        if column is not None:
            yield ours, column


def _holds_quality(table: TableFile, column: str) -> bool:
    """Whether a column mostly holds right and wrong: one empty cell, one "error" or one 1.2 does not hide a model."""
    cells = [row[column] for _, row in table.rows if row.get(column) is not None]
    return bool(cells) and sum(map(_is_quality, cells)) >= _MOSTLY * len(cells)


def _is_quality(cell: Any) -> bool:
    if isinstance(cell, str) and cell.strip().lower() in _VERDICTS:
        return True
    try:
        return share("", cell) is not None
    except Unusable:
        return isinstance(cell, str) and cell.strip().endswith("%")


def _no_model(table: TableFile, columns: Mapping[str, str]) -> str:
    inner = [f"{c}.{key}" for c in table.columns for key in _fields(table, c)]
    told = f"{table.path} has no column `model`, and none that holds right and wrong; it has {', '.join(table.columns)}"
    if "quality" in columns:
        told = (
            f"{table.path} has a column {columns['quality']!r} for the quality of a call and no column `model`; it has "
            f"{', '.join(table.columns)}"
        )
    fields = f" (inside: {', '.join(inner[:10])})" if inner else ""
    return f"{told}{fields}. Rename yours: --rename YOURS=model"


def _fields(table: TableFile, column: str) -> list[str]:
    """Fields of the objects that a column holds."""
    cell = next((row[column] for _, row in table.rows if row.get(column) is not None), None)
    return list(cell) if isinstance(cell, dict) else []
