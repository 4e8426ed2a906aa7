"""Commands about recorded answers."""

from typing import Annotated

import typer

from workbench.cli.lines import say
from workbench.config import load_settings


def record(
    evalset: Annotated[str, typer.Argument(help="Name of an evalset with prompts.toml.")],
    model: Annotated[
        list[str] | None, typer.Option(help="Model of prompts.toml to ask; repeatable. Default: all.")
    ] = None,
    max_cost_usd: Annotated[float | None, typer.Option(help="What it may cost; needed to ask anything.")] = None,
    questions: Annotated[int | None, typer.Option(help="Only the first so many questions: a pilot.")] = None,
    sample: Annotated[int | None, typer.Option(help="Ask so many recorded items again, and report drift.")] = None,
) -> None:
    """Record what models answer to an evalset's questions; says what it takes first, goes on where it stopped."""
    from workbench.routing.record import drift, evalset_models
    from workbench.routing.record import record as record_answers

    settings = load_settings()
    if sample is not None:
        for name in model or evalset_models(evalset, settings):
            typer.echo(
                drift(evalset, settings=settings, model=name, sample=sample, max_cost_usd=max_cost_usd).to_text()
            )
        return
    failed = record_answers(
        evalset, settings=settings, models=model or (), max_cost_usd=max_cost_usd, questions=questions, tell=say
    )
    if failed:
        raise typer.Exit(3)
