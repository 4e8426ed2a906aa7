"""What money bought and what it brought in: the cost of a good answer, and the margin of each customer."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from workbench.costs.spend import REQUEST, Spend, signed_nanos
from workbench.errors import ConfigError
from workbench.evaluation.compare import ratio_interval
from workbench.telemetry.ledger import shown_name


@dataclass(frozen=True, slots=True)
class GoodCost:
    """Dollars for one good answer; no bounds where too few requests were judged, and no cost where none was good."""

    feature: str
    judged: int
    good: int
    usd: float | None
    low: float | None
    high: float | None


def cost_per_good_answer(spend: Spend, outcomes: pl.DataFrame, *, seed: int = 0) -> list[GoodCost]:
    """Cost of a good answer of all judged requests, then by feature, with 95 % intervals by cluster.

    Parameters
    ----------
    outcomes : polars.DataFrame
        ``request`` (a trace_id, or a call_id, which stands for its whole trace), ``good`` (0 or 1) and, where requests
        share fate, ``cluster``: without it the item, else the user, else the request itself is the cluster.

    Raises
    ------
    ConfigError
        If a column is missing, ``good`` holds something else, or no judged request is in the ledger.
    """
    if lacking := [name for name in ("request", "good") if name not in outcomes.columns]:
        raise ConfigError(f"outcomes of requests lack {', '.join(lacking)}; found {', '.join(outcomes.columns)}")
    good = outcomes["good"].cast(pl.Float64, strict=False)
    if good.null_count() or not good.is_in([0.0, 1.0]).all():
        raise ConfigError("good is 0 or 1 for each judged request; found other values")
    own = pl.col("cluster").cast(pl.String) if "cluster" in outcomes.columns else pl.lit("")
    told = outcomes.select(pl.col("request").cast(pl.String).alias("id"), good.alias("good"), own.alias("cluster"))
    calls = spend.rows.select(pl.col("call_id").alias("id"), REQUEST).unique("id")
    told = told.join(calls, on="id", how="left").with_columns(pl.coalesce("request", "id").alias("request"))
    if (twice := told.filter(pl.col("request").is_duplicated()))["request"].len():
        first, *_ = twice["request"].to_list()
        raise ConfigError(f"request {first} is judged more than once, of its trace or calls; give one line for each")
    judged = spend.requests().join(told, on="request").sort("request")
    if judged.is_empty():
        raise ConfigError(
            "none of the judged requests is in the ledger of this period; request is a trace_id or a call_id"
        )
    clusters = [
        pl.when(pl.col(n) != "").then(pl.format("{} {}", pl.lit(n), n)) for n in ("cluster", "item_id", "user_id")
    ]
    judged = judged.with_columns(pl.coalesce(*clusters, "request").alias("cluster"))
    features = judged["feature"].unique().sort()
    parts = [("all", judged), *((shown_name(f), judged.filter(pl.col("feature") == f)) for f in features)]
    return [_good_answer_cost(name, part, seed) for name, part in parts]


def _good_answer_cost(feature: str, judged: pl.DataFrame, seed: int) -> GoodCost:
    good = judged["good"].to_numpy()
    if not good.any():
        return GoodCost(feature, len(judged), 0, None, None, None)
    codes = np.unique(judged["cluster"].to_numpy(), return_inverse=True)[1]
    usd, low, high = ratio_interval(judged["cost_nanos"].to_numpy() / 1e9, good, codes, seed=seed)
    return GoodCost(feature, len(judged), int(good.sum()), usd, None if low is None else max(low, 0.0), high)


def read_revenue(path: Path) -> dict[str, int]:
    """Nano-dollars of revenue by tenant, from a CSV with ``tenant_id`` and ``revenue_usd``; lines of a tenant add up.

    Raises
    ------
    ConfigError
        If it is no such file, with the line.
    """
    found = dict[str, int]()
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for line in csv.DictReader(file):
                tenant, amount = line["tenant_id"], signed_nanos(line["revenue_usd"])
                found[tenant] = found.get(tenant, 0) + amount
    except (OSError, UnicodeDecodeError, KeyError, ValueError, csv.Error) as error:
        told = f"no column {error}" if isinstance(error, KeyError) else error
        raise ConfigError(f"{path} is not a CSV with tenant_id and revenue_usd: {told}") from error
    return found


def customer_margins(matrix: pl.DataFrame, revenue: Mapping[str, int]) -> pl.DataFrame:
    """Margin of each tenant: tenant, revenue_nanos (null: not told), direct_nanos, allocated_nanos, margin_nanos.

    ``matrix`` is that of `Spend.matrix`; the least margin comes first.
    """
    costs = matrix.group_by("tenant").agg(pl.col("direct_nanos", "allocated_nanos").sum())
    told = pl.DataFrame({"tenant": [shown_name(tenant) for tenant in revenue], "revenue_nanos": list(revenue.values())},
                        schema={"tenant": pl.String, "revenue_nanos": pl.Int64})  # fmt: skip
    whole = told.join(costs, on="tenant", how="full", coalesce=True)
    whole = whole.with_columns(pl.col("direct_nanos", "allocated_nanos").fill_null(0))
    margin = pl.col("revenue_nanos") - pl.col("direct_nanos") - pl.col("allocated_nanos")
    return whole.with_columns(margin.alias("margin_nanos")).sort("margin_nanos", "tenant", nulls_last=True)
