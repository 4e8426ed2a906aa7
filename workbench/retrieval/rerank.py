"""Rerankers over the legs of a hybrid search: one learned on the dev questions, one cross-encoder by name."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np

from workbench.errors import ConfigError, NothingToFit
from workbench.inference.prices import Work
from workbench.records import Hit, ShortRepr
from workbench.retrieval.index_kinds import VectorIndex
from workbench.retrieval.strategies import Hybrid, Question, ordered_hits, scaled_hits
from workbench.retrieval.tenant import TenantHandle

_WORD = re.compile(r"[^\W_]+")
FEATURES = ("text score", "vector score", "cosine", "text rank", "vector rank", "in both", "id overlap", "id length")


def rerank_features(question: Question, text: Sequence[Hit], vector: Sequence[Hit]) -> tuple[list[str], np.ndarray]:
    """Candidates of both legs and their features, shape (candidates, 8), in the order of `FEATURES`.

    Scores are scaled within the question, ranks are reciprocal (1 / (10 + rank)), and the overlap is the share
    of the words of the document id that the question names: what a user half remembers.
    """
    text_scaled, vector_scaled = scaled_hits(text), scaled_hits(vector)
    cosine = {h.doc_id: h.score for h in vector}
    floor = min(cosine.values(), default=0.0)
    text_rank = {h.doc_id: 1 / (10 + i) for i, h in enumerate(text, 1)}
    vector_rank = {h.doc_id: 1 / (10 + i) for i, h in enumerate(vector, 1)}
    candidates = sorted(text_rank.keys() | vector_rank.keys())
    asked = set(_rerank_words(question.text))
    rows = []
    for doc_id in candidates:
        name = _rerank_words(doc_id.rsplit(".", 1)[-1])
        rows.append(
            (
                text_scaled.get(doc_id, 0.0),
                vector_scaled.get(doc_id, 0.0),
                cosine.get(doc_id, floor),
                text_rank.get(doc_id, 0.0),
                vector_rank.get(doc_id, 0.0),
                float(doc_id in text_rank and doc_id in vector_rank),
                sum(w in asked for w in name) / max(len(name), 1),
                float(len(name)),
            )
        )
    return candidates, np.array(rows, float).reshape(len(candidates), len(FEATURES))


class _Reranker(ShortRepr):
    """What every reranker has of the hybrid search that it starts from."""

    __slots__ = ()
    first: Hybrid
    uses_vectors: ClassVar[bool] = True

    @property
    def index(self) -> VectorIndex:
        """Index of the vector leg."""
        return self.first.index

    def plan(self, handle: TenantHandle, question: Question) -> dict[str, str]:
        """Plans of the legs, and what ranks their hits."""
        return self.first.plan(handle, question) | {"ranker": repr(self)}


@dataclass(frozen=True, slots=True, repr=False)
class LearnedRanker(_Reranker):
    """A linear ranker over `FEATURES`, fitted on dev questions; its weights are part of its name and print."""

    weights: tuple[float, ...]
    first: Hybrid = Hybrid()

    def search(self, handle: TenantHandle, question: Question, k: int) -> list[Hit]:
        """Candidates of both legs by the learned score."""
        candidates, rows = rerank_features(question, *self.first.legs(handle, question))
        scores = rows @ np.array(self.weights)
        return ordered_hits(map(Hit, candidates, scores.tolist()))[:k]

    def work(self, rows: int) -> list[Work]:
        """The hybrid search and one pass over its candidates."""
        return [*self.first.work(rows), Work("rerank_learned")]


def fit_ranker(
    legs: Mapping[str, tuple[Question, Sequence[Hit], Sequence[Hit]]],
    qrels: Mapping[str, Mapping[str, int]],
    *,
    first: Hybrid,
) -> LearnedRanker:
    """Fit a linear ranker by pairwise logistic regression (RankNet's loss, Burges et al. 2005) on dev questions.

    Parameters
    ----------
    legs : mapping of query id to (question, text hits, vector hits)
        Both legs of ``first`` for each dev question.
    qrels : mapping of query id to {doc_id: grade}
        Judgements of the dev questions; what is not judged counts as not relevant.

    Raises
    ------
    NothingToFit
        If no dev question has both a relevant and another candidate to learn from.
    """
    from sklearn.linear_model import LogisticRegression

    pairs, weights = [], []
    for query_id, (question, text, vector) in legs.items():
        candidates, rows = rerank_features(question, text, vector)
        grades = np.array([qrels[query_id].get(c, 0) for c in candidates])
        mine = [rows[i] - rows[j] for i in np.flatnonzero(grades > 0) for j in np.flatnonzero(grades < grades[i])]
        pairs += mine
        weights += [1 / max(len(mine), 1)] * len(mine)  # each question weighs the same
    if not pairs:
        raise NothingToFit("no dev question has a relevant candidate beside another: nothing to fit a ranker on")
    x = np.array(pairs)
    x, y = np.r_[x, -x], np.r_[np.ones(len(x)), np.zeros(len(x))]
    scale = x.std(0) + 1e-12
    model = LogisticRegression(C=1.0, fit_intercept=False, max_iter=1000)
    model.fit(x / scale, y, sample_weight=np.r_[weights, weights])
    return LearnedRanker(tuple(round(float(w), 6) for w in model.coef_[0] / scale), first)


@dataclass(frozen=True, slots=True, repr=False)
class CrossEncoderRanker(_Reranker):
    """A cross-encoder over the first ``depth`` hits, where sentence-transformers and its weights are at hand."""

    model: str
    first: Hybrid = Hybrid()
    depth: int = 50

    def search(self, handle: TenantHandle, question: Question, k: int) -> list[Hit]:
        """First hits, ordered by the cross-encoder's score of (question, text)."""
        hits = self.first.search(handle, question, self.depth)
        texts = handle.documents([h.doc_id for h in hits])
        pairs = [(question.text, "\n".join(texts[h.doc_id])) for h in hits]
        scores = _cross_encoder(self.model).predict(pairs)
        return ordered_hits(Hit(h.doc_id, float(s)) for h, s in zip(hits, scores, strict=True))[:k]

    def work(self, rows: int) -> list[Work]:
        """The hybrid search and one forward pass for each candidate."""
        return [*self.first.work(rows), *[Work("cross_encode")] * self.depth]


@cache
def _cross_encoder(model: str) -> Any:
    try:
        from sentence_transformers import CrossEncoder
    except ImportError as error:
        raise ConfigError(f"reranker {model!r} needs: pip install sentence-transformers") from error
    return CrossEncoder(model)


def _rerank_words(text: str) -> list[str]:
    return _WORD.findall(text.lower())
