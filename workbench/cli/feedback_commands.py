"""``workbench feedback``: what users said, and the questions that a person makes of it."""

from pathlib import Path
from typing import Annotated

import typer

from workbench.rendering.numbers import counted

feedback_app = typer.Typer(no_args_is_help=True, help="Turn users' feedback into questions: a person decides.")
_Evalset = Annotated[str, typer.Argument(help="Name of the evalset, or its folder.")]
_Candidate = Annotated[str, typer.Argument(help="Id of a candidate, as `list` shows it.")]
_By = Annotated[str, typer.Option(help="Who decides: a person's name.")]


@feedback_app.command("record")
def record_feedback(
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
def collect_candidates(evalset: _Evalset) -> None:
    """Make a candidate of every thumbs-down that is none yet."""
    from workbench.config import load_settings
    from workbench.quality.feedback import collect

    new, lost = collect(evalset, load_settings())
    typer.echo(
        f"{counted(new, 'new candidate')}"
        + (f"; {counted(len(lost), 'trace is', 'traces are')} not stored any more" if lost else "")
    )


@feedback_app.command("list")
def list_candidates(
    evalset: _Evalset, everything: Annotated[bool, typer.Option("--all", help="Also those decided.")] = False
) -> None:
    """Show the candidates that wait for a person."""
    from workbench.config import load_settings
    from workbench.evalset.evalset import find_evalset
    from workbench.quality.feedback import candidates_table, load_candidates

    found = [c for c in load_candidates(find_evalset(evalset, load_settings())) if everything or c.status == "open"]
    typer.echo(candidates_table(found).to_text() if found else "no candidate waits")


@feedback_app.command("approve")
def approve_candidate(
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
    from workbench.quality.feedback import approve

    done = approve(
        evalset, candidate, load_settings(), by=by, relevant=relevant or (), accept=accept or (), reference=reference,
        question=question, cluster=cluster,
    )  # fmt: skip
    typer.echo(f"approved: feedback-{done.candidate_id} joins {Path(evalset).name}; it is a new version of the evalset")


@feedback_app.command("reject")
def reject_candidate(
    evalset: _Evalset, candidate: _Candidate, by: _By, reason: Annotated[str, typer.Option(help="Why.")]
) -> None:
    """Close a candidate for good."""
    from workbench.config import load_settings
    from workbench.quality.feedback import reject

    typer.echo(f"rejected: {reject(evalset, candidate, load_settings(), by=by, reason=reason).candidate_id}")
