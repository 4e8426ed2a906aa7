"""``workbench import``: evalsets from tables, logs and collections that exist already."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli.lines import named_values, say
from workbench.errors import ConfigError
from workbench.rendering.numbers import counted

if TYPE_CHECKING:
    from workbench.config import Settings

import_app = typer.Typer(no_args_is_help=True, help="Make an evalset of what you have.")
_Table = Annotated[Path, typer.Argument(help="CSV, Parquet or JSONL, one row each.")]
_Name = Annotated[str, typer.Option(help="Evalset to add to; made where there is none.")]
_Rename = Annotated[list[str] | None, typer.Option(metavar="YOURS=OURS", help="A column of another name; repeatable.")]


@import_app.command("tables")
def from_tables(
    out: Annotated[str, typer.Argument(help="Name of the new evalset, or its folder.")],
    corpus: Annotated[Path, typer.Option(help="Documents: .jsonl, .csv or .parquet.")],
    queries: Annotated[Path, typer.Option(help="Questions, with a column `relevant` where there are no qrels.")],
    qrels: Annotated[Path | None, typer.Option(help="Judgements: BEIR's or TREC's form, or a table.")] = None,
    rename: _Rename = None,
) -> None:
    """Write an evalset folder from tables of documents, questions and judgements."""
    from workbench.evalset.imports.documents import import_tables

    renamed = named_values(rename or [], "--rename")
    done = import_tables(corpus=corpus, queries=queries, qrels=qrels, out=evalset_folder(out), rename=renamed, tell=say)
    typer.echo(f"written: {done}; complete its card.md, then: workbench evalset check {out}")


@import_app.command("outcomes")
def from_outcomes(
    path: Annotated[Path, typer.Argument(help="Outcomes, long or wide: .csv, .jsonl or .parquet.")],
    name: Annotated[str, typer.Option(help="Name of the new evalset, or its folder.")],
    rename: _Rename = None,
    models: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,C",
            help="Models of a wide table; else columns with a cost beside them (MODEL_cost), or in --cost.",
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
    from workbench.evalset.imports.logs import Repairs, import_outcomes

    repairs = Repairs(
        rename=named_values(rename or [], "--rename"),
        models=[name.strip() for name in (models or "").split(",") if name.strip()],
        without=named_values(without or [], "--without"),
        costs={model: dollars(model, usd) for model, usd in named_values(cost or [], "--cost").items()},
        drop_incomplete=drop_incomplete,
        texts="most_common" if most_common_text else "refuse",
    )
    done = import_outcomes(path, evalset_folder(name), repairs=repairs, tell=say)
    typer.echo(f"written: {done}; complete its card.md, then: workbench run routing --evalset {name}")


def evalset_folder(out: str) -> Path:
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


def dollars(model: str, usd: str) -> float:
    """Read dollars per 1,000 requests of ``--cost MODEL=USD``.

    Raises
    ------
    ConfigError
        If they are none.
    """
    from workbench.evalset.cells import Unusable, amount

    try:
        found = amount(f"--cost {model}", usd)
    except Unusable as error:
        raise ConfigError(f"{error}; it is in dollars per 1,000 requests") from None
    if found is None:
        raise ConfigError(f"--cost {model} must be dollars per 1,000 requests, found {usd!r}")
    return found


@import_app.command("hub")
def from_hub(
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
def from_judgements(
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
    from workbench.evalset.imports.judgements import import_judgements
    from workbench.evalset.imports.pair_labels import import_pair_labels, is_pair_sheet

    settings, pairs = load_settings(), is_pair_sheet(paths[0])
    name = name or _evalset_of(paths, settings)
    add = import_pair_labels if pairs else import_judgements
    for path in add(paths, name, settings=settings, tell=say, partly=partly):
        accepted = any((find_evalset(name, settings) / "decisions").glob("*.json"))
        typer.echo(f"written: {path}{'; the decisions that rest on it are stale now' if accepted else ''}")
    typer.echo(f"next: workbench run {'caching' if pairs else 'retrieval'} --evalset {name}")


def _evalset_of(sheets: Sequence[Path], settings: "Settings") -> str:
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
def from_stream(path: _Table, name: _Name, rename: _Rename = None) -> None:
    """Add requests, ordered by time: query, answer_key, at, and where known tenant_id, cluster, user_id, turns."""
    from workbench.evalset.imports.requests import import_stream

    done = import_stream(path, evalset_folder(name), rename=named_values(rename or [], "--rename"), tell=say)
    typer.echo(f"written: {done}; complete the card.md beside it")


@import_app.command("pairs")
def from_pairs(path: _Table, name: _Name, rename: _Rename = None) -> None:
    """Add pairs of questions with same_answer 0 or 1, and where known kind, cluster, tenant_id, split."""
    from workbench.evalset.imports.requests import import_pairs

    done = import_pairs(path, evalset_folder(name), rename=named_values(rename or [], "--rename"), tell=say)
    typer.echo(f"written: {done}; complete the card.md beside it")
