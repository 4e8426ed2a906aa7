"""Which production calls are graded: a sample that is the same whoever draws it, with the weights that undo it.

Calls that are likely bad are always kept; of the others each stratum keeps a share, by a hash of the trace, so that a
call is in the sample or not whatever else came. Each row says why it is there and how many calls it stands for, without
which a mean of the sample would be one of the bad calls (Horvitz and Thompson 1952).
"""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.special import stdtrit

from workbench.errors import ConfigError
from workbench.records import content_hash
from workbench.rendering.numbers import counted

CALLS_SCHEMA: dict[str, type[pl.DataType]] = {
    "trace_id": pl.String,
    "tenant_id": pl.String,
    "feature": pl.String,
    "started": pl.String,
    "failed": pl.Boolean,
    "cost_nanos": pl.Int64,
    "similarity": pl.Float64,
    "threshold": pl.Float64,
}
DRAWN = "drawn"
STRATA = ("feature", "tenant_id")


@dataclass(frozen=True, slots=True)
class SamplingPlan:
    """What is kept.

    Attributes
    ----------
    rate : float
        Share of the other calls of a stratum (feature and tenant), in (0, 1].
    rates : mapping
        Shares of single strata, by (feature, tenant_id).
    near : float
        Cache hits whose similarity lies at most so far above the threshold are always kept.
    top_cost : float
        Share of all calls, the dearest, that is always kept.
    least_score : float or None
        Calls whose best retrieval score lies below it are always kept, where ``calls`` have a retrieval_score.
    salt : str
        Another one draws another sample.
    """

    rate: float = 0.1
    rates: Mapping[tuple[str, str], float] = field(default_factory=dict)
    near: float = 0.02
    top_cost: float = 0.01
    least_score: float | None = None
    salt: str = ""

    def __post_init__(self) -> None:
        if bad := [r for r in (self.rate, *self.rates.values()) if not 0 < r <= 1]:
            raise ConfigError(f"a rate is in (0, 1], found {bad[0]}: what is never drawn has no weight")
        if not (0 <= self.top_cost < 1 and self.near >= 0):
            raise ConfigError(f"top_cost is a share below 1 and near at least 0, found {self.top_cost}, {self.near}")


@dataclass(frozen=True, slots=True)
class WeightedMean:
    """Mean over all calls that the sample stands for, with its two-sided interval."""

    mean: float
    se: float
    low: float
    high: float
    n: int
    stands_for: float


# What `ledger_calls` reads of a ledger.
LEDGER_COLUMNS = (
    "trace_id", "purpose", "status", "started", "attempt", "tenant_id", "feature", "cache", "cost_nanos",
)  # fmt: skip


def ledger_calls(ledger: pl.DataFrame) -> pl.DataFrame:
    """Product calls of `workbench.telemetry.ledger.Ledger.frame`, one row a trace: columns `CALLS_SCHEMA`.

    A trace failed where its last attempt did; its cost is that of all attempts and corrections. `LEDGER_COLUMNS` of it
    are enough.
    """
    mine = ledger.filter((pl.col("purpose") == "product") & (pl.col("trace_id") != ""))
    attempts = mine.filter(pl.col("status") != "correction").sort("started", "attempt")
    found = attempts.group_by("trace_id", maintain_order=True).agg(
        pl.col("tenant_id", "feature", "started").first(),
        failed=pl.col("status").last().is_in(["error", "unknown"]),
        cache=pl.col("cache").filter(pl.col("cache") != "").last(),
    )
    cost = mine.group_by("trace_id").agg(pl.col("cost_nanos").sum())
    hits = [json.loads(text) if text else {} for text in found["cache"]]
    hits = [{} if hit.get("kind") == "exact" else hit for hit in hits]  # the same words are near no threshold
    similarity, threshold = ([hit.get(name) for hit in hits] for name in ("similarity", "threshold"))
    numbers = [
        pl.Series("similarity", similarity, dtype=pl.Float64),
        pl.Series("threshold", threshold, dtype=pl.Float64),
    ]
    return found.with_columns(numbers).join(cost, on="trace_id", how="left").select(*CALLS_SCHEMA)


def sample_calls(
    calls: pl.DataFrame,
    plan: SamplingPlan,
    *,
    thumbs_down: Collection[str] = (),
    kept: Mapping[str, str] = MappingProxyType({}),
) -> pl.DataFrame:
    """``sample_calls(ledger_calls(ledger.frame()), SamplingPlan(0.1))``: rows with sample_reason and sample_weight.

    Parameters
    ----------
    calls : DataFrame
        Columns of `CALLS_SCHEMA`, one row a trace; imported calls may have nulls where nothing is known.
    thumbs_down : collection of str
        Traces that users found bad.
    kept : mapping
        Reason by trace of those that were always kept when the same calls were drawn before: they stay so.

    Raises
    ------
    ConfigError
        If a trace stands twice: it would count twice in every mean.
    """
    if calls["trace_id"].n_unique() < len(calls):
        raise ConfigError(
            f"{counted(len(calls) - calls['trace_id'].n_unique(), 'trace stands', 'traces stand')} twice; give "
            "one row a trace"
        )
    reasons = _always_sampled(calls, plan, set(thumbs_down))
    rows, inside, weights = list(calls.select("trace_id", *STRATA).iter_rows()), [], []
    for place, (trace_id, feature, tenant_id) in enumerate(rows):
        rate = plan.rates.get((feature, tenant_id), plan.rate)
        reasons[place] = reasons[place] or kept.get(trace_id)
        if not reasons[place] and sample_trace_fraction(trace_id, plan.salt) < rate:
            reasons[place], weight = DRAWN, 1 / rate
        else:
            weight = 1.0
        inside.append(bool(reasons[place]))
        weights.append(weight)
    reason, weight_of = pl.Series(reasons, dtype=pl.String), pl.Series(weights, dtype=pl.Float64)
    added = calls.with_columns(sample_reason=reason, sample_weight=weight_of)
    return added.filter(pl.Series(inside, dtype=pl.Boolean))


def sampling_rates(calls: pl.DataFrame, n: int) -> dict[tuple[str, str], float]:
    """Rate of each stratum, by (feature, tenant_id), of which about ``n`` calls are drawn together.

    A stratum has its part by the square root of its calls, so that small ones are seen too and the mean of all suffers
    little (Bankier, "Power allocations: determining sample sizes for subnational areas", 1988). What a stratum has too
    few calls for goes to the others.

    >>> calls = pl.DataFrame({"feature": ["a"] * 104, "tenant_id": ["x"] * 100 + ["y"] * 4})
    >>> sampling_rates(calls, 24)
    {('a', 'x'): 0.2, ('a', 'y'): 1.0}

    Raises
    ------
    ConfigError
        If nothing is to be drawn: what is never drawn has no weight.
    """
    if n < 1:
        raise ConfigError(f"a number of calls to draw is 1 or more, found {n}")
    counted = calls.group_by(*STRATA).len().sort(*STRATA).iter_rows()
    sizes = {(str(feature), str(tenant_id)): int(size) for feature, tenant_id, size in counted}
    rates, left = dict.fromkeys(sizes, 1.0), float(n)
    while sizes:
        each = left / sum(math.sqrt(size) for size in sizes.values())
        whole = [stratum for stratum, size in sizes.items() if each >= math.sqrt(size)]
        if not whole:
            return rates | {stratum: each / math.sqrt(size) for stratum, size in sizes.items()}
        left -= sum(sizes.pop(stratum) for stratum in whole)
    return rates


def sample_trace_fraction(trace_id: str, salt: str = "") -> float:
    """Hash of a trace as a number in [0, 1), the same on every machine.

    >>> round(sample_trace_fraction("4bf92f3577b34da6a3ce929d0e0e4736"), 3)
    0.375
    """
    return int(content_hash(salt, trace_id)[:13], 16) / 16**13


def sample_weighted_mean(
    values: npt.NDArray[np.float64], weights: npt.NDArray[np.float64], *, confidence: float = 0.95
) -> WeightedMean:
    """Mean over the population that was sampled, with the interval of the sampling alone.

    Parameters
    ----------
    values, weights : ndarray of float, shape (n,)
        Grades of the sampled calls and their weights, 1 for those that are always kept.

    Raises
    ------
    ConfigError
        If there is nothing, a weight is below 1, or a value is no number.

    Notes
    -----
    Hajek's ratio estimator; each call is drawn on its own (Poisson sampling), so that those of weight 1 add no variance
    (Saerndal, Swensson and Wretman 1992, sections 3.5 and 5.7). The quantile is Student's over the calls drawn.
    """
    if not len(values) or len(values) != len(weights) or not np.isfinite(values).all() or (weights < 1).any():
        raise ConfigError(f"grades are numbers with weights of 1 or more, found {len(values)} and {len(weights)}")
    total = float(weights.sum())
    mean = float(values @ weights / total)
    drawn = weights > 1
    squares = weights * (weights - 1) * (values - mean) ** 2
    n_drawn = int(drawn.sum())
    se = math.sqrt(float(squares.sum()) * n_drawn / max(n_drawn - 1, 1)) / total
    reach = float(stdtrit(max(n_drawn - 1, 1), (1 + confidence) / 2)) * se if n_drawn else 0.0
    return WeightedMean(mean, se, mean - reach, mean + reach, len(values), total)


def _always_sampled(calls: pl.DataFrame, plan: SamplingPlan, thumbs_down: set[str]) -> list[str | None]:
    """Why each call is kept whatever is drawn, None where nothing says so; the first reason counts."""
    near = (pl.col("similarity") - pl.col("threshold")).is_between(0, plan.near)
    dear = int(plan.top_cost * len(calls))
    # dearer than the first that is not among them: where many cost the same, none of these, not all
    limit = calls["cost_nanos"].sort(descending=True)[dear] if dear else None
    reason = (
        pl.when(pl.col("failed")).then(pl.lit("error"))
        .when(pl.col("trace_id").is_in(sorted(thumbs_down))).then(pl.lit("thumbs down"))
        .when(near).then(pl.lit("hit near the threshold"))
    )  # fmt: skip
    if limit is not None:
        reason = reason.when(pl.col("cost_nanos") > limit).then(pl.lit("top cost"))
    if plan.least_score is not None and "retrieval_score" in calls.columns:
        reason = reason.when(pl.col("retrieval_score") < plan.least_score).then(pl.lit("low retrieval score"))
    return calls.select(reason.otherwise(None).alias("reason"))["reason"].to_list()


def sampling_strata_table(sample: pl.DataFrame) -> Sequence[tuple[str, str, str, int, float]]:
    """Rows of feature, tenant, reason, calls in the sample, and calls that they stand for."""
    found = sample.group_by("feature", "tenant_id", "sample_reason").agg(pl.len(), pl.col("sample_weight").sum())
    return found.sort("feature", "tenant_id", "sample_reason").rows()
