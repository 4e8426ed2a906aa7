"""Hosted encoders, asked over a real HTTP server: each request is paid for and has its row, whoever asks."""

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.caching.test_notebook import write_stream
from tests.evalset.small_evalset import settings_in
from tests.inference.embeddings_server import DIMENSION, SEEN, serving
from tests.retrieval.tiny import HYBRID, project
from tests.routing.routing_tables import planted
from tests.routing.test_accepted_router import accept
from tests.routing.test_notebook import project as drawn
from workbench.caching.cache import SemanticCache
from workbench.caching.cache_claims import CacheArm
from workbench.caching.cache_study import CachingParameters
from workbench.caching.notebook import CachingExperiment
from workbench.config import Settings
from workbench.errors import BudgetExceeded, CallFailed, ConfigError, RateLimited, UnknownPrice
from workbench.evalset.outcomes import Requests
from workbench.evaluation.fingerprint import build_parameters
from workbench.inference import prices
from workbench.inference.budgets import Budget
from workbench.inference.call_attempt import Books
from workbench.inference.client import Client
from workbench.inference.embedding import HostedEmbedder, load_embedder
from workbench.inference.failover import RetryPolicy
from workbench.inference.messages import CacheUse, Response, Usage
from workbench.inference.rate_limits import RateLimit
from workbench.records import Document
from workbench.retrieval.arms import make_arms
from workbench.retrieval.notebook import RetrievalExperiment, RetrievalParameters
from workbench.retrieval.searcher import Searcher
from workbench.routing.accepted_router import load_routed
from workbench.routing.notebook import RoutingExperiment, RoutingParameters
from workbench.routing.policies import POLICIES
from workbench.state import open_engine
from workbench.telemetry.attribution import attributed
from workbench.telemetry.ledger import Ledger
from workbench.telemetry.traces import load_trace
from workbench.testing import FakeClock, HashEmbedder, ScriptedModel, WordTokenizer

MODEL = "openai/text-embedding-3-small"
NAME = f"litellm:{MODEL}"
RATE_NAME = f"embed_query:{NAME}"
RATE = '\n[operations."embed_query:litellm:openai/text-embedding-3-small"]\nusd = 0.0000004\n'


@pytest.fixture(scope="module")
def running():
    with serving() as server:
        yield server


@pytest.fixture
def server(running, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", running.url)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    running.fault, running.once, running.turns = "", False, 0
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
        hosted(settings, limits={MODEL: RateLimit(tokens_per_minute=1)}).embed(["join frames"])
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
        ("too few", "MalformedAnswer.*1 vector came for 2 texts", True),
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


def test_a_blank_text_is_not_sent_and_spoils_no_other(server, settings, embedder):
    texts = ["one", "", "two", " \n\t", "three", ""]
    vectors = embedder.embed(texts)
    assert [asked["input"] for asked in server.asked] == [["one", "two", "three"]]
    assert np.allclose(vectors[[0, 2, 4]], HashEmbedder(DIMENSION).embed(["one", "two", "three"]), atol=1e-6)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1)
    assert (vectors[1] == vectors[3]).all()
    assert hosted(settings).embed(["", ""]).shape == (2, DIMENSION)


def test_half_a_surrogate_pair_is_sent_as_a_question_mark(server, embedder):
    embedder.embed(["half \ud83d", "whole 😀"])
    assert server.asked[0]["input"] == ["half ?", "whole 😀"]


def test_a_call_has_as_many_texts_as_the_vendor_takes_tokens_at_once(server, settings, embedder):
    texts = [f"number {i} " + "word " * 5000 for i in range(100)]
    vectors = embedder.embed(texts)
    assert np.allclose(vectors, HashEmbedder(DIMENSION).embed([text[:SEEN] for text in texts]), atol=1e-6)
    assert [len(asked["input"]) for asked in server.asked] == [59, 41]  # 5,003 tokens each
    check_books(embedder, settings, requests=2)


def test_a_longer_text_than_the_model_reads_is_cut_and_is_counted_as_cut_off(server, embedder):
    long, short = "word " * 20_000, "word " * 8_000
    both = embedder.embed([long, short, "end"])
    sent = server.asked[0]["input"]
    assert [len(text.split()) for text in sent] == [8191, 8000, 1]
    assert long.startswith(sent[0])
    assert np.allclose(both, HashEmbedder(DIMENSION).embed([text[:SEEN] for text in sent]), atol=1e-6)
    assert [embedder.is_cut(text) for text in (long, short, "end")] == [True, False, False]


@pytest.mark.parametrize(
    "text", ["a" * 200_000, "日本語の文" * 20_000, "😀" * 20_000, "<|endoftext|> " * 9_000, " " * 99_999]
)
def test_what_is_left_of_a_cut_text_fits_whatever_is_in_it(server, embedder, text):
    from litellm.utils import encoding

    cut = embedder._cut(text)
    assert text.startswith(cut)
    assert len(encoding.encode_ordinary(cut)) <= embedder.max_tokens
    assert len(encoding.encode_ordinary(cut)) > embedder.max_tokens - 100 or not text.strip() or "a" in text


@pytest.mark.parametrize(("vendor", "texts"), [("cohere/embed-v4.0", 96), ("gemini/gemini-embedding-001", 100)])
def test_no_vendor_is_given_more_texts_at_once_than_it_takes(settings, vendor, texts):
    row = f'[models."{vendor}"]\nusd_per_mtok = {{ input = 1 }}\nsource = "a test"\ndate = 2026-11-29\n'
    (settings.root / "models.toml").write_text(f'version = "2026-11-29"\n{row}', encoding="utf-8")
    batches = list(load_embedder(f"litellm:{vendor}", settings)._batches(["short"] * 250))
    assert [len(part) for part in batches] == [texts, texts, 250 - 2 * texts]


def test_a_model_without_a_price_is_refused_when_it_is_loaded(server, settings):
    with pytest.raises(UnknownPrice, match=r"did you mean 'openai/text-embedding-3-small'.*models\.toml"):
        load_embedder("litellm:openai/text-embedding-3-smal", settings)


@pytest.mark.parametrize("fault", ["", "429 every other time", "529 at first"])
def test_three_thousand_texts_wait_for_their_turn_and_none_is_lost(server, settings, fault):
    server.fault = fault
    clock = FakeClock()
    limits = {MODEL: RateLimit(requests_per_minute=3, tokens_per_minute=9_000)}
    books = Books.open(settings, budgets=[Budget(1.0, "total")], clock=clock, limits=limits)
    embedder = load_embedder(NAME, settings, books)
    texts = [f"text number {i}" for i in range(3000)]
    with attributed(purpose="ingest"):
        vectors = embedder.embed(texts)
    assert np.allclose(vectors, HashEmbedder(DIMENSION).embed(texts), atol=1e-6)
    rows = check_books(embedder, settings, requests=len(server.asked))
    assert sum(r["cost_nanos"] for r in rows) == 3000 * 20
    starts = sorted(r["started"] for r in rows)
    minutes = Counter(start[:16] for start in starts)
    assert max(minutes.values()) <= 4  # three in any minute, of which a minute by the clock may hold two halves


def test_a_product_s_question_does_not_wait_for_longer_than_its_policy(server, settings):
    clock = FakeClock()
    books = Books.open(settings, clock=clock, limits={MODEL: RateLimit(requests_per_minute=1)})
    embedder = HostedEmbedder(MODEL, books, policy=RetryPolicy(deadline_s=5.0))
    embedder.embed(["one"])
    with pytest.raises(RateLimited):
        embedder.embed(["two"])


def notebook(kind: str, root: Path, embedder: HostedEmbedder):
    """The bench of a notebook with this encoder, on a small evalset of its own."""
    if kind == "retrieval":
        settings = project(root)
        given = {"evalset": "tiny", "chunkers": ["whole"], "strategies": ["hybrid_rrf"], "embedder": NAME}
        parameters = build_parameters(RetrievalParameters, given)
        return RetrievalExperiment(parameters, settings, embedder=embedder, tokenizer=WordTokenizer())
    settings = settings_in(root)
    if kind == "caching":
        write_stream(settings.evalsets / "tiny")
        given = {"evalset": "tiny", "warmup": 100, "draws": 5, "embedder": NAME}
        return CachingExperiment(build_parameters(CachingParameters, given), settings, embedder=embedder)
    settings = drawn(root, planted(300))
    given = {"evalset": "drawn", "policies": ["length", "knn_embedding"], "draws": 20, "embedder": NAME}
    return RoutingExperiment(build_parameters(RoutingParameters, given), settings, embedder=embedder)


NOTEBOOKS = ["retrieval", "caching", "routing"]


@pytest.mark.parametrize("kind", NOTEBOOKS)
def test_a_notebook_without_a_rate_for_a_question_is_refused_before_anything_is_embedded(
    server, settings, embedder, kind
):
    with pytest.raises(ConfigError, match=r"embed_query:litellm:openai/text-embedding-3-small.*with usd ="):
        notebook(kind, settings.root, embedder)
    assert server.asked == []


@pytest.mark.parametrize("kind", NOTEBOOKS)
def test_a_question_costs_what_the_encoder_in_use_does(server, settings, embedder, kind):
    package = Path(prices.__file__).with_name("prices.toml").read_text(encoding="utf-8")
    (settings.root / "prices.toml").write_text(package + RATE, encoding="utf-8")
    bench = notebook(kind, settings.root, embedder)
    if kind == "retrieval":
        (arm,) = make_arms(["whole"], ["hybrid_rrf"], embedders=[NAME])
        assert [w.operation for w in arm.work(9)] == ["full_text", RATE_NAME, "vector_exact", "fuse"]
    elif kind == "caching":
        arm = CacheArm("semantic", 0.9, None, embedder.encoder_id)
        assert bench.study.cost(1.0, 0.0, arm) == pytest.approx(1000 * 4e-7)
    else:
        routers = {arm.name: arm.router for arm in bench.fit() if not arm.is_model}
        assert {name: r.overhead_usd for name, r in routers.items()} == {"length": 0.0, "knn_embedding": 4e-7}


def test_the_share_that_is_cut_off_is_by_what_the_encoder_in_use_reads(server, settings, embedder):
    """500 words are too long for MiniLM and not for this one."""
    texts = {"short": "word", "of 500": "word " * 500, "of 9,000": "word " * 9_000}
    documents = [Document(name, text, tenant_id="acme") for name, text in texts.items()]
    (arm,) = make_arms(["whole"], ["hybrid_rrf"], embedders=[NAME])
    assert Searcher(documents, "m", settings, {NAME: embedder}, WordTokenizer()).chunk_counts(arm) == (3, 1)
