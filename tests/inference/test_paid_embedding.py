"""Embeddings are paid like every other call."""

from pathlib import Path

import numpy as np
import pytest

from tests.inference.embeddings_server import DIMENSION, serving
from workbench.errors import BudgetExceeded, ProviderError
from workbench.inference.attempts import Books
from workbench.inference.budgets import Budget, Budgets
from workbench.inference.embedding import LiteLLMEmbedder
from workbench.inference.paid_embedding import PaidEmbedder
from workbench.inference.prices import load_prices
from workbench.state import open_engine
from workbench.telemetry.context import attributed
from workbench.telemetry.ledger import Ledger

MODEL = "openai/text-embedding-3-small"


@pytest.fixture(scope="module")
def server():
    with serving() as running:
        yield running


def paid(server, folder: Path, limit_usd: float) -> PaidEmbedder:
    engine = open_engine(f"sqlite:///{folder / 'state.sqlite'}")
    books = Books(load_prices(), Budgets(engine, [Budget(limit_usd, "day")]), Ledger(engine))
    server.fault = ""
    server.asked.clear()
    return PaidEmbedder(LiteLLMEmbedder(MODEL, dimension=DIMENSION, api_base=server.url, api_key="none"), books)


def test_embedding_is_attributed_and_costs_its_counted_tokens(server, tmp_path: Path) -> None:
    embedder = paid(server, tmp_path, 1.0)
    with attributed(tenant_id="acme", purpose="ingest"):
        vectors = embedder.embed(["join frames", "sort rows", "read a file"])
    assert vectors.shape == (3, embedder.dimension)
    assert np.allclose(vectors, embedder.embedder.embed(["join frames", "sort rows", "read a file"]))
    (row,) = embedder.books.ledger.frame().to_dicts()
    assert (row["tenant_id"], row["purpose"], row["fresh_tokens"]) == ("acme", "ingest", 3)
    assert row["cost_nanos"] == 60  # 3 tokens at 0.02 USD a million
    assert embedder.books.budgets.table()["held_nanos"].to_list() == [0]


def test_embedding_over_budget_is_not_asked_for(server, tmp_path: Path) -> None:
    embedder = paid(server, tmp_path, 0.0)
    with pytest.raises(BudgetExceeded):
        embedder.embed(["join frames"])
    assert server.asked == []


def test_embedding_that_failed_is_written_down(server, tmp_path: Path) -> None:
    embedder = paid(server, tmp_path, 1.0)
    server.fault = "500"
    with pytest.raises(ProviderError):
        embedder.embed(["join frames"])
    (row,) = embedder.books.ledger.frame().to_dicts()
    assert row["status"] == "unknown"  # nobody knows whether it is billed
    assert row["cost_nanos"] > 0
