"""Decisions of the real rule on scores that are drawn: for property tests, and to look at reports of every verdict."""

from collections.abc import Sequence

import numpy as np

from workbench.evaluation.compare import pairwise, spent_confidence
from workbench.evaluation.decision import ArmFacts, ArmValues, claims_of, decide
from workbench.records import Decision, Fingerprint, Rule

DRAWS = 200  # few, because what is tested is what is told


def drawn(
    rule: Rule,
    means: Sequence[float],
    usd_per_1k: Sequence[float],
    *,
    names: Sequence[str],
    n_clusters: int = 80,
    noise: float = 0.15,
    n_dev_clusters: int = 40,
    latency_ms: Sequence[float | None] | None = None,
    chosen_share: dict[str, float] | None = None,
    seed: int = 0,
) -> Decision:
    """Decision on arms of these means, with two questions in each family."""
    rng = np.random.default_rng(seed)
    clusters = np.repeat(np.arange(n_clusters), 2)
    shared = rng.normal(0, 0.1, 2 * n_clusters)
    scores = np.stack([np.clip(m + shared + rng.normal(0, noise, len(shared)), 0, 1) for m in means])
    values = ArmValues(scores, scores, scores, clusters, np.ones(len(means)))
    ms = latency_ms or [12.0 + 7 * i for i in range(len(names))]
    facts = [
        ArmFacts(n, {"kind": n}, usd, late, i)
        for i, (n, usd, late) in enumerate(zip(names, usd_per_1k, ms, strict=True))
    ]
    pairs = pairwise(
        scores, scores, clusters, confidence=spent_confidence(rule.confidence, rule.use), draws=DRAWS, seed=seed
    )
    claims = claims_of(values, facts, rule, pairs, seed=seed)
    outcome = decide(claims, rule, order={f.name: f.order for f in facts}, n_dev_clusters=n_dev_clusters)
    return Decision(
        notebook="retrieval",
        question="Which retrieval strategy is the cheapest that is good enough?",
        profile="ci",
        rule=rule,
        verdict=outcome.verdict,
        arm=outcome.arm,
        parameters={"kind": outcome.arm},
        sentence=outcome.sentence,
        claims=claims,
        n_items=claims[0].n_items,
        n_clusters=claims[0].n_clusters,
        items_needed=outcome.items_needed,
        test_uses=rule.use,
        fingerprint=Fingerprint({"queries": "9f2b41c07ad6" * 5}),
        notes=outcome.notes,
        chosen_share=chosen_share or {},
        evalset="ours",
        n_documents=232,
        n_dev_clusters=n_dev_clusters,
    )
