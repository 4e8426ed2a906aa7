"""Rows and stores that several tests start from."""

from collections.abc import Sequence
from datetime import date

import numpy as np

from workbench.retrieval.store import ChunkRow, Store
from workbench.testing import HashEmbedder

EMBEDDER = HashEmbedder(dimension=16)
WORDS = [
    "join",
    "merge",
    "sort",
    "group",
    "filter",
    "frame",
    "column",
    "index",
    "null",
    "date",
    "string",
    "cast",
    "fold",
    "window",
    "plan",
]


def row(tenant_id: str, doc_id: str, text: str, vector: np.ndarray | None = None, **fields: object) -> ChunkRow:
    """One chunk that is a whole document, unless the fields say otherwise."""
    values: dict[str, object] = {
        "document_type": "method",
        "date": date(2024, 1, 1),
        "position": 0,
        "n_chunks": 1,
        "content_hash": "hash",
        **fields,
    }
    vector = EMBEDDER.embed([text])[0] if vector is None else vector
    return ChunkRow(tenant_id=tenant_id, doc_id=doc_id, text=text, vector=vector, **values)  # type: ignore[arg-type]


def random_rows(tenant_id: str, n: int, seed: int = 0) -> list[ChunkRow]:
    """Documents of random words, each with the word "common"; one in three is a class, dates run through 2024."""
    rng = np.random.default_rng(seed)
    texts = [" ".join(["common", *rng.choice(WORDS, 6)]) for _ in range(n)]
    vectors = rng.standard_normal((n, EMBEDDER.dimension)).astype(np.float32)
    return [
        row(
            tenant_id,
            f"doc{i}",
            text,
            vector / np.linalg.norm(vector),
            document_type="class" if i % 3 == 0 else "method",
            date=date(2024, 1 + i % 12, 1),
        )
        for i, (text, vector) in enumerate(zip(texts, vectors, strict=True))
    ]


def open_store(folder: object, rows: Sequence[ChunkRow] = ()) -> Store:
    """Open the store of the folder with these rows added."""
    store = Store.open(str(folder), "chunks", dimension=EMBEDDER.dimension)
    store.upsert(rows)
    return store
