"""Commands before and after a run: begin a project, bring documents, look at runs, at logs and at decisions."""

from pathlib import Path
from typing import Annotated

import typer

from workbench.cli.lines import named_values, say
from workbench.rendering.numbers import counted
from workbench.rendering.text import visible


def init_command(
    folder: Annotated[Path, typer.Argument(help="Folder of the project; made where there is none.")] = Path("."),
    ci: Annotated[str, typer.Option(help="Whose workflow to write: github, gitlab or none.")] = "github",
) -> None:
    """Begin a project: notebooks, a sample evalset, gates, what CI runs. Overwrites nothing."""
    from workbench.project.init_project import init_project as begin
    from workbench.project.init_project import tell_project_written

    tell_project_written(begin(folder, ci=ci), say)


def new_command(
    name: Annotated[str, typer.Argument(help="Name of the new evalset.")],
    documents: Annotated[
        list[str],
        typer.Option(
            help="Folder or glob of pages, PDF and Office too; .jsonl, .csv, .tsv, .parquet; lance:FOLDER#TABLE, "
            "postgresql://..., datasets:NAME; repeatable."
        ),
    ],
    questions: Annotated[str, typer.Option(help="A table of any kind, or a text file with a question per line.")],
    rename_documents: Annotated[
        list[str] | None, typer.Option(metavar="YOURS=OURS", help="A column of the documents; repeatable.")
    ] = None,
    rename_questions: Annotated[
        list[str] | None, typer.Option(metavar="YOURS=OURS", help="A column of the questions; repeatable.")
    ] = None,
    query: Annotated[str, typer.Option(metavar="SQL", help="Selects the documents of a postgresql:// source.")] = "",
    questions_query: Annotated[str, typer.Option(metavar="SQL", help="The same for questions.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be written, and write nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before writing.")] = False,
) -> None:
    """Make an evalset of your own documents and questions; says what it understood before it writes."""
    import sys

    from workbench.config import load_settings
    from workbench.project import new_evalset as own

    settings = load_settings()
    settings.require_project()
    understood = own.understand_evalset(
        documents,
        questions,
        rename_documents=named_values(rename_documents or [], "--rename-documents"),
        rename_questions=named_values(rename_questions or [], "--rename-questions"),
        query=query,
        questions_query=questions_query,
        settings=settings,
    )
    own.tell_new_evalset(understood, say)
    out = settings.evalsets / name
    if dry_run or (not yes and sys.stdin.isatty() and not typer.confirm(f"Write {out}?", default=True)):
        say("nothing was written")
        return
    asked = [f"selected by: {' '.join(sql.split())}" for sql in (query, questions_query) if sql]
    own.write_new_evalset(understood, out, sources=[*documents, questions, *asked])
    say(f"written: {out}; complete its card.md")
    if understood.judgements:
        for line in own.first_run(understood, name):
            say(line)
        return
    from workbench.evalset.imports.judgement_sheets import SHEET
    from workbench.project.inspect_log import TO_SPEAK
    from workbench.project.new_evalset import write_judging_pool

    count = write_judging_pool(out, understood.documents, understood.queries, settings)
    sheet = out / SHEET
    say(
        f"no question names a right document: {sheet} holds {counted(count, 'document')} to judge, blind to "
        "what found them"
    )
    say("fill `grade` (0: not relevant, 1: relevant, 2: answers it) and `judge`, question by question: a verdict takes")
    say(f"about {TO_SPEAK} questions with a right document; a sheet that is filled further is taken again")
    say(f"next: workbench import judgements {sheet} --name {name} --partly")


def compare_command(
    before: Annotated[str, typer.Argument(help="A run: its folder, or how its name begins or ends.")],
    after: Annotated[str, typer.Argument(help="Another run of the same notebook.")],
) -> None:
    """Compare two runs: verdicts, inputs that differ, means by arm, and the items that moved most."""
    from workbench.config import load_settings
    from workbench.project.run_differences import load_run_sides, run_differences_told

    for text in run_differences_told(load_run_sides(load_settings(), before, after)):
        typer.echo(visible(text))


def report_command(
    run: Annotated[
        str, typer.Argument(help="A run: its folder, or how its name begins or ends; the newest by default.")
    ] = "",
    open_it: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """Say where the report of a run is, drawn again where it is missing; or open it."""
    from workbench.config import load_settings
    from workbench.errors import ConfigError
    from workbench.project.run_differences import find_run, newest_run

    record = find_run(load_settings(), run) if run else newest_run(load_settings())
    if record.report is None:
        from workbench.reports.ending import draw_report

        record = draw_report(record)
    if record.report is None:
        raise ConfigError(f"{record.run_dir.name} has no report: {record.report_error or record.error}")
    say(str(record.report))
    if open_it and typer.launch(record.report.resolve().as_uri()):
        raise ConfigError("no browser could be opened here; open the file above")


def verify_command(
    decisions: Annotated[
        list[str] | None, typer.Argument(help="Files, or EVALSET/NOTEBOOK; all accepted decisions by default.")
    ] = None,
    statement: Annotated[Path | None, typer.Option(metavar="FILE", help="Write an in-toto Statement too.")] = None,
    sealed: Annotated[
        str, typer.Option(metavar="SHA256", help="Hash of gates.toml that you were given before the test was run.")
    ] = "",
    full: Annotated[bool, typer.Option("--full", help="Show also what was verified, with its values.")] = False,
) -> None:
    """Check accepted decisions against what is committed, without running anything; also in a light install.

    Exit code: 0 nothing contradicts them, 1 something does, 3 one cannot be read.
    """
    from workbench.cli.lines import write_file
    from workbench.config import SystemClock, load_settings
    from workbench.project.verify_decision import decisions_to_verify
    from workbench.project.verify_decision import verification_statement as in_toto
    from workbench.project.verify_decision import verify_decision as check
    from workbench.rendering.progress import waiting

    settings, found = load_settings(), []
    for path in decisions_to_verify(decisions or [], settings):
        with waiting(f"verifying {path}"):
            found.append(check(path, sealed=sealed))
    for each in found:
        say(each.sentence)
        for status in ("contradicted", "not verified", *(["verified"] if full else [])):
            for one in each.of(status):
                say(f"  {status}: {one.name}: {one.told}")
    if statement:
        write_file(statement, in_toto(found, now=SystemClock().now(), root=settings.root))
    raise typer.Exit(0 if all(each.holds for each in found) else 1)
