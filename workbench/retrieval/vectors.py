"""Vectors that were computed once: embedding is by far the largest cost of every index."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from workbench.errors import StoreError
from workbench.inference.embedding import Embedder
from workbench.records import content_hash
from workbench.state import insert_ignore, open_engine, reader

_METADATA = sa.MetaData()
_VECTORS = sa.Table(
    "wb_vectors",
    _METADATA,
    sa.Column("text_hash", sa.String(64), primary_key=True),
    sa.Column("encoder_id", sa.String(200), primary_key=True),
    sa.Column("vector", sa.LargeBinary, nullable=False),
)
_LOOKUP = 500


class VectorCache:
    """Vectors by text and encoder in a database file, shared by any number of processes.

    Parameters
    ----------
    url_or_path : str or Path
        An SQLAlchemy URL, or the path of a SQLite file; made if absent.
    batch : int
        Texts embedded between two saves: what a killed run can lose.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> from workbench.testing import HashEmbedder
    >>> cache = VectorCache(f"{mkdtemp()}/vectors.sqlite")
    >>> vectors, embedded = cache.embed(["one", "two", "one"], HashEmbedder(dimension=8))
    >>> vectors.shape, embedded, cache.embed(["two"], HashEmbedder(dimension=8))[1]
    ((3, 8), 2, 0)
    """

    def __init__(self, url_or_path: str | Path, *, batch: int = 64) -> None:
        url = str(url_or_path)
        self._where = url
        self._batch = batch
        self._engine = open_engine(url if "://" in url else f"sqlite:///{url}")
        with self._reported("open"), self._engine.begin() as connection:
            connection.execute(sa.schema.CreateTable(_VECTORS, if_not_exists=True))

    def embed(self, texts: Sequence[str], embedder: Embedder) -> tuple[npt.NDArray[np.float32], int]:
        """Vectors of the texts, shape ``(len(texts), dimension)``, and how many had to be embedded.

        Every text is embedded once, in batches that are each saved before the next.

        Raises
        ------
        StoreError
            If the embedder breaks its promise of shape and length, or the database cannot be used.
        """
        keys = [content_hash(text) for text in texts]
        text_of = dict(zip(keys, texts, strict=True))
        found = self._load(list(text_of), embedder)
        missing = [key for key in text_of if key not in found]
        for i in range(0, len(missing), self._batch):
            part = missing[i : i + self._batch]
            fresh = _checked(embedder.embed([text_of[key] for key in part]), len(part), embedder)
            self._save(part, fresh, embedder)
            found |= dict(zip(part, fresh, strict=True))
        rows = [found[key] for key in keys]
        return np.array(rows, dtype=np.float32).reshape(len(keys), embedder.dimension), len(missing)

    def _load(self, keys: Sequence[str], embedder: Embedder) -> dict[str, npt.NDArray[np.float32]]:
        found: dict[str, npt.NDArray[np.float32]] = {}
        with self._reported("read"), reader(self._engine).begin() as connection:
            for i in range(0, len(keys), _LOOKUP):
                rows = connection.execute(
                    sa.select(_VECTORS.c.text_hash, _VECTORS.c.vector).where(
                        _VECTORS.c.encoder_id == embedder.encoder_id, _VECTORS.c.text_hash.in_(keys[i : i + _LOOKUP])
                    )
                )
                found |= {key: np.frombuffer(blob, dtype="<f4") for key, blob in rows}
        if wrong := {len(vector) for vector in found.values()} - {embedder.dimension}:
            raise StoreError(
                f"{self._where} holds vectors of {wrong.pop()} for encoder {embedder.encoder_id!r}, which "
                f"now makes {embedder.dimension}: give the changed encoder another encoder_id"
            )
        return found

    def _save(self, keys: Sequence[str], vectors: npt.NDArray[np.float32], embedder: Embedder) -> None:
        blobs = (vector.astype("<f4").tobytes() for vector in vectors)
        rows = [
            {"text_hash": key, "encoder_id": embedder.encoder_id, "vector": blob}
            for key, blob in zip(keys, blobs, strict=True)
        ]
        with self._reported("write"), self._engine.begin() as connection:
            insert_ignore(connection, _VECTORS, rows)

    @contextmanager
    def _reported(self, verb: str) -> Iterator[None]:
        try:
            yield
        except (sa.exc.DBAPIError, OSError) as error:
            reason = error.orig if isinstance(error, sa.exc.DBAPIError) else error
            raise StoreError(f"cannot {verb} the vectors in {self._where}: {reason}") from error


def _checked(vectors: npt.NDArray[np.float32], n: int, embedder: Embedder) -> npt.NDArray[np.float32]:
    """Return the vectors if they are as promised: a wrong one would stay in the cache for good."""
    wanted = (n, embedder.dimension)
    if vectors.shape != wanted or not np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3):
        raise StoreError(
            f"encoder {embedder.encoder_id!r} was asked for vectors of shape {wanted} and length 1, and gave "
            f"shape {vectors.shape}, length {np.linalg.norm(vectors.reshape(-1)[: wanted[1]]):.3f}"
        )
    return vectors.astype(np.float32)
