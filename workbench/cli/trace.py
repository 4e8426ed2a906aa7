"""``workbench trace``: what a call did, in the terminal or as a page, and forgetting it."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from workbench.cli.files import write_file
from workbench.config import load_settings
from workbench.errors import ConfigError


def trace(
    trace_id: Annotated[str, typer.Argument(help="Id of a trace, or how it begins; none: list the latest.")] = "",
    html: Annotated[Path | None, typer.Option(metavar="PATH", help="Write a page there instead.")] = None,
    forget_before: Annotated[
        datetime | None,
        typer.Option(metavar="ISO_DATE", help="Delete every trace that ended before; in UTC. The ledger stays."),
    ] = None,
) -> None:
    """Show what a call did: every step with its time, tokens, cost, messages and errors."""
    from workbench.state import open_engine
    from workbench.telemetry.retention import forget_traces
    from workbench.telemetry.trace import latest_traces, load_trace

    engine = open_engine(load_settings().state_url)
    if forget_before:
        if trace_id or html:
            raise ConfigError("--forget-before deletes all traces of that time; give it no trace and no --html")
        gone = forget_traces(engine, forget_before.replace(tzinfo=UTC))
        typer.echo(f"forgotten: {gone.traces:,} traces with {gone.spans:,} spans, ended before {forget_before} UTC")
        return
    if not trace_id:
        found = latest_traces(engine)
        typer.echo(found.to_text() if found.rows else "no trace is stored yet")
        return
    loaded = load_trace(engine, trace_id, wait_s=0.0)
    if html is None:
        typer.echo(loaded.text())
    else:
        write_file(html, loaded.html())
