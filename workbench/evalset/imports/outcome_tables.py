"""A team's own outcomes (CSV, Parquet, JSONL; long or wide) as an evalset that the routing notebook reads."""

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import polars as pl

from workbench.errors import ConfigError, Defect, EvalsetError, unknown_name
from workbench.evalset.cells import (
    Unusable,
    amount_cell,
    id_cell,
    name_cell,
    number_cell,
    share_cell,
    shown_cell,
    whole_cell,
)
from workbench.evalset.files import Names, Row, TableFile, read_table, refuse_file, require_named_column
from workbench.evalset.folder import Tell, folder_import_card, new_evalset_folder, tell_nothing, tell_rows_left_out
from workbench.evalset.outcomes import FILE, STORED_SCHEMA, outcome_columns, outcomes_of
from workbench.rendering.numbers import counted
from workbench.rendering.progress import waiting

RULE = (
    "models are the columns that --models names; else those with a cost beside them (MODEL|total_cost, MODEL_cost, "
    "MODEL_cost_usd), with those of --cost; where no cost stands beside one, those that mostly hold true, false or "
    "numbers in [0, 1]"
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


def unfold_wide_outcomes(
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
    found, why = _wide_models(table, others, models, costs)
    named = models or why == _PRICED or any(name in others for name in costs)
    if not found or ("quality" in columns and not named):  # a log of calls whose column of models has another name
        raise EvalsetError(_no_wide_model(table, columns))
    parts = {model: dict(_wide_columns_of_model(model, others)) for model in found}
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


def _wide_models(
    table: TableFile, others: Sequence[str], models: Sequence[str], costs: Collection[str]
) -> tuple[list[str], str]:
    """Models in the order of their columns, and by which part of the rule they were found."""
    qualities = dict.fromkeys(model for column in others for model in _wide_owners(column, "quality"))
    if models:
        for model in models:
            if model not in others and model not in qualities:
                raise ConfigError(f"--models: {unknown_name('column', model, [*others, *qualities])}")
        return list(dict.fromkeys(models)), "named by --models"
    beside = dict.fromkeys(model for column in others for model in _wide_owners(column, "cost_usd"))
    priced = [model for model in beside if model in others or model in qualities]
    if priced:
        more = [model for model in costs if model in others and model not in priced]
        return [*priced, *more], _PRICED
    parts = {column for model in others for ours, column in _wide_columns_of_model(model, others) if column != model}
    alike = [c for c in others if c in costs or (c not in parts and _wide_column_holds_quality(table, c))]
    split = [
        model for model in qualities if any(column in parts for _, column in _wide_columns_of_model(model, others))
    ]
    named = [model for model in qualities if model in costs]
    return list(dict.fromkeys([*alike, *(named or split)])), "they hold true, false or numbers in [0, 1]"


def _wide_owners(column: str, part: str) -> Iterator[str]:
    """Models that a column such as ``gpt-5.5_cost`` may be a part of."""
    for suffix in _PARTS[part]:
        for joint in _JOINTS:
            if column.lower().endswith(joint + suffix) and len(column) > len(suffix) + 1:
                yield column[: -len(suffix) - 1]


def _wide_columns_of_model(model: str, columns: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Columns of one model by our names; its quality stands in its own column, or in ``MODEL_quality``."""
    by_name = {column.lower(): column for column in columns}
    for ours, suffixes in _PARTS.items():
        asked = (f"{model}{joint}{suffix}".lower() for suffix in suffixes for joint in _JOINTS)
        column = next((by_name[name] for name in asked if name in by_name), None)
        if ours == "quality" and model in columns:
            column = model
        if column is not None:
            yield ours, column


def _wide_column_holds_quality(table: TableFile, column: str) -> bool:
    """Whether a column mostly holds right and wrong: one empty cell, one "error" or one 1.2 does not hide a model."""
    cells = [row[column] for _, row in table.rows if row.get(column) is not None]
    return bool(cells) and sum(map(_is_wide_quality, cells)) >= _MOSTLY * len(cells)


def _is_wide_quality(cell: Any) -> bool:
    if isinstance(cell, str) and cell.strip().lower() in _VERDICTS:
        return True
    try:
        return share_cell("", cell) is not None
    except Unusable:
        return isinstance(cell, str) and cell.strip().endswith("%")


def _no_wide_model(table: TableFile, columns: Mapping[str, str]) -> str:
    inner = [f"{c}.{key}" for c in table.columns for key in _wide_fields(table, c)]
    told = f"{table.path} has no column `model`, and none that holds right and wrong; it has {', '.join(table.columns)}"
    if "quality" in columns:
        told = (
            f"{table.path} has a column {columns['quality']!r} for the quality of a call and no column `model`; it has "
            f"{', '.join(table.columns)}"
        )
    fields = f" (inside: {', '.join(inner[:10])})" if inner else ""
    return f"{told}{fields}. Rename yours: --rename YOURS=model"


def _wide_fields(table: TableFile, column: str) -> list[str]:
    """Fields of the objects that a column holds."""
    cell = next((row[column] for _, row in table.rows if row.get(column) is not None), None)
    return list(cell) if isinstance(cell, dict) else []


Texts = Literal["refuse", "most_common"]
NAMES: Names = {
    "prompt_id": ("prompt_id", "sample_id", "item_id", "_id", "id"),
    "prompt": ("prompt", "question", "query", "text"),
    "model": ("model", "model_id", "model_name"),
    "config": ("config",),
    "repeat": ("repeat", "epoch", "repetition", "trial"),
    "quality": ("quality", "score", "correct", "performance"),
    "cost_usd": ("cost_usd", "cost", "total_cost"),
    "latency_ms": ("latency_ms", "latencyMs", "duration_ms"),
    "latency_s": ("latency_s", "latency_seconds", "duration_s"),
    "tokens_in": ("tokens_in", "input_tokens", "prompt_tokens"),
    "tokens_out": ("tokens_out", "output_tokens", "completion_tokens"),
    "confidence": ("confidence",),
    "cluster": ("cluster",),
    "feature": ("feature", "eval_name", "dataset", "task"),
    "tenant_id": ("tenant_id", "tenant"),
    "split": ("split",),
    "cached": ("cached", "cache_hit", "from_cache", "response.cached"),
}
_PICKLES = (".pkl", ".pickle", ".joblib")
_LM_EVAL = {"doc_id", "resps", "filter"}
_BY_HAND = "Who asked these prompts and when, how right and wrong were told apart, what the costs are"
GATES = """# What each notebook must show. A margin is a product decision: what would a lost point cost you?
[routing]
metric = "correctness"
margin = 0.02
confidence = 0.95
"""


@dataclass(frozen=True, slots=True)
class OutcomeRepairs:
    """Choices about rows that cannot be used as they are; each that was needed is counted in the card.

    Attributes
    ----------
    rename : mapping
        Your column -> ours; ``a.b`` is the field b of the objects in column a.
    models : sequence of str
        Columns of a wide table that are models; without it a printed rule finds them.
    without : mapping
        Column -> value: rows with it are left out (``contaminated`` -> ``true``).
    costs : mapping
        Model -> dollars per 1,000 requests, for models whose calls have no recorded cost.
    drop_incomplete : bool
        Leave out prompts that some model did not answer; they are refused otherwise.
    texts : {"refuse", "most_common"}
        What a prompt_id with two texts means: an error, or the text of most of its rows.
    """

    rename: Mapping[str, str] = field(default_factory=dict)
    models: Sequence[str] = ()
    without: Mapping[str, str] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)
    drop_incomplete: bool = False
    texts: Texts = "refuse"


@waiting("import of outcomes")
def import_outcomes(path: Path, out: Path, *, repairs: OutcomeRepairs | None = None, tell: Tell = tell_nothing) -> Path:
    """Write the evalset folder ``out`` with outcomes.parquet, card.md and gates.toml.

    Parameters
    ----------
    path : Path
        ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet``. Long: one row a prompt and model, with prompt, model, quality,
        cost_usd and whatever else of the contract there is; a prompt that every model was asked several times has
        repeats. Wide: one row a prompt and one column a model that holds its quality (RouteLLM), with
        ``MODEL|total_cost``, ``MODEL_cost`` or the like beside it where costs were recorded (RouterBench).
    out : Path
        Where the folder is to be; it must not exist.
    tell : callable
        Takes a line on what was left out, and by which rule.

    Raises
    ------
    EvalsetError
        If the file is a pickle or cannot be read, or with everything in it that cannot be used; nothing is written.
    ConfigError
        If a column or a model that is named in ``repairs`` is not there.
    """
    repairs, notes = repairs or OutcomeRepairs(), list[str]()
    table = _outcomes_without(_read_outcomes(path, repairs.rename), repairs.without, notes)
    columns = {ours: found for ours, theirs in NAMES.items() if (found := _first_outcome(theirs, table.columns))}
    if "model" in columns:
        if repairs.models:
            raise ConfigError(f"--models names columns of a wide table; {path} has a column {columns['model']!r}")
        require_named_column(table, NAMES, ("prompt", "quality"))
        calls, rest = _long_outcomes(table, columns)
    else:
        calls, rest = unfold_wide_outcomes(
            table, columns, models=repairs.models, filters=repairs.without, costs=repairs.costs, notes=notes
        )
    notes += [
        f"{c}: seconds or milliseconds? --rename {c}={c}_ms, or {c}_s" for c in rest if c.lower().endswith("latency")
    ]
    frame = checked_outcomes(_outcome_frame(path, calls, notes), path, columns, repairs, notes)
    outcomes_of(frame, str(path))
    with new_evalset_folder(out) as folder:
        frame.select(outcome_columns(frame)).write_parquet(folder / FILE)
        (folder / "card.md").write_text(folder_import_card({path: rest}, _BY_HAND, notes), encoding="utf-8")
        (folder / "gates.toml").write_text(GATES, encoding="utf-8")
    tell_rows_left_out({path: rest}, notes, tell)
    return out


def _read_outcomes(path: Path, rename: Mapping[str, str]) -> TableFile:
    if path.suffix.lower() in _PICKLES:
        raise EvalsetError(
            f"{path} is a pickle: reading one runs whatever code it holds. Where you trust it, write it again once: "
            'pandas.read_pickle("...").to_parquet("outcomes.parquet")'
        )
    table = read_table(path, rename)
    if set(table.columns) >= _LM_EVAL:
        raise EvalsetError(
            f"{path} is a file of samples of lm-eval ({', '.join(sorted(_LM_EVAL))}): one model, and no cost. Join "
            "those of your models into one table with the columns prompt_id, prompt, model, quality, cost_usd"
        )
    return table


def _first_outcome(theirs: Sequence[str], columns: Iterable[str]) -> str | None:
    known = set(columns)
    return next((name for name in theirs if name in known), None)


def _outcomes_without(table: TableFile, without: Mapping[str, str], notes: list[str]) -> TableFile:
    for column, value in without.items():
        if column not in table.columns:
            raise ConfigError(f"no column {column!r} to filter by; there are {', '.join(table.columns)}")
        kept = tuple((line, row) for line, row in table.rows if not _outcome_cell_is(row.get(column), value))
        notes.append(f"left out: {counted(len(table.rows) - len(kept), 'row')} with {column} = {value}")
        if not kept:
            raise EvalsetError(f"{table.path}: every row has {column} = {value}, so that none is left")
        table = replace(table, rows=kept)
    return table


def _outcome_cell_is(cell: Any, value: str) -> bool:
    """Whether a cell holds the value that somebody typed: true is True, 1 is 1.0."""
    if str(cell).strip().lower() == value.strip().lower():
        return cell is not None
    try:
        found = number_cell("", cell)
        return found is not None and found == number_cell("", value)
    except Unusable:
        return False


def _long_outcomes(table: TableFile, columns: Mapping[str, str]) -> tuple[list[Row], list[str]]:
    """One row a prompt and model under our names, and the columns that mean nothing here."""
    calls = [(line, {ours: row.get(theirs) for ours, theirs in columns.items()}) for line, row in table.rows]
    return calls, [name for name in table.columns if name not in columns.values()]


def _prompt_of(name: str, value: Any) -> str | None:
    if isinstance(value, dict) and value:
        told = f"has the fields {', '.join(value)}; name one: --rename {name}.{next(iter(value))}={name}"
        raise Unusable(f'"{name}" must be a text, found an object that {told}')
    if value is not None and not isinstance(value, str):
        raise Unusable(f'"{name}" must be a text, found {type(value).__name__}')
    return value if value and value.strip() else None


_READERS: Mapping[str, Callable[[str, Any], Any]] = {
    "prompt_id": id_cell, "prompt": _prompt_of, "model": id_cell, "config": name_cell, "quality": share_cell,
    "cost_usd": amount_cell, "latency_ms": amount_cell, "tokens_in": whole_cell, "tokens_out": whole_cell,
    "confidence": share_cell, "cluster": id_cell, "feature": id_cell, "tenant_id": id_cell, "split": id_cell,
    "repeat": whole_cell, "cached": share_cell,
}  # fmt: skip


def _outcome_frame(path: Path, calls: Sequence[Row], notes: list[str]) -> pl.DataFrame:
    """Calls in the types of the contract, each with its line; prompts without an id are named by their text."""
    rows, defects = list[dict[str, Any]](), dict[Defect, None]()
    named = any(cells.get("prompt_id") is not None for _, cells in calls)
    for line, cells in calls:
        try:
            row = _typed_outcome(cells)
            if empty := [n for n in ("prompt", "model", "prompt_id") if row[n] is None and (named or n != "prompt_id")]:
                raise Unusable(f"{empty[0]} is empty; a call needs its prompt and its model")
        except Unusable as error:
            defects[Defect(str(path), line, str(error))] = None  # once, also of a row that holds every model
        else:
            text = row["prompt"].encode(errors="surrogatepass")
            name = row["prompt_id"] if named else hashlib.sha256(text).hexdigest()[:16]
            rows.append({**row, "prompt_id": name, "line": line})
    refuse_file(path, defects)
    if not named:
        notes.append("prompts had no id and are named by a hash of their text")
    frame = pl.DataFrame(rows, schema={**STORED_SCHEMA, "cached": pl.Float64, "line": pl.Int64})
    return frame.with_columns(pl.col("config").replace("", None))


def _typed_outcome(cells: Mapping[str, Any]) -> dict[str, Any]:
    """One call in the types of the contract; ``columns`` of ``cells`` names the columns of a wide table."""
    names = cells.get("columns", {})
    row = {ours: read(names.get(ours, ours), cells.get(ours)) for ours, read in _READERS.items()}
    seconds = amount_cell("latency_s", cells.get("latency_s"))
    if row["latency_ms"] is None and seconds is not None:
        row["latency_ms"] = seconds * 1000
    return row


def checked_outcomes(
    frame: pl.DataFrame, path: Path, columns: Mapping[str, str], repairs: OutcomeRepairs, notes: list[str]
) -> pl.DataFrame:
    """Rows that are whole: ids that are the prompts', repeats, answers to every prompt, costs.

    ``columns`` are ours by the file's, as far as it has them.
    """
    _refuse_call_ids(frame, path, columns)
    frame = _numbered_outcomes(_uncached_outcomes(frame, notes), path, given="repeat" in columns, notes=notes)
    frame = _common_prompt_texts(frame, notes) if repairs.texts == "most_common" else frame
    if repairs.drop_incomplete:
        frame = _complete_outcomes(frame, notes)
    missing = frame.filter(pl.col("quality").is_null())
    refuse_file(path, [Defect(str(path), row["line"], _unanswered(row)) for row in missing.iter_rows(named=True)])
    return _costed_outcomes(frame, repairs.costs, notes)


def _unanswered(row: Mapping[str, Any]) -> str:
    where = f"prompt {shown_cell(row['prompt'])}, model {row['model']!r}"
    return f"quality is missing: {where}; fill it, or leave such prompts out: --drop-incomplete"


def _refuse_call_ids(frame: pl.DataFrame, path: Path, columns: Mapping[str, str]) -> None:
    models = frame.group_by("prompt_id").agg(pl.col("model").n_unique())["model"]
    texts = frame.group_by("prompt").agg(pl.col("model").n_unique())["model"]
    if "prompt_id" in columns and frame["model"].n_unique() > 1 and models.max() == 1:
        column = columns["prompt_id"]
        told = "the same texts stand under several" if texts.max() != 1 else "no text stands under several either"
        raise EvalsetError(
            f"{path}: the ids in the column {column!r} are all different, so that no prompt is answered by two models "
            f"({told}); an id must be the prompt's, not the call's. Leave it out, then prompts are named by their "
            f"text: --rename {column}=call_id; or name the prompt's own: --rename YOURS=prompt_id"
        )


def _uncached_outcomes(frame: pl.DataFrame, notes: list[str]) -> pl.DataFrame:
    """Leave out answers of a cache to what was asked before: they repeat nothing but its first answer."""
    keys, hit = ["prompt_id", "model", "config"], pl.col("cached").fill_null(0.0) > 0
    first = pl.col("line") == pl.col("line").sort_by(hit, "line").first().over(keys)
    kept = frame.filter(~hit | first)
    if dropped := len(frame) - len(kept):
        notes.append(f"left out, as no repeats: {counted(dropped, 'answer')} of a cache")
    if alone := len(kept.filter(hit)):
        notes.append(
            f"{counted(alone, 'answer is', 'answers are')} known from a cache alone: their cost and latency are "
            "those of a hit"
        )
    return kept


def _numbered_outcomes(frame: pl.DataFrame, path: Path, *, given: bool, notes: list[str]) -> pl.DataFrame:
    """Number the repeats, where every prompt was asked several times; a row that stands twice is refused."""
    keys = ["prompt_id", "model", "config"]
    if given:
        return frame
    counts = frame.group_by(keys).len()["len"]
    if counts.max() == 1:
        return frame
    if counts.min() == 1:
        twice = frame.filter(pl.struct(keys).is_duplicated())
        told = "stands in another row, others once; give a column `repeat` if it was asked again, or remove one"
        refuse_file(path, [
            Defect(str(path), line, f"prompt {shown_cell(prompt)}, model {model!r} {told}")
            for line, prompt, model in twice.select("line", "prompt_id", "model").iter_rows()
        ])  # fmt: skip
    often = " to ".join(dict.fromkeys(str(n) for n in (counts.min(), counts.max())))
    notes.append(
        f"every prompt was asked {often} times of each model: kept as repeats, which are no items of their own"
    )
    return frame.with_columns(repeat=pl.int_range(pl.len()).over(keys))


def _common_prompt_texts(frame: pl.DataFrame, notes: list[str]) -> pl.DataFrame:
    counts = frame.group_by("prompt_id", "prompt").len().sort("len", "prompt", descending=[True, False])
    first = counts.unique("prompt_id", keep="first", maintain_order=True).select("prompt_id", "prompt")
    if several := len(counts) - len(first):
        notes.append(f"{counted(several, 'prompt id')} had a second text; that of most rows was taken")
    return frame.drop("prompt").join(first, on="prompt_id", how="left", maintain_order="left")


def _complete_outcomes(frame: pl.DataFrame, notes: list[str]) -> pl.DataFrame:
    """Prompts that every model answered, in every repeat."""
    models = pl.concat_str("model", pl.col("config").fill_null(""), separator="\x1f")
    answered = frame.group_by("prompt_id").agg(models.n_unique().alias("n"), pl.col("quality").null_count())
    whole_ids = answered.filter((pl.col("n") == frame.select(models.n_unique()).item()) & (pl.col("quality") == 0))
    dropped = len(answered) - len(whole_ids)
    notes.append(f"left out: {counted(dropped, 'prompt')} that some model did not answer")
    if not len(whole_ids):
        raise EvalsetError("no prompt is answered by every model, so that --drop-incomplete leaves none")
    return frame.filter(pl.col("prompt_id").is_in(whole_ids["prompt_id"].implode()))


def _costed_outcomes(frame: pl.DataFrame, costs: Mapping[str, float], notes: list[str]) -> pl.DataFrame:
    """Declared costs where none were recorded; a model that has neither is refused, and a price of no model."""
    named = pl.when(pl.col("config").is_null()).then("model").otherwise(pl.format("{}@{}", "model", "config"))
    names = frame.select(named.alias("name"), "model", "cost_usd")
    known = sorted({*names["name"], *names["model"]})
    if strange := [name for name in costs if name not in known]:
        raise ConfigError(f"--cost: {unknown_name('model', strange[0], known)}")
    price = {n: costs[n] if n in costs else costs.get(m) for n, m, _ in names.iter_rows()}
    missing = sorted(set(names.filter(pl.col("cost_usd").is_null())["name"]))
    if unpriced := [name for name in missing if price[name] is None]:
        without = frame.filter(named.is_in(unpriced) & pl.col("cost_usd").is_null())["line"]
        raise EvalsetError(
            f"no cost is recorded for {', '.join(unpriced[:5])} (of {counted(len(without), 'call')}, first on line "
            f"{without[0]}); declare dollars per 1,000 requests: "
            f"--cost {unpriced[0]}=USD. In a wide table {RULE}; where one of these is none, name them: --models A,B"
        )
    if missing:
        told = ", ".join(f"{name} {price[name]:g}" for name in missing)
        notes.append(f"declared, not recorded, USD per 1,000 requests: {told}")
    if idle := [name for name in costs if not any(m == name or m.startswith(f"{name}@") for m in missing)]:
        notes.append(f"--cost of {', '.join(idle)} was not needed: each of its calls has a recorded cost")
    declared = {name: usd / 1000 for name, usd in price.items() if usd is not None}
    filled = named.replace_strict(declared, default=None, return_dtype=pl.Float64)
    return frame.with_columns(pl.col("cost_usd").fill_null(filled))
