"""``workbench models``: the local models, and fetching their weights."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.config import load_settings

if TYPE_CHECKING:
    from workbench.inference.prices import PriceTable
    from workbench.rendering.table import Table

models_app = typer.Typer(help="List the local models, and fetch their weights.")


@models_app.callback(invoke_without_command=True)
def models(context: typer.Context) -> None:
    """List the local models: what they cost, under which licence, from where, and whether they are on disk."""
    if context.invoked_subcommand is None:
        from workbench.inference.prices import project_prices

        settings = load_settings()
        typer.echo(models_table(settings.cache / "weights", project_prices(settings.root)).to_text())


@models_app.command("fetch")
def fetch_models(
    names: Annotated[list[str] | None, typer.Argument(help="Models; all by default.")] = None,
) -> None:
    """Fetch weights that are not on disk, and check their hashes."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

    from workbench.inference.weights import WEIGHTS, fetch

    folder = load_settings().cache / "weights"
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        for name in names or WEIGHTS:
            size = WEIGHTS[name].size_bytes if name in WEIGHTS else None
            task = progress.add_task(name, total=size)
            path = fetch(name, folder, on_bytes=lambda count, task=task: progress.update(task, completed=count))  # type: ignore[misc]
            progress.update(task, completed=size)
            typer.echo(path)


def models_table(folder: Path, prices: "PriceTable") -> "Table":
    """One row for each file of weights; dollars are for a million tokens, and empty where no price is known."""
    from workbench.inference.local import PREFIX
    from workbench.inference.weights import WEIGHTS, is_there
    from workbench.rendering.table import Column, Table

    on_disk = {True: "yes", False: "no", None: "altered"}
    columns = (
        Column("name"),
        Column("on disk"),
        Column("MB", "number", digits=1),
        Column("input/Mtok", "usd"),
        Column("output/Mtok", "usd"),
        Column("licence"),
        Column("sha256"),
        Column("source"),
    )
    rows = []
    for name, weights in WEIGHTS.items():
        nanos = prices.models.get(PREFIX + name, {})
        dollars = [float(nanos[side]) / 1000 if side in nanos else None for side in ("input", "output")]
        found = on_disk[is_there(weights, folder)]
        origin = str(weights.sources[0])
        rows.append((name, found, weights.size_bytes / 1e6, *dollars, weights.licence, weights.sha256[:12], origin))
    return Table(columns, tuple(rows))
