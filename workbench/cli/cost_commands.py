"""``workbench costs``, ``layers`` and ``watch``: what was spent, what is there, and what a price list flips."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli.lines import say, write_file
from workbench.config import load_settings
from workbench.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workbench.costs.spend import Spend
    from workbench.rendering.table import Table


def costs_command(
    by: Annotated[
        str, typer.Option(metavar="COLUMNS", help="Sum by these, such as day or feature,model.")
    ] = "feature,tenant",
    since: Annotated[str, typer.Option(metavar="ISO_DATE", help="From then on, in UTC.")] = "",
    until: Annotated[str, typer.Option(metavar="ISO_DATE", help="Before then, in UTC.")] = "",
    before: Annotated[
        str, typer.Option(metavar="ISO_DATE", help="Explain the change since the period from here to --since.")
    ] = "",
    revenue: Annotated[
        Path | None, typer.Option(metavar="CSV", help="tenant_id and revenue_usd of the period: show margins.")
    ] = None,
    good: Annotated[
        Path | None,
        typer.Option(metavar="CSV", help="request and good (0 or 1): show what a good answer costs."),
    ] = None,
    invoice: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Compare an invoice of the period: CSV, FOCUS or JSON.")
    ] = None,
    focus: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Write the period in FOCUS 1.4 names there.")
    ] = None,
    account: Annotated[str, typer.Option(help="Who pays, for --focus.")] = "",
) -> None:
    """Show what was spent: by feature and customer, for a request and a good answer, and what was wasted."""
    from workbench.costs.cost_bridge import cost_bridge
    from workbench.costs.focus import BillingAccount, focus_frame
    from workbench.costs.invoices import read_invoice, reconcile_invoice
    from workbench.costs.spend import load_spend, spend_moment
    from workbench.costs.tables import cost_bridge_table, invoice_tables, spend_period
    from workbench.inference.prices import project_prices
    from workbench.state import open_engine
    from workbench.telemetry.ledger import Ledger

    if before and not spend_moment(before) < spend_moment(since):
        raise ConfigError("--before is the start of the period that ends at --since: give both, in this order")
    if focus and not account:
        raise ConfigError("--focus needs --account: the id of the account that pays")
    settings = load_settings()
    ledger = Ledger(open_engine(settings.state_url))
    spend = load_spend(ledger, since=since, until=until)
    if spend.rows.is_empty():
        say(f"the ledger has no call {spend_period(spend)}")
        return
    prices = project_prices(settings.root)
    if invoice:
        tables = invoice_tables(reconcile_invoice(spend, read_invoice(*invoice), prices))
    else:
        tables = _costs_command_tables(spend, [name.strip() for name in by.split(",") if name.strip()], revenue, good)
    if before:
        tables.append(cost_bridge_table(cost_bridge(load_spend(ledger, since=before, until=since), spend, prices)))
    typer.echo("\n\n".join(table.to_text() for table in tables))
    if focus:
        write_file(focus, focus_frame(spend, prices, BillingAccount(account)).write_csv())


def layers_command(
    html: Annotated[Path | None, typer.Option(metavar="PATH", help="Write a page there instead.")] = None,
) -> None:
    """Show what is configured and measured of each layer, with what is missing in order."""
    from workbench.stack.layers import read_layers

    page = read_layers(load_settings())
    if html is None:
        typer.echo(repr(page))
    else:
        write_file(html, page.page(html.resolve().parent))


def watch_command(
    lists: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[PRICES]", help="models.toml or prices.toml to try; the project's by default."),
    ] = None,
) -> None:
    """List the accepted decisions that a price list flips, with no model call; exit code 1 if there is one.

    Exit code 3 if the list has no price for something that a decision counts.

    Each is decided again on its own estimates, by its own rule; routers and thresholds stay as they were fitted, and
    prices that are parameters of a notebook (call_usd) as they were given.
    """
    from workbench.evaluation.flip_points import decided_at_prices
    from workbench.inference.prices import load_prices
    from workbench.rendering.text import verdict_label
    from workbench.runner import accepted_decisions

    settings, flipped, unknown = load_settings(), 0, 0
    operations, models = (
        _watch_price_file(name, settings.root, lists or ()) for name in ("prices.toml", "models.toml")
    )
    prices = load_prices(operations, models)
    for evalset, decision in accepted_decisions(settings):
        place, stated = f"{evalset}/{decision.notebook}", verdict_label(decision.verdict, decision.rule.reference)
        if decision.flips is None:
            say(f"{place}  not known: accepted before decisions told what their arms use; run and accept it anew")
            continue
        try:
            found = decided_at_prices(decision, prices)
        except ConfigError as error:  # an unknown price is told of its decision, and those of others are looked at
            unknown += 1
            say(f"{place}  not known: {error}")
            continue
        if found:
            flipped += 1
            now = verdict_label(found.verdict, decision.rule.reference)
            say(f"{place}  flips: {stated} {decision.arm} -> {now} {found.arm}. {found.sentence}")
        else:
            say(f"{place}  stands: {stated} {decision.arm}")
    told = f", {unknown} rest on prices that are not there" if unknown else ""
    say(f"{flipped} flip at the prices {prices.version}{told}")
    raise typer.Exit(3 if unknown else 1 if flipped else 0)


def _watch_price_file(name: str, root: Path, given: "Sequence[Path]") -> Path | None:
    """The file of this form that is named, else the project's own, if it has one."""
    parts = {"prices.toml": "operations", "models.toml": "models"}
    found = list[Path]()
    for path in given:
        try:
            text = path.read_bytes().decode(errors="replace")
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
        forms = [form for form, part in parts.items() if re.search(rf"^\s*\[*\s*[\"']?{part}\b", text, re.MULTILINE)]
        if len(forms) != 1:
            both = "both" if forms else "neither"
            raise ConfigError(f"{path} is no price list: one has [operations...] or [models...], this has {both}")
        found += [path] if forms == [name] else []
    if len(found) > 1:
        raise ConfigError(f"{found[0]} and {found[1]} are both of the form of {name}; name one of each form")
    return found[0] if found else own if (own := root / name).is_file() else None


def _costs_command_tables(spend: "Spend", names: list[str], revenue: Path | None, good: Path | None) -> "list[Table]":
    import polars as pl

    from workbench.costs import tables
    from workbench.costs.spend import spend_spikes
    from workbench.costs.unit_economics import cost_per_good_answer, customer_margins, read_revenue

    first = tables.spend_matrix_table(spend) if names == ["feature", "tenant"] else tables.spend_table(spend, *names)
    shown = [
        first,
        tables.spend_gaps_table(spend),
        tables.unit_cost_table(spend),
        tables.token_cost_table(spend),
        tables.spend_waste_table(spend),
    ]
    if revenue:
        shown.append(tables.customer_margins_table(customer_margins(spend.matrix(), read_revenue(revenue))))
    if good:
        try:
            judged = pl.read_csv(good, infer_schema_length=None)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise ConfigError(f"{good} is not a CSV with request and good: {error}") from error
        shown.append(tables.good_answer_cost_table(cost_per_good_answer(spend, judged)))
    found = spend_spikes(spend)
    return [*shown, tables.spend_spikes_table(found)] if len(found) else shown
