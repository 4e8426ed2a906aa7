"""``workbench quality``: production calls drawn to be graded, and graded, for 05_quality."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from workbench.cli.lines import say
from workbench.cli.log_commands import TOOLS
from workbench.errors import ConfigError, unknown_name
from workbench.rendering.numbers import counted

quality_app = typer.Typer(no_args_is_help=True, help="Draw production calls, and have them graded for 05_quality.")
_Sheet = Annotated[Path, typer.Argument(help="Sheet, a JSONL file; what is not for raters stands in files beside it.")]


@quality_app.command("draw")
def draw_calls(
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
    from workbench.evalset.imports.log_tools import read_log, tool_of
    from workbench.inference.prices import project_prices
    from workbench.quality.production_sheet import calls_of_ledger, calls_of_log, draw_sheet, whole_weeks
    from workbench.quality.sampling import SamplingPlan
    from workbench.state import open_engine

    if tool and tool not in TOOLS:
        raise ConfigError(unknown_name("tool", tool, sorted(TOOLS)))
    settings, plan = load_settings(), SamplingPlan(near=near, top_cost=top_cost, least_score=least_score)
    first, last = whole_weeks(since.date(), until.date() if until else None, SystemClock().now())
    if log:
        read = read_log(tool or tool_of(log), log)
        calls = calls_of_log(read, project_prices(settings.root), first, last)
    else:
        calls = calls_of_ledger(open_engine(settings.state_url), first, last, scored=least_score is not None)
    found = draw_sheet(sheet, calls, n=n, plan=plan)
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
def grade_calls(
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
    from workbench.quality.production_sheet import grade_sheet, judge_sheet, licensed_judge

    verdicts, settings = [], load_settings()
    if judge:
        if not evalset:
            raise ConfigError("--judge needs --evalset NAME, whose accepted decision says that the judge may gate")
        licensed, rests = licensed_judge(load_evalset(evalset, settings=settings), judge)
        recorded = Recordings(sheet.with_name(f"{sheet.stem}.judge-{judge}.jsonl"), live=True)
        client = Client.open(settings, recordings=recorded)
        verdicts = judge_sheet(sheet, licensed, rests, client, max_cost_usd=max_cost_usd, tell=say, alone=alone)
    elif alone:
        raise ConfigError("--alone says what of a judge counts; name it: --judge NAME")
    at = SystemClock().now().isoformat(timespec="seconds")
    done = grade_sheet(sheet, rater=rater, rubric=rubric, at=at, verdicts=verdicts, alone=alone)
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
