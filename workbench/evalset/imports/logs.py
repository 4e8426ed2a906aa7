"""A team's own outcomes (CSV, Parquet, JSONL; long or wide) as an evalset that the routing notebook reads."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import polars as pl

from workbench.errors import ConfigError, Defect, EvalsetError, unknown_name
from workbench.evalset.cells import Unusable, amount, id_text, name_text, number, share, shown, whole
from workbench.evalset.files import Names, Row, TableFile, read_table, refuse, require_named
from workbench.evalset.imports.folder import Tell, import_card, new_folder, say_nothing, tell_left_out
from workbench.evalset.imports.wide import RULE, unfold
from workbench.evalset.outcomes import FILE, STORED_SCHEMA, outcomes_of, schema_columns
from workbench.rendering.numbers import counted
from workbench.rendering.progress import waiting

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
class Repairs:
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
def import_outcomes(path: Path, out: Path, *, repairs: Repairs | None = None, tell: Tell = say_nothing) -> Path:
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
    repairs, notes = repairs or Repairs(), list[str]()
    table = _without(_read_outcomes(path, repairs.rename), repairs.without, notes)
    columns = {ours: found for ours, theirs in NAMES.items() if (found := _first(theirs, table.columns))}
    if "model" in columns:
        if repairs.models:
            raise ConfigError(f"--models names columns of a wide table; {path} has a column {columns['model']!r}")
        require_named(table, NAMES, ("prompt", "quality"))
        calls, rest = _long(table, columns)
    else:
        calls, rest = unfold(
            table, columns, models=repairs.models, filters=repairs.without, costs=repairs.costs, notes=notes
        )
    notes += [
        f"{c}: seconds or milliseconds? --rename {c}={c}_ms, or {c}_s" for c in rest if c.lower().endswith("latency")
    ]
    frame = checked(_frame(path, calls, notes), path, columns, repairs, notes)
    outcomes_of(frame, str(path))
    with new_folder(out) as folder:
        frame.select(schema_columns(frame)).write_parquet(folder / FILE)
        (folder / "card.md").write_text(import_card({path: rest}, _BY_HAND, notes), encoding="utf-8")
        (folder / "gates.toml").write_text(GATES, encoding="utf-8")
    tell_left_out({path: rest}, notes, tell)
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


def _first(theirs: Sequence[str], columns: Iterable[str]) -> str | None:
    known = set(columns)
    return next((name for name in theirs if name in known), None)


def _without(table: TableFile, without: Mapping[str, str], notes: list[str]) -> TableFile:
    for column, value in without.items():
        if column not in table.columns:
            raise ConfigError(f"no column {column!r} to filter by; there are {', '.join(table.columns)}")
        kept = tuple((line, row) for line, row in table.rows if not _is(row.get(column), value))
        notes.append(f"left out: {counted(len(table.rows) - len(kept), 'row')} with {column} = {value}")
        if not kept:
            raise EvalsetError(f"{table.path}: every row has {column} = {value}, so that none is left")
        table = replace(table, rows=kept)
    return table


def _is(cell: Any, value: str) -> bool:
    """Whether a cell holds the value that somebody typed: true is True, 1 is 1.0."""
    if str(cell).strip().lower() == value.strip().lower():
        return cell is not None
    try:
        found = number("", cell)
        return found is not None and found == number("", value)
    except Unusable:
        return False


def _long(table: TableFile, columns: Mapping[str, str]) -> tuple[list[Row], list[str]]:
    """One row a prompt and model under our names, and the columns that mean nothing here."""
    calls = [(line, {ours: row.get(theirs) for ours, theirs in columns.items()}) for line, row in table.rows]
    return calls, [name for name in table.columns if name not in columns.values()]


def _text_of(name: str, value: Any) -> str | None:
    if isinstance(value, dict) and value:
        told = f"has the fields {', '.join(value)}; name one: --rename {name}.{next(iter(value))}={name}"
        raise Unusable(f'"{name}" must be a text, found an object that {told}')
    if value is not None and not isinstance(value, str):
        raise Unusable(f'"{name}" must be a text, found {type(value).__name__}')
    return value if value and value.strip() else None


_READERS: Mapping[str, Callable[[str, Any], Any]] = {
    "prompt_id": id_text, "prompt": _text_of, "model": id_text, "config": name_text, "quality": share,
    "cost_usd": amount, "latency_ms": amount, "tokens_in": whole, "tokens_out": whole, "confidence": share,
    "cluster": id_text, "feature": id_text, "tenant_id": id_text, "split": id_text, "repeat": whole, "cached": share,
}  # fmt: skip


def _frame(path: Path, calls: Sequence[Row], notes: list[str]) -> pl.DataFrame:
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
    refuse(path, defects)
    if not named:
        notes.append("prompts had no id and are named by a hash of their text")
    frame = pl.DataFrame(rows, schema={**STORED_SCHEMA, "cached": pl.Float64, "line": pl.Int64})
    return frame.with_columns(pl.col("config").replace("", None))


def _typed_outcome(cells: Mapping[str, Any]) -> dict[str, Any]:
    """One call in the types of the contract; ``columns`` of ``cells`` names the columns of a wide table."""
    names = cells.get("columns", {})
    row = {ours: read(names.get(ours, ours), cells.get(ours)) for ours, read in _READERS.items()}
    seconds = amount("latency_s", cells.get("latency_s"))
    if row["latency_ms"] is None and seconds is not None:
        row["latency_ms"] = seconds * 1000
    return row


def checked(
    frame: pl.DataFrame, path: Path, columns: Mapping[str, str], repairs: Repairs, notes: list[str]
) -> pl.DataFrame:
    """Rows that are whole: ids that are the prompts', repeats, answers to every prompt, costs.

    ``columns`` are ours by the file's, as far as it has them.
    """
    _refuse_call_ids(frame, path, columns)
    frame = _numbered_repeats(_uncached(frame, notes), path, given="repeat" in columns, notes=notes)
    frame = _common_texts(frame, notes) if repairs.texts == "most_common" else frame
    if repairs.drop_incomplete:
        frame = _complete(frame, notes)
    missing = frame.filter(pl.col("quality").is_null())
    refuse(path, [Defect(str(path), row["line"], _unanswered(row)) for row in missing.iter_rows(named=True)])
    return _costed(frame, repairs.costs, notes)


def _unanswered(row: Mapping[str, Any]) -> str:
    where = f"prompt {shown(row['prompt'])}, model {row['model']!r}"
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


def _uncached(frame: pl.DataFrame, notes: list[str]) -> pl.DataFrame:
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


def _numbered_repeats(frame: pl.DataFrame, path: Path, *, given: bool, notes: list[str]) -> pl.DataFrame:
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
        refuse(path, [
            Defect(str(path), line, f"prompt {shown(prompt)}, model {model!r} {told}")
            for line, prompt, model in twice.select("line", "prompt_id", "model").iter_rows()
        ])  # fmt: skip
    often = " to ".join(dict.fromkeys(str(n) for n in (counts.min(), counts.max())))
    notes.append(
        f"every prompt was asked {often} times of each model: kept as repeats, which are no items of their own"
    )
    return frame.with_columns(repeat=pl.int_range(pl.len()).over(keys))


def _common_texts(frame: pl.DataFrame, notes: list[str]) -> pl.DataFrame:
    counts = frame.group_by("prompt_id", "prompt").len().sort("len", "prompt", descending=[True, False])
    first = counts.unique("prompt_id", keep="first", maintain_order=True).select("prompt_id", "prompt")
    if several := len(counts) - len(first):
        notes.append(f"{counted(several, 'prompt id')} had a second text; that of most rows was taken")
    return frame.drop("prompt").join(first, on="prompt_id", how="left", maintain_order="left")


def _complete(frame: pl.DataFrame, notes: list[str]) -> pl.DataFrame:
    """Prompts that every model answered, in every repeat."""
    models = pl.concat_str("model", pl.col("config").fill_null(""), separator="\x1f")
    answered = frame.group_by("prompt_id").agg(models.n_unique().alias("n"), pl.col("quality").null_count())
    whole_ids = answered.filter((pl.col("n") == frame.select(models.n_unique()).item()) & (pl.col("quality") == 0))
    dropped = len(answered) - len(whole_ids)
    notes.append(f"left out: {counted(dropped, 'prompt')} that some model did not answer")
    if not len(whole_ids):
        raise EvalsetError("no prompt is answered by every model, so that --drop-incomplete leaves none")
    return frame.filter(pl.col("prompt_id").is_in(whole_ids["prompt_id"].implode()))


def _costed(frame: pl.DataFrame, costs: Mapping[str, float], notes: list[str]) -> pl.DataFrame:
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
