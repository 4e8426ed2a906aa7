"""``workbench trace``: what a call did, in the terminal or as a page."""

from pathlib import Path
from typing import Annotated

import typer

from workbench.errors import ConfigError


def trace(
    trace_id: Annotated[str, typer.Argument(help="Id of a trace, or how it begins; none: list the latest.")] = "",
    html: Annotated[Path | None, typer.Option(metavar="PATH", help="Write a page there instead.")] = None,
) -> None:
    """Show what a call did: every step with its time, tokens, cost, messages and errors."""
    from workbench.config import load_settings
    from workbench.state import open_engine
    from workbench.telemetry.trace import latest_traces, load_trace

    engine = open_engine(load_settings().state_url)
    if not trace_id:
        found = latest_traces(engine)
        typer.echo(found.to_text() if found.rows else "no trace is stored yet")
        return
    loaded = load_trace(engine, trace_id, wait_s=0.0)
    if html is None:
        typer.echo(loaded.text())
        return
    try:
        html.write_text(loaded.html(), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"the page cannot be written to {html}: {error.strerror}") from error
    typer.echo(f"written: {html}")
