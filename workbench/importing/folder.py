"""Writes an evalset folder whole or not at all."""

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from workbench.errors import EvalsetError
from workbench.evaluation.reading import Judgement
from workbench.records import DEFAULT_TENANT, Document, Query


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
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        folder = Path(scratch) / out.name
        folder.mkdir()
        yield folder
        folder.rename(out)


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


def _document_line(document: Document) -> str:
    metadata = {
        "tenant_id": document.tenant_id if document.tenant_id != DEFAULT_TENANT else "",
        "document_type": document.document_type if document.document_type != "document" else "",
        "date": document.date.isoformat() if document.date else "",
        "aliases": list(document.aliases),
    }
    return _line({"_id": document.doc_id, "title": document.title, "text": document.text}, metadata)


def _query_line(query: Query) -> str:
    metadata = {
        "tenant_id": query.tenant_id if query.tenant_id != DEFAULT_TENANT else "",
        "feature": query.feature,
        "style": query.style,
        "cluster": query.cluster if query.cluster != query.query_id else "",
        "accept": list(query.accept),
        "reference": query.reference,
    }
    return _line({"_id": query.query_id, "text": query.text}, metadata)


def _line(row: dict[str, Any], metadata: dict[str, Any]) -> str:
    """One line of JSON; metadata that says no more than the default is left out."""
    return json.dumps(row | {"metadata": {k: v for k, v in metadata.items() if v}}, ensure_ascii=False)
