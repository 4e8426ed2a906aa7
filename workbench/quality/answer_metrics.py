"""How good an answer is, by programs alone: names, words, characters, citations, what was retrieved, form.

One row an item and metric. A metric that cannot be computed for an item is a row with an error and no value: a NaN that
leaves a mean would raise it.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TypeVar

import numpy as np
import polars as pl

from workbench.errors import ConfigError, unknown_name
from workbench.evalset.echoes import echo_scores
from workbench.evaluation.compare import SCORES_SCHEMA
from workbench.inference.embedding import Embedder
from workbench.routing.recorded_outcomes import answer_names_accepted, answer_says, is_yes_no

CHRF_ORDER, CHRF_BETA = 6, 2.0  # chrF2 (Popovic 2016)
_T = TypeVar("_T")
_LONGEST_EDIT = 20_000  # characters: edit distance is quadratic


@dataclass(frozen=True, slots=True)
class MeasuredAnswer:
    """One answer with what it can be measured against; what is not known is empty.

    Attributes
    ----------
    accept : tuple of str
        Names of which a right answer gives one; ("yes",) or ("no",) where it begins with that.
    retrieved : mapping of str to str
        Documents that the model was shown, by id.
    relevant : tuple of str
        Ids of documents that a right answer cites.
    form : str
        "json", or a regular expression that the whole answer must fulfil.
    """

    item_id: str
    text: str
    question: str = ""
    reference: str = ""
    accept: tuple[str, ...] = ()
    retrieved: Mapping[str, str] | None = None
    relevant: tuple[str, ...] = ()
    form: str = ""
    cluster: str = ""
    tenant_id: str = ""


def score_answers(
    arm: str, answers: Sequence[MeasuredAnswer], metrics: Sequence[str], *, embedder: Embedder | None = None
) -> pl.DataFrame:
    """``score_answers("gpt-5.4", answers, ["token_f1", "rouge_l"])``: scores in [0, 1], columns `SCORES_SCHEMA`.

    Raises
    ------
    ConfigError
        If a metric is not known, or "semantic" is asked for without an embedder.
    """
    known = sorted([*METRICS, "rouge_l", "semantic"])
    rows: list[tuple[object, ...]] = []
    for metric in metrics:
        if metric not in known:
            raise ConfigError(unknown_name("metric of answers", metric, known))
        if metric == "rouge_l":
            found: list[float | str] = _rouge_answer_metric(answers)
        elif metric == "semantic":
            found = _semantic_answer_metric(answers, embedder)
        else:
            found = [_answer_metric_value(METRICS[metric], answer) for answer in answers]
        for a, value in zip(answers, found, strict=True):
            number, error = (None, value) if isinstance(value, str) else (value, None)
            rows.append((arm, a.item_id, 0, metric, number, error, a.cluster or a.item_id, a.tenant_id, None, None))
    return pl.DataFrame(rows, schema=SCORES_SCHEMA, orient="row")


def accepted_name(answer: MeasuredAnswer) -> float:
    """1 where the answer gives an accepted name, or begins with the accepted yes or no."""
    _answer_needs_truth(answer.accept, "accepted name")
    return float((answer_says if is_yes_no(answer.accept) else answer_names_accepted)(answer.text, answer.accept))


def exact(answer: MeasuredAnswer) -> float:
    """1 where answer and reference are the same but for case, punctuation at the ends and spaces.

    The point of ``.5`` is no punctuation, nor is a mark that stands alone. Where the form is "json" and the reference
    is JSON, the values are compared: the order of keys does not count, nor 1 against 1.0. What names a key twice holds
    no one value: as an answer it is wrong, as a reference it is a text.
    """
    reference = _answer_needs_truth(answer.reference, "reference")
    if answer.form == "json" and (expected := _json_values(reference)):
        return float(_json_values(answer.text) == expected)
    return float(_bare(answer.text) == _bare(reference))


def token_f1(answer: MeasuredAnswer) -> float:
    """Harmonic mean of precision and recall of words, each counted as often as it stands (SQuAD)."""
    words = _answer_needs_truth(
        _answer_words(_answer_needs_truth(answer.reference, "reference")), "word in its reference"
    )
    mine, other = Counter(_answer_words(answer.text)), Counter(words)
    return _f(sum((mine & other).values()), mine.total(), other.total())


def chrf(answer: MeasuredAnswer) -> float:
    """Return chrF2: F of character n-grams up to 6, recall twice as important (Popovic 2015), without spaces."""
    mine, other = ("".join(text.split()) for text in (answer.text, _answer_needs_truth(answer.reference, "reference")))
    precision, recall = [], []
    for n in range(1, CHRF_ORDER + 1):
        a, b = (Counter(text[i : i + n] for i in range(len(text) - n + 1)) for text in (mine, other))
        if not (a and b):
            continue
        same = (a & b).total()
        precision.append(same / a.total())
        recall.append(same / b.total())
    if not precision:
        return 0.0
    p, r, weight = float(np.mean(precision)), float(np.mean(recall)), CHRF_BETA**2
    return (1 + weight) * p * r / (weight * p + r) if p + r else 0.0


def string_similarity(answer: MeasuredAnswer) -> float:
    """1 less the edit distance over the longer text (Levenshtein 1966)."""
    mine, other = answer.text, _answer_needs_truth(answer.reference, "reference")
    longest = max(len(mine), len(other))
    if longest > _LONGEST_EDIT:
        raise ConfigError(f"edit distance is for texts of at most {_LONGEST_EDIT:,} characters, found {longest:,}")
    return 1 - edit_distance(mine, other) / longest


def citation_precision(answer: MeasuredAnswer) -> float:
    """Share of the documents that the answer cites, as [id], that are relevant."""
    _answer_needs_truth(answer.relevant, "relevant document")
    cited = _cited_in_answer(answer)
    return len(cited & set(answer.relevant)) / len(_answer_needs_truth(cited, "citation"))


def citation_recall(answer: MeasuredAnswer) -> float:
    """Share of the relevant documents that the answer cites, as [id]."""
    relevant = set(_answer_needs_truth(answer.relevant, "relevant document"))
    return len(_cited_in_answer(answer) & relevant) / len(relevant)


def groundedness(answer: MeasuredAnswer) -> float:
    """Share of the answer's different words, the question's left out, that stand in what was retrieved.

    Overlap shows words without a source; it cannot show a sentence that turns its source around.
    """
    shown = {
        w for text in _answer_needs_truth(answer.retrieved, "retrieved text").values() for w in _answer_words(text)
    }
    mine = set(_answer_words(answer.text)) - set(_answer_words(answer.question))
    return len(mine & shown) / len(_answer_needs_truth(mine, "word beside the question's"))


def well_formed(answer: MeasuredAnswer) -> float:
    """1 where the answer has its form: JSON, or a regular expression fulfilled from end to end."""
    if _answer_needs_truth(answer.form, "form") != "json":
        return float(re.fullmatch(answer.form, answer.text, re.DOTALL) is not None)
    try:
        json.loads(answer.text)
    except (ValueError, RecursionError):
        return 0.0
    return 1.0


METRICS: Mapping[str, Callable[[MeasuredAnswer], float]] = {
    "accepted_name": accepted_name,
    "exact": exact,
    "token_f1": token_f1,
    "chrf": chrf,
    "string_similarity": string_similarity,
    "citation_precision": citation_precision,
    "citation_recall": citation_recall,
    "groundedness": groundedness,
    "well_formed": well_formed,
}


def edit_distance(mine: str, other: str) -> int:
    """Insertions, deletions and substitutions from one text to the other.

    >>> edit_distance("kitten", "sitting"), edit_distance("", "abc")
    (3, 3)
    """
    codes = np.array([ord(c) for c in other], dtype=np.int64)
    places = np.arange(len(other) + 1)
    row = places.copy()
    for i, letter in enumerate(mine, 1):
        best = np.minimum(row[1:] + 1, row[:-1] + (codes != ord(letter)))
        # what is inserted costs 1 a place: the least of all to the left, each with its distance
        row = np.minimum.accumulate(np.concatenate([[i], best]) - places) + places
    return int(row[-1])


def _answer_metric_value(metric: Callable[[MeasuredAnswer], float], answer: MeasuredAnswer) -> float | str:
    try:
        value = metric(answer)
    except (ConfigError, re.error) as error:
        return str(error)
    return value if math.isfinite(value) else f"the value is {value}"


def _rouge_answer_metric(answers: Sequence[MeasuredAnswer]) -> list[float | str]:
    """F1 of ROUGE-L, by ragas as the evalset's check has it."""
    there = [a for a in answers if a.reference.strip()]
    scores = iter(echo_scores([(a.text, a.reference) for a in there]))
    out: list[float | str] = []
    for answer in answers:
        if not answer.reference.strip():
            out.append("item has no reference")
            continue
        found = next(scores)
        both = found.precision + found.recall
        out.append(2 * found.precision * found.recall / both if both else 0.0)
    return out


def _semantic_answer_metric(answers: Sequence[MeasuredAnswer], embedder: Embedder | None) -> list[float | str]:
    """Cosine of answer and reference, below 0 counted as 0."""
    if embedder is None:
        raise ConfigError("the metric 'semantic' compares vectors; give score_answers an embedder")
    there = [a for a in answers if a.reference.strip() and a.text.strip()]
    vectors = embedder.embed([t for a in there for t in (a.text, a.reference)]) if there else np.zeros((0, 1))
    cosines = {a.item_id: float(vectors[2 * i] @ vectors[2 * i + 1]) for i, a in enumerate(there)}
    return [
        min(max(cosines[a.item_id], 0.0), 1.0) if a.item_id in cosines else "item has no reference or no answer"
        for a in answers
    ]


def _answer_needs_truth(value: _T | None, what: str) -> _T:
    if not value:
        raise ConfigError(f"item has no {what}")
    return value


def _json_values(text: str) -> list[object]:
    """What a JSON text holds, alone in a list; an empty list where it is no JSON."""
    try:
        return [json.loads(text, parse_int=_json_number, parse_float=_json_number, object_pairs_hook=_json_object)]
    except (ValueError, ArithmeticError, RecursionError):
        return []


def _json_object(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    """An object of which no key stands twice: readers differ in which of the values they take."""
    whole = dict(pairs)
    if len(whole) < len(pairs):
        raise ValueError("a key stands twice")
    return whole


def _json_number(text: str) -> tuple[str, Decimal]:
    """A number exactly, and told apart from true and false, which Python counts as 1 and 0."""
    return "number", Decimal(text)


def _bare(text: str) -> str:
    whole = " ".join(text.casefold().split())
    return re.sub(r"^(?:[ ,;:!?\"'`]|\.(?!\d))+", "", whole).rstrip(" .,;:!?\"'`") or whole


def _answer_words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _cited_in_answer(answer: MeasuredAnswer) -> set[str]:
    return set(re.findall(r"\[([^\[\]\s]+)\]", answer.text))


def _f(same: int, mine: int, other: int) -> float:
    return 2 * same / (mine + other) if mine + other else 0.0
