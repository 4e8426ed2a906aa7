"""Commands before and after a run: begin a project, bring documents, look at runs, at logs and at decisions."""

from pathlib import Path
from typing import Annotated

import typer

from workbench.cli.lines import say


def init(
    folder: Annotated[Path, typer.Argument(help="Folder of the project; made where there is none.")] = Path("."),
    ci: Annotated[str, typer.Option(help="Whose workflow to write: github, gitlab or none.")] = "github",
) -> None:
    """Begin a project: notebooks, a sample evalset, gates, what CI runs. Overwrites nothing."""
    from workbench.project.init import init as begin
    from workbench.project.init import tell

    tell(begin(folder, ci=ci), say)
