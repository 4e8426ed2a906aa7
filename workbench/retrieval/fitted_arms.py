"""Strategies with parameters that are learned on the dev questions, and never see a test question."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from workbench.errors import NothingToFit
from workbench.evalset.evalset import Qrels, Split
from workbench.records import Hit, Query, content_hash
from workbench.rendering.numbers import counted
from workbench.rendering.progress import Progress
from workbench.retrieval.arms import make_arm
from workbench.retrieval.metrics import best_first, dcg
from workbench.retrieval.rerank import fit_ranker
from workbench.retrieval.searcher import Searcher
from workbench.retrieval.strategies import Arm, Hybrid, Question, Strategy, Weighted, scaled_hits

FOLDS = 5
LEAST_TO_FIT = 2  # question families: one to learn on, one to be judged by
WEIGHTS = tuple(round(0.05 * i, 2) for i in range(21))
Fit = Callable[[Iterable[str]], Strategy]  # of the questions with these ids
Legs = Mapping[str, tuple[Question, Sequence[Hit], Sequence[Hit]]]


@dataclass(frozen=True, slots=True)
class FittedArm:
    """An arm fitted on all dev questions, and for each dev cluster the strategy fitted without its fold.

    On dev the arm is scored with the latter, or it would be picked for having seen the answers.
    """

    arm: Arm
    held_out: Mapping[str, Strategy]


def fit_arms(
    searcher: Searcher,
    chunkers: Sequence[str],
    names: Sequence[str],
    dev: Split,
    *,
    embedder: str,
    store: str = "lance",
    timed: bool = True,
) -> tuple[list[FittedArm], dict[str, str]]:
    """Fit the named strategies on dev, over the legs of the default hybrid, for each chunker.

    Unless ``timed``, searches for vectors are made many in one go, and the time of what is kept of them means nothing.

    Returns
    -------
    list of FittedArm, and dict
        Arms, and by name why each of the others has nothing to be fitted on.

    Raises
    ------
    SplitError
        If a question is not of dev.
    """
    dev.require_dev("fitting an arm")
    out, unfit = [], dict[str, str]()
    for chunker in chunkers if names else ():
        hybrid = Hybrid()
        base = make_arm(chunker, "hybrid_rrf", hybrid, embedder=embedder, store=store)
        searcher.prepare(base)
        legs, bar = {}, Progress(f"dev questions to fit {', '.join(names)}", len(dev.queries))
        found_for = partial(_legs, searcher, base, hybrid)
        with searcher.found.ahead():  # arms of the grid ask for the same on dev
            if not timed:
                searcher.found.search_together(found_for, dev.queries)
            for done, query in enumerate(dev.queries, start=1):
                legs[query.query_id] = found_for(query)
                bar.update(done)
        bar.done(f"{base.name}: asked {counted(len(dev.queries), 'dev question')} to fit {', '.join(names)}")
        for name in names:
            try:
                out.append(_fit_arm(name, base, chunker, legs, dev))
            except NothingToFit as error:
                unfit[make_arm(chunker, name, hybrid, embedder=embedder, store=store).name] = str(error)
    return out, unfit


def _legs(searcher: Searcher, arm: Arm, hybrid: Hybrid, query: Query) -> tuple[Question, list[Hit], list[Hit]]:
    question = searcher.question(arm, query)
    return question, *hybrid.legs(searcher.handle(arm, query.tenant_id), question)


def _fit_arm(name: str, base: Arm, chunker: str, legs: Legs, dev: Split) -> FittedArm:
    fit = FITTERS[name](legs, dev.qrels)
    clusters = sorted({q.cluster for q in dev.queries}, key=content_hash)
    fold = {c: i % FOLDS for i, c in enumerate(clusters)}
    by_fold = {}
    for i in set(fold.values()):
        rest = {q.query_id for q in dev.queries if fold[q.cluster] != i}
        if not rest:
            raise NothingToFit(f"fitting {name!r} needs at least two question families on dev, found {len(clusters)}")
        by_fold[i] = fit(rest)
    arm = make_arm(chunker, name, fit(legs), embedder=base.embedder, store=base.store)
    return FittedArm(arm, {c: by_fold[fold[c]] for c in clusters})


def fit_arm_weight(legs: Legs, qrels: Qrels) -> Hybrid:
    """Weight of the vector leg with the highest mean nDCG@10 on the given questions."""
    return _weight_fitter(legs, qrels)(legs)


def _weight_fitter(legs: Legs, qrels: Qrels) -> Callable[[Iterable[str]], Hybrid]:
    """`fit_arm_weight` of any of these questions: what each weight is worth on a question is the same in every fold."""
    worth = {query_id: _worth(legs[query_id][1:], qrels[query_id]) for query_id in legs}

    def fit(query_ids: Iterable[str]) -> Hybrid:
        total = np.zeros(len(WEIGHTS))
        for query_id in sorted(query_ids):
            total += worth[query_id]
        return Hybrid(fusion=Weighted(WEIGHTS[int(total.argmax())]))

    return fit


def _worth(legs: Sequence[Sequence[Hit]], grades_of: Mapping[str, float]) -> np.ndarray:
    """nDCG@10 of one question by weight, shape (weights,)."""
    weights, (text, vector) = np.array(WEIGHTS)[:, None], map(scaled_hits, legs)
    found = sorted(text.keys() | vector.keys())
    fused = (1 - weights) * [text.get(d, 0.0) for d in found] + weights * [vector.get(d, 0.0) for d in found]
    # What `Weighted.fuse` does, for all weights at once. `found` stands by id, so a place stands for its id.
    best = np.lexsort(best_first(fused, np.broadcast_to(range(len(found)), fused.shape))[::-1])[:, :10]
    grades = np.array([max(grades_of.get(d, 0), 0) for d in found], float)
    ideal = np.array([sorted((max(g, 0) for g in grades_of.values()), reverse=True)[:10]], float)
    worth: np.ndarray = dcg(grades[best]) / (dcg(ideal)[0] or 1.0)
    return worth


FITTERS: Mapping[str, Callable[[Legs, Qrels], Fit]] = {
    "hybrid_weighted": _weight_fitter,
    "reranked": lambda legs, qrels: lambda asked: fit_ranker({q: legs[q] for q in asked}, qrels, first=Hybrid()),
}
