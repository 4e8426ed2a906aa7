"""The folder of an evalset: its rows as documents and questions, all that it holds, and how it is written.

It is read once: questions, judgements, corpus, gates and card, with the line of everything that cannot be used. It is
written whole or not at all, and so is one file of it.
"""

import json
import tempfile
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

import yaml

from workbench.codec import write_whole
from workbench.config import Settings
from workbench.errors import Defect, EvalsetError, WorkbenchError
from workbench.evalset.cells import Unusable, name_cell, parsed_cell, shown_cell
from workbench.evalset.cells import id_cell as plain_id
from workbench.evalset.files import Judgement, Row, read_text, scan_jsonl, scan_qrels
from workbench.evalset.gates import GatePolicy, scan_gates
from workbench.records import Document, Query, file_hash

# How each field of the metadata is read, by its name.
Readers = dict[str, Callable[[dict[str, Any], str], Any]]


_Value = TypeVar("_Value", Query, Document)


def queries_of_rows(file: str, rows: Sequence[Row]) -> tuple[list[Query], dict[str, int], list[Defect]]:
    """Make queries of BEIR rows: values, the line of each id, and what cannot be used (of ``file``)."""
    return _collect_folder_rows(file, rows, _query_of_row)


def documents_of_rows(file: str, rows: Sequence[Row]) -> tuple[list[Document], dict[str, int], list[Defect]]:
    """Make documents of BEIR rows: values, the line of each id, and what cannot be used (of ``file``)."""
    return _collect_folder_rows(file, rows, _document_of_row)


def foreign_folder_keys(rows: Sequence[Row], known: Sequence[str]) -> dict[int, dict[str, Any]]:
    """Metadata that means nothing here, by line and key."""
    found = {}
    for line, row in rows:
        try:
            metadata = folder_row_metadata(row)
        except Unusable:  # told by whoever reads the rows
            continue
        if foreign := {k: v for k, v in metadata.items() if k not in known}:
            found[line] = foreign
    return found


def fits_folder_key(name: str, value: Any) -> bool:
    """Whether a key of our metadata could hold the value: the list of works that a paper cites is no ``reference``."""
    try:
        return bool((_QUERY_FIELDS | _DOCUMENT_FIELDS)[name]({name: value}, name))
    except Unusable:
        return False


def _collect_folder_rows(
    file: str, rows: Sequence[Row], build: Callable[[str, dict[str, Any], dict[str, Any]], _Value]
) -> tuple[list[_Value], dict[str, int], list[Defect]]:
    values: list[_Value] = []
    lines: dict[str, int] = {}
    defects: list[Defect] = []
    for line, row in rows:
        try:
            key = _folder_row_id(row)
            if key in lines:
                raise Unusable(f"duplicate _id {key!r}: line {lines[key]} has it already")
            lines[key] = line
            values.append(build(key, row, folder_row_metadata(row)))
        except Unusable as error:
            defects.append(Defect(file, line, str(error)))
    return values, lines, defects


def _query_of_row(key: str, row: dict[str, Any], metadata: dict[str, Any]) -> Query:
    return Query(key, _folder_row_text(row), **{"cluster": key, **_given_row_fields(metadata, _QUERY_FIELDS)})


def _document_of_row(key: str, row: dict[str, Any], metadata: dict[str, Any]) -> Document:
    return Document(
        key, _folder_row_text(row), _row_string(row, "title"), **_given_row_fields(metadata, _DOCUMENT_FIELDS)
    )


def _given_row_fields(metadata: dict[str, Any], readers: Readers) -> dict[str, Any]:
    """Fields that say something; the others keep their defaults."""
    return {name: value for name, read in readers.items() if (value := read(metadata, name))}


def _folder_row_id(row: dict[str, Any]) -> str:
    value = plain_id("_id", row.get("_id"))
    if value is None:
        raise Unusable('"_id" must be a string that is not empty')
    return clean_folder_row_id("_id", value)


def clean_folder_row_id(name: str, value: str) -> str:
    """Id that a line of qrels can hold.

    Raises
    ------
    Unusable
        If it has a tab, a line end or outer spaces.
    """
    if value != value.strip() or any(c in value for c in "\t\r\n"):
        raise Unusable(f'"{name}" {value[:40]!r} has a tab, a line end or outer spaces, so no qrels can name it')
    return value


def folder_row_metadata(row: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata of a row, also where it arrives as JSON text, as `datasets` and CSV store objects of differing keys.

    Raises
    ------
    Unusable
        If it is no object.
    """
    value = parsed_cell("metadata", row.get("metadata"))
    if value is None or (isinstance(value, str) and value.strip().lower() in ("", "null", "nan", "none")):
        return {}
    if not isinstance(value, dict):
        found = f"the text {shown_cell(value)}" if isinstance(value, str) else type(value).__name__
        raise Unusable(f'"metadata" must be an object, found {found}')
    return value


def _folder_row_text(row: dict[str, Any]) -> str:
    if row.get("text") is None:
        raise Unusable(f'"text" must be a string, found {"NoneType" if "text" in row else "nothing"}')
    return _row_string(row, "text")


def _row_string(row: dict[str, Any], name: str) -> str:
    value = row.get(name)
    if value is not None and not isinstance(value, str):
        raise Unusable(f'"{name}" must be a string, found {type(value).__name__}')
    return value or ""


def _row_strings(row: dict[str, Any], name: str) -> tuple[str, ...]:
    value = row.get(name)
    if value is not None and not (isinstance(value, list) and all(isinstance(v, str) for v in value)):
        raise Unusable(f'"{name}" must be a list of strings')
    return tuple(value or ())


def _folder_row_date(row: dict[str, Any], name: str) -> date | None:
    value = row.get(name)
    try:
        return None if value is None else date.fromisoformat(value)
    except (TypeError, ValueError):
        raise Unusable(f'"{name}" must read like 2026-01-31, found {str(value)[:40]!r}') from None


def _row_name(row: dict[str, Any], name: str) -> str:
    return name_cell(name, row.get(name))


_QUERY_FIELDS: Readers = {
    "tenant_id": _row_name, "feature": _row_string, "style": _row_string, "cluster": _row_name, "accept": _row_strings,
    "reference": _row_string,
}  # fmt: skip


_DOCUMENT_FIELDS: Readers = {
    "tenant_id": _row_name,
    "document_type": _row_string,
    "date": _folder_row_date,
    "aliases": _row_strings,
}


QUERY_KEYS, DOCUMENT_KEYS = tuple(_QUERY_FIELDS), tuple(_DOCUMENT_FIELDS)


OTHER_INPUTS = ("outcomes.parquet", "pairs.jsonl", "stream.parquet")
UNJUDGED = (
    "holds no <split>.tsv with judgements: nobody has said which documents are right; fill `grade` in a sheet "
    "(to_judge.jsonl, which `workbench new` writes), then: workbench import judgements SHEET --name NAME --partly"
)


@dataclass(slots=True)
class EvalsetContents:
    """What the folder holds.

    ``query_lines`` and ``document_lines`` map ids to lines; ``foreign`` holds, by file, line and key, the
    metadata that means nothing here.
    """

    folder: Path
    queries: list[Query] = field(default_factory=list)
    query_lines: dict[str, int] = field(default_factory=dict)
    foreign: dict[str, dict[int, dict[str, Any]]] = field(default_factory=dict)
    documents: list[Document] = field(default_factory=list)
    document_lines: dict[str, int] = field(default_factory=dict)
    judgements: dict[str, list[Judgement]] = field(default_factory=dict)
    gates: dict[str, GatePolicy] = field(default_factory=dict)
    card: str = ""
    synthetic: bool = False
    inputs: dict[str, str] = field(default_factory=dict)
    defects: list[Defect] = field(default_factory=list)


def read_evalset_folder(folder: Path, settings: Settings, *, build: bool = True) -> EvalsetContents:
    """Read all files of the folder once; what cannot be used is in ``defects``, nothing is raised for it.

    ``build=False`` leaves out the documents of a corpus that is built: its hash is that of its lock.

    Raises
    ------
    EvalsetError
        If there is no such folder.
    """
    if not folder.is_dir():
        raise EvalsetError(f"no evalset folder at {folder}; it must hold queries.jsonl, qrels/ and a corpus")
    contents = EvalsetContents(folder)
    _read_folder_queries(contents)
    _read_folder_corpus(contents, settings, build)
    _read_folder_qrels(contents)
    if (gates := folder / "gates.toml").exists():
        contents.gates, defects = scan_gates(gates)
        _note_folder_file(contents, "gates", gates, defects)
    if (card := folder / "card.md").exists():
        contents.card, defects = read_text(card)
        contents.synthetic, problem = synthetic_of_folder_card(contents.card)
        contents.defects += [*defects, *([Defect(str(card), 1, problem)] if problem else [])]
    return contents


def _read_folder_queries(contents: EvalsetContents) -> None:
    path = contents.folder / "queries.jsonl"
    if not path.exists() and any((contents.folder / name).exists() for name in OTHER_INPUTS):
        return  # an evalset of outcomes, pairs or a stream alone
    rows, defects = scan_jsonl(path)
    contents.queries, contents.query_lines, problems = queries_of_rows(str(path), rows)
    contents.foreign[str(path)] = foreign_folder_keys(rows, QUERY_KEYS)
    _note_folder_file(contents, "queries", path, defects + problems)


def _read_folder_corpus(contents: EvalsetContents, settings: Settings, build: bool) -> None:
    built, path = contents.folder / "corpus.toml", contents.folder / "corpus.jsonl"
    if built.exists():
        from workbench.evalset.corpus import corpus_lock_hash, load_corpus

        if not build:
            contents.inputs["corpus"] = corpus_lock_hash(contents.folder)
            return
        try:
            contents.documents, contents.inputs["corpus"] = load_corpus(contents.folder, settings)
        except WorkbenchError as error:
            contents.defects += getattr(error, "defects", ()) or [Defect(str(built), 0, str(error))]
    elif path.exists() or contents.query_lines:
        rows, defects = scan_jsonl(path)
        contents.documents, contents.document_lines, problems = documents_of_rows(str(path), rows)
        contents.foreign[str(path)] = foreign_folder_keys(rows, DOCUMENT_KEYS)
        _note_folder_file(contents, "corpus", path, defects + problems)


def _read_folder_qrels(contents: EvalsetContents) -> None:
    queries = set(contents.query_lines)
    documents = set(contents.document_lines) or {d.doc_id for d in contents.documents}
    paths = sorted((contents.folder / "qrels").glob("*.tsv"))
    for path in paths:
        rows, defects = scan_qrels(path)
        contents.judgements[path.stem] = rows
        # a corpus of which nothing could be read is one defect, not one a judgement
        known = documents or {row.doc_id for row in rows}
        problems = folder_judgement_defects(str(path), rows, queries, known)
        _note_folder_file(contents, f"qrels/{path.stem}", path, defects + problems)
    if contents.query_lines and not paths:
        missing = Defect(str(contents.folder / "qrels"), 0, UNJUDGED)
        contents.defects.append(missing)


def folder_judgement_defects(
    file: str, rows: Sequence[Judgement], queries: Container[str], documents: Container[str]
) -> list[Defect]:
    """Rows about queries and documents that do not exist, and pairs that were judged before."""
    defects: list[Defect] = []
    seen: dict[tuple[str, str], int] = {}
    for row in rows:
        if row.query_id not in queries:
            defects.append(Defect(file, row.line, f"unknown query {row.query_id!r}"))
        if row.doc_id not in documents:
            defects.append(Defect(file, row.line, f"unknown document {row.doc_id!r}"))
        first = seen.setdefault((row.query_id, row.doc_id), row.line)
        if first != row.line:
            pair = f"query {row.query_id!r} and document {row.doc_id!r}"
            defects.append(Defect(file, row.line, f"{pair} were judged on line {first} already"))
    return defects


def _note_folder_file(contents: EvalsetContents, name: str, path: Path, defects: Sequence[Defect]) -> None:
    """Keep the defects of one file in the order of its lines, and the hash of what was read."""
    contents.defects += sorted(defects, key=lambda defect: defect.line)
    if path.is_file():
        contents.inputs[name] = file_hash(path)


def synthetic_of_folder_card(card: str) -> tuple[bool, str]:
    """``synthetic: true`` from the front matter of a card (YAML between two lines of ``---``), or what is wrong."""
    head, matter, _ = card.partition("\n---")
    if not (card.startswith("---\n") and matter):
        return False, ""
    try:
        values: Any = yaml.safe_load(head.removeprefix("---\n")) or {}
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        return False, f"the front matter is not YAML: {' '.join(str(error).split())}"
    value = values.get("synthetic", False) if isinstance(values, Mapping) else None
    if not isinstance(value, bool):
        return False, "the front matter must map names to values, synthetic to true or false"
    return value, ""


Tell = Callable[[str], object]  # what an import says beside its result: what it left out, and what it took it for


def tell_nothing(line: str) -> None:
    """Take what an import tells without showing it."""


def write_evalset_folder(
    out: Path,
    *,
    documents: Sequence[Document],
    queries: Sequence[Query],
    judgements: Mapping[str, Sequence[Judgement]],
    card: str,
) -> None:
    """Write corpus.jsonl, queries.jsonl, qrels/<split>.tsv and card.md; the folder appears when complete.

    Raises
    ------
    EvalsetError
        If there is something at ``out`` already: an import never replaces judgements.
    """
    with new_evalset_folder(out) as folder:
        (folder / "qrels").mkdir()
        _write_folder_lines(folder / "corpus.jsonl", map(_document_row_line, documents))
        _write_folder_lines(folder / "queries.jsonl", map(_query_row_line, queries))
        for split, rows in judgements.items():
            lines = (f"{row.query_id}\t{row.doc_id}\t{row.grade}" for row in rows)
            _write_folder_lines(folder / "qrels" / f"{split}.tsv", ["query-id\tcorpus-id\tscore", *lines])
        (folder / "card.md").write_text(card, encoding="utf-8")


@contextmanager
def new_evalset_folder(out: Path) -> Iterator[Path]:
    """Give a folder to write into, which becomes ``out`` when the block ends without an error.

    Raises
    ------
    EvalsetError
        If there is something at ``out`` already: an import never replaces judgements.
    """
    if out.exists():
        raise EvalsetError(f"{out} exists already; remove it or import into another folder")
    with writing_evalset_files(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".import-") as scratch:
            folder = Path(scratch) / "new"
            folder.mkdir()
            yield folder
            folder.rename(out)


@contextmanager
def writing_evalset_files(out: Path) -> Iterator[None]:
    """Turn what the disk refuses into an error that names what was to be written.

    Raises
    ------
    EvalsetError
        If it cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise EvalsetError(f"{out} cannot be written: {error.strerror or error}; import under another name") from error


def add_evalset_file(out: Path, name: str, data: bytes, *, card: str) -> Path:
    """Add one file to an evalset folder, which is made where there is none; returns the file.

    The card is written where there is none; one that people wrote is left as it is.

    Raises
    ------
    EvalsetError
        If the folder has that file: an import never replaces labels.
    """
    target = out / name
    if target.exists():
        raise EvalsetError(f"{target} exists already; remove it or import under another name")
    if not out.exists():
        with new_evalset_folder(out) as folder:
            (folder / "card.md").write_text(card, encoding="utf-8")
            (folder / name).write_bytes(data)
        return target
    with writing_evalset_files(target):
        write_whole(target, data)
        if not (out / "card.md").exists():
            (out / "card.md").write_text(card, encoding="utf-8")
    return target


def tell_rows_left_out(left_out: Mapping[Path, Sequence[str]], notes: Sequence[str], tell: Tell) -> None:
    """Say what an import did that its files do not: notes, and by file the columns that mean nothing here."""
    for line in [*notes, *(f"of {path.name} are left out: {', '.join(n)}" for path, n in left_out.items() if n)]:
        tell(line)


def folder_import_card(left_out: Mapping[Path, Sequence[str]], by_hand: str, notes: Sequence[str] = ()) -> str:
    """Card of an import: which files were read and which of their columns left out, and what a person has to add."""
    said = [f"`{path.name}`, sha256 {file_hash(path)}" for path in left_out]
    said += [*notes, *(f"of `{p.name}` were left out: {', '.join(names)}" for p, names in left_out.items() if names)]
    return (
        "---\nsynthetic: false\n---\n# Imported\n## Made from\n"
        + "".join(f"- {line}\n" for line in said)
        + f"\n## To be written by hand\n{by_hand};\nand what this set cannot show. If questions or "
        "traffic are made up, set `synthetic: true` above.\n"
    )


def _write_folder_lines(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


def _document_row_line(document: Document) -> str:
    row = {"_id": document.doc_id, "title": document.title, "text": document.text}
    return _beir_line(row, document, DOCUMENT_KEYS)


def _query_row_line(query: Query) -> str:
    told = replace(query, cluster="") if query.cluster == query.query_id else query
    return _beir_line({"_id": query.query_id, "text": query.text}, told, QUERY_KEYS)


def _beir_line(row: dict[str, Any], value: Document | Query, keys: Sequence[str]) -> str:
    """One line of JSON; metadata that says no more than the default is left out."""
    default = {f.name: f.default for f in fields(value)}
    metadata = {key: item for key in keys if (item := getattr(value, key)) != default[key]}
    return json.dumps(row | {"metadata": metadata}, ensure_ascii=False, default=str)
