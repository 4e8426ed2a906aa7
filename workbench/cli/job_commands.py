"""Commands about durable flows: jobs, workers, and the replay of what is recorded."""

import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.cli.lines import say, write_file
from workbench.cli.signals import end_like_ctrl_c
from workbench.config import load_settings
from workbench.errors import ConfigError
from workbench.rendering.numbers import counted

if TYPE_CHECKING:
    from workbench.orchestration.flows import Flows

jobs_app = typer.Typer(no_args_is_help=True, help="Submit flows, do them, and see what became of them.")
RunId = Annotated[str, typer.Argument(help="Id of a run, or how it begins.")]
EXIT_FAILED, EXIT_DIFFERENT, EXIT_INTERRUPTED = 3, 1, 130


def _open_command_flows() -> "Flows":
    from workbench.orchestration.flows import Flows

    return Flows.open()


def _job_option_values(given: list[str] | None) -> tuple[list[Any], dict[str, Any]]:
    """Arguments as JSON where they are JSON, else as text; ``name=value`` are keywords."""
    args, kwargs = list[Any](), dict[str, Any]()
    for text in given or ():
        name, equals, value = text.partition("=")
        if equals and name.isidentifier():
            kwargs[name] = _option_json_or_text(value)
        else:
            args.append(_option_json_or_text(text))
    return args, kwargs


def _option_json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


@jobs_app.command("submit")
def submit_command(
    flow: Annotated[str, typer.Argument(help="module:function")],
    arguments: Annotated[list[str] | None, typer.Argument(help="JSON or text; NAME=VALUE for keywords.")] = None,
    key: Annotated[str, typer.Option(help="Tells apart runs that are otherwise asked the same.")] = "",
) -> None:
    """Put a run into the queue of its flow and print its id."""
    args, kwargs = _job_option_values(arguments)
    with _open_command_flows() as flows:
        say(flows.submit(flows.durable.flow_of(flow), *args, key=key, **kwargs))


@jobs_app.command("work")
def work_command(
    names: Annotated[list[str] | None, typer.Argument(help="Flows to work for; by default all that wait.")] = None,
    when_done: Annotated[bool, typer.Option("--when-done", help="End when nothing is left to do.")] = False,
) -> None:
    """Do jobs until interrupted; any number of workers share them."""
    with _open_command_flows() as flows:
        say(f"working as {flows.durable.heartbeat.executor}; end with Ctrl-C", err=True)
        _work_until_done(flows, names or (), when_done=when_done)


def _work_until_done(flows: "Flows", names: Sequence[str], *, when_done: bool) -> None:
    """Do jobs; Ctrl-C ends at once, also in the middle of a step, which the next worker does again."""
    from workbench.runner.watchdog import leave_no_kernel

    end_like_ctrl_c()
    try:
        flows.work(names, when_done=when_done)
    except KeyboardInterrupt:
        say("interrupted; what was under way goes on with the next worker", err=True)
        flows.durable.heartbeat.close()
        leave_no_kernel()
        os._exit(EXIT_INTERRUPTED)  # the interpreter would wait for the thread that does the step


def sweep_command(
    notebook: str, sweep: Mapping[str, Sequence[str]], *, profile: str, parameters: Mapping[str, Any], here: bool
) -> None:
    """Run a notebook once for each combination, as jobs; what is done already is not done again."""
    from workbench.runner.sweep import submit_sweep, sweep_table

    with _open_command_flows() as flows:
        submitted = submit_sweep(flows, notebook, sweep, profile=profile, parameters=parameters)
        for run_id, changed in submitted:
            say(f"{run_id}  {', '.join(f'{name}={value}' for name, value in changed.items())}")
        if not here:
            return
        _work_until_done(flows, ["workbench.runner.sweep:notebook_run"], when_done=True)
        table = sweep_table(flows, submitted)
    typer.echo(table.to_text())
    if any(row[len(sweep)] != "done" for row in table.rows):
        raise typer.Exit(EXIT_FAILED)


@jobs_app.command("list")
def list_jobs_command(
    status: Annotated[str, typer.Option(help="waiting, running, done, failed or cancelled.")] = "",
    limit: Annotated[int, typer.Option(help="The newest so many.")] = 100,
) -> None:
    """List runs, newest first: how far they are, and what keeps those that wait."""
    with _open_command_flows() as flows:
        typer.echo(flows.jobs(status=status, limit=limit).to_text())


@jobs_app.command("show")
def show_command(run_id: RunId) -> None:
    """Show a run: what it was asked, its steps, what it came to."""
    with _open_command_flows() as flows:
        typer.echo(flows.show(flows.find(run_id)).text())


@jobs_app.command("retry")
def retry_command(run_id: RunId) -> None:
    """Do a failed or cancelled run again from the step that failed."""
    with _open_command_flows() as flows:
        say(flows.retry(flows.find(run_id)))


@jobs_app.command("cancel")
def cancel_command(run_id: RunId) -> None:
    """End a run before its next step."""
    with _open_command_flows() as flows:
        found = flows.find(run_id)
        say(f"{found} was {flows.cancel(found)}, and is cancelled")


@jobs_app.command("prune")
def prune_command(
    older_than: Annotated[str, typer.Option(metavar="AGE", help="Ended so long ago: 12h, 30d or 8w.")],
    traces: Annotated[bool, typer.Option("--traces", help="Delete traces of that age too; the ledger stays.")] = False,
) -> None:
    """Delete runs that ended long ago, with their steps and model calls; what waits or runs stays."""
    before = datetime.now(UTC) - age_option(older_than)
    with _open_command_flows() as flows:
        typer.echo(f"deleted: {counted(flows.prune(before), 'run')} that ended before {before:%Y-%m-%d %H:%M} UTC")
    if traces:
        from workbench.state import open_engine
        from workbench.telemetry.traces import forget_traces

        gone = forget_traces(open_engine(load_settings().state_url), before)
        typer.echo(f"deleted: {counted(gone.traces, 'trace')} with {counted(gone.spans, 'span')}")


def age_option(text: str) -> timedelta:
    """Age that an option names.

    >>> age_option("30d").days
    30

    Raises
    ------
    ConfigError
        If it is none.
    """
    number, unit = text[:-1], {"h": "hours", "d": "days", "w": "weeks"}.get(text[-1:], "")
    if not (unit and number.isascii() and number.isdecimal() and len(number) < 5):
        raise ConfigError(f"--older-than is a whole number of hours, days or weeks: 12h, 30d, 8w; found {text!r}")
    return timedelta(**{unit: int(number)})


@jobs_app.command("schedule")
def schedule_command(
    name: Annotated[str, typer.Argument(help="Name of the schedule; one that is there is replaced.")] = "",
    cron: Annotated[str, typer.Argument(help="Cron expression in UTC, for example: '0 3 * * *'")] = "",
    flow: Annotated[str, typer.Argument(help="module:function")] = "",
    arguments: Annotated[list[str] | None, typer.Argument(help="JSON or text; NAME=VALUE for keywords.")] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Delete the schedule instead.")] = False,
) -> None:
    """Submit a flow at every such moment while a worker is there; without a name: list the schedules."""
    if name and not delete and not (cron and flow):
        raise ConfigError(f"schedule {name!r} needs a cron expression and a flow, or --delete")
    args, kwargs = _job_option_values(arguments)
    with _open_command_flows() as flows:
        if name and delete:
            flows.unschedule(name)
        elif name:
            flows.schedule(name, cron, flows.durable.flow_of(flow), *args, **kwargs)
        typer.echo(flows.schedules().to_text())


def replay_command(
    run_id: Annotated[str, typer.Argument(help="Id of a run, or how it begins.")] = "",
    everything: Annotated[bool, typer.Option("--all", help="Every recorded run that has ended.")] = False,
    html: Annotated[Path | None, typer.Option(metavar="PATH", help="Write what differs as a page too.")] = None,
) -> None:
    """Repeat recorded runs without network and models, and say which of them the present code alters.

    Exit code: 0 all are repeated, 1 one differs.
    """
    if bool(run_id) == everything:
        raise ConfigError("replay takes the id of a run, or --all")
    with _open_command_flows() as flows:
        report = flows.replay_all([] if everything else [flows.find(run_id)])
    typer.echo(report.table().to_text())
    if html:
        from workbench.rendering.html import plain_page

        write_file(html, plain_page("Replay", report.table().to_html()))
    if report.different:
        raise typer.Exit(EXIT_DIFFERENT)


def diff_command(
    one: RunId,
    other: RunId,
    html: Annotated[Path | None, typer.Option(metavar="PATH", help="Write a page there instead.")] = None,
) -> None:
    """Say what differs between two runs, step by step."""
    with _open_command_flows() as flows:
        table = flows.diff(flows.find(one), flows.find(other))
    if html is None:
        typer.echo(table.to_text())
    else:
        from workbench.rendering.html import plain_page

        write_file(html, plain_page(table.caption, table.to_html()))
