"""Cache arms as claims: the same words for "off, exact, or semantic at a threshold" as for every other question.

How caching maps onto `Claim` and `Rule`:

- The reference is ``off``: it serves nothing from a cache, so its false-hit rate is 0, and "not worse than the
  reference by more than the margin" reads "false-hit rate at most alpha". The metric is better where it is lower
  (``Rule.direction``), the margin is alpha.
- ``difference`` with ``low`` and ``high`` is the certificate: the rate on the calibration part with its one-sided,
  cluster-robust bounds. ``estimate`` with its two-sided 95 % interval is the true replay of that one threshold on the
  later part, which the threshold was not chosen on.
- The rate of a semantic arm is that of the hits which *similarity* decided: exact repeats are served with it, but
  would dilute the rate of what it adds.
- ``exact`` makes no statement about unseen pairs of texts. As long as no repeat had another answer it is ``identical``
  to asking again; otherwise its bound decides.
- Must-differ pairs served above their limit break an arm, whatever its rate.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from workbench.caching.guards import Guard
from workbench.evaluation.bounds import Counts, korn_graubard
from workbench.evaluation.certification import Certificate
from workbench.evaluation.decision import Outcome
from workbench.records import Claim, GateStatus, Rule, parameters_of

METRIC = "false_hit_rate"


@dataclass(frozen=True, slots=True)
class CacheArm:
    """A cache as a value; ``threshold`` is the cosine from which it serves, ``encoder_id`` what that rests on."""

    kind: Literal["off", "exact", "semantic"]
    threshold: float | None = None
    guard: Guard | None = None
    encoder_id: str = ""

    @property
    def name(self) -> str:
        """Name in tables.

        >>> CacheArm("semantic", 0.89, Guard()).name
        'semantic@0.89+guard'
        """
        at = "" if self.threshold is None else f"@{self.threshold:g}"
        return f"{self.kind}{at}{'+guard' if self.guard else ''}"


@dataclass(frozen=True, slots=True)
class CacheResult:
    """One arm with its certificate and what its true replay did on the test part.

    Attributes
    ----------
    certificate : Certificate or None
        None for ``off``.
    served : Counts
        The hits that the arm's own claim is about, at its one threshold, by cluster.
    hit_rate, error_rate : float
        All hits, and all false hits, by requests.
    must_differ : int
        Test pairs that need different answers and would be served.
    """

    arm: CacheArm
    certificate: Certificate | None
    served: Counts
    hit_rate: float
    error_rate: float
    cost_usd_per_1k: float
    must_differ: int = 0

    @property
    def rate(self) -> float:
        """False hits by hits."""
        return float(self.served.rate[0])

    @property
    def interval(self) -> tuple[float, float]:
        """Two-sided 95 % interval of the rate, cluster-robust."""
        low, high = korn_graubard(self.served, 0.975)
        return float(low[0]), float(high[0])


def make_claim(result: CacheResult, rule: Rule, *, must_differ_limit: int) -> Claim:
    """Claim of one arm; how the fields are to be read stands at the top of this module."""
    certificate, served = result.certificate, result.served
    status, note = _status(result, rule, must_differ_limit)
    low, high = result.interval if served.hits.any() else (0.0, 0.0 if result.arm.kind == "off" else 1.0)
    return Claim(
        arm=result.arm.name,
        parameters=parameters_of(result.arm),
        status=status,
        estimate=result.rate,
        estimate_low=low,
        estimate_high=high,
        difference=certificate.rate if certificate else 0.0,
        low=certificate.low if certificate else 0.0,
        high=certificate.high if certificate else 0.0,
        cost_usd_per_1k=result.cost_usd_per_1k,
        latency_p95_ms=None,
        coverage=1.0,
        n_items=int(served.requests.sum()),
        n_clusters=int((served.requests > 0).sum()),
        n_clusters_differ=int((served.false[:, 0] > 0).sum()),
        items_needed=certificate.labels_needed if certificate and status == "inconclusive" else None,
        note="" if result.arm.kind == "off" else note,
    )


def _status(result: CacheResult, rule: Rule, must_differ_limit: int) -> tuple[GateStatus, str]:
    certificate = result.certificate
    if certificate is None or not (certificate.hits or result.served.hits.any()):
        return "identical", "nothing was served"
    found = f"{certificate.false:,} false of {certificate.hits:,} hits in {certificate.clusters} clusters"
    if result.must_differ > must_differ_limit:
        return "broken", f"{found}, but it serves {result.must_differ} must-differ pairs (limit {must_differ_limit})"
    if result.arm.kind == "exact":
        return _exact_status(result, certificate, rule.margin), found
    if not certificate.certified:
        hopeless = certificate.labels_needed is None and certificate.low > rule.margin
        return ("broken" if hopeless else "inconclusive"), f"{found}: {certificate.note}"
    low = korn_graubard(result.served, rule.confidence)[0][0]
    if result.rate > rule.margin:
        worse: GateStatus = "broken" if low > rule.margin else "inconclusive"
        return worse, f"{found}: certified, but {result.rate:.2%} of later hits are false"
    return "holds", f"certified on {found}, design effect {certificate.design_effect:.1f}"


def _exact_status(result: CacheResult, certificate: Certificate, alpha: float) -> GateStatus:
    if not certificate.false and not result.served.false.any():
        return "identical"
    if certificate.high <= alpha and result.rate <= alpha:
        return "holds"
    return "broken" if certificate.low > alpha else "inconclusive"


def sentence_of(outcome: Outcome, results: Sequence[CacheResult], claims: Sequence[Claim], rule: Rule) -> str:
    """What a reader is told, in the words of caching."""
    by_name = {r.arm.name: r for r in results}
    best, off = by_name[outcome.arm], by_name["off"]
    saved = 1 - best.cost_usd_per_1k / off.cost_usd_per_1k if off.cost_usd_per_1k else 0.0
    prices = f"${best.cost_usd_per_1k:.3g} instead of ${off.cost_usd_per_1k:.3g} per 1,000 requests ({saved:.0%} less)"
    start = "Provisionally use" if outcome.verdict == "provisional" else "Use"
    if best.arm.kind == "semantic":
        low, high = best.interval
        return (
            f"{start} {outcome.arm}: shown at {rule.confidence:.0%} confidence that at most {rule.margin:.0%} of its "
            f"similarity hits are false; replayed on later traffic {best.rate:.1%} were [{low:.1%}, {high:.1%}]. "
            f"{prices}."
        )
    why = "; ".join(f"{c.arm}: {c.note}" for c in claims if c.status in ("inconclusive", "broken"))
    if best.arm.kind == "exact":
        return f"{start} exact repeats alone: {prices}. What is not shown to be good enough: {why or 'nothing'}."
    if outcome.verdict == "inconclusive":
        return f"Cannot tell yet, keep the cache off meanwhile. {why}."
    return f"Keep the cache off: nothing that saves is shown to be good enough. {why or 'Nothing was served'}."


def no_hits(clusters: np.ndarray) -> Counts:
    """Counts of an arm that serves nothing."""
    requests = np.bincount(clusters).astype(float)
    empty = np.zeros((len(requests), 1))
    return Counts(np.array([np.inf]), empty, empty, requests)
