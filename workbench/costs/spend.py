"""Whom the money was for: cost by feature, customer, model and day, to the nano-dollar.

Direct is what a product call, or the ingestion of a customer's documents, cost under the tenant that it names. Shared
is what serves all of them (evals, judges, an index for everybody): it is allocated, and stands in a column of its own.
A product call that names nobody is neither: allocating it would hide that it names nobody.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from fractions import Fraction
from typing import Literal, get_args

import polars as pl

from workbench.errors import ConfigError, unknown_name
from workbench.inference.prices import NANOS_PER_USD, PriceTable
from workbench.telemetry.ledger import TOKENS, Ledger, shown_names

ShareBy = Literal["cost", "calls", "tokens", "even"]
# What a person calls the columns that money is summed by.
GROUPS: Mapping[str, pl.Expr] = {
    "feature": pl.col("feature"),
    "tenant": pl.col("tenant_id"),
    "user": pl.col("user_id"),
    "purpose": pl.col("purpose"),
    "model": pl.col("model_asked"),
    "route": pl.col("route"),
    "status": pl.col("status"),
    "price": pl.col("price_version"),
    "day": pl.col("started").str.slice(0, 10),
    "hour": pl.col("started").str.slice(0, 13),
}
CLASS_OF: Mapping[str, str] = {
    "fresh_tokens": "input", "cache_read_tokens": "cache_read", "cache_write_tokens": "cache_write",
    "output_tokens": "output",
}  # fmt: skip
NO_TOKENS = "none"
READ = (
    "call_id", "attempt", "started", "trace_id", "item_id", "tenant_id", "user_id", "feature", "purpose",
    "model_asked", "route", *TOKENS, "price_version", "cost_nanos", "saved_nanos", "status",
)  # fmt: skip
_MOST_USD = 9_000_000_000  # whole nano-dollars in 64 bits
_FREE = ("cached", "replayed")
_FAILED = ("error", "unknown")
_TOKENS = pl.sum_horizontal(TOKENS)
_DIRECT = (pl.col("purpose") == "product") | ((pl.col("purpose") == "ingest") & (pl.col("tenant_id") != ""))
REQUEST = pl.when(pl.col("trace_id") != "").then("trace_id").otherwise("call_id").alias("request")


@dataclass(frozen=True, slots=True, eq=False)
class Spend:
    """Rows of the ledger of one period, with the sums that they give.

    Attributes
    ----------
    rows : polars.DataFrame
        The columns `READ`, in no order.
    since, until : str
        ISO date or time from which, and before which, the rows started; empty: without an end.
    """

    rows: pl.DataFrame
    since: str = ""
    until: str = ""

    @property
    def total_nanos(self) -> int:
        """Nano-dollars of all rows."""
        return int(self.rows["cost_nanos"].sum())

    def by(self, *names: str) -> pl.DataFrame:
        """Sums by some of `GROUPS`: their names, calls, cost_nanos, saved_nanos; dearest first.

        What is not known is "(none)", and who is called so stands in quotes.
        A call counts once in each group in which it has an attempt.

        Raises
        ------
        ConfigError
            If a name is not one of `GROUPS`.
        """
        keys = [_spend_group_column(name).alias(name) for name in names]
        sums = self.rows.group_by(keys) if keys else self.rows.group_by(pl.lit("").alias("all"))
        calls = pl.col("call_id").n_unique().cast(pl.Int64).alias("calls")
        frame = sums.agg(calls, pl.col("cost_nanos", "saved_nanos").sum())
        texts = frame.columns[:-3]
        return frame.sort(-pl.col("cost_nanos"), *texts).with_columns(shown_names(*texts))

    def matrix(self, share_by: ShareBy = "cost") -> pl.DataFrame:
        """Feature x tenant: feature, tenant, calls, direct_nanos, allocated_nanos; they sum to `total_nanos`.

        Parameters
        ----------
        share_by : {"cost", "calls", "tokens", "even"}
            How what is shared is split over the tenants that used its feature, or over all where none did.

        Raises
        ------
        ConfigError
            If it is split by something else.
        """
        if share_by not in get_args(ShareBy):
            raise ConfigError(unknown_name("way to split shared cost", share_by, get_args(ShareBy)))
        keys = ["feature", "tenant_id"]
        cells = self.rows.filter(_DIRECT).group_by(keys).agg(
            pl.col("call_id").n_unique().cast(pl.Int64).alias("calls"),
            pl.col("cost_nanos").sum().alias("direct_nanos"),
            _TOKENS.sum().alias("tokens"),
        )  # fmt: skip
        shared = self.rows.filter(~_DIRECT).group_by("feature").agg(pl.col("cost_nanos").sum())
        parts = _allocate_shared_spend(cells, dict(shared.sort("feature").iter_rows()), share_by)
        allocated = pl.DataFrame(
            [(*key, n) for key, n in parts.items()],
            {"feature": pl.String, "tenant_id": pl.String, "allocated_nanos": pl.Int64},
            orient="row",
        )
        whole = cells.join(allocated, on=keys, how="full", coalesce=True).with_columns(pl.exclude(keys).fill_null(0))
        whole = whole.sort(-(pl.col("direct_nanos") + pl.col("allocated_nanos")), *keys)
        return whole.select(
            shown_names("feature"),
            shown_names("tenant_id").alias("tenant"),
            *("calls", "direct_nanos", "allocated_nanos"),
        )

    def gaps(self) -> pl.DataFrame:
        """Rows that name nobody, or whose price nobody told: gap, calls, share_of_calls, cost_nanos, share_of_cost."""
        product = pl.col("purpose") == "product"
        unpriced = (pl.col("price_version") == "") & (pl.col("cost_nanos") == 0) & (_TOKENS > 0)
        kinds = {
            "no tenant": product & (pl.col("tenant_id") == ""),
            "no feature": pl.col("feature") == "",
            "no price": unpriced & ~pl.col("status").is_in((*_FREE, "correction")),
        }
        calls, total = self.rows["call_id"].n_unique(), self.total_nanos
        rows = []
        for name, lacking in kinds.items():
            found = self.rows.filter(lacking)
            n, cost = found["call_id"].n_unique(), int(found["cost_nanos"].sum())
            rows.append((name, n, n / calls if calls else 0.0, cost, cost / total if total else 0.0))
        names = {"gap": pl.String, "calls": pl.Int64, "share_of_calls": pl.Float64}
        return pl.DataFrame(rows, names | {"cost_nanos": pl.Int64, "share_of_cost": pl.Float64}, orient="row")

    def requests(self) -> pl.DataFrame:
        """Product requests: request, feature, tenant_id, cost_nanos; all calls of one trace are one request."""
        product = self.rows.filter(pl.col("purpose") == "product").with_columns(REQUEST)
        return product.group_by("request").agg(
            pl.col("feature", "tenant_id", "item_id", "user_id").max(), pl.col("cost_nanos").sum()
        )

    def unit_costs(self) -> pl.DataFrame:
        """Cost of a product request by feature, and of all: feature, requests, mean_nanos, p50_nanos, p95_, p99_.

        Percentiles are costs of requests that there were (nearest rank); an answer from a cache costs 0.
        """
        cost, requests = pl.col("cost_nanos"), self.requests()
        ranks = [cost.quantile(q / 100, "nearest").alias(f"p{q}_nanos") for q in (50, 95, 99)]
        sums = [pl.len().cast(pl.Int64).alias("requests"), cost.mean().alias("mean_nanos"), *ranks]
        each = requests.group_by("feature").agg(sums).with_columns(shown_names("feature"))
        return pl.concat([requests.select(pl.lit("all").alias("feature"), *sums), each.sort("feature")])

    def by_class(self, prices: PriceTable, **keys: pl.Expr) -> pl.DataFrame:
        """Sums by some keys and class of token: the keys, meter, tokens, cost_nanos; they sum to `total_nanos`.

        The ledger has one amount per attempt. It is split in proportion to the model's list prices of the classes: what
        has none is priced as input, a model without any by tokens alone. What costs without tokens has the meter
        "none".

        >>> spend.by_class(prices, day=pl.col("started").str.slice(0, 10))  # doctest: +SKIP
        """
        used = (_TOKENS > 0).alias("used")
        groups = [*(e.alias(name) for name, e in keys.items()), pl.col("model_asked").alias("_model"), used]
        sums = self.rows.group_by(groups).agg(pl.col(*TOKENS, "cost_nanos").sum())
        sums = sums.join(_token_list_prices(sums["_model"].unique().to_list(), prices), on="_model", how="left")
        priced = pl.sum_horizontal([pl.col(n) * pl.col(f"list_{n}") for n in TOKENS]) > 0
        weights = [pl.when(priced).then(pl.col(n) * pl.col(f"list_{n}")).otherwise(pl.col(n)) for n in TOKENS]
        whole, upto, given, parts = pl.sum_horizontal(weights), pl.lit(0.0), pl.lit(0), []
        for name, weight in zip(TOKENS, weights, strict=True):
            # in floating point a part may be off by one, but what is left for the last class makes the sum exact
            upto = upto + weight
            share = pl.when(upto >= whole).then("cost_nanos").otherwise(
                (pl.col("cost_nanos") * (upto / whole)).round().cast(pl.Int64, strict=False))  # fmt: skip
            parts.append((share - given).alias(f"cost_{name}"))
            given = share
        sums = sums.with_columns(parts)
        out = [
            sums.filter(pl.col("used") if name else ~pl.col("used")).select(
                *keys,
                pl.lit(CLASS_OF[name] if name else NO_TOKENS).alias("meter"),
                (pl.col(name) if name else pl.lit(0, pl.Int64)).alias("tokens"),
                pl.col(f"cost_{name}" if name else "cost_nanos").alias("cost_nanos"),
            )
            for name in (*TOKENS, "")
        ]
        whole_frame = pl.concat(out).filter((pl.col("tokens") != 0) | (pl.col("cost_nanos") != 0))
        return whole_frame.group_by(*keys, "meter").agg(pl.col("tokens", "cost_nanos").sum()).sort(*keys, "meter")

    def token_split(self) -> pl.DataFrame:
        """Tokens of each class: tokens (the class), count, share."""
        counts = [int(self.rows[name].sum()) for name in TOKENS]
        whole = sum(counts) or 1
        return pl.DataFrame({"tokens": list(TOKENS), "count": counts, "share": [n / whole for n in counts]})

    def waste(self) -> pl.DataFrame:
        """What bought no answer for a user: kind, attempts, cost_nanos; the last row, "answers", is all the rest.

        A failed attempt is a retry where the same model was asked next, a failover where another was, and an error
        where none was. Evals, judges and other purposes than the product's are kinds of their own.
        """
        failed = self.rows.filter(pl.col("status").is_in(_FAILED), pl.col("purpose") == "product")
        calls = self.rows.filter(pl.col("attempt") >= 0, pl.col("status") != "correction")
        calls = calls.join(failed.select("call_id").unique(), on="call_id", how="semi").sort("call_id", "attempt")
        after = pl.col("model_asked").shift(-1).over("call_id")
        again = pl.when(after == pl.col("model_asked")).then(pl.lit("retried")).otherwise(pl.lit("failed over"))
        kind = pl.when(after.is_null()).then(pl.lit("error, no answer")).otherwise(again)
        kinds = calls.select("call_id", "attempt", "status", kind.alias("kind"))
        kinds = kinds.filter(pl.col("status").is_in(_FAILED)).drop("status")
        told = self.rows.select("call_id", "attempt", "purpose", "cost_nanos").join(
            kinds, on=["call_id", "attempt"], how="left"
        )
        other = (
            pl.when(pl.col("purpose") != "product").then("purpose").otherwise(pl.coalesce("kind", pl.lit("answers")))
        )
        sums = told.group_by(other.alias("kind")).agg(
            pl.len().cast(pl.Int64).alias("attempts"), pl.col("cost_nanos").sum()
        )
        return sums.sort(pl.col("kind") == "answers", -pl.col("cost_nanos"), "kind")


def spend_moment(text: str) -> str:
    """ISO date or time as the ledger writes it, so that text compares as time does; empty stays empty.

    >>> spend_moment("2026-11-01"), spend_moment("2026-11-01T01:00:00+02:00")
    ('2026-11-01T00:00:00', '2026-10-31T23:00:00')

    Raises
    ------
    ConfigError
        If it is no ISO date.
    """
    try:
        at = datetime.fromisoformat(text) if text else None
    except ValueError:
        raise ConfigError(f"{text!r} is no ISO date; write it as 2026-11-01") from None
    return f"{at.astimezone(UTC) if at.tzinfo else at:%Y-%m-%dT%H:%M:%S}" if at else ""


def load_spend(ledger: Ledger, *, since: str = "", until: str = "") -> Spend:
    """Read what was spent in a period; a million rows take seconds and some hundred MB.

    >>> load_spend(ledger, since="2026-11-01").by("feature", "tenant")  # doctest: +SKIP

    Raises
    ------
    ConfigError
        If one of the ends is no ISO date.
    """
    return Spend(ledger.columns(READ, since=spend_moment(since), until=spend_moment(until)), since, until)


def _spend_group_column(name: str) -> pl.Expr:
    if name not in GROUPS:
        raise ConfigError(unknown_name("column to sum by", name, tuple(GROUPS)))
    return GROUPS[name]


def _token_list_prices(models: Sequence[str], prices: PriceTable) -> pl.DataFrame:
    """Nano-dollars of a token of each column of the ledger, by model: 0 for all of a model without a list price."""
    schema = {"_model": pl.String} | {f"list_{name}": pl.Float64 for name in TOKENS}
    rows = []
    for model in models:
        listed = prices.models.get(model, {})
        rows.append((model, *(float(listed.get(CLASS_OF[n], listed.get("input", 0))) for n in TOKENS)))
    return pl.DataFrame(rows, schema, orient="row")


def _allocate_shared_spend(
    cells: pl.DataFrame, shared: Mapping[str, int], share_by: ShareBy
) -> dict[tuple[str, str], int]:
    """Nano-dollars of what is shared, by feature and tenant; to nobody where no tenant is named at all."""
    column = {"cost": "direct_nanos", "calls": "calls", "tokens": "tokens"}.get(share_by)
    named = cells.filter(pl.col("tenant_id") != "").sort("feature", "tenant_id")
    weight = pl.col(column).clip(0) if column else pl.lit(1)
    used = dict[str, dict[str, int]]()
    whole = dict[str, int]()
    for feature, tenant, share in named.select("feature", "tenant_id", weight.alias("share")).iter_rows():
        used.setdefault(feature, {})[tenant] = share
        whole[tenant] = share if share_by == "even" else whole.get(tenant, 0) + share
    out = dict[tuple[str, str], int]()
    for feature, amount in shared.items():
        weights = next(
            (w for w in (used.get(feature, {}), whole) if any(w.values())), dict.fromkeys(whole, 1) or {"": 1}
        )
        for tenant, part in zip(weights, split_amount(amount, list(weights.values())), strict=True):
            out[feature, tenant] = part
    return out


def split_amount(amount: int, weights: Sequence[int]) -> list[int]:
    """Whole parts of an amount in proportion to weights of 0 or more; they sum to it, and each is right to one.

    >>> split_amount(10, [1, 1, 1]), split_amount(-10, [0, 3, 1])
    ([3, 4, 3], [0, -8, -2])
    """
    whole, seen, parts, given = sum(weights), 0, list[int](), 0
    for weight in weights:
        seen += weight
        upto = round(Fraction(amount * seen, whole))
        parts.append(upto - given)
        given = upto
    return parts


def signed_nanos(text: str | None) -> int:
    """Nano-dollars of an amount as a file writes it, rounded to the nearest; a credit is negative.

    >>> signed_nanos("-1,250.5"), signed_nanos("$0.000000001")
    (-1250500000000, 1)

    Raises
    ------
    ValueError
        If it is no amount of money.
    """
    plain = (text or "").strip().replace(",", "").replace("$", "")
    try:
        amount = Decimal(plain)
    except InvalidOperation:
        raise ValueError(f"{text!r} is no amount of dollars") from None
    if not amount.is_finite() or abs(amount) >= _MOST_USD:
        raise ValueError(f"{text!r} is no amount of dollars")
    return int((amount * NANOS_PER_USD).to_integral_value(ROUND_HALF_EVEN))


def spend_spikes(spend: Spend, name: str = "tenant", *, times: float = 10.0, least_usd: float = 1.0) -> pl.DataFrame:
    """Hours in which one group spent far more than in the seven days before, flagged while the hour runs.

    A spike is dearer than ``times`` the same hour of any of those days, and than twice their dearest hour: a daily
    shape and bursts are in both. What costs less than ``least_usd`` is none, nor is what a group spends on its first
    day, or after a week without any: nothing is usual then.

    >>> spend_spikes(load_spend(ledger), "feature")  # doctest: +SKIP

    Parameters
    ----------
    name : str
        One of `GROUPS`, or "" for all spending together.

    Returns
    -------
    polars.DataFrame
        The group, hour (ISO), crossed (when the running hour passed the limit), cost_nanos, limit_nanos; oldest first.
    """
    group = (_spend_group_column(name) if name else pl.lit("all")).alias(name or "of")
    key, cost = group.meta.output_name(), pl.col("cost_nanos")
    rows = spend.rows.select(group, "started", "cost_nanos", GROUPS["hour"].alias("hour"))
    at = (
        pl.col("hour").str.slice(0, 10).str.to_date("%Y-%m-%d").alias("day"),
        pl.col("hour").str.slice(11).alias("clock"),
    )
    hours = rows.group_by(key, "hour").agg(cost.sum()).with_columns(at).sort(key, "hour")
    week = cost.rolling_max_by("day", window_size="7d", closed="left")
    days = hours.group_by(key, "day").agg(cost.max()).sort(key, "day")
    dearest = days.select(key, "day", week.over(key).alias("dearest"))
    hours = hours.with_columns(week.over(key, "clock").fill_null(0).alias("same")).join(dearest, on=[key, "day"])
    least = pl.lit(int(least_usd * NANOS_PER_USD))
    limit = pl.max_horizontal((times * pl.col("same")).ceil().cast(pl.Int64), 2 * pl.col("dearest"), least)
    found = hours.with_columns(limit.alias("limit_nanos")).filter(
        pl.col("dearest").is_not_null(), cost > pl.col("limit_nanos")
    )
    running = rows.join(found.select(key, "hour", "limit_nanos"), on=[key, "hour"]).sort("started")
    passed = cost.cum_sum().over(key, "hour") > pl.col("limit_nanos")
    crossed = running.filter(passed).group_by(key, "hour").agg(pl.col("started").min().alias("crossed"))
    told = found.join(crossed, on=[key, "hour"], how="left").sort("hour", key)
    return told.select(shown_names(key), "hour", "crossed", "cost_nanos", "limit_nanos")
