"""Documents into tables: chunks, vectors that were computed once, and what changed since the last time.

A run that was killed is simply run again. What makes that safe: rows have keys made of tenant, document and
position, a document's rows are written in one commit, and a document counts as present only if all of its
chunks, and no others, carry the hash of its present content and of how it was cut and encoded.
"""

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from workbench.errors import ConfigError, StoreError
from workbench.inference.embedding import Embedder, rest_embedder
from workbench.records import Document, content_hash
from workbench.rendering.numbers import counted
from workbench.rendering.progress import Progress, advance
from workbench.retrieval.chunking import Chunk, Chunker, Tokenizer
from workbench.retrieval.store import ChunkRow, Store
from workbench.state import insert_ignore, open_engine, reading_engine
from workbench.telemetry.attribution import attributed

_METADATA = sa.MetaData()
_VECTORS = sa.Table(
    "wb_vectors",
    _METADATA,
    sa.Column("text_hash", sa.String(64), primary_key=True),
    sa.Column("encoder_id", sa.String(200), primary_key=True),
    sa.Column("vector", sa.LargeBinary, nullable=False),
)
# Apart from the others: a vector that is made alone may differ in its last bits from one that is made among others.
_TIMED = sa.Table(
    "wb_timed_vectors",
    _METADATA,
    sa.Column("text_hash", sa.String(64), primary_key=True),
    sa.Column("encoder_id", sa.String(200), primary_key=True),
    sa.Column("vector", sa.LargeBinary, nullable=False),
    sa.Column("ms", sa.Float, nullable=False),
)
EMBEDDED_AT_ONCE, WRITTEN_AT_ONCE = 64, 256  # texts, documents
CHARACTERS_KEPT = 100_000_000  # of chunks, between two tables
_LOOKUP = 500


class IngestVectorCache:
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
    >>> cache = IngestVectorCache(f"{mkdtemp()}/vectors.sqlite")
    >>> vectors, embedded = cache.embed(["one", "two", "one"], HashEmbedder(dimension=8))
    >>> vectors.shape, embedded, cache.embed(["two"], HashEmbedder(dimension=8))[1]
    ((3, 8), 2, 0)
    """

    def __init__(self, url_or_path: str | Path, *, batch: int = EMBEDDED_AT_ONCE) -> None:
        url = str(url_or_path)
        self._where = url
        self._batch = batch
        try:
            self._engine = open_engine(url if "://" in url else f"sqlite:///{url}")
        except ConfigError as error:
            raise StoreError(f"cannot open the vectors in {url}: {error}") from error
        with self._reported("open"), self._engine.begin() as connection:
            for table in (_VECTORS, _TIMED):
                connection.execute(sa.schema.CreateTable(table, if_not_exists=True))

    def embed(
        self, texts: Sequence[str], embedder: Embedder, *, on_progress: Callable[[int, int], None] | None = None
    ) -> tuple[npt.NDArray[np.float32], int]:
        """Vectors of the texts, shape ``(len(texts), dimension)``, and how many had to be embedded.

        Every text is embedded once, in batches that are each saved before the next; ``on_progress`` is told after
        each of them how many are embedded, of how many that have to be.

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
            fresh = _checked_ingest_vectors(embedder.embed([text_of[key] for key in part]), len(part), embedder)
            self._save(part, fresh, embedder)
            found |= dict(zip(part, fresh, strict=True))
            if on_progress:
                on_progress(i + len(part), len(missing))
        rows = [found[key] for key in keys]
        return np.array(rows, dtype=np.float32).reshape(len(keys), embedder.dimension), len(missing)

    def timed(self, texts: Sequence[str], embedder: Embedder) -> dict[str, tuple[npt.NDArray[np.float32], float]]:
        """Vectors of the texts that `keep_timed` kept, each with the milliseconds that it took."""
        found: dict[str, tuple[npt.NDArray[np.float32], float]] = {}
        text_of = {content_hash(text): text for text in texts}
        for key, blob, ms in self._rows(_TIMED, [_TIMED.c.vector, _TIMED.c.ms], list(text_of), embedder):
            found[text_of[key]] = np.frombuffer(blob, dtype="<f4"), ms
        return found

    def keep_timed(self, made: Mapping[str, tuple[npt.NDArray[np.float32], float]], embedder: Embedder) -> None:
        """Keep vectors that an encoder made one by one, with the milliseconds that each took; the first time stays."""
        rows = [
            {
                "text_hash": content_hash(text), "encoder_id": embedder.encoder_id,
                "vector": vector.astype("<f4").tobytes(), "ms": ms,
            }
            for text, (vector, ms) in made.items()
        ]  # fmt: skip
        if rows:
            with self._reported("write"), self._engine.begin() as connection:
                insert_ignore(connection, _TIMED, rows)

    def _rows(
        self, table: sa.Table, columns: Sequence[Any], keys: Sequence[str], embedder: Embedder
    ) -> Iterator[tuple[Any, ...]]:
        """Hash of the text and these columns, of each key that is there."""
        mine = table.c.encoder_id == embedder.encoder_id
        with self._reported("read"), reading_engine(self._engine).begin() as connection:
            for i in range(0, len(keys), _LOOKUP):
                among = table.c.text_hash.in_(keys[i : i + _LOOKUP])
                yield from map(tuple, connection.execute(sa.select(table.c.text_hash, *columns).where(mine, among)))

    def missing(self, texts: Sequence[str], embedder: Embedder) -> list[str]:
        """Texts that are not embedded yet, each once."""
        text_of = {content_hash(text): text for text in texts}
        found = self._load(list(text_of), embedder)
        return [text for key, text in text_of.items() if key not in found]

    def _load(self, keys: Sequence[str], embedder: Embedder) -> dict[str, npt.NDArray[np.float32]]:
        rows = self._rows(_VECTORS, [_VECTORS.c.vector], keys, embedder)
        found: dict[str, npt.NDArray[np.float32]] = {key: np.frombuffer(blob, dtype="<f4") for key, blob in rows}
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


def eval_vectors(
    texts: Sequence[str], embedder: Embedder, cache: Path, *, label: str = "texts"
) -> npt.NDArray[np.float32]:
    """Vectors of what an evaluation compares, shape ``(len(texts), dimension)``, from the project's ``cache`` folder.

    What is new may take many minutes: each batch of it is told, with ``label`` for what the texts are. The encoder
    rests afterwards.

    Raises
    ------
    StoreError
        As in `VectorCache.embed`.
    """
    bar = Progress(f"{label} embedded", len(texts))
    with attributed(purpose="eval"):
        vectors, fresh = IngestVectorCache(cache / "vectors.sqlite").embed(
            texts, embedder, on_progress=partial(advance, bar)
        )
    rest_embedder(embedder)
    if fresh:
        bar.done(f"{len(texts):,} {label}, {fresh:,} embedded now")
    return vectors


def _checked_ingest_vectors(vectors: npt.NDArray[np.float32], n: int, embedder: Embedder) -> npt.NDArray[np.float32]:
    """Return the vectors if they are as promised: a wrong one would stay in the cache for good."""
    wanted = (n, embedder.dimension)
    if vectors.shape != wanted or not np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3):
        raise StoreError(
            f"encoder {embedder.encoder_id!r} was asked for vectors of shape {wanted} and length 1, and gave "
            f"shape {vectors.shape}, length {np.linalg.norm(vectors.reshape(-1)[: wanted[1]]):.3f}"
        )
    return vectors.astype(np.float32)


# Part of every content hash; raise it when chunkers cut differently than before, so that all is indexed anew.
LAYOUT = "1"


@dataclass(frozen=True, slots=True)
class IngestReport:
    """Documents by what became of them, chunks written, texts embedded; ``blank`` ones have no text."""

    added: int
    changed: int
    unchanged: int
    removed: int
    blank: int
    chunks: int = 0
    embedded: int = 0


@dataclass(slots=True)
class IngestMemo:
    """Hashes and chunks of documents by how they were made, so that a further table costs neither again.

    ``room`` is how many characters of chunks are kept; what goes beyond is cut again for each table.
    """

    room: int = CHARACTERS_KEPT
    digests: dict[Hashable, str] = field(default_factory=dict)
    _chunks: dict[Hashable, tuple[list[Chunk], Tokenizer]] = field(default_factory=dict)
    _kept: int = 0

    def chunks(self, document: Document, chunker: Chunker, tokenizer: Tokenizer) -> list[Chunk]:
        """The document, cut; finding its tokens is the dearest part of a table whose vectors are known."""
        key = document, repr(chunker), id(tokenizer)  # kept beside the chunks, so that no other gets its id
        if known := self._chunks.get(key):
            return known[0]
        cut = chunker.chunk(document, tokenizer)
        if self._kept + (size := sum(len(chunk.text) for chunk in cut)) <= self.room:
            self._chunks[key] = cut, tokenizer
            self._kept += size
        return cut

    def clear(self) -> None:
        """Give back the memory."""
        self.digests.clear()
        self._chunks.clear()
        self._kept = 0


def ingest(
    store: Store,
    documents: Iterable[Document],
    *,
    chunker: Chunker,
    tokenizer: Tokenizer,
    embedder: Embedder,
    vectors: IngestVectorCache,
    batch: int = WRITTEN_AT_ONCE,
    prune: bool = True,
    on_progress: Callable[[int, int], None] | None = None,
    on_embedded: Callable[[int, int], None] | None = None,
    on_stale: Callable[[str, Sequence[str]], None] | None = None,
    memo: IngestMemo | None = None,
) -> IngestReport:
    """Make the store hold these documents.

    Parameters
    ----------
    store : Store
        Where the chunks go; indices are not built here, see `Store.index` and `Store.optimize`.
    documents : iterable of Document
        The corpus of one or more tenants.
    chunker, tokenizer, embedder
        How documents become vectors; another choice means that every document has changed.
    vectors : VectorCache
        Vectors that need not be computed again.
    batch : int
        Documents a commit.
    prune : bool
        Remove documents that are no longer in the corpus, of the tenants that are in it.
    on_progress : callable, optional
        Called with documents done and documents to do after each commit.
    on_embedded : callable, optional
        Called with the same two numbers while the texts of one commit are embedded, which may take a minute.
    memo : IngestMemo, optional
        Hashes and chunks of documents, for whoever ingests the same ones into several tables.
    on_stale : callable, optional
        Called with a tenant and its documents that change or go, before they do and again once they have: a run that
        is killed in between does not come back to them, and an answer may rest on the old text until the second call.

        >>> def drop_answers(tenant_id, doc_ids):
        ...     for doc_id in doc_ids:
        ...         cache.invalidate(source=doc_id, tenant_id=tenant_id)

    Raises
    ------
    StoreError
        If the corpus is empty or names a document twice, sizes do not fit, or the store cannot be written;
        what was committed before stays, and the same call goes on from there.
    """
    if embedder.dimension != store.dimension:
        raise StoreError(
            f"the store takes vectors of {store.dimension}, encoder {embedder.encoder_id!r} makes "
            f"{embedder.dimension}; open a table of that dimension"
        )
    recipe = _IngestRecipe(chunker, tokenizer, embedder, vectors, IngestMemo(room=0) if memo is None else memo)
    jobs, gone, report = _ingest_plan(store, documents, recipe, prune)
    for i in range(0, len(jobs), batch):
        part = jobs[i : i + batch]
        far = partial(_ingest_told, on_embedded, i, len(part), len(jobs)) if on_embedded else None
        chunks, embedded = _write_ingest_chunks(store, part, recipe, on_stale, far)
        report = replace(report, chunks=report.chunks + chunks, embedded=report.embedded + embedded)
        if on_progress:
            on_progress(i + len(part), len(jobs))
    with _ingest_stale_told(on_stale, gone):
        for tenant_id, doc_ids in gone.items():
            store.delete_documents(tenant_id, doc_ids)
    return report


def _ingest_told(tell: Callable[[int, int], None], before: int, part: int, jobs: int, done: int, total: int) -> None:
    """Say how many documents that is, of texts that are embedded of those of a part."""
    tell(before + part * done // total, jobs)


def _write_ingest_chunks(
    store: Store,
    part: "Sequence[_IngestJob]",
    recipe: "_IngestRecipe",
    on_stale: Callable[[str, Sequence[str]], None] | None,
    on_embedded: Callable[[int, int], None] | None,
) -> tuple[int, int]:
    """One commit; chunks written and texts embedded."""
    stale: dict[str, dict[str, str]] = {}
    for job in part:
        if job.changed:
            stale.setdefault(job.document.tenant_id, {})[job.document.doc_id] = job.digest
    with _ingest_stale_told(on_stale, stale):
        rows, embedded = recipe.rows(part, on_embedded)
        store.upsert(rows)  # new rows first, then away with what they replace
        for tenant_id, current in stale.items():
            store.delete_stale(tenant_id, current)
    return len(rows), embedded


@contextmanager
def _ingest_stale_told(
    on_stale: Callable[[str, Sequence[str]], None] | None, stale: Mapping[str, Collection[str]]
) -> Iterator[None]:
    """Tell what changes before and after it does."""

    def tell() -> None:
        for tenant_id, doc_ids in stale.items():
            if on_stale and doc_ids:
                on_stale(tenant_id, sorted(doc_ids))

    tell()
    yield
    tell()


@dataclass(frozen=True, slots=True)
class _IngestJob:
    """A document to write; ``changed`` if it has rows already, which its new ones may not cover."""

    document: Document
    digest: str
    changed: bool


@dataclass(frozen=True, slots=True)
class _IngestRecipe:
    """How a document becomes rows."""

    chunker: Chunker
    tokenizer: Tokenizer
    embedder: Embedder
    vectors: IngestVectorCache
    memo: IngestMemo

    @property
    def how(self) -> tuple[str, ...]:
        """All but the document that its rows are made from."""
        return LAYOUT, repr(self.chunker), type(self.tokenizer).__qualname__, self.embedder.encoder_id

    def digest(self, document: Document, how: tuple[str, ...]) -> str:
        digests = self.memo.digests
        if (known := digests.get((document, how))) is None:
            known = digests[document, how] = content_hash(document.doc_id, document.content_hash, *how)
        return known

    def rows(
        self, jobs: Sequence[_IngestJob], on_embedded: Callable[[int, int], None] | None
    ) -> tuple[list[ChunkRow], int]:
        """Rows of the documents, and how many texts had to be embedded for them."""
        cut = [(job, self.memo.chunks(job.document, self.chunker, self.tokenizer)) for job in jobs]
        if lost := [job.document.doc_id for job, chunks in cut if not chunks]:
            raise StoreError(f"{self.chunker!r} made no chunk of {lost[0]!r}, which has text")
        with attributed(purpose="ingest"):
            texts = [c.text for _, chunks in cut for c in chunks]
            vectors, embedded = self.vectors.embed(texts, self.embedder, on_progress=on_embedded)
        unused = iter(vectors)
        rows = [
            ChunkRow(
                tenant_id=job.document.tenant_id,
                doc_id=job.document.doc_id,
                document_type=job.document.document_type,
                date=job.document.date,
                position=chunk.position,
                n_chunks=len(chunks),
                content_hash=job.digest,
                text=chunk.text,
                vector=next(unused),
            )
            for job, chunks in cut
            for chunk in chunks
        ]
        return rows, embedded


def _ingest_plan(
    store: Store, documents: Iterable[Document], recipe: _IngestRecipe, prune: bool
) -> tuple[list[_IngestJob], dict[str, list[str]], IngestReport]:
    """What has to be written, which documents of which tenant removed, and what that makes of the corpus."""
    corpus: dict[str, list[Document]] = {}
    for document in documents:
        corpus.setdefault(document.tenant_id, []).append(document)
    if not corpus:
        raise StoreError("the corpus has no documents: nothing to ingest, and nothing is removed either")
    how, jobs, gone, unchanged, blank = recipe.how, list[_IngestJob](), dict[str, list[str]](), 0, 0
    for tenant_id, group in corpus.items():
        _check_unique_ingest(tenant_id, group)
        known = store.for_tenant(tenant_id).document_hashes()
        with_text = [d for d in group if d.full_text.strip()]
        due = [_IngestJob(d, recipe.digest(d, how), d.doc_id in known) for d in with_text]
        jobs += (new := [job for job in due if known.get(job.document.doc_id) != job.digest])
        unchanged, blank = unchanged + len(due) - len(new), blank + len(group) - len(due)
        keep = {d.doc_id for d in with_text}
        emptied = {d.doc_id for d in group} - keep
        gone[tenant_id] = [doc_id for doc_id in known if doc_id in emptied or (prune and doc_id not in keep)]
    changed, removed = sum(job.changed for job in jobs), sum(map(len, gone.values()))
    return jobs, gone, IngestReport(len(jobs) - changed, changed, unchanged, removed, blank)


def _check_unique_ingest(tenant_id: str, documents: Sequence[Document]) -> None:
    counts = Counter(d.doc_id for d in documents)
    if twice := sorted(doc_id for doc_id, n in counts.items() if n > 1):
        raise StoreError(
            f"tenant {tenant_id!r} has {counted(len(twice), 'document id')} more than once: "
            f"{', '.join(map(repr, twice[:5]))}; a document id is unique within its tenant"
        )
