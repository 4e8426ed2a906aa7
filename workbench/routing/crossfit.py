"""Predictions for prompts by routers that were fitted without their clusters."""

import numpy as np

from workbench.errors import EvalsetError
from workbench.evalset.outcomes import Outcomes
from workbench.records import content_hash
from workbench.routing.policies import Policy, Router

FOLDS = 5


def fit_policy(policy: Policy, outcomes: Outcomes) -> Router:
    """Fit on all prompts given."""
    return policy.fit(outcomes.requests, outcomes.quality, outcomes.cost_usd, outcomes.models)


def cross_predict(policy: Policy, outcomes: Outcomes) -> np.ndarray:
    """Predicted quality, shape (prompts, models), each by a router that saw no prompt of the same cluster.

    Raises
    ------
    EvalsetError
        If there are fewer clusters than folds.
    """
    fold = fold_of(outcomes.clusters)
    predicted = np.full(outcomes.quality.shape, np.nan)
    for i in range(FOLDS):
        held, rest = np.flatnonzero(fold == i), np.flatnonzero(fold != i)
        router = fit_policy(policy, outcomes.take(rest))
        predicted[held] = router.predictor.predict(outcomes.requests.take(held))
    return predicted


def fold_of(clusters: np.ndarray, folds: int = FOLDS) -> np.ndarray:
    """Fold of each prompt: clusters in the order of their hash, dealt out one by one, so that none is in two."""
    names = sorted(set(clusters), key=content_hash)
    if len(names) < folds:
        raise EvalsetError(f"cross-fitting in {folds} folds needs as many clusters, found {len(names)}")
    place = {name: i % folds for i, name in enumerate(names)}
    return np.array([place[c] for c in clusters])
