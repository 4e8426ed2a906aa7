"""Writes an evalset folder, or one file of it, whole or not at all."""

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from workbench.codec import write_whole
from workbench.errors import EvalsetError
from workbench.evalset.files import Judgement
from workbench.evalset.items import DOCUMENT_KEYS, QUERY_KEYS
from workbench.records import Document, Query, file_hash

Tell = Callable[[str], object]  # what an import says beside its result: what it left out, and what it took it for


def say_nothing(line: str) -> None:
    """Take what an import tells without showing it."""


def write_folder(
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
    with new_folder(out) as folder:
        (folder / "qrels").mkdir()
        _write_lines(folder / "corpus.jsonl", map(_document_line, documents))
        _write_lines(folder / "queries.jsonl", map(_query_line, queries))
        for split, rows in judgements.items():
            lines = (f"{row.query_id}\t{row.doc_id}\t{row.grade}" for row in rows)
            _write_lines(folder / "qrels" / f"{split}.tsv", ["query-id\tcorpus-id\tscore", *lines])
        (folder / "card.md").write_text(card, encoding="utf-8")


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Give a folder to write into, which becomes ``out`` when the block ends without an error.

    Raises
    ------
    EvalsetError
        If there is something at ``out`` already: an import never replaces judgements.
    """
    if out.exists():
        raise EvalsetError(f"{out} exists already; remove it or import into another folder")
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".import-") as scratch:
            folder = Path(scratch) / "new"
            folder.mkdir()
            yield folder
            folder.rename(out)


@contextmanager
def writing(out: Path) -> Iterator[None]:
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


def add_file(out: Path, name: str, data: bytes, *, card: str) -> Path:
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
        with new_folder(out) as folder:
            (folder / "card.md").write_text(card, encoding="utf-8")
            (folder / name).write_bytes(data)
        return target
    with writing(target):
        write_whole(target, data)
        if not (out / "card.md").exists():
            (out / "card.md").write_text(card, encoding="utf-8")
    return target


def tell_left_out(left_out: Mapping[Path, Sequence[str]], notes: Sequence[str], tell: Tell) -> None:
    """Say what an import did that its files do not: notes, and by file the columns that mean nothing here."""
    for line in [*notes, *(f"of {path.name} are left out: {', '.join(n)}" for path, n in left_out.items() if n)]:
        tell(line)


def import_card(left_out: Mapping[Path, Sequence[str]], by_hand: str, notes: Sequence[str] = ()) -> str:
    """Card of an import: which files were read and which of their columns left out, and what a person has to add."""
    said = [f"`{path.name}`, sha256 {file_hash(path)}" for path in left_out]
    said += [*notes, *(f"of `{p.name}` were left out: {', '.join(names)}" for p, names in left_out.items() if names)]
    return (
        "---\nsynthetic: false\n---\n# Imported\n## Made from\n"
        + "".join(f"- {line}\n" for line in said)
        + f"\n## To be written by hand\n{by_hand};\nand what this set cannot show. If questions or "
        "traffic are made up, set `synthetic: true` above.\n"
    )


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


def _document_line(document: Document) -> str:
    row = {"_id": document.doc_id, "title": document.title, "text": document.text}
    return _beir_line(row, document, DOCUMENT_KEYS)


def _query_line(query: Query) -> str:
    told = replace(query, cluster="") if query.cluster == query.query_id else query
    return _beir_line({"_id": query.query_id, "text": query.text}, told, QUERY_KEYS)


def _beir_line(row: dict[str, Any], value: Document | Query, keys: Sequence[str]) -> str:
    """One line of JSON; metadata that says no more than the default is left out."""
    default = {f.name: f.default for f in fields(value)}
    metadata = {key: item for key in keys if (item := getattr(value, key)) != default[key]}
    return json.dumps(row | {"metadata": metadata}, ensure_ascii=False, default=str)
