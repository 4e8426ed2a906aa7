"""A judging sheet for questions without labels: what diverse arms find first, blind to the arm."""

from collections.abc import Sequence
from pathlib import Path

from workbench.config import Settings
from workbench.evalset.imports.judgement_sheets import SHEET, write_sheet
from workbench.inference.encoders import MiniLM
from workbench.records import Document, Query, content_hash
from workbench.rendering.progress import Progress
from workbench.retrieval.arms import make_arms
from workbench.retrieval.searcher import Searcher

DEPTH = 5  # of each arm; four arms that agree on half leave some ten documents per question


def write_pool(folder: Path, documents: Sequence[Document], queries: Sequence[Query], settings: Settings) -> int:
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
    write_sheet(folder / SHEET, pairs, queries, documents)
    return len(pairs)
