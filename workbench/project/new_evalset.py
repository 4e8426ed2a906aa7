"""``workbench new``: an evalset of your own documents and questions, as they were understood, then written.

Questions without labels get a judging sheet: what diverse arms find first, blind to the arm.
"""

import glob
import re
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from workbench.config import Settings, load_settings
from workbench.errors import ConfigError, Defect, EvalsetError
from workbench.evalset.cells import shown_cell
from workbench.evalset.corpus import CorpusQuotes
from workbench.evalset.files import (
    TABLES,
    Judgement,
    Names,
    TableFile,
    read_lines,
    read_table,
    renamed_columns,
    require_columns,
)
from workbench.evalset.folder import (
    DOCUMENT_KEYS,
    QUERY_KEYS,
    Tell,
    documents_of_rows,
    folder_judgement_defects,
    queries_of_rows,
    write_evalset_folder,
)
from workbench.evalset.imports.document_tables import (
    DOCUMENT_NAMES,
    QUERY_NAMES,
    beir_rows_of_table,
    judgements_in_query_table,
    ungraded_documents,
)
from workbench.evalset.imports.judgement_sheets import SHEET, write_judgement_sheet
from workbench.inference.encoders import MiniLM
from workbench.project.document_databases import (
    FORMS,
    database_without_secrets,
    is_document_database,
    read_document_database,
)
from workbench.project.document_pages import PAGES, find_pages, pages_passed_over, read_pages
from workbench.project.init_project import gates_text
from workbench.project.office_files import OFFICE
from workbench.records import Document, Query, content_hash
from workbench.rendering.numbers import counted
from workbench.rendering.progress import Progress, waiting
from workbench.retrieval.arms import make_arms
from workbench.retrieval.searcher import Searcher

# What else a column may be called in files that were not made for this; the first that is there is taken.
_GUESSES: Mapping[str, Sequence[str]] = {
    "_id": ("uid", "uuid", "key", "slug", "url", "path", "source", "number"),
    "title": ("title", "name", "heading", "subject", "headline"),
    "text": ("markdown", "page_content", "chunk", "passage", "description", "article", "html", "answer"),
}
_ASKED: Mapping[str, Sequence[str]] = {
    "_id": ("uid", "uuid", "key", "number"),
    "text": ("q", "prompt", "input", "user_query", "message", "search", "title"),
    "relevant": ("relevant_doc", "relevant_docs", "doc_id", "document_id"),
}
_SHOWN_CHARACTERS = 60
_ENDINGS = 5  # of files that are not read, by name


@dataclass(frozen=True, slots=True)
class NewEvalset:
    """What was found in the files, before anything is written.

    ``lines`` tell it: which column was taken for what, what was made up, what was left out.
    """

    documents: tuple[Document, ...]
    queries: tuple[Query, ...]
    judgements: tuple[Judgement, ...]
    lines: tuple[str, ...]


def understand_evalset(
    documents: Sequence[str],
    questions: str | Path,
    *,
    rename_documents: Mapping[str, str] = MappingProxyType({}),
    rename_questions: Mapping[str, str] = MappingProxyType({}),
    query: str = "",
    questions_query: str = "",
    settings: Settings | None = None,
) -> NewEvalset:
    """Read documents and questions, and say what they were taken for.

    Parameters
    ----------
    documents : sequence of str
        Folders or globs of pages (Markdown, text, HTML, PDF, Word, PowerPoint, Excel); or tables (JSONL, CSV, TSV,
        Parquet), also those that lie in a database (`workbench.project.document_databases.FORMS`).
    questions : str or Path
        A table of either kind, or a text file with a question per line.
    rename_documents, rename_questions : mapping
        Your column -> ours (_id, title, text; of questions relevant, the ids of the right documents, or quote).
    query, questions_query : str
        SQL that selects documents, or questions, where a PostgreSQL database is named.
    settings : Settings, optional
        Whose cache keeps a collection of the hub; those of this folder by default.

    Raises
    ------
    ConfigError
        If nothing is there, or a column cannot be guessed; `MissingExtra` if PDF and Office files cannot be read.
    EvalsetError
        With the file and line of everything that cannot be used.
    """
    tables = _TableSources(query, questions_query, settings)
    with waiting("reading documents"):
        found, lines, defects = _read_new_documents(documents, rename_documents, tables)
    with waiting("reading questions"):
        queries, judged, told, wrong = _read_new_questions(
            str(questions), rename_questions, tables, CorpusQuotes(found)
        )
    known = Counter(d.doc_id for d in found)
    if twice := sorted(key for key, count in known.items() if count > 1):
        defects.append(
            Defect(", ".join(map(database_without_secrets, documents)), 0, f"two documents have the id {twice[0]!r}")
        )
    judged = [replace(j, doc_id=_page_id_below(j.doc_id, documents, known)) for j in judged]
    wrong += folder_judgement_defects(
        database_without_secrets(str(questions)), judged, {q.query_id for q in queries}, known
    )
    if defects or wrong:
        raise EvalsetError("these files cannot be used; correct these places:", [*defects, *wrong])
    return NewEvalset(tuple(found), tuple(queries), tuple(judged), (*lines, *told))


def _page_id_below(name: str, given: Sequence[str], known: Container[str]) -> str:
    """Id of a page, also where it was named with the folder before it, as a shell completes it."""
    for folder in ("", *given):
        for start in (folder.strip("./"), Path(folder).name):
            short = name.removeprefix("./").removeprefix(f"{start}/")
            if name not in known and short in known:
                return short
    return name


def write_new_evalset(understood: NewEvalset, out: Path, *, sources: Sequence[str]) -> Path:
    """Write the evalset folder, with gates to fill in and a card to complete; user and password are not kept."""
    card = (
        "---\nsynthetic: false\n---\n# Made from own files\n## Made from\n"
        + "".join(f"- {line}\n" for line in [*map(database_without_secrets, sources), *understood.lines])
        + "\n## To be written by hand\nWho wrote the questions and judged the documents (people, a model), how, when, "
        "for what;\nand what this set cannot show. If questions are made up, set `synthetic: true` above.\n"
    )
    splits = {"test": understood.judgements} if understood.judgements else {}
    write_evalset_folder(out, documents=understood.documents, queries=understood.queries, judgements=splits, card=card)
    (out / "gates.toml").write_text(gates_text(), encoding="utf-8")
    return out


@dataclass(frozen=True, slots=True)
class _TableSources:
    """Reads tables of files and of databases, with the SQL that selects documents or questions."""

    query: str
    questions_query: str
    settings: Settings | None

    def read(self, source: str, query: str) -> tuple[TableFile, list[str]]:
        """Table, and the columns that were left out when it was read."""
        with waiting(f"reading {database_without_secrets(source)}"):
            if is_document_database(source):
                return read_document_database(source, query, self.settings or load_settings())
            return read_table(Path(source)), []


def _read_new_documents(
    given: Sequence[str], rename: Mapping[str, str], tables: _TableSources
) -> tuple[list[Document], list[str], list[Defect]]:
    """Documents of pages or tables, what they were taken for, and what cannot be used."""
    stored = [text for text in given if is_document_database(text)]
    if tables.query and not stored:
        raise ConfigError(f"--query selects documents of a database, none is named; sources are {FORMS}")
    files = [text for text in given if text not in stored]
    paths = [Path(p) for text in files for p in (sorted(glob.glob(text, recursive=True)) or [text])]
    if missing := [str(path) for path in paths if not path.exists()]:
        raise ConfigError(f"no such file or folder: {', '.join(missing)}")
    documents, lines, defects = list[Document](), list[str](), list[Defect]()
    if pages := find_pages(paths):
        documents, defects = read_pages(pages)
        kinds = [path.suffix.lower() for _, path in pages]
        counts = ", ".join(f"{kinds.count(kind):,} {kind}" for kind in dict.fromkeys(kinds))
        lines.append(
            f"{counted(len(documents), 'document')} of pages ({counts}): id = path below the folder, title = heading"
        )
        if other := pages_passed_over(paths):
            ends = Counter(path.suffix.lower() or path.name for path in other)
            most = ", ".join(f"{count:,} {end}" for end, count in ends.most_common(_ENDINGS))
            more = f", and {counted(len(ends) - _ENDINGS, 'other kind')}" if len(ends) > _ENDINGS else ""
            lines.append(f"not read: {most}{more}; pages end in {', '.join(PAGES)}")
    for source in [*(str(path) for path in paths if path.suffix.lower() in TABLES), *stored]:
        read, dropped = tables.read(source, tables.query)
        table, told = _new_evalset_table(read, DOCUMENT_NAMES, _GUESSES, rename, "text", _made_id_stem(read.path))
        rows, rest, wrong = beir_rows_of_table(table, DOCUMENT_NAMES, DOCUMENT_KEYS)
        found, _, odd = documents_of_rows(str(read.path), rows)
        documents, defects = documents + found, defects + _shared_new_ids(read.path, told, odd) + wrong + odd
        lines.append(f"{counted(len(found), 'document')} of {read.path}: {_said(told, [*rest, *dropped])}")
    if not documents and not defects:
        asked, inside = ", ".join(given), [p for path in paths for p in sorted(path.glob("*.lance")) if p.is_dir()]
        hint = f"; its LanceDB tables are named as {inside[0]}" if inside else ""
        known = f"pages end in {', '.join(PAGES)}, tables in {', '.join(TABLES)}"
        raise ConfigError(f"no document in {asked}; {known}{hint}")
    return documents, lines, defects


def _shared_new_ids(path: Path, taken: Mapping[str, str], defects: Sequence[Defect]) -> list[Defect]:
    """What to do where several rows have one id: tables of a store often hold the parts of documents."""
    if not any(defect.problem.startswith("duplicate _id") for defect in defects):
        return []
    told = "if they are parts of documents, name a column that tells them apart: --rename-documents YOURS=_id"
    return [Defect(str(path), 0, f"rows share an _id, taken from {taken['_id']}; {told}")]


def _made_id_stem(path: Path) -> str:
    """What made-up ids begin with: the name of the file, or of the table."""
    return re.sub(r"[^\w.-]+", "-", path.name.rpartition("#")[2] if "#" in path.name else path.stem)


def _read_new_questions(
    source: str, rename: Mapping[str, str], tables: _TableSources, quotes: CorpusQuotes
) -> tuple[list[Query], list[Judgement], list[str], list[Defect]]:
    """Questions, the judgements that they carry, what they were taken for, and what cannot be used."""
    path, stored = Path(source), is_document_database(source)
    if tables.questions_query and not stored:
        raise ConfigError(f"--questions-query selects questions of a database, found {source}")
    if path.suffix.lower() in OFFICE:
        raise ConfigError(f"{path}: questions are a table ({', '.join(TABLES)}) or lines of text; save them as CSV")
    if not stored and path.suffix.lower() not in TABLES:
        lines, defects = read_lines(path)
        queries = [Query(f"q{number}", line.strip(), cluster=f"q{number}") for number, line in lines]
        return queries, [], [f"{counted(len(queries), 'question')} of {path}: one per line, ids made up"], defects
    read, dropped = tables.read(source, tables.questions_query)
    table, told = _new_evalset_table(read, QUERY_NAMES, _ASKED, rename, "text", "q")
    rows, rest, defects = beir_rows_of_table(table, QUERY_NAMES, QUERY_KEYS)
    queries, _, wrong = queries_of_rows(str(read.path), rows)
    judged, unread = judgements_in_query_table(read.path, rows, quotes)
    said = f"{counted(len(queries), 'question')} of {read.path}: {_said(told, [*rest, *dropped])}"
    return queries, judged, [said, *ungraded_documents(read.path, rows)], [*defects, *wrong, *unread]


def _new_evalset_table(
    table: TableFile, names: Names, guesses: Names, rename: Mapping[str, str], needed: str, prefix: str
) -> tuple[TableFile, dict[str, str]]:
    """Table under our names, and by our name the column that was taken, or how it was made up."""
    require_columns(rename, [table])
    taken = {ours: theirs for theirs, ours in rename.items()}
    table = renamed_columns(table, rename)
    for ours, known in names.items():
        options = [*known, *guesses.get(ours, ())]
        if ours not in taken and (column := next((c for c in options if c in table.columns), None)):
            taken[ours] = column
    if needed not in taken:
        taken[needed] = _new_longest_column(table, set(taken.values()))
    moves = {theirs: ours for ours, theirs in taken.items() if theirs != ours and ours not in rename.values()}
    table = renamed_columns(table, moves)
    if "_id" not in taken:
        rows = tuple((line, {"_id": f"{prefix}-{n}", **row}) for n, (line, row) in enumerate(table.rows, start=1))
        table = replace(table, columns=("_id", *table.columns), rows=rows)
        taken["_id"] = f"made up ({prefix}-1, ...)"
    return table, taken


def _new_longest_column(table: TableFile, taken: set[str]) -> str:
    """Column with the longest texts: what a document says, where no column is called so."""
    lengths = {
        column: sum(len(value) for _, row in table.rows if isinstance(value := row.get(column), str))
        for column in table.columns
        if column not in taken
    }
    if not lengths or not max(lengths.values()):
        raise ConfigError(
            f"no column of {table.path} holds text; it has {', '.join(table.columns)}. Say which: "
            "--rename-documents YOURS=text, or --rename-questions YOURS=text"
        )
    return max(lengths, key=lambda column: lengths[column])


def _said(taken: Mapping[str, str], rest: Sequence[str]) -> str:
    told = ", ".join(f"{ours} = {theirs}" for ours, theirs in taken.items())
    return told + (f"; left out: {', '.join(rest)}" if rest else "")


def tell_new_evalset(understood: NewEvalset, say: Tell) -> None:
    """Say what was understood, with the first document and the first questions as they were read."""
    for line in understood.lines:
        say(line)
    first = understood.documents[0]
    text = shown_cell(first.text[:_SHOWN_CHARACTERS])
    say(f"first document: {first.doc_id}, title {shown_cell(first.title)}, text {text}")
    for query in understood.queries[:2]:
        say(f"question {query.query_id}: {shown_cell(query.text[:_SHOWN_CHARACTERS])}")
    judged = _judged(understood)
    say(f"{judged:,} of {counted(len(understood.queries), 'question names', 'questions name')} a right document")


def _judged(understood: NewEvalset) -> int:
    return len({j.query_id for j in understood.judgements if j.grade > 0})


FEW = 400  # questions that settle which of many arms is near enough to the best of them, where these are close
NARROW = "-p chunkers=whole -p strategies=full_text,vector,hybrid_weighted -p embedders=wordllama"


def first_run(understood: NewEvalset, name: str) -> Iterator[str]:
    """What to run first: few questions settle few arms, and fewer than some allow no verdict at all."""
    from workbench.project.inspect_log import TO_SPEAK

    judged = _judged(understood)
    if judged < TO_SPEAK:
        lacking = counted(TO_SPEAK - judged, "more question")
        yield f"a verdict takes about {TO_SPEAK} questions with a right document: add {lacking}, and make it anew"
    if judged < FEW:
        yield "few questions settle few arms; a first decision is nearest where three are compared:"
        yield f"  workbench run retrieval --evalset {name} {NARROW}"
        yield "all arms, which take some hundred questions where the best are close:"
    yield f"next: workbench run retrieval --evalset {name}"


DEPTH = 5  # of each arm; four arms that agree on half leave some ten documents per question


def write_judging_pool(
    folder: Path, documents: Sequence[Document], queries: Sequence[Query], settings: Settings
) -> int:
    """Write ``to_judge.jsonl`` into an evalset; gives how many documents are to be judged.

    The top `DEPTH` of full text and of vectors, over whole documents and over parts by structure, in an order that
    tells neither rank nor arm.
    """
    embedder = MiniLM(settings.cache / "weights")
    manifest = content_hash(*(f"{d.doc_id}\0{d.full_text}" for d in documents))
    searcher = Searcher(documents, manifest, settings, {"minilm": embedder}, embedder)
    found: dict[tuple[str, str], None] = {}
    for arm in make_arms(["whole", "structure"], ["full_text", "vector"]):
        searcher.prepare(arm)
        bar = Progress(f"questions to {arm.name}", len(queries))
        for n, query in enumerate(queries, start=1):
            found |= {(query.query_id, hit.doc_id): None for hit in searcher.search(arm, query, DEPTH)}
            bar.update(n)
    place = {query.query_id: n for n, query in enumerate(queries)}
    pairs = sorted(found, key=lambda pair: (place[pair[0]], content_hash(*pair)))
    write_judgement_sheet(folder / SHEET, pairs, queries, documents)
    return len(pairs)
