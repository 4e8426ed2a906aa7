"""The command line: parse, call, print. What it calls, a notebook or a script can call too."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from workbench.cli.call_commands import budgets_command, models_app, record_command, trace_command
from workbench.cli.cost_commands import costs_command, layers_command, watch_command
from workbench.cli.import_commands import import_app, inspect_command
from workbench.cli.job_commands import diff_command, jobs_app, replay_command, sweep_command
from workbench.cli.lines import named_values, say, say_error, write_file
from workbench.cli.project_commands import compare_command, init_command, new_command, report_command, verify_command
from workbench.cli.quality_commands import feedback_app, quality_app, shadow_app
from workbench.cli.signals import end_like_ctrl_c, see_signals_at_once
from workbench.config import Settings, SystemClock, load_settings, require_writable
from workbench.errors import ConfigError, WorkbenchError
from workbench.extras import DISTRIBUTION, VERSION, extras_named, is_installed
from workbench.rendering.numbers import counted
from workbench.rendering.text import visible

if TYPE_CHECKING:
    from workbench.runner import RunRecord

EXIT_FAILED, EXIT_INTERRUPTED = 3, 130


class _CommandGroup(TyperGroup):
    """Shows the package's own errors as one message, without a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            with extras_named():
                return super().invoke(ctx)
        except WorkbenchError as error:
            say_error(error)
            raise typer.Exit(EXIT_FAILED) from None
        except KeyboardInterrupt:
            typer.echo("interrupted", err=True)
            raise typer.Exit(EXIT_INTERRUPTED) from None


app = typer.Typer(
    cls=_CommandGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


app.command("init")(init_command)
app.command("new")(new_command)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"workbench {VERSION}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Choose retrieval, routing and caching by evidence, and keep the choices true."""
    see_signals_at_once()


@app.command("run")
def run_command(
    name: Annotated[str, typer.Argument(help="Notebook, for example: retrieval")],
    parameter: Annotated[
        list[str] | None,
        typer.Option("-p", "--parameter", metavar="NAME=VALUE", help="Override a parameter; repeatable."),
    ] = None,
    profile: Annotated[str, typer.Option(help="smoke, ci or full.")] = "ci",
    evalset: Annotated[str | None, typer.Option(help="Name or folder of another evalset.")] = None,
    hard_timeout_s: Annotated[float, typer.Option(help="Kill the run after this many seconds.")] = 3600.0,
    sweep: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=A,B", help="One job for each of these values; repeatable, for each combination."),
    ] = None,
    wait: Annotated[bool, typer.Option(help="Do the jobs of a sweep here; else leave them to workers.")] = True,
    engine: Annotated[
        str | None, typer.Option(help="ray: embed documents in several processes.", envvar="WORKBENCH_ENGINE")
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Say what would be embedded and asked, how long, at what cost; start nothing."),
    ] = False,
) -> None:
    """Run a notebook headless and show what it decided."""
    from workbench.runner import Job, TerminalProgress, run_headless

    end_like_ctrl_c()
    if engine:
        os.environ["WORKBENCH_ENGINE"] = engine  # which kernels inherit
    settings = _command_project([name])
    require_writable(settings.cache, "WORKBENCH_CACHE")
    parameters = named_values(parameter or [])
    if evalset is not None:
        parameters["evalset"] = evalset
    if "evalset" in parameters:
        parameters["evalset"] = _evalset_option(parameters["evalset"], settings)
    job = Job(name, profile, parameters)
    if dry_run:
        from workbench.project.dry_run import foresee_run

        if sweep:
            raise ConfigError("--dry-run looks at one job; name one value of each parameter, without --sweep")
        for line in foresee_run(settings, job):
            say(line)
        return None
    if sweep:
        swept = {n: values.split(",") for n, values in named_values(sweep, "--sweep").items()}
        return sweep_command(name, swept, profile=profile, parameters=parameters, here=wait)
    with TerminalProgress() as progress:
        (record,) = run_headless(
            [job], settings=settings, clock=SystemClock(), on_event=progress, hard_timeout_s=hard_timeout_s
        )
    _print_run_result(record)
    if record.status != "done":
        raise typer.Exit(EXIT_FAILED)
    return None


@app.command("check")
def check_command(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Notebooks, or EVALSET/NOTEBOOK; all accepted decisions by default."),
    ] = None,
    junit: Annotated[Path | None, typer.Option(metavar="PATH", help="Write the gates as JUnit XML too.")] = None,
    json: Annotated[Path | None, typer.Option(metavar="PATH", help="Write every decision with its gate too.")] = None,
    markdown: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Write a comment for a pull request too.")
    ] = None,
    hard_timeout_s: Annotated[float, typer.Option(help="Kill a run after this many seconds.")] = 3600.0,
    against: Annotated[
        str, typer.Option(metavar="REF", help="Show the items that moved most since the decisions of another commit.")
    ] = "",
    aa: Annotated[
        bool, typer.Option("--aa", help="Say how large a difference from REF (HEAD) two equal versions would show.")
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Run all, also what a check that was interrupted came to already.")
    ] = False,
) -> None:
    """Run accepted decisions again and say whether they still hold.

    A check that was interrupted goes on where it was, unless something moved.
    Exit code: 0 all hold, 1 one is broken, 2 one is inconclusive or stale, 3 one could not be checked.
    """
    from workbench.project.check_report import check_json, check_markdown, check_sentence, check_status
    from workbench.project.run_differences import require_commit, run_differences_since
    from workbench.reports.brief import junit_xml
    from workbench.runner import TerminalProgress
    from workbench.runner import check_decisions as check_decisions
    from workbench.runner.accept_and_check import worst_exit_code

    end_like_ctrl_c()
    settings = _command_project(names)
    require_writable(settings.cache, "WORKBENCH_CACHE")
    history = require_commit(settings, against or "HEAD") if against or aa else None
    try:
        with TerminalProgress() as progress:
            checks = check_decisions(
                settings,
                names or (),
                clock=SystemClock(),
                on_event=progress,
                hard_timeout_s=hard_timeout_s,
                fresh=fresh,
                tell=say,
            )
    except KeyboardInterrupt:
        say("the same command goes on with the decisions that are left", err=True)
        raise
    for found in checks:
        say(f"{'/'.join(found.place)}  {check_status(found)}: {check_sentence(found)}")
        say(f"  report: {found.record.report or 'none'}")
        if history and found.decision:
            for line in run_differences_since(
                settings, history, found.evalset, found.record, against or "HEAD", noise=aa
            ):
                typer.echo(visible(line))
    if junit:
        write_file(junit, junit_xml({".".join(c.place): c.record.run_dir for c in checks}))
    for path, text in ((json, check_json), (markdown, check_markdown)):
        if path:
            write_file(path, text(checks))
    raise typer.Exit(worst_exit_code(checks))


@app.command("accept")
def accept_command(
    name: Annotated[str, typer.Argument(help="Notebook, for example: retrieval")],
    reason: Annotated[str, typer.Option(help="Why, for whoever reads the history later.")],
    run: Annotated[str, typer.Option(help="Folder name of the run; the newest finished one by default.")] = "",
    evalset: Annotated[str, typer.Option(help="Take the newest run on this evalset.")] = "",
    anchor: Annotated[bool, typer.Option("--anchor", help="Measure later arms against this one from now on.")] = False,
    even_if: Annotated[
        list[str] | None,
        typer.Option(metavar="WHAT", help="Accept a run that is 'inconclusive', or made by an 'other-rule'."),
    ] = None,
) -> None:
    """Accept the decision of a run, so that CI keeps checking it."""
    from workbench.evaluation.accepted_decision import anchor_path
    from workbench.records import Decision
    from workbench.runner import accept_decision as accept_run

    settings = _command_project()
    path = accept_run(
        settings,
        name,
        reason=reason,
        clock=SystemClock(),
        run=run,
        evalset=_evalset_option(evalset, settings) if evalset else "",
        anchor=anchor,
        even_if=even_if or (),
    )
    accepted, measure = Decision.load(path), anchor_path(path.parents[1], name)
    say(accepted.sentence)
    say(f"accepted for the evalset {path.parents[1].name}: {path}; commit it")
    if measure.is_file() and Decision.load(measure) == accepted:
        say(f"it is the anchor, which later arms are measured against: {measure}; commit it too")


@app.command("runs")
def runs_command(
    evalset: Annotated[str, typer.Option(help="Only the runs on this evalset.")] = "",
) -> None:
    """List the runs on disk, oldest first: evalset, verdict and arm, gate."""
    from workbench.rendering.text import verdict_label
    from workbench.runner import list_runs
    from workbench.runner.accept_and_check import evalset_of, run_verdict

    settings = load_settings()
    wanted = _evalset_option(evalset, settings) if evalset else ""
    records = [r for r in list_runs(settings) if wanted in ("", evalset_of(r))]
    if not records:
        say(f"no runs{f' on {evalset}' if evalset else ''} in {settings.runs}")
    for record in records:
        found = run_verdict(record)
        said = f"{verdict_label(found['verdict'], found['reference'])}: {found['arm']}  " if found else ""
        outcome = record.error or f"gate: {record.gate or 'none'}"
        on = evalset_of(record) or "-"
        say(f"{record.run_dir.name}  {record.status:<11}  {record.profile:<5}  {on}  {said}{outcome}")


@app.command("summary")
def summary_command(
    run: Annotated[str, typer.Argument(help="Folder of a run, or its name below runs/; the newest by default.")] = "",
) -> None:
    """Print a run as Markdown, for a build's summary page or a comment."""
    from workbench.reports.brief import markdown_summary, terminal_text
    from workbench.runner import list_runs

    settings = load_settings()
    found = [record.run_dir for record in list_runs(settings)][-1:]
    if run:
        found = [Path(run) if Path(run).is_dir() else settings.runs / run]
    if not found:
        raise ConfigError(f"no runs in {settings.runs}")
    text = markdown_summary(found[0])
    typer.echo(terminal_text(text) if sys.stdout.isatty() else text, nl=False)


evalset_app = typer.Typer(no_args_is_help=True, help="Check and pin evalsets.")
app.command("record")(record_command)
app.add_typer(evalset_app, name="evalset")
app.add_typer(import_app, name="import")
app.add_typer(feedback_app, name="feedback")
app.add_typer(quality_app, name="quality")
app.add_typer(shadow_app, name="shadow")
app.add_typer(models_app, name="models")
app.command("compare")(compare_command)
app.command("report")(report_command)
app.command("verify")(verify_command)
app.command("budgets")(budgets_command)
app.command("costs")(costs_command)
app.command("layers")(layers_command)
app.command("inspect")(inspect_command)
app.command("watch")(watch_command)
app.command("trace")(trace_command)
app.add_typer(jobs_app, name="jobs")
app.command("replay")(replay_command)
app.command("diff")(diff_command)


@evalset_app.command("check")
def evalset_check_command(
    path: Annotated[str, typer.Argument(help="Name or folder of an evalset.")],
    every: Annotated[bool, typer.Option("--all", help="Print every finding, also of one kind.")] = False,
) -> None:
    """Report every defect with its file and line, one line a kind; exit code 1 where there is an error."""
    from workbench.evalset.check import check_evalset, check_exit_code, summarise_findings

    compares = is_installed("ragas")
    findings = check_evalset(path, load_settings(), echoes=compares)
    typer.echo(visible(summarise_findings(findings, every=every)))
    if not compares:
        say(f"not looked for: questions in the words of their documents; that needs {DISTRIBUTION}[data]")
    raise typer.Exit(check_exit_code(findings))


@evalset_app.command("pairs")
def evalset_pairs_command(
    path: Annotated[str, typer.Argument(help="Name or folder of an evalset with a stream.parquet.")],
    limit: Annotated[int, typer.Option(min=1, help="Pairs in the sheet at most.")] = 200,
    least: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Cosine from which pairs are drawn; by default what pays.")
    ] = None,
    embedder: Annotated[str, typer.Option(help="As in 03_caching.")] = "minilm",
    warmup: Annotated[int, typer.Option(min=0, help="As in 03_caching: requests that only fill the cache.")] = 500,
) -> None:
    """Draw near repeats of a stream as a sheet of pairs to label, and say how many are worth it."""
    from workbench.caching.cache_study import CachingParameters
    from workbench.caching.near_repeats import draw_near_repeats
    from workbench.evalset.evalset import find_evalset

    settings, parameters = load_settings(), CachingParameters(embedder=embedder, warmup=warmup)
    folder = find_evalset(path, settings)
    if sheet := draw_near_repeats(folder, settings, limit=limit, least=least, parameters=parameters, tell=say):
        say("fill `same_answer` (1: one answer serves both, 0: it does not) and `judge`, of as many as you can, then:")
        say(f"next: workbench import judgements {sheet} --name {path} --partly")


@evalset_app.command("lock")
def evalset_lock_command(
    path: Annotated[str, typer.Argument(help="Name or folder of an evalset with a corpus.toml.")],
) -> None:
    """Pin the corpus as it is built here; judgements made for another one no longer hold."""
    from workbench.evalset.corpus import write_corpus_lock
    from workbench.evalset.evalset import find_evalset

    settings = load_settings()
    folder = find_evalset(path, settings)
    typer.echo(f"{counted(write_corpus_lock(folder, settings), 'document')} pinned in {folder / 'corpus.lock'}")


def _command_project(notebooks: Sequence[str] | None = None) -> Settings:
    """Settings of the project that a command works in; some notebooks read no evalset."""
    from workbench.evalset.gates import UNDECIDED

    settings = load_settings()
    settings.require_project(reads_evalset=not notebooks or not set(notebooks) <= set(UNDECIDED))
    return settings


def _evalset_option(given: str, settings: Settings) -> str:
    """Name of an evalset of the project, hub:NAME, or the absolute path of another folder: kernels work elsewhere."""
    from workbench.evalset.evalset import HUB, find_evalset

    if given.startswith(HUB):
        return given
    folder = find_evalset(given, settings)
    return folder.name if folder.parent == settings.evalsets else str(folder)


def _print_run_result(record: "RunRecord") -> None:
    from workbench.records import Decision
    from workbench.runner.accept_and_check import evalset_of

    decision = record.run_dir / "decision.json"
    verdict = ""
    if decision.is_file():
        found = Decision.load(decision)
        verdict = found.verdict
        say(found.sentence)
    say(f"gate: {record.gate or 'none'}")
    if record.error:
        say(f"run failed: {record.error}", err=True)
    again = f"\nto draw it once that is mended: workbench report {record.run_dir.name}"
    say(f"report: {record.report or f'none ({record.report_error}){again}'}")
    sheet = record.run_dir / "to_judge.jsonl"
    if verdict == "inconclusive" and sheet.is_file():
        say(f"to judge next: fill `grade` in {sheet}, then:")
        say(f"next: workbench import judgements {sheet} --name {evalset_of(record) or 'NAME'} --partly")
