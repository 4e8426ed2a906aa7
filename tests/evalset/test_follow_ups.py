"""Questions that need earlier turns are told by their words, in several languages."""

# ruff: noqa: RUF001

import json
from pathlib import Path

import pytest

from workbench.evalset.follow_ups import needs_turns

FOLLOW_UPS = {
    "en": ("and in pyarrow?", "why?", "the same but descending", "what about nulls?", "with an index instead",
           "but how?",
           "can you show an example of that?", "in polars?", "how do I undo it?", "Ok, and without copying?", "really?",
           "which one is faster, the first one?", "explain more please", "without the header?",
           "do the same for columns"),
    "de": ("und in polars?", "warum?", "aber ohne Index", "dasselbe absteigend bitte"),
    "fr": ("et en polars ?", "pourquoi ?", "mais sans index", "pareil, mais décroissant"),
    "es": ("¿y en polars?", "¿por qué?", "pero sin índice", "lo mismo pero descendente"),
    "zh": ("那在 pyarrow 里呢？", "为什么？", "同样的但要降序", "它怎么用？", "那删除呢"),
    "ja": ("では pyarrow では？", "なぜ？", "同じで降順に", "それを消すには？"),
    "ko": ("그럼 pyarrow에서는?", "왜?", "똑같이 내림차순으로", "그건 어떻게 지워요?"),
    "th": ("แล้วใน pyarrow ล่ะ", "ทำไม", "แบบเดียวกันแต่เรียงจากมาก", "ลบมันอย่างไร"),
    "ar": ("وماذا عن pyarrow؟", "لماذا؟", "نفس الشيء لكن تنازليًا", "كيف أحذف ذلك؟"),
    "he": ("ומה ב pyarrow?", "למה?", "אבל בלי אינדקס", "איך מוחקים אותו?"),
    "hi": ("और pyarrow में?", "क्यों?", "वही लेकिन उल्टे क्रम में", "उसे कैसे हटाएँ?"),
    "ru": ("а в pyarrow?", "почему?", "то же, но по убыванию", "и без индекса?"),
    "el": ("και στο pyarrow;", "γιατί;", "το ίδιο αλλά φθίνουσα", "αλλά χωρίς ευρετήριο;"),
}  # fmt: skip
ALONE = (
    "how do I sort a table so that the newest rows come first?", "merge_asof", "sort descending", "read a csv file",
    "which function joins two frames by their nearest key?", "drop rows that are null", "pandas or polars for 10 GB?",
    "Wie sortiere ich eine Tabelle absteigend?", "comment trier un tableau ?", "¿cómo ordeno una tabla?",
    "如何对表格进行降序排序？", "表を降順に並べ替える方法", "표를 내림차순으로 정렬하는 방법", "วิธีเรียงตารางจากมากไปน้อย",
    "كيف أرتب الجدول تنازليًا؟", "איך ממיינים טבלה בסדר יורד?", "तालिका को घटते क्रम में कैसे लगाएँ?",
    "как отсортировать таблицу по убыванию?", "πώς ταξινομώ έναν πίνακα;", "", "?",
)  # fmt: skip


@pytest.mark.parametrize("language", FOLLOW_UPS)
def test_a_follow_up_needs_its_turns(language):
    assert [text for text in FOLLOW_UPS[language] if not needs_turns(text)] == []


def test_a_question_that_stands_alone_needs_none():
    assert [text for text in ALONE if needs_turns(text)] == []


def test_no_question_of_the_default_evalset_is_taken_for_a_follow_up():
    lines = Path("evalsets/docs_qa/queries.jsonl").read_text(encoding="utf-8").splitlines()
    asked = [json.loads(line)["text"] for line in lines]
    assert len(asked) > 300
    assert [text for text in asked if needs_turns(text)] == []
