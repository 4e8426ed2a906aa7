"""Rows and stores that several tests start from."""

from collections.abc import Sequence
from datetime import date

import numpy as np

from tests.retrieval.stores import open_kind
from workbench.retrieval.store import ChunkRow, Store
from workbench.testing import HashEmbedder

EMBEDDER = HashEmbedder(dimension=16)
WORDS = ["join", "merge", "sort", "group", "filter", "frame", "column", "index", "null", "date", "string", "cast"]


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
    """Random words, each text with "common"; one document in three is a class, dates run through 2024."""
    rng = np.random.default_rng(seed)
    texts = [" ".join(["common", *rng.choice(WORDS, 6)]) for _ in range(n)]
    vectors = _unit(rng.standard_normal((n, EMBEDDER.dimension)))
    return [
        row(
            tenant_id,
            f"doc{i}",
            text,
            vector,
            document_type="class" if i % 3 == 0 else "method",
            date=date(2024, 1 + i % 12, 1),
        )
        for i, (text, vector) in enumerate(zip(texts, vectors, strict=True))
    ]


def natural_rows(tenant_id: str, n: int, seed: int = 0) -> list[ChunkRow]:
    """Lengths and word frequencies vary as those of real text do, so that few scores are equal."""
    rng = np.random.default_rng(seed)
    texts = [" ".join(f"w{w}" for w in rng.zipf(1.3, length) if w < 500) for length in rng.integers(20, 400, n)]
    vectors = rng.standard_normal((n, EMBEDDER.dimension))
    return [row(tenant_id, f"d{i}", texts[i], unit) for i, unit in enumerate(_unit(vectors))]


def _unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def open_store(folder: object, rows: Sequence[ChunkRow] = (), *, kind: str = "lance") -> Store:
    """Open the store of the folder with these rows added."""
    store = open_kind(kind, str(folder), EMBEDDER.dimension)
    store.upsert(rows)
    return store
