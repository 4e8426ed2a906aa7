"""``workbench import``: evalsets from tables, logs and collections; ``workbench inspect``: what a log decides."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli.lines import named_values, say
from workbench.errors import ConfigError
from workbench.rendering.numbers import counted

if TYPE_CHECKING:
    from workbench.config import Settings
from collections.abc import Callable

import_app = typer.Typer(no_args_is_help=True, help="Make an evalset of what you have.")
_Table = Annotated[Path, typer.Argument(help="CSV, Parquet or JSONL, one row each.")]
_Name = Annotated[str, typer.Option(help="Evalset to add to; made where there is none.")]
_Rename = Annotated[list[str] | None, typer.Option(metavar="YOURS=OURS", help="A column of another name; repeatable.")]


@import_app.command("tables")
def import_tables_command(
    out: Annotated[str, typer.Argument(help="Name of the new evalset, or its folder.")],
    corpus: Annotated[Path, typer.Option(help="Documents: .jsonl, .csv or .parquet.")],
    queries: Annotated[Path, typer.Option(help="Questions, with a column `relevant` where there are no qrels.")],
    qrels: Annotated[Path | None, typer.Option(help="Judgements: BEIR's or TREC's form, or a table.")] = None,
    rename: _Rename = None,
) -> None:
    """Write an evalset folder from tables of documents, questions and judgements."""
    from workbench.evalset.imports.document_tables import import_tables

    renamed = named_values(rename or [], "--rename")
    done = import_tables(
        corpus=corpus, queries=queries, qrels=qrels, out=imported_evalset_folder(out), rename=renamed, tell=say
    )
    typer.echo(f"written: {done}; complete its card.md, then: workbench evalset check {out}")


@import_app.command("outcomes")
def import_outcomes_command(
    path: Annotated[Path, typer.Argument(help="Outcomes, long or wide: .csv, .jsonl or .parquet.")],
    name: Annotated[str, typer.Option(help="Name of the new evalset, or its folder.")],
    rename: _Rename = None,
    models: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,C",
            help="Models of a wide table; else columns with a cost beside them (MODEL_cost) and those of --cost; where "
            "no cost stands beside one, those that mostly hold true, false or numbers in [0, 1].",
        ),
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN=VALUE", help="Leave rows with it out; repeatable.")
    ] = None,
    cost: Annotated[
        list[str] | None, typer.Option(metavar="MODEL=USD", help="Per 1,000 requests, where none is recorded.")
    ] = None,
    drop_incomplete: Annotated[bool, typer.Option(help="Leave out prompts that some model did not answer.")] = False,
    most_common_text: Annotated[
        bool, typer.Option(help="Of a prompt_id with two texts, take that of most rows.")
    ] = False,
) -> None:
    """Write an evalset from what models answered to prompts, how good it was and what it cost."""
    from workbench.evalset.imports.outcome_tables import OutcomeRepairs, import_outcomes

    repairs = OutcomeRepairs(
        rename=named_values(rename or [], "--rename"),
        models=[name.strip() for name in (models or "").split(",") if name.strip()],
        without=named_values(without or [], "--without"),
        costs={model: import_cost_option(model, usd) for model, usd in named_values(cost or [], "--cost").items()},
        drop_incomplete=drop_incomplete,
        texts="most_common" if most_common_text else "refuse",
    )
    done = import_outcomes(path, imported_evalset_folder(name), repairs=repairs, tell=say)
    typer.echo(f"written: {done}; complete its card.md, then: workbench run routing --evalset {name}")


def imported_evalset_folder(out: str) -> Path:
    """Folder of an evalset that is there, or is to be made: a name is one below the project's evalsets, else a path.

    Raises
    ------
    ConfigError
        If it is neither.
    EvalsetError
        If the folder holds something else.
    """
    from workbench.config import load_settings
    from workbench.evalset.evalset import require_evalset

    if not out.strip() or "\0" in out:
        raise ConfigError(f"an evalset needs a name, found {out!r}")
    settings = load_settings()
    folder = settings.evalsets / out if Path(out).name == out else Path(out)
    there = folder.is_dir() and any(folder.iterdir())
    return require_evalset(folder, out, settings) if there else folder


def import_cost_option(model: str, usd: str) -> float:
    """Read dollars per 1,000 requests of ``--cost MODEL=USD``.

    Raises
    ------
    ConfigError
        If they are none.
    """
    from workbench.evalset.cells import Unusable, amount_cell

    try:
        found = amount_cell(f"--cost {model}", usd)
    except Unusable as error:
        raise ConfigError(f"{error}; it is in dollars per 1,000 requests") from None
    if found is None:
        raise ConfigError(f"--cost {model} must be dollars per 1,000 requests, found {usd!r}")
    return found


@import_app.command("hub")
def import_hub_command(
    name: Annotated[str, typer.Argument(help="Collection of the hub, owner/name; naming it permits the network.")],
    corpus: Annotated[str, typer.Option(help="Its configuration of documents.")] = "corpus",
    queries: Annotated[str, typer.Option(help="Its configuration of questions.")] = "queries",
    qrels: Annotated[str | None, typer.Option(help="Its configuration of judgements: default, or else qrels.")] = None,
    qrels_name: Annotated[str | None, typer.Option(help="Collection of the judgements, where another.")] = None,
    revision: Annotated[str | None, typer.Option(help="Commit or tag.")] = None,
) -> None:
    """Fetch a retrieval collection of the Hugging Face hub once; then it is hub:NAME."""
    from workbench.config import load_settings
    from workbench.evalset.imports.hub import load_hub

    evalset = load_hub(
        name,
        settings=load_settings(),
        corpus=corpus,
        queries=queries,
        qrels=qrels,
        qrels_name=qrels_name,
        revision=revision,
    )
    typer.echo(
        f"{counted(len(evalset.documents), 'document')}, {counted(len(evalset.queries), 'question')}; use it "
        f"as: hub:{name}"
    )


@import_app.command("judgements")
def import_judgements_command(
    paths: Annotated[
        list[Path], typer.Argument(help="Filled sheets: to_judge.jsonl, pairs_to_judge.jsonl, or a table like it.")
    ],
    name: Annotated[
        str, typer.Option(help="Evalset whose questions were judged, or its folder; by default where the sheet lies.")
    ] = "",
    partly: Annotated[bool, typer.Option("--partly", help="Leave rows that are not filled aside.")] = False,
) -> None:
    """Add what people judged: query_id, doc_id, grade; or query_a, query_b, same_answer; and judge.

    Tells how often two people agree.
    """
    from workbench.config import load_settings
    from workbench.evalset.evalset import find_evalset
    from workbench.evalset.imports.judgement_sheets import import_judgements
    from workbench.evalset.imports.pairs_and_streams import import_pair_labels, is_pair_sheet

    settings, pairs = load_settings(), is_pair_sheet(paths[0])
    name = name or _evalset_of_import(paths, settings)
    add = import_pair_labels if pairs else import_judgements
    for path in add(paths, name, settings=settings, tell=say, partly=partly):
        accepted = any((find_evalset(name, settings) / "decisions").glob("*.json"))
        typer.echo(f"written: {path}{'; the decisions that rest on it are stale now' if accepted else ''}")
    typer.echo(f"next: workbench run {'caching' if pairs else 'retrieval'} --evalset {name}")


def _evalset_of_import(sheets: Sequence[Path], settings: "Settings") -> str:
    """Name of the evalset of the project in whose folder all sheets lie.

    Raises
    ------
    ConfigError
        If they lie in none, or in several.
    """
    folders = {sheet.resolve().parent for sheet in sheets}
    if len(folders) == 1 and (folder := folders.pop()).parent == settings.evalsets.resolve():
        return folder.name
    raise ConfigError(f"say with --name whose questions were judged: {sheets[0]} lies in no evalset of {settings.root}")


@import_app.command("stream")
def import_stream_command(path: _Table, name: _Name, rename: _Rename = None) -> None:
    """Add requests, ordered by time: query, answer_key, at, and where known tenant_id, cluster, user_id, turns."""
    from workbench.evalset.imports.pairs_and_streams import import_stream

    done = import_stream(path, imported_evalset_folder(name), rename=named_values(rename or [], "--rename"), tell=say)
    typer.echo(f"written: {done}; complete the card.md beside it")


@import_app.command("pairs")
def import_pairs_command(path: _Table, name: _Name, rename: _Rename = None) -> None:
    """Add pairs of questions with same_answer 0 or 1, and where known kind, cluster, tenant_id, split."""
    from workbench.evalset.imports.pairs_and_streams import import_pairs

    done = import_pairs(path, imported_evalset_folder(name), rename=named_values(rename or [], "--rename"), tell=say)
    typer.echo(f"written: {done}; complete the card.md beside it")


# What is read of each tool of `workbench.evalset.imports.log_import`: a help page must not import the readers.
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


def _import_log_command(tool: str) -> Callable[..., None]:
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
        costs = {model: import_cost_option(model, usd) for model, usd in named_values(cost or [], "--cost").items()}
        import_log_for_command(
            tool, paths, name, score, costs, drop_incomplete=drop_incomplete, ledger=ledger, purpose=purpose
        )

    from_log.__doc__ = f"Add what a log holds for the notebooks. Reads {TOOLS[tool]}."
    return from_log


for _tool in TOOLS:
    import_app.command(_tool)(_import_log_command(_tool))


def import_log_for_command(
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
    from workbench.evalset.imports.log_import import LogChoices, book_log, import_log, log_cost_lines
    from workbench.evalset.imports.log_reader import TOOLS as TOOLS_READ
    from workbench.evalset.imports.log_reader import read_log
    from workbench.evalset.imports.outcome_tables import OutcomeRepairs
    from workbench.inference.prices import project_prices
    from workbench.state import open_engine
    from workbench.telemetry.attribution import PURPOSES
    from workbench.telemetry.ledger import Ledger

    if not (name or ledger):
        raise ConfigError("say where to: --name EVALSET for the notebooks, --ledger for costs, or both")
    if purpose and purpose not in PURPOSES:
        raise ConfigError(f"--purpose is one of {', '.join(PURPOSES)}, found {purpose!r}")
    settings, folder = load_settings(), imported_evalset_folder(name) if name else None
    prices, log = project_prices(settings.root), read_log(tool, paths)
    if folder:
        choices = LogChoices(score, OutcomeRepairs(costs=costs, drop_incomplete=drop_incomplete))
        for path in import_log(log, folder, prices, choices=choices, tell=say):
            say(f"written: {path}")
    else:
        for line in [*log.told(), *log_cost_lines(log, prices)]:
            say(line)
    if ledger:
        new, old = book_log(log, Ledger(open_engine(settings.state_url)), prices, purpose or TOOLS_READ[tool].purpose)
        say(f"ledger: {counted(new, 'call')} added, {old:,} were there already; see: workbench costs")


def inspect_command(
    paths: _Paths,
    tool: Annotated[str, typer.Option(help="Which tool wrote it, where the file does not tell.")] = "",
    score: Annotated[str, typer.Option(help="Which score is the quality, where the log has several.")] = "",
) -> None:
    """Say what a log can decide: per notebook yes, no, or what is missing and what it costs. Writes nothing."""
    from workbench.config import load_settings
    from workbench.errors import unknown_name
    from workbench.evalset.imports.log_import import log_cost_lines
    from workbench.evalset.imports.log_reader import read_log, tool_of_log
    from workbench.inference.prices import project_prices
    from workbench.project.inspect_log import log_answers_table, what_a_log_decides
    from workbench.rendering.progress import waiting

    if tool and tool not in TOOLS:
        raise ConfigError(unknown_name("tool", tool, sorted(TOOLS)))
    found = tool or tool_of_log(paths)
    prices, log = project_prices(load_settings().root), read_log(found, paths)
    with waiting("looking for what the log decides"):
        answers = what_a_log_decides(log, prices, score)
    for line in [*log.told(), *log_cost_lines(log, prices)]:
        say(line)
    typer.echo(f"\n{log_answers_table(answers).to_text()}")
    typer.echo("")
    say(f"to use it: workbench import {found} {' '.join(map(str, paths))} --name EVALSET --ledger")
