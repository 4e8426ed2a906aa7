"""Commands about calls: local models, budgets, traces, and recording answers."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli.lines import say, write_file
from workbench.config import load_settings
from workbench.errors import ConfigError
from workbench.rendering.numbers import counted, percent

if TYPE_CHECKING:
    import polars as pl


models_app = typer.Typer(help="List the local models, and fetch their weights.")


@models_app.callback(invoke_without_command=True)
def models_command(context: typer.Context) -> None:
    """List the local models: what they cost, under which licence, from where, and whether they are on disk."""
    if context.invoked_subcommand is None:
        from workbench.inference.prices import project_prices
        from workbench.inference.weights import weights_table

        settings = load_settings()
        typer.echo(weights_table(settings.cache / "weights", project_prices(settings.root)).to_text())


@models_app.command("fetch")
def fetch_models_command(
    names: Annotated[list[str] | None, typer.Argument(help="Models; all by default.")] = None,
) -> None:
    """Fetch weights that are not on disk, and check their hashes."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    from workbench.inference.weights import WEIGHTS, fetch

    folder, console = load_settings().cache / "weights", Console(stderr=True)
    if not console.is_terminal:  # no bar can be drawn: a long download writes lines by itself
        for name in names or WEIGHTS:
            typer.echo(fetch(name, folder))
        return
    described, speed = TextColumn("{task.description}"), TransferSpeedColumn()
    with Progress(described, BarColumn(), DownloadColumn(), speed, TimeRemainingColumn(), console=console) as progress:
        for name in names or WEIGHTS:
            size = WEIGHTS[name].size_bytes if name in WEIGHTS else None
            task = progress.add_task(name, total=size)
            path = fetch(name, folder, on_bytes=lambda count, task=task: progress.update(task, completed=count))  # type: ignore[misc]
            progress.update(task, completed=size)
            typer.echo(path)


def budgets_command(
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
        shares = f"{percent(lost.by_cost, 1)} of the money and {percent(lost.by_calls, 1)} of the calls"
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


def trace_command(
    trace_id: Annotated[str, typer.Argument(help="Id of a trace, or how it begins; none: list the latest.")] = "",
    html: Annotated[Path | None, typer.Option(metavar="PATH", help="Write a page there instead.")] = None,
    forget_before: Annotated[
        datetime | None,
        typer.Option(metavar="ISO_DATE", help="Delete every trace that ended before; in UTC. The ledger stays."),
    ] = None,
    tenant: Annotated[str | None, typer.Option(help="List only the traces of this tenant.")] = None,
    feature: Annotated[str | None, typer.Option(help="List only the traces of this feature.")] = None,
    failed: Annotated[bool, typer.Option("--error", help="List only the traces that ended in an error.")] = False,
    min_cost_usd: Annotated[
        float, typer.Option(min=0, max=1e9, help="List only the traces that cost at least so much.")
    ] = 0.0,
    max_score: Annotated[
        float | None, typer.Option(min=0, max=1, help="List only the traces that users scored at most so: 0 is bad.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="List the newest so many.")] = 20,
) -> None:
    """Show what a call did: every step with its time, tokens, cost, messages and errors."""
    from workbench.state import open_engine
    from workbench.telemetry.traces import TraceFilter, forget_traces, latest_traces, load_trace

    engine = open_engine(load_settings().state_url)
    only = TraceFilter(tenant=tenant, feature=feature, failed=failed, least_cost_usd=min_cost_usd, most_score=max_score)
    if (trace_id or forget_before) and only != TraceFilter():
        raise ConfigError("what narrows the list is for the list alone: give no trace and no --forget-before")
    if forget_before:
        if trace_id or html:
            raise ConfigError("--forget-before deletes all traces of that time; give it no trace and no --html")
        gone = forget_traces(engine, forget_before.replace(tzinfo=UTC))
        typer.echo(
            f"forgotten: {counted(gone.traces, 'trace')} with {counted(gone.spans, 'span')}, ended before "
            f"{forget_before} UTC"
        )
        return
    if not trace_id:
        from workbench.quality.feedback import feedback_trace_scores

        found = latest_traces(engine, limit, only=only, scores=feedback_trace_scores(engine))
        none = "no trace is stored yet" if only == TraceFilter() else "no trace is like this"
        typer.echo(found.to_text() if found.rows else none)
        return
    loaded = load_trace(engine, trace_id, wait_s=0.0)
    if html is None:
        typer.echo(loaded.text())
    else:
        write_file(html, loaded.html())


def record_command(
    evalset: Annotated[str, typer.Argument(help="Name of an evalset with prompts.toml.")],
    model: Annotated[
        list[str] | None, typer.Option(help="Model of prompts.toml to ask; repeatable. Default: all.")
    ] = None,
    max_cost_usd: Annotated[float | None, typer.Option(help="What it may cost; needed to ask anything.")] = None,
    questions: Annotated[int | None, typer.Option(help="Only the first so many questions: a pilot.")] = None,
    repeat: Annotated[int, typer.Option(help="Answers to every request; needs a temperature in prompts.toml.")] = 1,
    sample: Annotated[int | None, typer.Option(help="Ask so many recorded items again, and report drift.")] = None,
    retrieval: Annotated[
        str, typer.Option(metavar="ARM", help="Ask the prompts of this arm of 01_retrieval, not of the accepted one.")
    ] = "",
    rewrites: Annotated[
        str | None, typer.Option(help="Who makes search queries of vague questions: a model, or module:function.")
    ] = None,
) -> None:
    """Record what models answer to an evalset's questions; says what it takes first, goes on where it stopped."""
    from workbench.routing.record_answers import evalset_models, recorded_answer_drift
    from workbench.routing.record_answers import record_answers as record_answers

    settings = load_settings()
    if sample is not None:
        if sample < 1 or repeat != 1 or questions is not None or retrieval or rewrites is not None:
            told = "--sample is a number from 1 on, without --repeat, --retrieval, --questions and --rewrites"
            raise ConfigError(f"{told}; found {sample}")
        for name in model or evalset_models(evalset, settings):
            typer.echo(
                recorded_answer_drift(
                    evalset, settings=settings, model=name, sample=sample, max_cost_usd=max_cost_usd
                ).to_text()
            )
        return
    if rewrites is not None:
        from workbench.pipeline.rewrites import record_rewrites

        if repeat != 1 or retrieval:
            raise ConfigError("--rewrites records each answer once, without --repeat and --retrieval")
        failed = record_rewrites(
            evalset, rewrites, settings=settings, models=model or (), max_cost_usd=max_cost_usd, questions=questions,
            tell=say,
        )  # fmt: skip
        if failed:
            raise typer.Exit(3)
        return
    failed = record_answers(
        evalset,
        settings=settings,
        models=model or (),
        max_cost_usd=max_cost_usd,
        questions=questions,
        repeats=repeat,
        retrieval=retrieval,
        tell=say,
    )
    if failed:
        raise typer.Exit(3)
