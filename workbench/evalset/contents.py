"""What an evalset folder holds, read once: questions, judgements, corpus, gates and card; and what cannot be used."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from workbench.config import Settings
from workbench.errors import Defect, EvalsetError, WorkbenchError
from workbench.evalset.files import Judgement, read_text, scan_jsonl, scan_qrels
from workbench.evalset.gates import GatePolicy, scan_gates
from workbench.evalset.items import DOCUMENT_KEYS, QUERY_KEYS, documents_of, foreign_keys, queries_of
from workbench.records import Document, Query, file_hash

OTHER_INPUTS = ("outcomes.parquet", "pairs.jsonl", "stream.parquet")
UNJUDGED = (
    "holds no <split>.tsv with judgements: nobody has said which documents are right; fill `grade` in a sheet "
    "(to_judge.jsonl, which `workbench new` writes), then: workbench import judgements SHEET --name NAME --partly"
)


@dataclass(slots=True)
class Contents:
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


def read_contents(folder: Path, settings: Settings, *, build: bool = True) -> Contents:
    """Read all files of the folder once; what cannot be used is in ``defects``, nothing is raised for it.

    ``build=False`` leaves out the documents of a corpus that is built: its hash is that of its lock.

    Raises
    ------
    EvalsetError
        If there is no such folder.
    """
    if not folder.is_dir():
        raise EvalsetError(f"no evalset folder at {folder}; it must hold queries.jsonl, qrels/ and a corpus")
    contents = Contents(folder)
    _read_queries(contents)
    _read_corpus(contents, settings, build)
    _read_qrels(contents)
    if (gates := folder / "gates.toml").exists():
        contents.gates, defects = scan_gates(gates)
        _note_file(contents, "gates", gates, defects)
    if (card := folder / "card.md").exists():
        contents.card, defects = read_text(card)
        contents.synthetic, problem = synthetic_of(contents.card)
        contents.defects += [*defects, *([Defect(str(card), 1, problem)] if problem else [])]
    return contents


def _read_queries(contents: Contents) -> None:
    path = contents.folder / "queries.jsonl"
    if not path.exists() and any((contents.folder / name).exists() for name in OTHER_INPUTS):
        return  # an evalset of outcomes, pairs or a stream alone
    rows, defects = scan_jsonl(path)
    contents.queries, contents.query_lines, problems = queries_of(str(path), rows)
    contents.foreign[str(path)] = foreign_keys(rows, QUERY_KEYS)
    _note_file(contents, "queries", path, defects + problems)


def _read_corpus(contents: Contents, settings: Settings, build: bool) -> None:
    built, path = contents.folder / "corpus.toml", contents.folder / "corpus.jsonl"
    if built.exists():
        from workbench.evalset.corpus import load_corpus, lock_hash

        if not build:
            contents.inputs["corpus"] = lock_hash(contents.folder)
            return
        try:
            contents.documents, contents.inputs["corpus"] = load_corpus(contents.folder, settings)
        except WorkbenchError as error:
            contents.defects += getattr(error, "defects", ()) or [Defect(str(built), 0, str(error))]
    elif path.exists() or contents.query_lines:
        rows, defects = scan_jsonl(path)
        contents.documents, contents.document_lines, problems = documents_of(str(path), rows)
        contents.foreign[str(path)] = foreign_keys(rows, DOCUMENT_KEYS)
        _note_file(contents, "corpus", path, defects + problems)


def _read_qrels(contents: Contents) -> None:
    queries = set(contents.query_lines)
    documents = set(contents.document_lines) or {d.doc_id for d in contents.documents}
    paths = sorted((contents.folder / "qrels").glob("*.tsv"))
    for path in paths:
        rows, defects = scan_qrels(path)
        contents.judgements[path.stem] = rows
        # a corpus of which nothing could be read is one defect, not one a judgement
        known = documents or {row.doc_id for row in rows}
        problems = judgement_defects(str(path), rows, queries, known)
        _note_file(contents, f"qrels/{path.stem}", path, defects + problems)
    if contents.query_lines and not paths:
        missing = Defect(str(contents.folder / "qrels"), 0, UNJUDGED)
        contents.defects.append(missing)


def judgement_defects(
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


def _note_file(contents: Contents, name: str, path: Path, defects: Sequence[Defect]) -> None:
    """Keep the defects of one file in the order of its lines, and the hash of what was read."""
    contents.defects += sorted(defects, key=lambda defect: defect.line)
    if path.is_file():
        contents.inputs[name] = file_hash(path)


def synthetic_of(card: str) -> tuple[bool, str]:
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
