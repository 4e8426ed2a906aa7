"""Arms made ready to search: their tables ingested and indexed, their questions embedded, their answers timed."""

import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from workbench.codec import write_whole
from workbench.config import Settings
from workbench.errors import ConfigError, StoreError, unknown_name
from workbench.evalset.corpus import questions_in_corpus
from workbench.inference.embedding import Embedder, HostedEmbedder, rest_embedder
from workbench.inference.prices import PriceTable, Work
from workbench.inference.ray_embedding import fanned_out_embedder
from workbench.records import Document, Hit, Query, content_hash, parameters_of
from workbench.rendering.numbers import counted
from workbench.rendering.progress import Progress, advance, waiting
from workbench.retrieval.chunking import Tokenizer, WholeDocument
from workbench.retrieval.index_kinds import TEXT_INDEX, VECTOR_INDEX, Exact
from workbench.retrieval.ingest import (
    EMBEDDED_AT_ONCE,
    LAYOUT,
    WRITTEN_AT_ONCE,
    IngestMemo,
    IngestReport,
    IngestVectorCache,
    ingest,
)
from workbench.retrieval.passages import ContextLimits, Passages, check_passages_arm
from workbench.retrieval.postgres_server import pgvector_url
from workbench.retrieval.reuse import FoundBefore
from workbench.retrieval.store import Store, open_table
from workbench.retrieval.strategies import Arm, FullText, Hybrid, Question, Vector
from workbench.retrieval.tenant import TenantHandle
from workbench.telemetry.attribution import attributed

CHUNKS_PER_DOCUMENT = 3
LEG_DEPTH = Hybrid().depth
PROBE = "plan"  # the question whose plan is asked


@dataclass(slots=True, eq=False)
class Searcher:
    """Tables of one corpus, made when an arm first needs them and kept in the cache folder.

    Arms that differ only in how they search share a table; an index of another kind is another table, so that
    exact and approximate search never get in each other's way. ``embedders`` are those of the arms, by name.
    """

    documents: Sequence[Document]
    manifest: str
    settings: Settings
    embedders: Mapping[str, Embedder]
    tokenizer: Tokenizer
    on_progress: Callable[[int, int], None] | None = None
    found: FoundBefore = field(default_factory=FoundBefore)
    _stores: dict[tuple[str, str], Store] = field(default_factory=dict)
    _handles: dict[tuple[str, str, str], TenantHandle] = field(default_factory=dict)
    _cuts: dict[tuple[str, str], tuple[int, int, str]] = field(default_factory=dict)
    _vectors: dict[tuple[str, str], tuple[np.ndarray, float]] = field(default_factory=dict)
    _memo: IngestMemo = field(default_factory=IngestMemo)
    _by_id: dict[str, Document] | None = None

    def encoder(self, arm: Arm) -> Embedder:
        """Embedder that an arm names.

        Raises
        ------
        ConfigError
            If it was not given.
        """
        if arm.embedder not in self.embedders:
            raise ConfigError(unknown_name("embedder of this run", arm.embedder, list(self.embedders)))
        return self.embedders[arm.embedder]

    def table_name(self, arm: Arm) -> str:
        """Name of the table that an arm needs: a hash of all that its rows and indices depend on."""
        values = [parameters_of(v) for v in (arm.chunker, arm.strategy.index, arm.text_index)]
        parts = (self.manifest, self.encoder(arm).encoder_id, json.dumps(values, sort_keys=True))
        return f"{arm.strategy.index.name}-{content_hash(*parts)[:12]}"

    def embed(self, arms: Sequence[Arm], queries: Sequence[Query], *, as_before: bool = False) -> None:
        """Embed and time the questions for encoders that can rest, and let these rest: no arm needs them again.

        An encoder that is paid for, or has nothing to give back, embeds a question when an arm first asks it. With
        ``as_before`` a question is not embedded that was on this machine, and its time is the one of then: for whoever
        does not judge by times.
        """
        first = {name: arm for arm in reversed(arms) if arm.strategy.uses_vectors for name in arm.embedders}
        asked = {query.text: query for query in (Query("", PROBE, self.documents[0].tenant_id), *queries)}
        for name in first.keys() & {name for name, embedder in self.embedders.items() if hasattr(embedder, "rest")}:
            vectors, embedder = IngestVectorCache(self.settings.cache / "vectors.sqlite"), self.embedders[name]
            known = vectors.timed(list(asked), embedder) if as_before else {}
            self._vectors |= {(name, text): found for text, found in known.items()}
            fresh = [query for text, query in asked.items() if text not in known]
            made = {query.text: self._embedded(replace(first[name], embedder=name), query) for query in fresh}
            vectors.keep_timed(made, embedder)
        self.rest()

    def rest(self) -> None:
        """Let the encoders, and what counts tokens, give back what they can do without until the next text.

        The hashes and chunks of documents go too: all tables that need them are made by then.
        """
        self._memo.clear()
        for each in (*self.embedders.values(), self.tokenizer):
            rest_embedder(each)

    def prepare(self, arm: Arm) -> IngestReport | None:
        """Ingest and index the table of an arm; None where another arm has done so in this run."""
        key = _, name = arm.store, self.table_name(arm)
        if key in self._stores:
            return None
        for beside in _second_arm(arm):
            self.prepare(beside)
        place = pgvector_url(self.settings) if arm.store == "postgres" else self.settings.tables
        store = open_table(place, name, dimension=self.encoder(arm).dimension)
        tell = self.on_progress or partial(advance, Progress(f"documents for {arm.name}", len(self.documents)))
        with fanned_out_embedder(arm.embedder, self.encoder(arm), self.settings) as (embedder, at_once):
            report = ingest(
                store,
                self.documents,
                chunker=arm.chunker,
                tokenizer=self.tokenizer,
                embedder=embedder,
                vectors=IngestVectorCache(self.settings.cache / "vectors.sqlite", batch=at_once or EMBEDDED_AT_ONCE),
                on_progress=tell,
                on_embedded=tell,
                batch=at_once or WRITTEN_AT_ONCE,
                memo=self._memo,
            )
        if report.chunks or report.removed or not _arm_is_indexed(store, arm):
            self._index(store, arm)
        self._stores[key] = store
        return report

    def rebuild_index(self, arm: Arm) -> None:
        """Build the vector index of an arm's table again, from another random start."""
        self._index(self._store(arm), arm)
        self.found.forget()

    def _index(self, store: Store, arm: Arm) -> None:
        with waiting(f"{arm.strategy.index.name} index for {arm.name}"):
            store.index(arm.strategy.index, full_text=arm.text_index)

    def handle(self, arm: Arm, tenant_id: str) -> TenantHandle:
        """Handle of one tenant on the table of a prepared arm; inside ``found.shared()`` nothing is searched twice."""
        key = (arm.store, self.table_name(arm), tenant_id)
        if key not in self._handles:
            self._handles[key] = self._store(arm).for_tenant(tenant_id).remembering(self.found)
        return self._handles[key]

    def question(self, arm: Arm, query: Query) -> Question:
        """Query as the arm's strategy needs it; every text is embedded once, whichever arm asks first."""
        vector = self._embedded(arm, query)[0] if arm.strategy.uses_vectors else None
        fan_out = 1 if isinstance(arm.chunker, WholeDocument) else CHUNKS_PER_DOCUMENT
        second = [(self.handle(one, query.tenant_id), self._embedded(one, query)[0]) for one in _second_arm(arm)]
        return Question(query.text, vector, fan_out, self.document_of(query), *second)

    def document_of(self, query: Query) -> str:
        """Id of the document that the query is, which is no hit for it; "" where it is none."""
        document = self._documents().get(query.query_id)
        return query.query_id if document is not None and questions_in_corpus([query], [document]) else ""

    def _documents(self) -> dict[str, Document]:
        if self._by_id is None:
            self._by_id = {d.doc_id: d for d in self.documents}
        return self._by_id

    def embedding_ms(self, arm: Arm, query: Query) -> float:
        """Milliseconds that embedding the query took; 0 for an arm that needs no vector."""
        return sum(self._embedded(one, query)[1] for one in (arm, *_second_arm(arm)) if arm.strategy.uses_vectors)

    def search(self, arm: Arm, query: Query, k: int) -> list[Hit]:
        """Best ``k`` documents for one query, asked inside the query's own tenant."""
        return arm.strategy.search(self.handle(arm, query.tenant_id), self.question(arm, query), k)

    def passages(self, arm: Arm, query: Query, limits: ContextLimits) -> Passages:
        """``searcher.passages(arm, query, limits)``: documents for the model, and whether to answer from them.

        Parameters
        ----------
        limits : ContextLimits
            As a run of 01_retrieval left them for this arm: ``ContextLimits.load(path)``.

        Raises
        ------
        ConfigError
            If the limits were set for another arm.
        """
        check_passages_arm(limits, arm.name)
        hits = self.search(arm, query, limits.passages)
        return Passages(tuple(hits), bool(hits) and limits.answers(self.nearest(arm, query)[0]))

    def nearest(self, arm: Arm, query: Query, without: Collection[str] = ()) -> tuple[float, float]:
        """Score of the nearest passage, and of the nearest that is of no document in ``without``; -1 for nothing.

        Cosine in [-1, 1] for an arm that reads vectors, whatever it fuses: fused scores are scaled within their list
        and do not compare between questions. BM25 for an arm of words alone.
        """
        leg = self.nearest_leg(arm)
        depth = max(len(without) + 1, LEG_DEPTH)  # that of a hybrid's own leg, which is remembered
        hits = leg.search(self.handle(arm, query.tenant_id), self.question(arm, query), depth)
        left = [hit.score for hit in hits if hit.doc_id not in without]
        return hits[0].score if hits else -1.0, left[0] if left else -1.0

    def nearest_leg(self, arm: Arm) -> Vector | FullText:
        """Search that `nearest` makes for an arm: arms of one table with the same leg have the same nearest."""
        where = getattr(arm.strategy, "where", None)
        return Vector(arm.strategy.index, where) if arm.strategy.uses_vectors else FullText(where)

    def tokens(self, doc_id: str) -> int:
        """Tokens of a whole document."""
        return len(self.tokenizer.offsets(self._documents()[doc_id].full_text))

    def cost_usd_per_1k(self, arm: Arm, queries: Sequence[Query], prices: PriceTable) -> float:
        """Dollars of a thousand requests: counted work at the rows that each query's tenant really has."""
        cost = {t: prices.cost_usd(work) for t, work in self._work(arm, queries).items()}
        return 1000 * sum(cost[q.tenant_id] for q in queries) / len(queries)

    def amounts(self, arm: Arm, queries: Sequence[Query], prices: PriceTable) -> dict[str, float]:
        """What a thousand requests do of each operation, and over how many thousand rows."""
        done, total = {t: prices.amounts(w) for t, w in self._work(arm, queries).items()}, dict[str, float]()
        for query in queries:
            for name, n in done[query.tenant_id].items():
                total[name] = total.get(name, 0.0) + n
        return {name: 1000 * n / len(queries) for name, n in total.items()}

    def _work(self, arm: Arm, queries: Sequence[Query]) -> dict[str, list[Work]]:
        return {t: arm.work(self.handle(arm, t).count()) for t in {q.tenant_id for q in queries}}

    def plan(self, arm: Arm) -> dict[str, str]:
        """The store's account of both legs as this arm searches them, to see that its knobs are in effect.

        The name of the table is left out: plans of arms with tables of their own compare too.
        """
        probe = Query("", PROBE, self.documents[0].tenant_id)
        vector = self._embedded(arm, probe)[0] if arm.strategy.uses_vectors else None
        plan = arm.strategy.plan(self.handle(arm, probe.tenant_id), Question(probe.text, vector))
        return {leg: told.replace(self.table_name(arm), "table") for leg, told in plan.items()}

    def unfit(self, arm: Arm) -> str:
        """Why an arm cannot find anything in this corpus; empty where it can.

        Its index may need more chunks than there are, or its filter may leave none.
        """
        index, where = arm.strategy.index, getattr(arm.strategy, "where", None)
        if index.min_rows > 1 and (rows := self.chunk_counts(arm)[0]) < index.min_rows:
            return f"{index!r} needs {counted(index.min_rows, 'chunk')}, the corpus has {rows}"
        if where is not None:
            self.prepare(arm)
            if not any(self.handle(arm, tenant).count(where) for tenant in {d.tenant_id for d in self.documents}):
                return f"no document matches {where!r}"
        return ""

    def chunk_counts(self, arm: Arm) -> tuple[int, int]:
        """Chunks of the arm's table, and how many of them are longer than what its encoder reads."""
        chunks, over, _ = self._cut(arm)
        return chunks, over

    def cut_alike(self, one: Arm, other: Arm) -> bool:
        """Whether two arms cut every document of this corpus into the same chunks."""
        return self._cut(one)[-1] == self._cut(other)[-1]

    def _cut(self, arm: Arm) -> tuple[int, int, str]:
        """Chunks of the corpus, those that the encoder does not read to the end, and a hash of all their texts.

        Kept in the cache folder: the tokens of every text are counted for it, and the next run would count the same.
        """
        encoder, chunker = self.encoder(arm), repr(arm.chunker)
        if (key := (chunker, arm.embedder)) not in self._cuts:
            limit = getattr(encoder, "max_tokens", None)
            path = self.settings.cache / "cuts" / f"{self._cut_key(chunker, encoder, limit)}.json"
            with suppress(OSError, ValueError, TypeError):
                chunks, over, digest = json.loads(path.read_text(encoding="utf-8"))
                self._cuts[key] = (int(chunks), int(over), str(digest))
                return self._cuts[key]
            cuts = [[c.text for c in arm.chunker.chunk(d, self.tokenizer)] for d in self.documents]
            over = sum(self._is_longer(encoder, t, limit) for texts in cuts for t in texts) if limit else 0
            self._cuts[key] = (sum(map(len, cuts)), over, content_hash(*(content_hash(*texts) for texts in cuts)))
            with suppress(OSError):  # then the next run counts again
                path.parent.mkdir(parents=True, exist_ok=True)
                write_whole(path, json.dumps(self._cuts[key]))
        return self._cuts[key]

    def _cut_key(self, chunker: str, encoder: Embedder, limit: int | None) -> str:
        """Hash of all that a cut depends on."""
        how = (LAYOUT, chunker, type(self.tokenizer).__qualname__, encoder.encoder_id, str(limit))
        return content_hash(*how, *(content_hash(d.doc_id, d.content_hash) for d in self.documents))[:16]

    def _is_longer(self, encoder: Embedder, text: str, max_tokens: int) -> bool:
        """Whether a text has more tokens; the beginning says so of most that have. Some encoders count their own."""
        if isinstance(encoder, HostedEmbedder):
            return encoder.is_cut(text)
        head = text if len(text) < 6 * max_tokens else text[: 6 * max_tokens].rsplit(maxsplit=1)[0]
        return any(len(self.tokenizer.offsets(part)) > max_tokens for part in dict.fromkeys((head, text)))

    def _embedded(self, arm: Arm, query: Query) -> tuple[np.ndarray, float]:
        key = (arm.embedder, query.text)
        if key not in self._vectors:
            started = time.perf_counter()
            with attributed(purpose="eval", tenant_id=query.tenant_id, item_id=query.query_id):
                vector = self.encoder(arm).embed([query.text])[0]
            self._vectors[key] = (vector, (time.perf_counter() - started) * 1000)
        return self._vectors[key]

    def _store(self, arm: Arm) -> Store:
        key = (arm.store, self.table_name(arm))
        if key not in self._stores:
            raise StoreError(f"the table of {arm.name!r} is not prepared; call prepare(arm) first")
        return self._stores[key]


def _second_arm(arm: Arm) -> list[Arm]:
    """Arm on the table of the second encoder, where a strategy has one."""
    return [replace(arm, embedder=name, strategy=Vector()) for name in arm.embedders[1:]]


def _arm_is_indexed(store: Store, arm: Arm) -> bool:
    """Whether every index of the arm is there and up to date."""
    wanted = {TEXT_INDEX} if isinstance(arm.strategy.index, Exact) else {TEXT_INDEX, VECTOR_INDEX}
    states = store.describe().indices
    return wanted <= {s.name for s in states} and not any(s.rows_unindexed for s in states)
