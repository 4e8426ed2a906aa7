"""``workbench quality``, ``feedback`` and ``shadow``: graded calls, what users said, and challengers of live calls."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli.import_commands import TOOLS
from workbench.cli.lines import say
from workbench.errors import ConfigError, unknown_name
from workbench.rendering.numbers import counted

if TYPE_CHECKING:
    from workbench.quality.shadow_pairs import ShadowEvidence

quality_app = typer.Typer(no_args_is_help=True, help="Draw production calls, and have them graded for 05_quality.")
_Sheet = Annotated[Path, typer.Argument(help="Sheet, a JSONL file; what is not for raters stands in files beside it.")]


@quality_app.command("draw")
def draw_calls_command(
    sheet: _Sheet,
    since: Annotated[datetime, typer.Option(formats=["%Y-%m-%d"], help="From the week of this day on, in UTC.")],
    until: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Before the week of this day; else all that are over.")
    ] = None,
    n: Annotated[int, typer.Option("--n", min=1, help="About how many calls a week, beside those always kept.")] = 200,
    log: Annotated[list[Path] | None, typer.Option(help="Of this log of another tool, not the ledger.")] = None,
    tool: Annotated[str, typer.Option(help="Which tool wrote the log, where the file does not tell.")] = "",
    near: Annotated[float, typer.Option(min=0, help="Keep all cache hits so near above their threshold.")] = 0.02,
    top_cost: Annotated[float, typer.Option(min=0, max=0.99, help="Keep this share of a week, the dearest.")] = 0.01,
    least_score: Annotated[
        float | None, typer.Option(help="Keep all calls whose best retrieval score lies below.")
    ] = None,
) -> None:
    """Draw calls of whole weeks as a blind sheet; the same weeks give the same items, and what is graded stays.

    Always kept: errors, thumbs-down, cache hits near their threshold, the dearest, and low retrieval scores.
    """
    from workbench.config import SystemClock, load_settings
    from workbench.evalset.imports.log_reader import read_log, tool_of_log
    from workbench.inference.prices import project_prices
    from workbench.quality.production_sheet import (
        draw_production_sheet,
        production_calls_of_ledger,
        production_calls_of_log,
        sheet_weeks,
    )
    from workbench.quality.sampling import SamplingPlan
    from workbench.state import open_engine

    if tool and tool not in TOOLS:
        raise ConfigError(unknown_name("tool", tool, sorted(TOOLS)))
    settings, plan = load_settings(), SamplingPlan(near=near, top_cost=top_cost, least_score=least_score)
    first, last = sheet_weeks(since.date(), until.date() if until else None, SystemClock().now())
    if log:
        read = read_log(tool or tool_of_log(log), log)
        calls = production_calls_of_log(read, project_prices(settings.root), first, last)
    else:
        calls = production_calls_of_ledger(open_engine(settings.state_url), first, last, scored=least_score is not None)
    found = draw_production_sheet(sheet, calls, n=n, plan=plan)
    by_reason = ", ".join(f"{count:,} {reason}" for reason, count in sorted(found.reasons.items()))
    say(
        f"{calls.source}, weeks from {first} up to {last}: {counted(found.calls, 'call')}, of which are kept: "
        f"{by_reason}"
    )
    if found.failed:
        say(f"{found.failed:,} failed without an answer: each counts as 0, and nobody is asked")
    if found.lost:
        say(f"{found.lost:,} keep no answer that could be graded, and are left out")
    say(f"{sheet}: {counted(found.new, 'new item')}; {found.graded:,} are graded already")
    say("fill `grade` (0 bad, 1 good, or between) of as many as you can, here or with run.label_sheet() in 05_quality;")
    say(f"next: workbench quality grade {sheet} --rater NAME --rubric VERSION")


@quality_app.command("grade")
def grade_calls_command(
    sheet: _Sheet,
    rater: Annotated[str, typer.Option(help="Who graded the rows that do not say it: a person's name.")] = "",
    rubric: Annotated[str, typer.Option(help="Version of the instructions that were followed.")] = "",
    judge: Annotated[str, typer.Option(help="Judge with a licence, for what no person has graded.")] = "",
    evalset: Annotated[str, typer.Option(help="Evalset of the judge and of its licence.")] = "",
    max_cost_usd: Annotated[float | None, typer.Option(help="What the judge may cost; needed to ask it.")] = None,
    alone: Annotated[
        bool, typer.Option("--alone", help="The judge's verdict also where a person graded: one grader, one series.")
    ] = False,
) -> None:
    """Write the graded calls, each with week, tenant, feature, weight, and who graded: a person, a model, or code."""
    from workbench.config import SystemClock, load_settings
    from workbench.evalset.evalset import load_evalset
    from workbench.inference.client import Client
    from workbench.inference.recordings import Recordings
    from workbench.quality.production_sheet import grade_production_sheet, judge_production_sheet, licensed_judge

    verdicts, settings = [], load_settings()
    if judge:
        if not evalset:
            raise ConfigError("--judge needs --evalset NAME, whose accepted decision says that the judge may gate")
        licensed, rests = licensed_judge(load_evalset(evalset, settings=settings), judge)
        recorded = Recordings(sheet.with_name(f"{sheet.stem}.judge-{judge}.jsonl"), live=True)
        client = Client.open(settings, recordings=recorded)
        verdicts = judge_production_sheet(
            sheet, licensed, rests, client, max_cost_usd=max_cost_usd, tell=say, alone=alone
        )
    elif alone:
        raise ConfigError("--alone says what of a judge counts; name it: --judge NAME")
    at = SystemClock().now().isoformat(timespec="seconds")
    done = grade_production_sheet(sheet, rater=rater, rubric=rubric, at=at, verdicts=verdicts, alone=alone)
    for grader, count in sorted(done.graders.items()):
        say(f"{count:,} graded by {grader}")
    if done.agreement:
        say(done.agreement)
    if done.open:
        say(f"{counted(done.open, 'item is', 'items are')} not graded yet")
    if sum(not grader.endswith("(code)") for grader in done.graders) > 1:
        say("several graders make no series that could be tested; --judge NAME --alone, or one person, makes one")
    path = done.path.resolve()
    named = path.relative_to(settings.root) if path.is_relative_to(settings.root) else path
    say(f"written: {done.path}; next: workbench run quality -p production={named}")


feedback_app = typer.Typer(no_args_is_help=True, help="Turn users' feedback into questions: a person decides.")


_Evalset = Annotated[str, typer.Argument(help="Name of the evalset, or its folder.")]


_Candidate = Annotated[str, typer.Argument(help="Id of a candidate, as `list` shows it.")]


_By = Annotated[str, typer.Option(help="Who decides: a person's name.")]


@feedback_app.command("record")
def record_feedback_command(
    trace_id: Annotated[str, typer.Argument(help="Trace of the answer.")],
    score: Annotated[float, typer.Argument(help="From 0, a thumbs-down, to 1.")],
    comment: Annotated[str, typer.Option(help="What the user said.")] = "",
    user_id: Annotated[str, typer.Option(help="Who the user is, as your product names them.")] = "",
) -> None:
    """Keep what a user said of an answer."""
    from workbench.quality.feedback import record

    said = record(trace_id, score, comment, user_id=user_id)
    typer.echo(f"kept: {'thumbs down' if said.thumbs_down else 'thumbs up'} on {said.trace_id}")


@feedback_app.command("collect")
def collect_candidates_command(evalset: _Evalset) -> None:
    """Make a candidate of every thumbs-down that is none yet."""
    from workbench.config import load_settings
    from workbench.quality.feedback import collect_feedback_candidates

    new, lost = collect_feedback_candidates(evalset, load_settings())
    typer.echo(
        f"{counted(new, 'new candidate')}"
        + (f"; {counted(len(lost), 'trace is', 'traces are')} not stored any more" if lost else "")
    )


@feedback_app.command("list")
def list_candidates_command(
    evalset: _Evalset, everything: Annotated[bool, typer.Option("--all", help="Also those decided.")] = False
) -> None:
    """Show the candidates that wait for a person."""
    from workbench.config import load_settings
    from workbench.evalset.evalset import find_evalset
    from workbench.quality.feedback import feedback_candidates_table, load_feedback_candidates

    found = [
        c for c in load_feedback_candidates(find_evalset(evalset, load_settings())) if everything or c.status == "open"
    ]
    typer.echo(feedback_candidates_table(found).to_text() if found else "no candidate waits")


@feedback_app.command("approve")
def approve_candidate_command(
    evalset: _Evalset,
    candidate: _Candidate,
    by: _By,
    relevant: Annotated[list[str] | None, typer.Option(help="Document that answers it; repeatable.")] = None,
    accept: Annotated[list[str] | None, typer.Option(help="Name that a right answer gives; repeatable.")] = None,
    reference: Annotated[str, typer.Option(help="A right answer.")] = "",
    question: Annotated[str, typer.Option(help="The question as it should stand, where it is edited.")] = "",
    cluster: Annotated[str, typer.Option(help="Family of the question; its own by default.")] = "",
) -> None:
    """Add a candidate to the questions of dev, with who approved it and its trace."""
    from workbench.config import load_settings
    from workbench.quality.feedback import approve_feedback_candidate

    done = approve_feedback_candidate(
        evalset, candidate, load_settings(), by=by, relevant=relevant or (), accept=accept or (), reference=reference,
        question=question, cluster=cluster,
    )  # fmt: skip
    typer.echo(f"approved: feedback-{done.candidate_id} joins {Path(evalset).name}; it is a new version of the evalset")


@feedback_app.command("reject")
def reject_candidate_command(
    evalset: _Evalset, candidate: _Candidate, by: _By, reason: Annotated[str, typer.Option(help="Why.")]
) -> None:
    """Close a candidate for good."""
    from workbench.config import load_settings
    from workbench.quality.feedback import reject_feedback_candidate

    typer.echo(
        f"rejected: {reject_feedback_candidate(evalset, candidate, load_settings(), by=by, reason=reason).candidate_id}"
    )


shadow_app = typer.Typer(no_args_is_help=True, help="Say what challengers beside the live calls have shown so far.")


_Name = Annotated[str, typer.Argument(help="Name of a shadow, as `list` shows it.")]


_LabelSheet = Annotated[Path, typer.Argument(help="Sheet, a CSV file.")]


def _shadow_command_evidence() -> "ShadowEvidence":
    from workbench.config import load_settings
    from workbench.quality.shadow_pairs import ShadowEvidence
    from workbench.state import open_engine

    return ShadowEvidence(open_engine(load_settings().state_url))


@shadow_app.command("list")
def list_shadows_command() -> None:
    """Show every shadow: its verdict so far, pairs, bounds, money."""
    from workbench.quality.shadow_pairs import shadows_table

    found = shadows_table(_shadow_command_evidence())
    typer.echo(found.to_text() if found.rows else "no shadow has begun")


@shadow_app.command("verdict")
def shadow_verdict_command(
    name: _Name,
    evalset: Annotated[str, typer.Option(help="Write it beside the decisions of this evalset too.")] = "",
) -> None:
    """Say whether a challenger will do; asked as often as one likes.

    Exit code: 0 it is shown to be good enough, 1 it is shown to be worse, 2 nobody can tell yet.
    """
    from workbench.config import load_settings
    from workbench.evalset.evalset import find_evalset
    from workbench.quality.shadow_pairs import EXIT_CODES

    found = _shadow_command_evidence().verdict(name)
    say(found.sentence)
    say(", ".join(f"{count} {what}" for what, count in found.counts.items()))
    if evalset:
        say(f"written: {found.write(find_evalset(evalset, load_settings()))}")
    raise typer.Exit(EXIT_CODES[found.status])


@shadow_app.command("sheet")
def shadow_sheet_command(name: _Name, path: _LabelSheet) -> None:
    """Write the pairs that wait for labels as a sheet, which does not say whose answer is whose."""
    say(f"{_shadow_command_evidence().sheet(name, path)} pairs wait for labels: fill in value, from 0 to 1, in {path}")


@shadow_app.command("label")
def shadow_label_command(
    name: _Name,
    path: _LabelSheet,
    rater: Annotated[str, typer.Option(help="Who labelled: a person's name.")],
    rubric: Annotated[str, typer.Option(help="Version of the instructions that were followed.")],
) -> None:
    """Take the labels of a filled-in sheet; pairs without both go on waiting."""
    from workbench.config import SystemClock

    at = SystemClock().now().isoformat(timespec="microseconds")
    say(f"{_shadow_command_evidence().label(name, path, rater=rater, rubric=rubric, at=at)} pairs are labelled")
