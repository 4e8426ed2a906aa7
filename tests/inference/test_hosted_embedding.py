"""Hosted encoders, asked over a real HTTP server: each request is paid for and has its row, whoever asks."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.inference.embeddings_server import DIMENSION, serving
from tests.retrieval.tiny import HYBRID, project
from tests.routing.test_route import accept
from workbench.caching.cache import SemanticCache
from workbench.config import Settings
from workbench.errors import BudgetExceeded, CallFailed, RateLimited, UnknownPrice
from workbench.evalset.outcomes import Requests
from workbench.evaluation.provenance import build_parameters
from workbench.inference import prices
from workbench.inference.attempt import Books
from workbench.inference.budgets import Budget
from workbench.inference.client import Client
from workbench.inference.embedding import HostedEmbedder, load_embedder
from workbench.inference.limits import Limit
from workbench.inference.messages import CacheUse, Response, Usage
from workbench.retrieval.notebook import RetrievalExperiment, RetrievalParameters
from workbench.routing.policies import POLICIES
from workbench.routing.route import load_routed
from workbench.state import open_engine
from workbench.telemetry.context import attributed
from workbench.telemetry.ledger import Ledger
from workbench.telemetry.traces import load_trace
from workbench.testing import FakeClock, HashEmbedder, ScriptedModel, WordTokenizer

MODEL = "openai/text-embedding-3-small"
NAME = f"litellm:{MODEL}"
RATE = '\n[operations."embed_query:litellm:openai/text-embedding-3-small"]\nusd = 0.0000004\n'


@pytest.fixture(scope="module")
def running():
    with serving() as server:
        yield server


@pytest.fixture
def server(running, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", running.url)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    running.fault, running.once = "", False
    running.asked.clear()
    return running


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path, tmp_path / "cache", tmp_path / "runs", f"sqlite:///{tmp_path / 'state.sqlite'}")


@pytest.fixture
def embedder(settings) -> HostedEmbedder:
    return hosted(settings)


def hosted(settings: Settings, limit_usd: float = 1.0, **books) -> HostedEmbedder:
    return load_embedder(
        NAME, settings, Books.open(settings, budgets=[Budget(limit_usd, "total")], clock=FakeClock(), **books)
    )


def rows_of(settings: Settings) -> list[dict]:
    return Ledger(open_engine(settings.state_url)).frame().to_dicts()


def check_books(embedder: HostedEmbedder, settings: Settings, requests: int) -> list[dict]:
    """One row for each request that the server saw, nothing held, and the sum of the rows is what is spent."""
    rows, (drawn,) = rows_of(settings), embedder.books.budgets.table().to_dicts()
    assert len(rows) == requests
    assert (drawn["spent_nanos"], drawn["held_nanos"]) == (sum(r["cost_nanos"] for r in rows), 0)
    return rows


def test_texts_go_in_calls_of_128_and_each_call_has_one_row_at_its_counted_tokens(server, settings, embedder):
    texts = [f"text {i}" for i in range(130)]
    with attributed(tenant_id="acme", purpose="ingest"):
        vectors = embedder.embed(texts)
    assert np.allclose(vectors, HashEmbedder(DIMENSION).embed(texts), atol=1e-6)
    assert vectors.dtype == np.float32
    assert [len(asked["input"]) for asked in server.asked] == [128, 2]
    rows = check_books(embedder, settings, requests=2)
    assert sorted((r["fresh_tokens"], r["cost_nanos"]) for r in rows) == [(2, 40), (128, 2560)]  # 0.02 USD a million
    assert {(r["tenant_id"], r["purpose"], r["model_asked"], r["status"]) for r in rows} == {
        ("acme", "ingest", MODEL, "ok")
    }
    assert "litellm" in sys.modules, "this is the test that fails when litellm is taken out"


def test_an_embedding_is_traced_as_one_under_the_trace_that_its_row_names(server, settings, embedder):
    embedder.embed(["join frames"])
    embedder.books.tracing.flush()
    (row,) = rows_of(settings)
    trace = load_trace(open_engine(settings.state_url), row["trace_id"])
    assert [(s.name, s.operation) for s in trace.rows] == [
        (f"call {MODEL}", "invoke_workflow"),
        (f"embeddings {MODEL}", "embeddings"),
    ]


def test_the_dimension_is_what_the_first_answer_had_and_asked_for_only_where_nothing_was(server, settings, embedder):
    embedder.embed(["join frames"])
    assert (embedder.dimension, len(server.asked)) == (DIMENSION, 1)
    other = hosted(settings)
    assert (other.dimension, other.dimension, len(server.asked)) == (DIMENSION, DIMENSION, 2)
    check_books(other, settings, requests=2)  # the word that was asked for is paid too


def test_the_answer_is_ordered_by_index_and_not_by_arrival(server, embedder):
    server.fault = "reversed"
    texts = ["one", "two", "three"]
    assert np.allclose(embedder.embed(texts), HashEmbedder(DIMENSION).embed(texts), atol=1e-6)


def test_vectors_of_another_length_are_another_encoder_s_and_charged(server, settings, embedder):
    embedder.embed(["one"])
    server.fault = "shorter"
    with pytest.raises(CallFailed, match=r"AnswerMismatch.*vectors of 15 numbers came, where all before had 16"):
        embedder.embed(["two"])
    rows = check_books(embedder, settings, requests=len(server.asked))
    assert {r["status"] for r in rows if r["error_class"] == "AnswerMismatch"} == {"unknown"}


def test_no_texts_need_no_call(server, settings, embedder):
    assert len(embedder.embed([])) == 0
    assert server.asked == rows_of(settings) == []


def test_what_does_not_fit_the_budget_has_no_price_or_passes_the_limit_is_refused_before_any_request(server, settings):
    with pytest.raises(BudgetExceeded):
        hosted(settings, limit_usd=1e-9).embed(["join frames"])
    with pytest.raises(UnknownPrice, match="openai/unheard-of"):
        load_embedder("litellm:openai/unheard-of", settings).embed(["join frames"])
    with pytest.raises(RateLimited):
        hosted(settings, limits={MODEL: Limit(tokens_per_minute=1)}).embed(["join frames"])
    assert server.asked == rows_of(settings) == []


def test_a_429_is_tried_once_more_and_both_attempts_have_rows(server, settings, embedder):
    server.fault, server.once = "429", True
    assert embedder.embed(["one", "two"]).shape == (2, DIMENSION)
    rows = check_books(embedder, settings, requests=len(server.asked))
    assert [(r["attempt"], r["status"], r["error_class"], r["cost_nanos"]) for r in rows] == [
        (0, "error", "Throttled", 0),
        (1, "ok", "", 40),
    ]
    assert len({r["call_id"] for r in rows}) == 1


@pytest.mark.parametrize(
    ("fault", "error", "billed"),
    [
        ("too few", "MalformedAnswer.*1 vectors came for 2 texts", True),
        ("one index twice", "MalformedAnswer.*not one for each", True),
        ("empty", "MalformedAnswer", True),
        ("500", "Unavailable.*on fire", True),
        ("429", "Throttled.*slow down", False),
        ("no json", "MalformedAnswer", True),
        ("hangs up", "Unavailable|ConnectionLost", True),
    ],
)
def test_every_failed_request_has_its_row_and_stays_charged_where_it_may_be_billed(
    server, settings, embedder, fault, error, billed
):
    server.fault = fault
    with pytest.raises(CallFailed, match=f"(?s)(?:{error})"):
        embedder.embed(["one", "two"])
    assert len(server.asked) == embedder.policy.attempts_per_model
    rows = check_books(embedder, settings, requests=len(server.asked))
    assert {(r["status"], r["cost_nanos"] > 0) for r in rows} == {("unknown", True) if billed else ("error", False)}


def test_the_retrieval_bench_pays_to_ingest_documents_and_to_ask_questions(server, tmp_path):
    settings = replace(project(tmp_path), state_url=f"sqlite:///{tmp_path / 'state.sqlite'}")
    package = Path(prices.__file__).with_name("prices.toml").read_text(encoding="utf-8")
    (tmp_path / "prices.toml").write_text(package + RATE, encoding="utf-8")
    given = {"evalset": "tiny", "chunkers": ["whole"], "strategies": ["full_text", "hybrid_rrf"], "reference": HYBRID}
    parameters = build_parameters(RetrievalParameters, given | {"embedder": NAME})
    embedder = load_embedder(NAME, settings)
    bench = RetrievalExperiment(parameters, settings, embedder=embedder, tokenizer=WordTokenizer())
    bench.score(bench.prepare(), "dev")
    rows = rows_of(settings)
    assert len(rows) == len(server.asked)
    texts = {purpose: sum(r["fresh_tokens"] for r in rows if r["purpose"] == purpose) for purpose in ("ingest", "eval")}
    questions = len(bench.evalset.split("dev").queries)
    assert texts == {"ingest": 80, "eval": questions + 3}  # the server counts a token a text; three probe the encoder
    assert sum(r["cost_nanos"] for r in rows) == embedder.books.budgets.table()["spent_nanos"].max()
    assert {r["tenant_id"] for r in rows if r["item_id"]} == {"acme", "globex"}


def test_a_semantic_cache_and_a_router_pay_on_the_books_of_their_client(server, settings):
    books = Books.open(settings, budgets=[Budget(1.0, "total")], clock=FakeClock())
    embedder = load_embedder(NAME, settings, books)
    model = ScriptedModel(lambda request: Response("df.merge", request.model, Usage(5, output=1)))
    arms = ("local/smollm2-135m", "local/qwen2.5-coder-0.5b")
    texts = tuple(f"question {i}" for i in range(30))
    known = Requests(texts, ("answer",) * 30, vectors=HashEmbedder(DIMENSION).embed(texts))
    quality, cost = np.tile([0.0, 1.0], (30, 1)), np.tile([1e-6, 5e-6], (30, 1))
    router = replace(POLICIES["knn_embedding"].fit(known, quality, cost, arms), value_usd=1.0)
    accepted = accept(
        settings.root, router, arm="by_feature", settings={"embedder": NAME}, inputs={"weights": embedder.encoder_id}
    )
    routed = load_routed(replace(accepted, state_url=settings.state_url), "docs", books=books)
    cache = SemanticCache(open_engine(settings.state_url), embedder=embedder, threshold=0.9)
    client = Client({"local/": model}, books, cache=cache, routers={"docs": routed})
    with attributed(tenant_id="acme", user_id="u", feature="answer"):
        ask = [{"role": "user", "content": "How do I join?"}]
        first = client.complete(ask, model="router/docs", use=CacheUse("tenant"))
        second = client.complete(ask, model="router/docs", use=CacheUse("tenant"))
    assert (first.route.model, first.source, second.source) == (arms[1], "model", "cache")
    rows = [r for r in rows_of(settings) if r["model_asked"] == MODEL]
    assert len(rows) == len(server.asked)
    assert {(r["tenant_id"], r["feature"], r["purpose"]) for r in rows} == {("acme", "answer", "product")}
    assert {r["trace_id"] for r in rows} == {first.trace_id, second.trace_id}
    check_books(embedder, settings, requests=len(rows) + 2)
