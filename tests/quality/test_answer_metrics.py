"""Answer metrics: the values of independent implementations; what cannot be measured is an error, never a NaN."""

from itertools import pairwise
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nltk import edit_distance as nltk_distance
from nltk.translate.chrf_score import chrf_precision_recall_fscore_support
from rouge_score import rouge_scorer

from workbench.errors import ConfigError
from workbench.quality.answer_metrics import METRICS, MeasuredAnswer, edit_distance, score_answers
from workbench.testing import HashEmbedder

PAIRS = [
    ("Use merge with how left anti.", "Merge with how='left_anti', which keeps left rows only."),
    ("np.rad2deg(x) converts radians", "Use numpy.rad2deg, or numpy.degrees."),
    ("the the cat", "the cat sat on the mat"),
    ("nothing in common", "zzz qqq"),
    ("same text", "same text"),
]
TEXT = st.text(alphabet="abc de.", max_size=30)


def value(metric, **given):
    return METRICS[metric](MeasuredAnswer("q", **given))


@pytest.mark.parametrize(("text", "reference"), PAIRS)
def test_token_f1_is_that_of_rouge_1_without_stems(text, reference):
    text, reference = text.replace("_", " "), reference.replace("_", " ")
    expected = rouge_scorer.RougeScorer(["rouge1"]).score(reference, text)["rouge1"].fmeasure
    assert value("token_f1", text=text, reference=reference) == pytest.approx(expected)


@given(text=TEXT, reference=TEXT.filter(str.strip))
def test_chrf_counts_as_nltk_does_order_by_order(text, reference):
    a, b = "".join(text.split()), "".join(reference.split())
    orders = [n for n in range(1, 7) if n <= min(len(a), len(b))]
    parts = [chrf_precision_recall_fscore_support(b, a, n, beta=2.0)[:2] for n in orders]
    p, r = (mean(column) for column in zip(*parts, strict=True)) if parts else (0, 0)
    expected = 5 * p * r / (4 * p + r) if p + r > 1e-9 else 0
    assert value("chrf", text=text, reference=reference) == pytest.approx(expected, abs=1e-6)


@given(TEXT, TEXT)
def test_edit_distance_is_that_of_nltk(mine, other):
    assert edit_distance(mine, other) == nltk_distance(mine, other)


def test_rouge_l_is_that_of_the_scorer_itself():
    answers = [MeasuredAnswer(f"q{i}", text, reference=reference) for i, (text, reference) in enumerate(PAIRS)]
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
    expected = [scorer.score(reference, text)["rougeL"].fmeasure for text, reference in PAIRS]
    found = score_answers("a", [*answers, MeasuredAnswer("none", "x")], ["rouge_l"])
    assert found["value"].to_list()[:-1] == pytest.approx(expected)
    assert found["error"].to_list()[-1] == "item has no reference"


@given(st.lists(st.sampled_from("abcd"), min_size=1), st.sets(st.sampled_from("abcd"), min_size=1))
def test_citations_are_counted_as_sets(cited, relevant):
    text = "As " + " and ".join(f"[{c}]" for c in cited)
    both = len(set(cited) & relevant)
    assert value("citation_precision", text=text, relevant=tuple(relevant)) == both / len(set(cited))
    assert value("citation_recall", text=text, relevant=tuple(relevant)) == both / len(relevant)


def test_values_by_hand():
    assert value("exact", text=" Left_Anti. ", reference="left_anti") == 1
    assert value("accepted_name", text="how='left_anti'", accept=("left_anti",)) == 1
    assert value("accepted_name", text="Yes, it does.", accept=("no",)) == 0
    for other in ("Use C++.", "C++11", "in C#,", "Cpp"):
        assert value("accepted_name", text=other, accept=("C",)) == 0
    for named in ("Use C.", "C, not C++", "C/C++", "merge(C)+1", "see C#section"):
        assert value("accepted_name", text=named, accept=("C",)) == 1
    assert value("accepted_name", text="It is C++, of course", accept=("C++",)) == 1
    assert value("string_similarity", text="kitten", reference="sitting") == pytest.approx(1 - 3 / 7)
    shown = {"d": "merge keeps rows of the left frame"}
    assert value("groundedness", text="merge keeps unicorns", question="merge?", retrieved=shown) == 0.5
    assert value("well_formed", text='{"a": 1}', form="json") == 1
    assert value("well_formed", text="[" * 100_000, form="json") == 0
    assert value("well_formed", text="v1.2", form=r"v\d+\.\d+") == 1
    assert value("well_formed", text="v1.2 and more", form=r"v\d+\.\d+") == 0


@pytest.mark.parametrize(
    ("text", "reference", "right"),
    [
        ("5", "-5", 0), ("-5.", "-5", 1), ("5", ".5", 0), ("'.5'", ".5", 1), ("0.5.", "0.5", 1), ("C++", "C", 0),
        (".", ",", 0), ("?", "?", 1), ("<", ">", 0), ("<", "<", 1), ("none", "!", 0), ("A.", "a", 1), ("the", "a", 0),
    ],
)  # fmt: skip
def test_what_is_left_of_an_answer_without_its_punctuation_is_never_nothing(text, reference, right):
    assert value("exact", text=text, reference=reference) == right


@pytest.mark.parametrize(
    ("text", "reference", "right"),
    [
        ('{"name": "John", "age": 30}', '{"age": 30, "name": "John"}', 1),  # autoevals 0.4.1 compares the texts
        ('{"a": [1, {"c": 2, "b": null}]}', ' {"a":[1.0,{"b":null,"c":2e0}]} ', 1),
        ("[1, 2]", "[2, 1]", 0), ('{"a": true}', '{"a": 1}', 0), ('{"a": "X"}', '{"a": "x"}', 0), ("null", "null", 1),
        ("4711", "4712", 0), ("9007199254740993", "9007199254740992", 0), ("no JSON", '{"a": 1}', 0), ("", "[]", 0),
        ('{"a": 1, "a": 2}', '{"a": 2}', 0), ('[{"b": {"a": 2, "a": 2}}]', '[{"b": {"a": 2}}]', 0),
        ('{"a": 2}', '{"a": 1, "a": 2}', 0), ('{"a": 1, "a": 2}', '{"a": 1, "a": 2}', 1),
        ("Left.", "left", 1), ("[" * 100_000, "[]", 0), ("1e99999999999999999999", "1", 0), ("NaN", "NaN", 1),
    ],
)  # fmt: skip
def test_json_is_compared_by_its_values(text, reference, right):
    assert value("exact", text=text, reference=reference, form="json") == right


def test_json_without_its_form_is_a_text_as_any():
    assert value("exact", text='{"a": 1, "b": 2}', reference='{"b": 2, "a": 1}') == 0


@given(st.integers(1, 1200))
def test_json_of_any_depth_is_compared_or_is_none(depth):
    text = "[" * depth + "]" * depth
    assert value("exact", text=text, reference=text, form="json") == 1


def test_a_reference_without_a_word_is_not_measured_by_words():
    found = score_answers("arm", [MeasuredAnswer("q", "<", reference="<")], ["token_f1", "chrf"])
    assert found["value"].to_list() == [None, 1.0]
    assert found["error"].to_list() == ["item has no word in its reference", None]


def test_what_cannot_be_measured_is_an_error_row_and_stays_in_the_table():
    answers = [
        MeasuredAnswer("q1", "a [x]", reference="a", relevant=("x",)),
        MeasuredAnswer("q2", "b"),
        MeasuredAnswer("q3", "c", form="("),
    ]
    found = score_answers("arm", answers, [*METRICS, "semantic"], embedder=HashEmbedder())
    assert len(found) == 3 * (len(METRICS) + 1)
    assert found["value"].is_nan().sum() == 0
    assert (found["value"].is_null() == found["error"].is_not_null()).all()
    errors = {(r["item_id"], r["metric"]): r["error"] for r in found.iter_rows(named=True)}
    assert errors["q2", "exact"] == "item has no reference"
    assert errors["q1", "citation_recall"] is None
    assert errors["q3", "well_formed"]
    assert errors["q1", "groundedness"] == "item has no retrieved text"


def test_semantic_similarity_is_a_cosine_and_needs_an_embedder():
    answers = [
        MeasuredAnswer("q1", "join two frames", reference="join two frames"),
        MeasuredAnswer("q2", "join", reference="price"),
    ]
    found = score_answers("arm", answers, ["semantic"], embedder=HashEmbedder())["value"].to_list()
    assert found[0] == pytest.approx(1)
    assert 0 <= found[1] < 0.9
    with pytest.raises(ConfigError, match="give score_answers an embedder"):
        score_answers("arm", answers, ["semantic"])
    with pytest.raises(ConfigError, match="did you mean 'token_f1'"):
        score_answers("arm", answers, ["token_f"])


def test_more_of_the_reference_scores_more():
    reference = "Merge with how left anti keeps rows without a partner"
    words = reference.split()
    for metric in ("token_f1", "chrf", "string_similarity"):
        scores = [value(metric, text=" ".join(words[:n]), reference=reference) for n in range(1, len(words) + 1)]
        assert all(a < b for a, b in pairwise(scores))
        assert scores[-1] == pytest.approx(1)
