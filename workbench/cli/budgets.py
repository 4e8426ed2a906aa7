"""``workbench budgets``: what is spent, held and left."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.config import load_settings

if TYPE_CHECKING:
    import polars as pl


def budgets(
    close_holds_before: Annotated[
        datetime | None,
        typer.Option(help="First charge in full what calls of dead processes reserved before this moment, in UTC."),
    ] = None,
) -> None:
    """Show every budget of the state database: its limit, what is spent, and what unsettled calls hold."""
    import sqlalchemy as sa

    from workbench.inference.budgets import Budgets
    from workbench.state import open_engine
    from workbench.telemetry.ledger import Ledger

    url = load_settings().state_url
    engine = open_engine(url)
    if close_holds_before:
        closed = Budgets(engine).close_holds(close_holds_before.replace(tzinfo=UTC), Ledger(engine))
        typer.echo(
            f"holds closed: {len(closed):,}, charged in full: ${sum(row.cost_nanos for row in closed) / 1e9:.6f}"
        )
    drawn = Budgets(engine).table()
    shown = sa.make_url(url).render_as_string(hide_password=True)
    typer.echo(budgets_text(drawn) if len(drawn) else f"no call has been charged in {shown}")
    if lost := Ledger(engine).unattributed_share():
        shares = f"{100 * lost.by_cost:.1f}% of the money and {100 * lost.by_calls:.1f}% of the calls"
        typer.echo(f"{shares} name no tenant or no feature; attributed(tenant_id=..., feature=...) around a call does")


def budgets_text(drawn: "pl.DataFrame") -> str:
    """Text of the table that `Budgets.table` makes."""
    from workbench.rendering.table import Column, Table

    columns = [Column("budget"), Column("window"), *(Column(n, "usd") for n in ("limit", "spent", "held"))]
    rows = [
        (r["scope"], r["window"], *(None if (n := r[f"{c.name}_nanos"]) is None else n / 1e9 for c in columns[2:]),
         r["resets"] or "never")
        for r in drawn.iter_rows(named=True)
    ]  # fmt: skip
    return Table((*columns, Column("starts anew")), tuple(rows)).to_text()
