"""Outcomes: what every model answered to every prompt, how good it was and what it cost, as dense matrices."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from workbench.errors import Defect, EvalsetError
from workbench.evalset.evalset import dev_clusters, require_dev
from workbench.evalset.files import read_parquet
from workbench.inference.prices import DECLARED
from workbench.records import DEFAULT_TENANT, file_hash
from workbench.rendering.numbers import counted, percent
from workbench.rendering.progress import waiting

FILE = "outcomes.parquet"
OUTCOMES_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "prompt_id": pl.String,
    "prompt": pl.String,
    "model": pl.String,
    "config": pl.String,
    "quality": pl.Float64,
    "cost_usd": pl.Float64,
    "latency_ms": pl.Float64,
    "tokens_in": pl.Int64,
    "tokens_out": pl.Int64,
    "confidence": pl.Float64,
    "cluster": pl.String,
    "feature": pl.String,
    "tenant_id": pl.String,
    "split": pl.String,
}
STORED_SCHEMA = {**OUTCOMES_SCHEMA, "repeat": pl.Int64}  # what the file holds: every answer, of repeats too
NEEDED = ("prompt_id", "prompt", "model", "quality", "cost_usd")
DEV_SHARE = 0.5
_MEASURED = ("quality", "cost_usd", "latency_ms", "confidence")
_SHOWN_DEFECTS = 20


@dataclass(frozen=True, slots=True, eq=False)
class Requests:
    """What is known of requests before a model is asked, and the confidence of models that were asked first.

    Attributes
    ----------
    features : tuple of str
        Product feature or task of each prompt, "" where there is none.
    vectors : ndarray of float, shape (n, dimension), optional
        Embeddings of the prompts.
    confidence : ndarray of float, shape (n, models), optional
        In [0, 1], of each model in its own answer; NaN where it gave none.
    """

    prompts: tuple[str, ...]
    features: tuple[str, ...]
    vectors: npt.NDArray[Any] | None = None
    confidence: npt.NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.prompts)

    def take(self, rows: npt.NDArray[np.int64]) -> Self:
        """Requests at these positions."""
        return type(self)(
            tuple(self.prompts[i] for i in rows),
            tuple(self.features[i] for i in rows),
            None if self.vectors is None else self.vectors[rows],
            None if self.confidence is None else self.confidence[rows],
        )


@dataclass(frozen=True, slots=True, eq=False)
class Outcomes:
    """Prompts times models; a model with another configuration is another model, ``name@config``.

    Attributes
    ----------
    models : tuple of str
        Cheapest first, by mean cost on dev.
    quality, cost_usd, latency_ms : ndarray of float, shape (prompts, models)
        Quality in [0, 1]; latency NaN where it was not measured.
    clusters, splits, tenants : ndarray of str, shape (prompts,)
        The unit that is resampled; ``dev`` or ``test``; who asked.
    notes : tuple of str
        What was done that the table does not say.
    answers : ndarray of float, shape (repeats, 4, prompts, models), optional
        Quality, cost_usd, latency_ms and confidence of every single answer, where prompts were asked several times; the
        matrices above are their means. NaN where a prompt was asked less often than others.
    amounts : mapping of str to ndarray of float, shape (prompts, models)
        What each call uses of each thing that has a price; dollars, where no more is known than its cost.
    """

    prompt_ids: tuple[str, ...]
    requests: Requests
    models: tuple[str, ...]
    quality: np.ndarray
    cost_usd: np.ndarray
    latency_ms: np.ndarray
    clusters: np.ndarray
    splits: np.ndarray
    tenants: np.ndarray
    notes: tuple[str, ...] = ()
    sha256: str = ""
    answers: np.ndarray | None = None
    amounts: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.prompt_ids)

    def take(self, rows: np.ndarray) -> Self:
        """Prompts at these positions."""
        arrays = ("quality", "cost_usd", "latency_ms", "clusters", "splits", "tenants")
        taken = {name: getattr(self, name)[rows] for name in arrays}
        answers = None if self.answers is None else self.answers[:, :, rows]
        amounts = {name: used[rows] for name, used in self.amounts.items()}
        ids = tuple(self.prompt_ids[i] for i in rows)
        taken |= {"requests": self.requests.take(rows), "answers": answers, "amounts": amounts}
        return replace(self, prompt_ids=ids, **taken)

    @property
    def repeats(self) -> tuple[Self, ...]:
        """Outcomes of each repeat; these alone where some prompt was asked less often than others, or all once."""
        if self.answers is None or np.isnan(self.answers[:, 0]).any():
            return (self,)
        out = []
        for quality, cost_usd, latency_ms, confidence in self.answers:
            requests = self.requests
            if requests.confidence is not None:
                requests = replace(requests, confidence=confidence)
            out.append(
                replace(
                    self, requests=requests, quality=quality, cost_usd=cost_usd, latency_ms=latency_ms, answers=None
                )
            )
        return tuple(out)

    def part(self, split: str) -> Self:
        """Prompts of ``dev`` or ``test``."""
        return self.take(np.flatnonzero(self.splits == split))

    def require_dev(self, doing: str) -> None:
        """Refuse prompts that are not of dev; ``doing`` names what dev alone may do.

        Raises
        ------
        SplitError
            If there is one.
        """
        require_dev(self.prompt_ids, self.part("dev").prompt_ids, doing)

    @property
    def codes(self) -> np.ndarray:
        """Code of each prompt's cluster, shape (prompts,)."""
        return np.unique(self.clusters, return_inverse=True)[1]

    @property
    def features(self) -> tuple[str, ...]:
        """Product features or tasks, sorted."""
        return tuple(sorted(set(self.requests.features)))


@waiting("reading outcomes")
def load_outcomes(folder: Path, *, seed: int = 0, dev_share: float = DEV_SHARE) -> Outcomes:
    """Outcomes of an evalset.

    Raises
    ------
    EvalsetError
        If there are none, or with everything that cannot be used.
    """
    path = folder / FILE
    if not path.is_file():
        raise EvalsetError(
            f"evalset {folder.name} has no {FILE}; make one with: workbench import outcomes PATH --name {folder.name}, "
            f"or name models in its prompts.toml and have them answer: workbench record {folder.name}"
        )
    outcomes = outcomes_of(read_parquet(path), str(path), seed=seed, dev_share=dev_share)
    return replace(outcomes, sha256=file_hash(path))


def outcomes_of(
    table: pl.DataFrame, source: str = "outcomes", *, seed: int = 0, dev_share: float = DEV_SHARE
) -> Outcomes:
    """Check a long table and make matrices of it.

    Parameters
    ----------
    table : DataFrame
        Columns of `STORED_SCHEMA`; those not in `NEEDED` may be absent. One row per prompt, model, configuration and
        repeat; repeats of a prompt are averaged. A column ``line`` says where each row stands in ``source``.
    seed : int
        Of the split by cluster, where the table has none: routers learn on dev, so that half of the clusters
        (``dev_share``) are in it.

    Raises
    ------
    EvalsetError
        With every row that cannot be used: a value out of range, a row that stands twice, a model without some
        prompt, a prompt or cluster in two splits, a prompt_id with two texts, or fewer than two models.
    """
    rows = _typed_outcome_columns(table, source)
    if defects := list(_outcome_defects(rows, source)):
        raise EvalsetError(f"{source} cannot be used; correct these places:", defects)
    every, (rows, repeats) = rows, _averaged_outcomes(rows)
    prompts = rows.unique("prompt_id", keep="first", maintain_order=True).sort("prompt_id")
    clusters, splits, notes = _outcome_clusters_and_splits(prompts, seed, dev_share)
    on_dev = pl.col("prompt_id").is_in(prompts["prompt_id"].filter(pl.Series(splits == "dev")).implode())
    costs = rows.group_by("model").agg(pl.col("cost_usd").filter(on_dev).mean()).sort("cost_usd", "model")
    models = tuple(costs["model"])

    def matrix(column: str) -> np.ndarray:
        wide = rows.pivot("model", index="prompt_id", values=column).sort("prompt_id")
        return wide.select(models).cast(pl.Float64).fill_null(float("nan")).to_numpy()

    confidence = None if rows["confidence"].is_null().all() else matrix("confidence")
    cost_usd, only = matrix("cost_usd"), np.eye(len(models))
    return Outcomes(
        prompt_ids=tuple(prompts["prompt_id"]),
        requests=Requests(tuple(prompts["prompt"]), tuple(prompts["feature"].fill_null("")), confidence=confidence),
        models=models,
        quality=matrix("quality"),
        cost_usd=cost_usd,
        latency_ms=matrix("latency_ms"),
        clusters=clusters,
        splits=splits,
        tenants=prompts["tenant_id"].fill_null(DEFAULT_TENANT).to_numpy(),
        notes=(*repeats, *notes),
        answers=_repeated_outcomes(every, tuple(prompts["prompt_id"]), models) if repeats else None,
        amounts={f"{model}{DECLARED}": cost_usd * only[i] for i, model in enumerate(models)},
    )


def outcome_amount_matrices(frame: pl.DataFrame, outcomes: Outcomes) -> dict[str, npt.NDArray[np.float64]]:
    """What each recorded call uses of each thing that has a price, shape (prompts, models); the mean of its repeats."""
    found: dict[str, npt.NDArray[np.float64]] = {}
    answers = np.zeros((len(outcomes.prompt_ids), len(outcomes.models)))
    rows = {prompt_id: i for i, prompt_id in enumerate(outcomes.prompt_ids)}
    columns = {model: j for j, model in enumerate(outcomes.models)}
    for prompt_id, model, config, used in frame.select("prompt_id", "model", "config", "amounts").iter_rows():
        at = rows[prompt_id], columns[f"{model}@{config}"]
        answers[at] += 1
        for name, n in json.loads(used).items():
            found.setdefault(name, np.zeros(answers.shape))[at] += n
    return {name: total / np.maximum(answers, 1) for name, total in found.items()}


def _averaged_outcomes(rows: pl.DataFrame) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """One row a prompt and model: the mean of its repeats, which are no items of their own."""
    counts = rows.group_by("prompt_id", "model").len()["len"]
    if counts.max() == 1:
        return rows, ()
    means = [pl.col(name).mean() for name in _MEASURED]
    rest = [pl.col(c).first() for c in rows.columns if c not in _MEASURED and c not in ("prompt_id", "model")]
    often = " to ".join(dict.fromkeys(str(n) for n in (counts.min(), counts.max())))
    note = f"every prompt was asked {often} times of a model: its repeats are averaged"
    return rows.group_by("prompt_id", "model", maintain_order=True).agg(*means, *rest), (note,)


def _repeated_outcomes(rows: pl.DataFrame, prompts: tuple[str, ...], models: tuple[str, ...]) -> np.ndarray:
    """Every answer, shape (repeats, measures, prompts, models): repeats are numbered within their prompt and model."""
    place = pl.col("repeat").rank("ordinal").over("prompt_id", "model").cast(pl.Int64) - 1
    prompt, model = (
        pl.col(c).replace_strict(of, range(len(of))) for c, of in (("prompt_id", prompts), ("model", models))
    )
    at = rows.select(place.alias("place"), prompt, model)
    out = np.full((int(at["place"].max()) + 1, len(_MEASURED), len(prompts), len(models)), np.nan)  # type: ignore[arg-type]
    for i, name in enumerate(_MEASURED):
        out[at["place"], i, at["prompt_id"], at["model"]] = rows[name].cast(pl.Float64).fill_null(np.nan)
    return out


def outcome_columns(table: pl.DataFrame) -> list[pl.Expr]:
    """Every column of `STORED_SCHEMA` in its type, null where the table has none."""
    return [
        (pl.col(name) if name in table.columns else pl.lit(None)).cast(kind).alias(name)
        for name, kind in STORED_SCHEMA.items()
    ]


def _typed_outcome_columns(table: pl.DataFrame, source: str) -> pl.DataFrame:
    """All columns with their types; a configuration becomes part of the model's name."""
    if missing := [c for c in NEEDED if c not in table.columns]:
        raise EvalsetError(f"{source} has no column {', '.join(missing)}; it has {', '.join(table.columns)}")
    if not len(table):
        raise EvalsetError(f"{source} has no rows")
    try:
        lines = pl.col("line") if "line" in table.columns else pl.int_range(1, pl.len() + 1)
        typed = table.select(lines.cast(pl.Int64).alias("row"), *outcome_columns(table))
    except pl.exceptions.PolarsError as error:
        raise EvalsetError(f"{source} has a value of another type than its column's: {error}") from error
    named = pl.when(pl.col("config").fill_null("") != "").then(pl.format("{}@{}", "model", "config"))
    split = pl.col("split").replace("train", "dev")
    return typed.with_columns(named.otherwise("model").alias("model"), split, pl.col("repeat").fill_null(0))


def _outcome_defects(rows: pl.DataFrame, source: str) -> Iterator[Defect]:
    empty = pl.any_horizontal(pl.col(c).is_null() | (pl.col(c) == "") for c in ("prompt_id", "prompt", "model"))
    cost = (pl.col("cost_usd") >= 0) & pl.col("cost_usd").is_finite()
    keys = ["prompt_id", "model", "repeat"]
    rules = [
        ("prompt_id, prompt or model is empty", "", empty),
        ("quality must be in [0, 1]", "quality", ~pl.col("quality").is_between(0, 1).fill_null(False)),
        ("cost_usd must be 0 or more; an unknown cost is declared at import, never taken for 0", "cost_usd",
         ~cost.fill_null(False)),
        ("latency_ms must be 0 or more", "latency_ms", (pl.col("latency_ms") < 0) | pl.col("latency_ms").is_infinite()),
        ("confidence must be in [0, 1]", "confidence", ~pl.col("confidence").is_between(0, 1)),
        ("split must be dev (or train) or test", "split", ~pl.col("split").is_in(["dev", "test"])),
        ("the same prompt and model stand in another row", "", pl.struct(keys).is_duplicated()),
    ]  # fmt: skip
    for problem, column, broken in rules:
        found = rows.filter(broken.fill_null(False))
        for row in found.head(_SHOWN_DEFECTS).iter_rows(named=True):
            value = f", found {'nothing' if row[column] is None else row[column]}" if column else ""
            more = f" ({counted(len(found), 'such row')})" if len(found) > 1 else ""
            where = f"prompt {row['prompt_id']!r}, model {row['model']!r}"
            yield Defect(source, row["row"], f"{problem}{value}: {where}{more}")
    yield from _defects_of_outcomes(rows, source)


def _defects_of_outcomes(rows: pl.DataFrame, source: str) -> Iterator[Defect]:
    n_models = rows["model"].n_unique()
    if n_models < 2:
        yield Defect(source, 0, f"{n_models} model; routing needs at least two to choose from")
    answers = rows.group_by("prompt_id").agg(pl.col("model").n_unique())
    if n := int((answers["model"] < n_models).sum()):
        short = rows.group_by("model").agg(pl.col("prompt_id").n_unique()).filter(pl.col("prompt_id") < len(answers))
        told = (
            f"{counted(n, 'prompt is', 'prompts are')} not answered by every model "
            f"({', '.join(sorted(short['model'])[:5])}); ask them"
        )
        yield Defect(source, 0, f"{told}, or import with --drop-incomplete")
    for column, what in (("prompt", "texts"), ("split", "splits"), ("cluster", "clusters"), ("feature", "features")):
        if len(several := _outcomes_in_two(rows, "prompt_id", column)):
            choice = "; import with --most-common-text to take that of most rows" if column == "prompt" else ""
            yield Defect(
                source,
                0,
                f"{counted(len(several), 'prompt has', 'prompts have')} two {what}, first {several[0]!r}{choice}",
            )
    if len(torn := _outcomes_in_two(rows.drop_nulls("cluster"), "prompt", "cluster")):
        yield Defect(
            source,
            0,
            f"{counted(len(torn), 'prompt text is', 'prompt texts are')} in two clusters, first {torn[0]!r:.60}",
        )
    for column, what in (("cluster", "cluster"), ("prompt", "prompt text")):
        if len(shared := _outcomes_in_two(rows.drop_nulls(["split", column]), column, "split")):
            told = f"{len(shared)} {what}s are in dev and in test, first {shared[0][:60]!r}"
            yield Defect(source, 0, f"{told}: what was learned there would show here")


def _outcomes_in_two(rows: pl.DataFrame, key: str, column: str) -> pl.Series:
    """Values of ``key`` that stand beside more than one value of ``column``, sorted."""
    return rows.group_by(key).agg(pl.col(column).n_unique()).filter(pl.col(column) > 1)[key].sort()


def _outcome_clusters_and_splits(
    prompts: pl.DataFrame, seed: int, dev_share: float
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Clusters and splits; without clusters, prompts of the same text are one."""
    clusters = prompts["cluster"].fill_null(prompts["prompt"]).to_numpy()
    if prompts["split"].null_count() == 0:
        return clusters, prompts["split"].to_numpy(), ()
    dev = dev_clusters(set(clusters), seed, dev_share)
    splits = np.array(["dev" if c in dev else "test" for c in clusters])
    sizes = f"{counted((splits == 'dev').sum(), 'prompt')} in dev, {(splits == 'test').sum()} in test"
    note = f"no split given: {percent(dev_share)} of the clusters are dev, by hash with seed {seed} ({sizes})"
    return clusters, splits, (note,)
