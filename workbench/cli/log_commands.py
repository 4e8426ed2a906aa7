"""``workbench import TOOL`` for logs of other tools, and ``workbench inspect``: what they can decide."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from workbench.cli.import_commands import dollars, evalset_folder, import_app
from workbench.cli.lines import named_values, say
from workbench.errors import ConfigError
from workbench.rendering.numbers import counted

# What is read of each tool of `workbench.evalset.imports.log_tools`: a help page must not import the readers.
TOOLS = {
    "promptfoo": "results of promptfoo eval -o out.json or out.jsonl",
    "inspect": "logs of Inspect, .eval or .json, one for each model",
    "lm-eval": "the folder of lm_eval --log_samples --output_path",
    "openai-batch": "batch output, error and input files (.jsonl)",
    "litellm": "spend logs or callback payloads: .jsonl, .csv, .parquet",
    "otlp": "OTLP as JSON, with GenAI, OpenInference or Langfuse attributes",
    "langfuse": "exports of observations and scores: .jsonl, .csv, .parquet",
    "openinference": "OTLP as JSON, or spans that Phoenix exported",
    "mlflow": "traces: a trace.to_json() per line, or the table of search_traces",
}
_Paths = Annotated[list[Path], typer.Argument(help="Files, or folders of files.")]


def _import_command(tool: str) -> Callable[..., None]:
    def from_log(
        paths: _Paths,
        name: Annotated[str, typer.Option(help="Evalset to add to; made where there is none.")] = "",
        score: Annotated[str, typer.Option(help="Which score is the quality, where the log has several.")] = "",
        cost: Annotated[
            list[str] | None,
            typer.Option(metavar="MODEL=USD", help="Per 1,000 requests, where neither tokens nor the log tell."),
        ] = None,
        drop_incomplete: Annotated[
            bool, typer.Option(help="Leave out prompts that some model did not answer.")
        ] = False,
        ledger: Annotated[bool, typer.Option("--ledger", help="Add the calls to the ledger, for costs.")] = False,
        purpose: Annotated[str, typer.Option(help="What the calls were for: product, eval, judge or ingest.")] = "",
    ) -> None:
        costs = {model: dollars(model, usd) for model, usd in named_values(cost or [], "--cost").items()}
        import_from(tool, paths, name, score, costs, drop_incomplete=drop_incomplete, ledger=ledger, purpose=purpose)

    from_log.__doc__ = f"Add what a log holds for the notebooks. Reads {TOOLS[tool]}."
    return from_log


for _tool in TOOLS:
    import_app.command(_tool)(_import_command(_tool))


def import_from(
    tool: str,
    paths: list[Path],
    name: str,
    score: str,
    costs: dict[str, float],
    *,
    drop_incomplete: bool,
    ledger: bool,
    purpose: str,
) -> None:
    """Read a log, write what the notebooks need of it into an evalset, and add its calls to the ledger."""
    from workbench.config import load_settings
    from workbench.evalset.imports.log_contents import Choices, book, cost_lines, import_log
    from workbench.evalset.imports.log_tools import TOOLS as TOOLS_READ
    from workbench.evalset.imports.log_tools import read_log
    from workbench.evalset.imports.logs import Repairs
    from workbench.inference.prices import project_prices
    from workbench.state import open_engine
    from workbench.telemetry.context import PURPOSES
    from workbench.telemetry.ledger import Ledger

    if not (name or ledger):
        raise ConfigError("say where to: --name EVALSET for the notebooks, --ledger for costs, or both")
    if purpose and purpose not in PURPOSES:
        raise ConfigError(f"--purpose is one of {', '.join(PURPOSES)}, found {purpose!r}")
    settings, folder = load_settings(), evalset_folder(name) if name else None
    prices, log = project_prices(settings.root), read_log(tool, paths)
    if folder:
        choices = Choices(score, Repairs(costs=costs, drop_incomplete=drop_incomplete))
        for path in import_log(log, folder, prices, choices=choices, tell=say):
            say(f"written: {path}")
    else:
        for line in [*log.told(), *cost_lines(log, prices)]:
            say(line)
    if ledger:
        new, old = book(log, Ledger(open_engine(settings.state_url)), prices, purpose or TOOLS_READ[tool].purpose)
        say(f"ledger: {counted(new, 'call')} added, {old:,} were there already; see: workbench costs")


def inspect(
    paths: _Paths,
    tool: Annotated[str, typer.Option(help="Which tool wrote it, where the file does not tell.")] = "",
    score: Annotated[str, typer.Option(help="Which score is the quality, where the log has several.")] = "",
) -> None:
    """Say what a log can decide: per notebook yes, no, or what is missing and what it costs. Writes nothing."""
    from workbench.config import load_settings
    from workbench.errors import unknown_name
    from workbench.evalset.imports.log_contents import cost_lines
    from workbench.evalset.imports.log_tools import read_log, tool_of
    from workbench.inference.prices import project_prices
    from workbench.project.log_answers import answers_table, what_a_log_decides
    from workbench.rendering.progress import waiting

    if tool and tool not in TOOLS:
        raise ConfigError(unknown_name("tool", tool, sorted(TOOLS)))
    found = tool or tool_of(paths)
    prices, log = project_prices(load_settings().root), read_log(found, paths)
    with waiting("looking for what the log decides"):
        answers = what_a_log_decides(log, prices, score)
    for line in [*log.told(), *cost_lines(log, prices)]:
        say(line)
    typer.echo(f"\n{answers_table(answers).to_text()}")
    typer.echo("")
    say(f"to use it: workbench import {found} {' '.join(map(str, paths))} --name EVALSET --ledger")
