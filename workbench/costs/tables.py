"""Costs as tables: what the notebook shows and ``workbench costs`` prints."""

from collections.abc import Sequence

import polars as pl

from workbench.costs.cost_bridge import Bridge
from workbench.costs.invoices import Reconciliation, invoice_differences_by_cause
from workbench.costs.spend import CLASS_OF, ShareBy, Spend
from workbench.costs.unit_economics import GoodCost
from workbench.rendering.numbers import counted, number, usd_digits
from workbench.rendering.table import Column, Interval, Table, Value

SHOWN = 40  # rows of a table; the rest is one row, so that every table adds up


def spend_table(spend: Spend, *names: str, shown: int = SHOWN) -> Table:
    """Sums by some columns, dearest first; what is left off is one row, and the last row is the total."""
    frame = spend.by(*names)
    keys, sums = frame.columns[:-3], frame.columns[-3:]
    rows: list[tuple[Value, ...]] = [(*r[:-3], r[-3], *_cost_usd(r[-2:])) for r in frame.head(shown).iter_rows()]
    blank = ("",) * (len(keys) - 1)
    if len(rest := frame.slice(shown)):
        _, cost, saved = (int(rest[name].sum()) for name in sums)
        rows.append((f"({counted(len(rest), 'other')})", *blank, None, *_cost_usd((cost, saved))))
    saved = int(spend.rows["saved_nanos"].sum())
    rows.append(("total", *blank, spend.rows["call_id"].n_unique(), *_cost_usd((spend.total_nanos, saved))))
    share = [
        None if r[-2] is None or not spend.total_nanos else 1e9 * float(str(r[-2])) / spend.total_nanos for r in rows
    ]
    columns = (*map(Column, keys), Column("calls", "count"), Column("cost usd", "usd"), Column("saved usd", "usd"))
    whole = tuple((*r, part) for r, part in zip(rows, share, strict=True))
    caption = f"Spending by {', '.join(names) or 'everything'}. {_spend_begins(spend_period(spend))}; "
    caption += "a call counts in each group in which it has an attempt"
    return Table((*columns, Column("share", "share", digits=1)), whole, caption)


def spend_period(spend: Spend) -> str:
    """Say which period the rows are of.

    >>> spend_period(Spend(pl.DataFrame(), since="2026-11-01"))
    'from 2026-11-01 on'
    """
    if spend.since and spend.until:
        return f"from {spend.since} until before {spend.until}"
    return f"from {spend.since} on" if spend.since else f"before {spend.until}" if spend.until else "of all time"


def spend_headline(spend: Spend) -> str:
    """Say what was spent, of which period.

    >>> spend_headline(Spend(pl.DataFrame({"cost_nanos": [1_250_000_000]}), since="2026-11-01"))
    'What was spent, for whom, and why? $1.25 from 2026-11-01 on'
    """
    usd = spend.total_nanos / 1e9
    return f"What was spent, for whom, and why? {number(usd, usd_digits([usd]), unit='$')} {spend_period(spend)}"


def _spend_begins(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def spend_matrix_table(spend: Spend, share_by: ShareBy = "cost", shown: int = SHOWN) -> Table:
    """Feature x tenant, direct and allocated; then what names nobody or has no price, as shares of all."""
    frame = spend.matrix(share_by)
    rows: list[tuple[Value, ...]] = [
        (f, t, calls, direct / 1e9, shared / 1e9, (direct + shared) / 1e9)
        for f, t, calls, direct, shared in frame.head(shown).iter_rows()
    ]
    if len(rest := frame.slice(shown)):
        direct, shared = int(rest["direct_nanos"].sum()), int(rest["allocated_nanos"].sum())
        rows.append((f"({counted(len(rest), 'other')})", "", None, *_cost_usd((direct, shared, direct + shared))))
    direct, shared = int(frame["direct_nanos"].sum()), int(frame["allocated_nanos"].sum())
    rows.append(("total", "", None, *_cost_usd((direct, shared, direct + shared))))
    columns = (Column("feature"), Column("tenant"), Column("calls", "count"))
    money = (Column("direct usd", "usd"), Column("allocated usd", "usd"), Column("cost usd", "usd"))
    caption = f"Cost by feature and tenant. {_spend_begins(spend_period(spend))}; shared cost is split by {share_by}"
    return Table((*columns, *money), tuple(rows), caption)


def spend_gaps_table(spend: Spend) -> Table:
    """Calls that name no tenant or no feature, and those whose price nobody told."""
    rows = tuple((gap, n, share, cost / 1e9, part) for gap, n, share, cost, part in spend.gaps().iter_rows())
    columns = (Column("what is not known"), Column("calls", "count"), Column("of calls", "share", digits=1))
    return Table(
        (*columns, Column("cost usd", "usd"), Column("of cost", "share", digits=1)),
        rows,
        "Calls that name nobody, or have no price",
    )


def unit_cost_table(spend: Spend) -> Table:
    """Cost of a product request by feature: mean, p50, p95, p99."""
    names = ("mean", "p50", "p95", "p99")
    rows = []
    for feature, n, *amounts in spend.unit_costs().iter_rows():
        rows.append((feature, n, *(None if a is None else a / 1e9 for a in amounts)))
    columns = (Column("feature"), Column("requests", "count"), *(Column(f"{name} usd", "usd") for name in names))
    return Table(columns, tuple(rows), "Cost of a product request. An answer from our own cache costs nothing")


def customer_margins_table(margin: pl.DataFrame, shown: int = SHOWN) -> Table:
    """Margin by customer, from `workbench.costs.unit_economics.customer_margins`; the least margin first."""
    rows = []
    for tenant, revenue, direct, shared, left in margin.head(shown).iter_rows():
        share = left / revenue if revenue and revenue > 0 and left is not None else None
        rows.append((tenant, *_cost_usd((revenue, direct, shared, left)), share))
    known = not margin["revenue_nanos"].is_null().all()
    caption = "Margin by customer. The least first" if known else "Cost by customer. No revenue is told"
    caption += (
        f"; {shown} of {len(margin):,} are shown" if len(margin) > shown else f"; {counted(len(margin), 'customer')}"
    )
    money = [Column(f"{name} usd", "usd") for name in ("revenue", "direct", "allocated", "margin")]
    return Table((Column("tenant"), *money, Column("of revenue", "share", digits=1)), tuple(rows), caption)


def good_answer_cost_table(costs: Sequence[GoodCost]) -> Table:
    """Cost of a good answer with its interval."""
    rows = tuple(
        (c.feature, c.judged, c.good, None if c.usd is None else Interval(c.usd, c.low, c.high)) for c in costs
    )
    columns = (Column("feature"), Column("judged", "count"), Column("good", "count"))
    caption = "Cost of a good answer. 95 % interval; bad answers are paid for by the good ones"
    return Table((*columns, Column("usd per good answer", "interval", digits=6)), rows, caption)


def token_cost_table(spend: Spend) -> Table:
    """Tokens by class, as prices name the classes."""
    columns = (Column("tokens"), Column("count", "count"), Column("share", "share", digits=1))
    rows = tuple((CLASS_OF[name].replace("_", " "), n, share) for name, n, share in spend.token_split().iter_rows())
    return Table(columns, rows, "Tokens by class")


def spend_waste_table(spend: Spend) -> Table:
    """What bought no answer for a user."""
    rows = tuple((kind, n, cost / 1e9) for kind, n, cost in spend.waste().iter_rows())
    columns = (Column("paid for"), Column("attempts", "count"), Column("cost usd", "usd"))
    return Table(columns, rows, "What bought an answer, and what did not")


def spend_spikes_table(found: pl.DataFrame) -> Table:
    """Hours far above the usual, from `workbench.costs.spend.spend_spikes`."""
    rows = tuple((who, hour, at, cost / 1e9, limit / 1e9) for who, hour, at, cost, limit in found.iter_rows())
    columns = (Column(found.columns[0]), Column("hour"), Column("flagged at"), Column("cost usd", "usd"))
    return Table((*columns, Column("limit usd", "usd")), rows, "Hours far above those of the week before")


def cost_bridge_table(bridge: Bridge) -> Table:
    """From one period's cost to the next one's, cause by cause."""
    rows = [("before", bridge.before_nanos / 1e9)]
    rows += [(cause, effect / 1e9) for cause, effect in bridge.effects.items()]
    rows.append(("after", bridge.after_nanos / 1e9))
    told = f"; no list price: {', '.join(bridge.unlisted)}" if bridge.unlisted else ""
    caption = f"Why it changed. Each cause is averaged over all orders in which they can change{told}"
    return Table((Column("cause"), Column("usd", "usd")), tuple(rows), caption)


def invoice_tables(found: Reconciliation, shown: int = SHOWN) -> list[Table]:
    """Differences between invoice and ledger: by cause, then one by one, the largest first."""
    ranked = sorted(found.differences, key=lambda d: (-abs(d.by_nanos), d.day, d.model, d.meter))
    causes = [(cause, by / 1e9) for cause, by in invoice_differences_by_cause(ranked).items()] or [("none", 0.0)]
    totals = [("the ledger", found.ledger_nanos / 1e9), *causes, ("the invoice", found.invoice_nanos / 1e9)]
    told = f"; not on this invoice: {', '.join(found.elsewhere)}" if found.elsewhere else ""
    first = Table((Column("from ledger to invoice"), Column("usd", "usd")), tuple(totals), f"Invoice and ledger{told}")
    rows = tuple(
        (d.day, d.model, d.meter.replace("_", " "), d.ledger_tokens, d.invoice_tokens,
         *_cost_usd((d.ledger_nanos, d.invoice_nanos)), d.cause) for d in ranked[:shown]
    )  # fmt: skip
    caption = f"{counted(len(ranked), 'difference')} by day, model and class of token, largest first"
    digits = usd_digits(abs(float(amount)) for r in rows for amount in r[5:7] if amount)
    columns = (
        Column("day"), Column("model"), Column("tokens of"), Column("ledger tokens", "count"),
        Column("invoice tokens", "count"), Column("ledger usd", "usd", digits=digits),
        Column("invoice usd", "usd", digits=digits), Column("likeliest cause"),
    )  # fmt: skip
    return [first, Table(columns, rows, caption)] if ranked else [first]


def _cost_usd(amounts: Sequence[int | None]) -> tuple[float | None, ...]:
    return tuple(None if amount is None else amount / 1e9 for amount in amounts)
