"""Full text where no blanks stand between words: n-grams find what an index of words does not."""

import numpy as np
import pytest

from tests.evalset.small_evalset import write
from tests.retrieval.test_twins import chinese
from tests.retrieval.tiny import judge, open_bench
from workbench.errors import StoreError
from workbench.evaluation.run_summary import mean_by_arm
from workbench.inference.prices import load_prices
from workbench.retrieval.arms import TEXT_INDICES, make_arms
from workbench.retrieval.index_kinds import FullTextIndex
from workbench.retrieval.notebook import RetrievalParameters
from workbench.retrieval.postgres import postgres_words_of
from workbench.retrieval.store import ChunkRow, open_table
from workbench.retrieval.strategies import NGRAM_SEARCHES
from workbench.retrieval.tables import retrieval_script_notes
from workbench.testing import HashEmbedder

NGRAM = TEXT_INDICES["full_text_ngram"]
DOCUMENTS = {
    "zh": "开启深色模式的方法", "zh-2": "关闭通知的设置", "ja": "ダークモードを有効にする",
    "ja-2": "アカウントを削除する",
    "th": "วิธีเปิดโหมดมืด", "th-2": "วิธีลบบัญชีผู้ใช้", "lo": "ຂ້ອຍລຶບບັນຊີແນວໃດ", "en": "Turn on dark mode",
}  # fmt: skip
ASKED = {
    **{"通知怎么关": "zh-2", "深色": "zh", "アカウント削除": "ja-2", "ลบบัญชี": "th-2"},
    **{"ລຶບບັນຊີ": "lo", "dark mode": "en"},
}


@pytest.fixture(scope="module")
def store():
    store = open_table("memory://", "chunks", dimension=2)
    vector = np.array([1, 0], np.float32)
    store.upsert([ChunkRow("t", d, "page", None, 0, 1, "hash", text, vector) for d, text in DOCUMENTS.items()])
    return store


def first_hits(store, index):
    store.index(full_text=index)
    found = {text: store.for_tenant("t").full_text(text, 3) for text in ASKED}
    return {text: hits[0].doc_id if hits else None for text, hits in found.items()}


def test_words_of_two_signs_are_found_in_every_script_without_blanks(store):
    assert first_hits(store, NGRAM) == ASKED
    missed = [text for text, doc_id in first_hits(store, FullTextIndex()).items() if doc_id is None]
    assert sorted(missed) == sorted(set(ASKED) - {"dark mode"}), "an index of words finds none of these"


def test_the_arm_has_a_table_of_its_own_and_is_no_default():
    arms = {arm.name: arm for arm in make_arms(["whole"], ["full_text", "full_text_ngram"])}
    assert arms["whole · full_text_ngram"].text_index == NGRAM
    assert arms["whole · full_text"].text_index != NGRAM
    assert "full_text_ngram" not in RetrievalParameters().strategies
    words, ngrams = (load_prices().cost_usd(arm.work(1000)) for arm in arms.values())
    assert ngrams == pytest.approx(NGRAM_SEARCHES * words)


def test_postgresql_refuses_n_grams_before_anything_is_written():
    with pytest.raises(StoreError, match="PostgreSQL has no FullTextIndex"):
        postgres_words_of(NGRAM)


def test_a_run_says_of_each_question_what_is_not_read_and_by_which_arm_it_is_found(tmp_path):
    documents, queries = chinese()
    qrels = [f"q{i}\td{i}\t1" for i in range(len(queries))]
    write(tmp_path / "evalsets" / "tiny", documents=documents, queries=queries, test=qrels)
    strategies = ["full_text", "full_text_ngram"]
    bench = open_bench(tmp_path, chunkers=["whole"], strategies=strategies, reference="")
    assert not any("add full_text_ngram" in note for note in bench.evalset.notes), "it is there already"
    assert any(
        "add full_text_ngram" in note for note in retrieval_script_notes(bench.evalset, HashEmbedder(), strategies[:1])
    )
    dev, _, test, _ = judge(bench, bench.prepare())
    means = mean_by_arm(dev.scores, "ndcg@10")
    assert means["whole · full_text_ngram"] > 0.9
    assert means["whole · full_text"] < 0.1
    cases = test.cases("ndcg@10").values()
    assert {case.note for case in cases} == {"no blanks between words, full text finds whole phrases alone"}
    assert set(test.scores["slice_reading"]) == {"not read in full"}
