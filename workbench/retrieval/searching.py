"""Arms made ready to search: their tables ingested and indexed, their questions embedded, their answers timed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from workbench.config import Settings
from workbench.errors import StoreError
from workbench.inference.embedding import Embedder, Tokenizer
from workbench.inference.prices import PriceTable
from workbench.records import Document, Hit, Query, content_hash
from workbench.retrieval.ingestion import IngestReport, ingest
from workbench.retrieval.store import Store, TenantHandle
from workbench.retrieval.strategies import Arm, Question
from workbench.retrieval.vectors import VectorCache


@dataclass(slots=True)
class Searcher:
    """Tables of one corpus, made when an arm first needs them and kept in the cache folder.

    Arms that differ only in how they search share a table; an index of another kind is another table, so that
    exact and approximate search never get in each other's way.
    """

    documents: Sequence[Document]
    manifest: str
    settings: Settings
    embedder: Embedder
    tokenizer: Tokenizer
    on_progress: Callable[[int, int], None] | None = None
    _stores: dict[str, Store] = field(default_factory=dict)
    _handles: dict[tuple[str, str], TenantHandle] = field(default_factory=dict)

    def table_name(self, arm: Arm) -> str:
        """Name of the table that an arm needs: a hash of all that its rows and indices depend on."""
        parts = (
            self.manifest,
            repr(arm.chunker),
            self.embedder.encoder_id,
            repr(arm.strategy.index),
            repr(arm.text_index),
        )
        return f"{arm.strategy.index.name}-{content_hash(*parts)[:12]}"

    def prepare(self, arm: Arm) -> IngestReport | None:
        """Ingest and index the table of an arm; None where another arm has done so in this run."""
        name = self.table_name(arm)
        if name in self._stores:
            return None
        folder: Path = self.settings.cache / "tables"
        store = Store.open(str(folder), name, dimension=self.embedder.dimension)
        report = ingest(
            store,
            self.documents,
            chunker=arm.chunker,
            tokenizer=self.tokenizer,
            embedder=self.embedder,
            vectors=VectorCache(self.settings.cache / "vectors.sqlite"),
            on_progress=self.on_progress,
        )
        store.index(vector=arm.strategy.index, text=arm.text_index)
        self._stores[name] = store
        return report

    def rebuild_index(self, arm: Arm) -> None:
        """Build the vector index of an arm's table again, from another random start."""
        self._store(arm).index(vector=arm.strategy.index, text=arm.text_index, rebuild=True)

    def handle(self, arm: Arm, tenant_id: str) -> TenantHandle:
        """Handle of one tenant on the table of a prepared arm."""
        key = (self.table_name(arm), tenant_id)
        if key not in self._handles:
            self._handles[key] = self._store(arm).for_tenant(tenant_id)
        return self._handles[key]

    def question(self, arm: Arm, query: Query) -> Question:
        """Query as the arm's strategy needs it; embedded here, so that its time counts."""
        vector = self.embedder.embed([query.text])[0] if arm.strategy.uses_vectors else None
        return Question(query.text, vector)

    def search(self, arm: Arm, query: Query, k: int) -> list[Hit]:
        """Best ``k`` documents for one query, asked inside the query's own tenant."""
        return arm.strategy.search(self.handle(arm, query.tenant_id), self.question(arm, query), k)

    def cost_usd_per_1k(self, arm: Arm, queries: Sequence[Query], prices: PriceTable) -> float:
        """Dollars of a thousand requests: counted work at the rows that each query's tenant really has."""
        costs = [prices.cost_usd(arm.strategy.work(self.handle(arm, q.tenant_id).count())) for q in queries]
        return 1000 * sum(costs) / len(costs)

    def _store(self, arm: Arm) -> Store:
        name = self.table_name(arm)
        if name not in self._stores:
            raise StoreError(f"the table of {arm.name!r} is not prepared; call prepare(arm) first")
        return self._stores[name]
