"""A team's own outcomes (CSV, Parquet, JSONL; long or wide) as an evalset that the routing notebook reads."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import polars as pl

from workbench.errors import ConfigError, EvalsetError
from workbench.evalset.imports.folder import import_card, new_folder
from workbench.evalset.outcomes import FILE, OUTCOMES_SCHEMA, outcomes_of, schema_columns

Texts = Literal["refuse", "most_common"]
NAMES: Mapping[str, Sequence[str]] = {
    "prompt_id": ("prompt_id", "sample_id", "item_id", "_id", "id"),
    "prompt": ("prompt", "question", "query", "text"),
    "model": ("model", "model_id", "model_name"),
    "quality": ("quality", "score", "correct", "performance"),
    "cost_usd": ("cost_usd", "cost", "total_cost"),
    "latency_ms": ("latency_ms",),
    "feature": ("feature", "eval_name", "dataset", "task"),
}
_PICKLES = (".pkl", ".pickle", ".joblib")
_TRUTH: Mapping[str, str] = {"true": "1", "false": "0"}
_BY_HAND = "Who asked these prompts and when, how right and wrong were told apart, what the costs are"
_GATES = """# What each notebook must show. A margin is a product decision: what would a lost point cost you?
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
        Your column -> ours.
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
    without: Mapping[str, str] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)
    drop_incomplete: bool = False
    texts: Texts = "refuse"


def import_outcomes(path: Path, out: Path, *, repairs: Repairs | None = None) -> Path:
    """Write the evalset folder ``out`` with outcomes.parquet, card.md and gates.toml.

    Parameters
    ----------
    path : Path
        ``.csv``, ``.jsonl`` or ``.parquet``. Long: one row a prompt and model, with prompt, model, quality, cost_usd
        and whatever else of the contract there is. Wide: one row a prompt and one column a model that holds its
        quality (RouteLLM), with ``MODEL|total_cost`` beside it where costs were recorded (RouterBench).
    out : Path
        Where the folder is to be; it must not exist.

    Raises
    ------
    EvalsetError
        If the file is a pickle or cannot be read, or with everything in it that cannot be used; nothing is written.
    """
    repairs = repairs or Repairs()
    notes: list[str] = []
    table = _named(_read(path), repairs.rename)
    table = _without(table, repairs.without, notes)
    table = table if "model" in table.columns else _long(table, path, notes)
    table = _repaired(_costed(_identified(table, notes), repairs.costs, notes), repairs, notes)
    outcomes_of(table, str(path))
    rest = [c for c in table.columns if c not in OUTCOMES_SCHEMA]
    kept = table.select(schema_columns(table))
    with new_folder(out) as folder:
        kept.write_parquet(folder / FILE)
        (folder / "card.md").write_text(import_card({path: rest}, _BY_HAND, notes), encoding="utf-8")
        (folder / "gates.toml").write_text(_GATES, encoding="utf-8")
    return out


def _read(path: Path) -> pl.DataFrame:
    suffix = path.suffix.lower()
    if suffix in _PICKLES:
        raise EvalsetError(
            f"{path} is a pickle: reading one runs whatever code it holds. Where you trust it, write it again once: "
            'pandas.read_pickle("...").to_parquet("outcomes.parquet")'
        )
    readers = {
        ".csv": lambda: pl.read_csv(path, infer_schema=False),
        ".parquet": lambda: pl.read_parquet(path),
        ".jsonl": lambda: pl.read_ndjson(path, infer_schema_length=None),
        ".ndjson": lambda: pl.read_ndjson(path, infer_schema_length=None),
    }
    if suffix not in readers:
        raise EvalsetError(f"{path}: outcomes are one of {', '.join(readers)}, found {suffix or 'no suffix'!r}")
    try:
        return readers[suffix]()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise EvalsetError(f"{path} cannot be read as {suffix}: {error}") from error


def _named(table: pl.DataFrame, rename: Mapping[str, str]) -> pl.DataFrame:
    if unknown := sorted(set(rename) - set(table.columns)):
        raise ConfigError(f"no column {', '.join(unknown)} to rename; there are {', '.join(table.columns)}")
    table = table.rename(dict(rename))
    for ours, theirs in NAMES.items():
        found = next((name for name in theirs if name in table.columns), None)
        table = table.rename({found: ours}) if found and ours not in table.columns else table
    return table


def _without(table: pl.DataFrame, without: Mapping[str, str], notes: list[str]) -> pl.DataFrame:
    for column, value in without.items():
        if column not in table.columns:
            raise ConfigError(f"no column {column!r} to filter by; there are {', '.join(table.columns)}")
        kept = table.filter(pl.col(column).cast(pl.String).str.to_lowercase() != value.lower())
        notes.append(f"{len(table) - len(kept):,} rows with {column} = {value} were left out")
        table = kept
    return table


def _long(table: pl.DataFrame, path: Path, notes: list[str]) -> pl.DataFrame:
    """One row a prompt and model, of one column a model."""
    priced = [c.removesuffix("|total_cost") for c in table.columns if c.endswith("|total_cost")]
    models = priced or [c for c in table.columns if c not in OUTCOMES_SCHEMA and _is_quality(table[c])]
    if not models:
        raise EvalsetError(
            f"{path} has no column `model`, and none that holds right and wrong; it has {', '.join(table.columns)}. "
            "Rename yours: --rename YOURS=model"
        )
    shared = [c for c in table.columns if c in OUTCOMES_SCHEMA]
    frames = [
        table.select(
            *shared,
            pl.lit(model).alias("model"),
            _as_quality(model).alias("quality"),
            (pl.col(f"{model}|total_cost") if priced else pl.lit(None)).cast(pl.Float64).alias("cost_usd"),
        )
        for model in models
    ]
    notes.append(f"one row a prompt was unfolded into {len(models)} models")
    return pl.concat(frames)


def _as_quality(column: str) -> pl.Expr:
    return pl.col(column).cast(pl.String).str.to_lowercase().replace(_TRUTH).cast(pl.Float64, strict=False)


def _is_quality(column: pl.Series) -> bool:
    """Whether every value is true, false, or a number in [0, 1]."""
    values = column.to_frame().select(_as_quality(column.name)).to_series()
    return values.null_count() == 0 and bool(values.is_between(0, 1).all())


def _identified(table: pl.DataFrame, notes: list[str]) -> pl.DataFrame:
    """Text columns as numbers; prompts without an id are named by their text."""
    numbers = [c for c in ("cost_usd", "latency_ms", "confidence") if c in table.columns]
    table = table.with_columns(pl.col(numbers).cast(pl.Float64, strict=False))
    if "quality" in table.columns:
        table = table.with_columns(_as_quality("quality"))
    if "prompt_id" not in table.columns and "prompt" in table.columns:
        names = {t: hashlib.sha256(t.encode()).hexdigest()[:16] for t in table["prompt"].drop_nulls().unique()}
        notes.append("prompts had no id and are named by a hash of their text")
        table = table.with_columns(prompt_id=pl.col("prompt").replace_strict(names, default=None))
    return table


def _costed(table: pl.DataFrame, costs: Mapping[str, float], notes: list[str]) -> pl.DataFrame:
    """Declared costs where none were recorded; a model that has neither is refused."""
    if "cost_usd" not in table.columns:
        table = table.with_columns(cost_usd=pl.lit(None, pl.Float64))
    declared = {model: usd / 1000 for model, usd in costs.items()}
    missing = sorted(table.filter(pl.col("cost_usd").is_null())["model"].unique())
    if unpriced := [m for m in missing if m not in declared]:
        raise EvalsetError(
            f"no cost is recorded for {', '.join(unpriced[:5])}; declare dollars per 1,000 requests: "
            f"--cost {unpriced[0]}=USD"
        )
    if missing:
        notes.append(
            "declared, not recorded, USD per 1,000 requests: " + ", ".join(f"{m} {costs[m]:g}" for m in missing)
        )
    price = pl.col("model").replace_strict(declared, default=None, return_dtype=pl.Float64)
    return table.with_columns(pl.col("cost_usd").fill_null(price))


def _repaired(table: pl.DataFrame, repairs: Repairs, notes: list[str]) -> pl.DataFrame:
    if repairs.texts == "most_common":
        counts = table.group_by("prompt_id", "prompt").len().sort("len", "prompt", descending=[True, False])
        first = counts.unique("prompt_id", keep="first", maintain_order=True).select("prompt_id", "prompt")
        if several := len(counts) - len(first):
            notes.append(f"{several} prompt ids had a second text; that of most rows was taken")
        table = table.drop("prompt").join(first, on="prompt_id", how="left", maintain_order="left")
    if repairs.drop_incomplete:
        answered = table.drop_nulls("quality").group_by("prompt_id").agg(pl.col("model").n_unique())
        whole = answered.filter(pl.col("model") == table["model"].n_unique())["prompt_id"]
        dropped = table["prompt_id"].n_unique() - len(whole)
        notes.append(f"{dropped} prompts that some model did not answer were left out")
        table = table.filter(pl.col("prompt_id").is_in(whole.implode()))
    return table
