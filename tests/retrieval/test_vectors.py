import multiprocessing
from dataclasses import dataclass, field

import numpy as np
import pytest

from workbench.errors import StoreError
from workbench.retrieval.ingest import IngestVectorCache
from workbench.testing import HashEmbedder


@dataclass
class Counting:
    """An embedder that remembers its batches, and may stop working after some of them."""

    inner: HashEmbedder = field(default_factory=lambda: HashEmbedder(8))
    batches: list[int] = field(default_factory=list)
    fails_after: int = 10**9
    encoder_id: str = "counting"
    dimension: int = 8

    def embed(self, texts):
        if len(self.batches) >= self.fails_after:
            raise KeyboardInterrupt
        self.batches.append(len(texts))
        return self.inner.embed(texts)


TEXTS = [f"text {i}" for i in range(25)]


@pytest.fixture
def cache(tmp_path):
    return IngestVectorCache(tmp_path / "deep" / "vectors.sqlite", batch=10)


def test_vectors_are_those_of_the_embedder_in_order(cache):
    embedder = Counting()
    wanted = embedder.inner.embed([*TEXTS, TEXTS[3]])
    for _ in range(2):
        vectors, _ = cache.embed([*TEXTS, TEXTS[3]], embedder)
        assert vectors.dtype == np.float32
        assert np.array_equal(vectors, wanted)


def test_each_text_is_embedded_once(cache, tmp_path):
    embedder = Counting()
    assert cache.embed(TEXTS + TEXTS, embedder)[1] == 25
    assert embedder.batches == [10, 10, 5]
    again = IngestVectorCache(f"sqlite:///{tmp_path / 'deep' / 'vectors.sqlite'}")
    assert again.embed([*TEXTS, "new"], embedder)[1] == 1


def test_interrupted_run_keeps_what_it_embedded(cache):
    with pytest.raises(KeyboardInterrupt):
        cache.embed(TEXTS, Counting(fails_after=2))
    assert cache.embed(TEXTS, Counting())[1] == 5


def test_another_encoder_has_its_own_vectors(cache):
    cache.embed(TEXTS, Counting())
    assert cache.embed(TEXTS, Counting(encoder_id="other"))[1] == 25


def test_no_texts_make_no_vectors(cache):
    vectors, embedded = cache.embed([], Counting())
    assert (vectors.shape, embedded) == ((0, 8), 0)


def test_encoder_that_changed_its_dimension_is_found_out(cache):
    cache.embed(TEXTS, Counting())
    with pytest.raises(StoreError, match=r"holds vectors of 8 .* now makes 9"):
        cache.embed(TEXTS, Counting(dimension=9))


@dataclass(frozen=True)
class Broken:
    answer: np.ndarray
    encoder_id: str = "broken"
    dimension: int = 8

    def embed(self, texts):
        return self.answer


@pytest.mark.parametrize("answer", [np.ones((3, 8)), np.full((1, 8), np.nan), np.zeros((1, 8)), np.ones(8)])
def test_vectors_that_break_the_promise_are_not_kept(cache, answer):
    with pytest.raises(StoreError, match="encoder 'broken' was asked for"):
        cache.embed(["one"], Broken(answer))
    assert cache.embed(["one"], Counting(encoder_id="broken"))[1] == 1


def _embed_all(path):
    IngestVectorCache(path, batch=3).embed(TEXTS, HashEmbedder(8))


def test_several_processes_fill_one_cache(tmp_path):
    path = tmp_path / "vectors.sqlite"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_embed_all, args=(path,)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [w.exitcode for w in writers] == [0, 0, 0]
    vectors, embedded = IngestVectorCache(path).embed(TEXTS, HashEmbedder(8))
    assert embedded == 0
    assert np.array_equal(vectors, HashEmbedder(8).embed(TEXTS))


def test_file_that_is_no_database_is_a_clear_error(tmp_path):
    path = tmp_path / "vectors.sqlite"
    path.write_text("this is not a database, and long enough to be looked at" * 20)
    with pytest.raises(StoreError, match=r"cannot open the vectors in .*file is not a database"):
        IngestVectorCache(path)
