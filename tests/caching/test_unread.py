"""Texts that an encoder cannot read are near nothing: a cache serves their repeats alone, and says why."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from tests.caching.caches import Angles, angle_cache, found, keep
from tests.evalset.small_evalset import settings_in, write
from tests.retrieval.test_twins import chinese, part_numbers
from workbench.caching.cache_study import CachingParameters
from workbench.caching.notebook import CachingExperiment
from workbench.config import load_settings
from workbench.evalset.evalset import load_evalset
from workbench.evaluation.fingerprint import build_parameters
from workbench.inference.embedding import unread_by_embedder
from workbench.inference.encoders import MiniLM
from workbench.retrieval.tables import retrieval_script_notes
from workbench.state import open_engine

READ = (
    "how do I merge two frames?",
    "`pl.col('x').sum()` fails",
    "AX0000 brass",
    "für große Œuvres",
)
UNREAD = (
    *("请问如何开启深色模式", "วิธีเปิดโหมดมืด", "如何关闭 dark mode", "🙂 👋", "how to open 深色模式 for me"),
    *("Как включить тёмную тему?", "كيف أفعل الوضع الداكن", "다크 모드를 켜는 방법", "làm thế nào để bật chế độ tối"),
)


@pytest.fixture(scope="module")
def minilm():
    return MiniLM(load_settings().cache / "weights")


def test_a_text_is_unread_where_pieces_are_unknown_or_a_third_is_dropped_or_spelled(minilm):
    assert not unread_by_embedder(minilm, READ, strict=True).any()
    assert unread_by_embedder(minilm, UNREAD, strict=True).all()
    assert unread_by_embedder(minilm, []).shape == (0,)
    emoji = ["what does the ✅ beside an order mean", "what does the ❌ beside an order mean"]
    one, other = minilm.embed(emoji)
    assert np.allclose(one, other), "the encoder does not tell them apart"
    assert not unread_by_embedder(minilm, emoji).any()
    assert unread_by_embedder(minilm, emoji, strict=True).all(), "so that a cache serves neither for the other"


class Blind(Angles):
    """Knows no text with a question mark."""

    def unknown_share(self, texts):
        return np.array([0.2 if "?" in text else 0.0 for text in texts])


@pytest.fixture
def engine(tmp_path):
    engine = open_engine(f"sqlite:///{tmp_path}/state.sqlite")
    yield engine
    engine.dispose()


def test_an_unread_text_is_a_miss_with_its_reason_and_its_repeat_is_served(engine):
    cache = angle_cache(engine, embedder=Blind())
    keep(cache, "10 degrees")
    assert found(cache, "11 degrees") == "answer to 10 degrees"
    assert found(cache, "11 degrees?") is None
    assert cache.problems["text that the encoder does not read"] == 1
    keep(cache, "50 degrees?")
    assert found(cache, "50 degrees?") == "answer to 50 degrees?"
    assert found(cache, "51 degrees") is None, "nor is it near to what can be read"
    assert found(cache, "51 degrees?") is None
    again = angle_cache(engine, embedder=Blind())
    assert found(again, "50 degrees?") == "answer to 50 degrees?", "another process reads the same entry"
    assert again.problems["vector that cannot be used"] == 0


def test_a_replay_serves_what_the_cache_would_and_the_report_says_so(tmp_path, minilm):
    folder = settings_in(tmp_path).evalsets / "tiny"
    folder.mkdir(parents=True)
    texts = [chinese()[1][i % 60]["text"] for i in range(150)]
    rows = {"pos": range(150), "query": texts, "answer_key": texts, "cluster": texts}
    pl.DataFrame(rows).write_parquet(folder / "stream.parquet")
    parameters = build_parameters(CachingParameters, {"evalset": "tiny", "warmup": 10, "draws": 3})
    bench = CachingExperiment(parameters, settings_in(tmp_path), embedder=minilm)
    said = "150 of 150 requests have pieces that the encoder does not know"
    assert any(note.startswith(said) for note in bench.evalset.notes)
    assert said in bench.contents().caption
    semantic = bench.semantic()
    assert not any(found.hits(0.3)[~found.exact].any() for found in semantic.shadows.values())
    replayed = bench.replay(bench.certify(semantic), semantic)
    rates = {result.arm.name: result.hit_rate for result in replayed.results}
    assert rates.pop("off") == 0
    assert set(rates.values()) == {rates["exact"]}, "nothing but exact repeats is served"
    assert rates["exact"] > 0


def test_retrieval_says_what_encoder_and_index_do_not_read(tmp_path, minilm):
    told = {}
    for name, made in (("chinese", chinese), ("part numbers", part_numbers)):
        documents, queries = made()
        folder = write(
            tmp_path / name, documents=documents, queries=queries, test=[f"q{i}\td{i}\t1" for i in range(60)]
        )
        told[name] = retrieval_script_notes(load_evalset(folder, settings=settings_in(tmp_path)), minilm)
    assert told["part numbers"] == []
    questions, texts, blanks = told["chinese"]
    assert questions.startswith("60 of 60 questions have more than a third of characters that the encoder minilm")
    assert texts.startswith("60 of 60 documents")
    assert blanks.startswith("60 of 60 questions are in a script without blanks between words")


def test_russian_is_no_script_without_blanks(tmp_path, minilm):
    evalset = load_evalset(write(tmp_path), settings=settings_in(tmp_path))
    other = replace(evalset, queries=tuple(replace(q, text="Как включить тёмную тему?") for q in evalset.queries))
    assert [note.split(" have ")[0] for note in retrieval_script_notes(other, minilm)] == ["3 of 3 questions"]
