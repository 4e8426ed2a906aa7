"""``workbench shadow``: what challengers beside the live calls have shown so far."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli.lines import say

if TYPE_CHECKING:
    from workbench.quality.shadow_pairs import ShadowEvidence

shadow_app = typer.Typer(no_args_is_help=True, help="Say what challengers beside the live calls have shown so far.")
_Name = Annotated[str, typer.Argument(help="Name of a shadow, as `list` shows it.")]
_Sheet = Annotated[Path, typer.Argument(help="Sheet, a CSV file.")]


def _evidence() -> "ShadowEvidence":
    from workbench.config import load_settings
    from workbench.quality.shadow_pairs import ShadowEvidence
    from workbench.state import open_engine

    return ShadowEvidence(open_engine(load_settings().state_url))


@shadow_app.command("list")
def list_shadows() -> None:
    """Show every shadow: its verdict so far, pairs, bounds, money."""
    from workbench.quality.shadow_pairs import shadows_table

    found = shadows_table(_evidence())
    typer.echo(found.to_text() if found.rows else "no shadow has begun")


@shadow_app.command("verdict")
def show_verdict(
    name: _Name,
    evalset: Annotated[str, typer.Option(help="Write it beside the decisions of this evalset too.")] = "",
) -> None:
    """Say whether a challenger will do; asked as often as one likes.

    Exit code: 0 it is shown to be good enough, 1 it is shown to be worse, 2 nobody can tell yet.
    """
    from workbench.config import load_settings
    from workbench.evalset.evalset import find_evalset
    from workbench.quality.shadow_pairs import EXIT_CODES

    found = _evidence().verdict(name)
    say(found.sentence)
    say(", ".join(f"{count} {what}" for what, count in found.counts.items()))
    if evalset:
        say(f"written: {found.write(find_evalset(evalset, load_settings()))}")
    raise typer.Exit(EXIT_CODES[found.status])


@shadow_app.command("sheet")
def write_label_sheet(name: _Name, path: _Sheet) -> None:
    """Write the pairs that wait for labels as a sheet, which does not say whose answer is whose."""
    say(f"{_evidence().sheet(name, path)} pairs wait for labels: fill in value, from 0 to 1, in {path}")


@shadow_app.command("label")
def take_labels(
    name: _Name,
    path: _Sheet,
    rater: Annotated[str, typer.Option(help="Who labelled: a person's name.")],
    rubric: Annotated[str, typer.Option(help="Version of the instructions that were followed.")],
) -> None:
    """Take the labels of a filled-in sheet; pairs without both go on waiting."""
    from workbench.config import SystemClock

    at = SystemClock().now().isoformat(timespec="microseconds")
    say(f"{_evidence().label(name, path, rater=rater, rubric=rubric, at=at)} pairs are labelled")
