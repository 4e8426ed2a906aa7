"""Cache arms as claims: the same words for "off, exact, or semantic at a threshold" as for every other question.

How caching maps onto `Claim` and `Rule`:

- The reference is ``off``: it serves nothing from a cache, so its false-hit rate is 0, and "not worse than the
  reference by more than the margin" reads "false-hit rate at most alpha". The metric is better where it is lower
  (``Rule.direction``), the margin is alpha.
- ``difference`` with ``low`` and ``high`` is the certificate: the rate on the calibration part with its one-sided,
  cluster-robust bounds. ``estimate`` with its two-sided 95 % interval is the true replay of that one threshold on the
  later part, which the threshold was not chosen on.
- The rate of a semantic arm is that of the hits which *similarity* decided: exact repeats are served with it, but
  would dilute the rate of what it adds. A text that a verifier promoted later is answered with another text's answer:
  its repeats are no exact ones, and count.
- ``exact`` makes no statement about unseen pairs of texts. As long as no repeat had another answer it is ``identical``
  to asking again; otherwise its bound decides.
- Must-differ pairs served above their limit break an arm, whatever its rate. Where the limit is a share, the upper
  bound of the share served must keep to it; an arm that is not shown to is ``inconclusive``, and ``broken`` where it
  is shown not to.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import betaln, gammaln

from workbench.caching.guard import Guard
from workbench.caching.threshold_certificate import (
    POWER,
    HitCounts,
    ThresholdCertificate,
    clopper_pearson,
    korn_graubard,
)
from workbench.caching.verifiers import LATER, Later, VerifierUsed
from workbench.codec import NEUTRAL
from workbench.evalset.gates import PairLimit
from workbench.evalset.traffic import Pair
from workbench.evaluation.compare import MIN_CLUSTERS, spent_confidence
from workbench.evaluation.decision import Outcome
from workbench.evaluation.decision_sentences import cost_words
from workbench.records import Claim, GateStatus, Rule, parameters_of
from workbench.rendering.numbers import counted, monthly, percent
from workbench.rendering.table import Interval

METRIC = "false_hit_rate"
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class CacheArm:
    """A cache as a value; ``threshold`` is the cosine from which it serves, ``encoder_id`` what that rests on.

    With ``later`` the verifier is asked off the path, and ``guard`` alone decides what is served at once.
    """

    kind: Literal["off", "exact", "semantic"]
    threshold: float | None = None
    guard: Guard | None = None
    encoder_id: str = ""
    verifier: VerifierUsed | None = field(default=None, metadata={NEUTRAL: None})
    later: Later | None = field(default=None, metadata={NEUTRAL: None})

    @property
    def name(self) -> str:
        """Name in tables.

        >>> CacheArm("semantic", 0.89, Guard()).name
        'semantic@0.89+guard'
        """
        at = "" if self.threshold is None else f"@{self.threshold:g}"
        return f"{self.kind}{at}{'+guard' if self.guard else ''}{f'+{self.asked}' if self.verifier else ''}"

    @property
    def asked(self) -> str:
        """Verifier, and whether it is asked later; "" for none."""
        return f"{LATER if self.later else ''}{self.verifier.name}" if self.verifier else ""

    @property
    def way(self) -> str:
        """How a semantic cache matches, whatever its threshold."""
        verified = f" + {self.asked}" if self.verifier else ""
        return f"similarity{' + guard' if self.guard else ''}{verified}"


@dataclass(frozen=True, slots=True)
class PairsServed:
    """Labelled test pairs that a cache would serve, of those that must differ and of those that may share an answer.

    ``low`` and ``high`` are one-sided bounds of the share of must-differ pairs served.
    """

    must_differ: int = 0
    of_must_differ: int = 0
    low: float = 0.0
    high: float = 1.0
    may_share: int = 0
    of_may_share: int = 0

    def status(self, limit: PairLimit) -> GateStatus | None:
        """What the pairs that must differ say against a cache, None for nothing; a share is limited by its bound."""
        if limit.share is None:
            return "broken" if self.must_differ > limit.most(self.of_must_differ) else None
        if self.high <= limit.share:
            return None
        return "broken" if self.low > limit.share else "inconclusive"

    def sentence(self) -> str:
        """What a reader is told; nothing where there are no pairs."""
        if not self.of_must_differ:
            return ""
        must = f"{self.must_differ} of {counted(self.of_must_differ, 'test pair')} that must not share an answer"
        may = f", and {self.may_share} of {self.of_may_share} that may" if self.of_may_share else ""
        return f"It serves {must} (at most {percent(self.high, 1)}){may}. "


def false_hit_rate(false: np.ndarray, of: np.ndarray, clusters: np.ndarray, confidence: float = 0.975) -> Interval:
    """Rate of ``false`` among ``of`` with cluster-robust bounds, by default those of the two-sided 95 % interval."""
    m = int(clusters.max()) + 1
    sums = [np.bincount(clusters[mask], minlength=m)[:, None].astype(float) for mask in (of, false & of)]
    counts = HitCounts(np.array([0.0]), sums[0], sums[1], sums[0][:, 0])
    low, high = korn_graubard(counts, confidence)
    return Interval(float(counts.rate[0]), float(low[0]), float(high[0]))


def pairs_served_bounds(served: Bools, of: Bools, pairs: Sequence[Pair], confidence: float = 0.95) -> Interval:
    """Share of pairs that are served with its one-sided bounds; pairs of one question family share fate.

    Where none is served, every family counts as one pair; but none served never shows less than one served would. A
    pair that stands there again in the same words is no further pair.
    """
    if not of.any():
        return Interval(0.0, 0.0, 1.0)
    first: dict[tuple[str, ...], int] = {}
    for i in np.flatnonzero(of).tolist():
        first.setdefault((pairs[i].tenant_id, pairs[i].cluster, pairs[i].query_a, pairs[i].query_b), i)
    of = np.isin(np.arange(len(of)), list(first.values()))
    families = np.unique([p.cluster for p in pairs], return_inverse=True)[1]
    found = false_hit_rate(served & of, of, families, confidence)
    if (served & of).any():
        return found
    one = np.zeros_like(of)
    one[np.flatnonzero(of)[0]] = True
    return replace(found, high=min(found.high or 1.0, false_hit_rate(one, of, families, confidence).high or 1.0))


def pair_families_needed(limit: PairLimit, confidence: float = 0.95) -> int:
    """Fewest families of must-differ test pairs, one pair each, of which none served keeps to the limit.

    Where the limit is a share, its upper bound must; a count bounds nothing, and what any claim needs is asked for.

    >>> pair_families_needed(PairLimit(share=0.05)), pair_families_needed(PairLimit(count=0))
    (61, 30)
    """
    if limit.share is None:
        return MIN_CLUSTERS

    def high(m: int) -> float:
        every, none, one = np.ones(m, bool), np.zeros(m, bool), np.arange(m) == 0
        return min(false_hit_rate(served, every, np.arange(m), confidence).high or 1.0 for served in (none, one))

    most = MIN_CLUSTERS
    while high(most) > limit.share:
        most *= 2
    return bisect_left(range(most), -limit.share, lo=MIN_CLUSTERS, key=lambda m: -high(m))


def most_on_dev(limit: PairLimit, dev: int, test: int, confidence: float = 0.95) -> int:
    """How many of ``dev`` pairs that must differ a threshold may serve, if ``test`` others are to show it good enough.

    A count is what it says. A share must be kept by the upper bound on test, which a threshold that just keeps it on
    dev misses more often than not: so few may be served that test is passed with probability `POWER`, by what dev tells
    of the share (Jeffreys prior, beta-binomial); none where even that does not reach it.

    >>> [most_on_dev(PairLimit(share=0.02), 480, test, 0.97) for test in (100, 350, 1000)]
    [0, 1, 3]
    >>> most_on_dev(PairLimit(count=2), 480, 350)
    2
    """
    most = limit.most(dev)
    if limit.share is None or not test or not most:
        return most
    served = np.arange(test + 1.0)
    # none served shows no more than one served would, see `bounds_of_pairs`
    high = clopper_pearson(np.maximum(served, 1), np.full(test + 1, float(test)), confidence)[1]
    passed = served[high <= limit.share]
    found = np.arange(most + 1)[:, None]
    chance = np.exp(
        gammaln(test + 1) - gammaln(passed + 1) - gammaln(test - passed + 1)
        + betaln(found + passed + 0.5, dev - found + test - passed + 0.5) - betaln(found + 0.5, dev - found + 0.5)
    ).sum(1)  # fmt: skip
    return max((int(k) for k in np.flatnonzero(chance >= POWER)), default=0)


@dataclass(frozen=True, slots=True)
class CacheResult:
    """One arm with its certificate and what its true replay did on the test part.

    Attributes
    ----------
    certificate : Certificate or None
        None for ``off``.
    served : Counts
        The hits that the arm's own claim is about, at its one threshold, by cluster.
    hit_rate, error_rate, check_rate, others_rate : float
        All hits, all false hits, what a verifier was asked, and hits with the answer to another text, by requests.
    pairs : PairsServed
        What it does with the labelled test pairs.
    """

    arm: CacheArm
    certificate: ThresholdCertificate | None
    served: HitCounts
    hit_rate: float
    error_rate: float
    cost_usd_per_1k: float
    pairs: PairsServed = PairsServed()
    check_rate: float = 0.0
    others_rate: float = 0.0

    @property
    def rate(self) -> float:
        """False hits by hits."""
        return float(self.served.rate[0])

    @property
    def interval(self) -> tuple[float, float]:
        """Two-sided 95 % interval of the rate, cluster-robust."""
        low, high = korn_graubard(self.served, 0.975)
        return float(low[0]), float(high[0])


def make_cache_claim(
    result: CacheResult,
    rule: Rule,
    *,
    must_differ_limit: PairLimit,
    amounts: Mapping[str, float] = MappingProxyType({}),
) -> Claim:
    """Claim of one arm; how the fields are to be read stands at the top of this module."""
    certificate, served = result.certificate, result.served
    status, note = _cache_claim_status(result, rule, must_differ_limit)
    # identical says nothing of a population: no bounds
    bounds = (certificate.low, certificate.high) if certificate and status != "identical" else (0.0, 0.0)
    low, high = result.interval if served.hits.any() else (0.0, 0.0 if result.arm.kind == "off" else 1.0)
    return Claim(
        arm=result.arm.name,
        parameters=parameters_of(result.arm),
        status=status,
        estimate=result.rate,
        estimate_low=low,
        estimate_high=high,
        difference=certificate.rate if certificate else 0.0,
        low=bounds[0],
        high=bounds[1],
        cost_usd_per_1k=result.cost_usd_per_1k,
        latency_p95_ms=None,
        coverage=1.0,
        n_items=int(served.requests.sum()),
        n_clusters=int((served.requests > 0).sum()),
        n_clusters_differ=int((served.false[:, 0] > 0).sum()),
        items_needed=certificate.labels_needed if certificate and status == "inconclusive" else None,
        note="" if result.arm.kind == "off" else note,
        amounts=dict(amounts),
    )


def _cache_claim_status(result: CacheResult, rule: Rule, must_differ_limit: PairLimit) -> tuple[GateStatus, str]:
    certificate = result.certificate
    if certificate is None or not (certificate.hits or result.served.hits.any()):
        return "identical", "nothing was served" + (f": {certificate.note}" if certificate else "")
    found = (
        f"{certificate.false:,} false of {counted(certificate.hits, 'hit')} in "
        f"{counted(certificate.clusters, 'cluster')}"
    )
    if result.arm.kind == "semantic" and (against := result.pairs.status(must_differ_limit)):
        share = "" if must_differ_limit.share is None else f", at most {percent(result.pairs.high, 1)} of such"
        limit = f"limit {must_differ_limit}"
        return against, f"{found}, but it serves {result.pairs.must_differ} must-differ pairs{share} ({limit})"
    if result.arm.kind == "exact":
        return _exact_cache_status(result, certificate, rule.margin), found
    if not certificate.certified:
        hopeless = certificate.labels_needed is None and certificate.low > rule.margin
        return ("broken" if hopeless else "inconclusive"), f"{found}: {certificate.note}"
    low = korn_graubard(result.served, spent_confidence(rule.confidence, rule.use))[0][0]
    if result.rate > rule.margin:
        worse: GateStatus = "broken" if low > rule.margin else "inconclusive"
        return worse, f"{found}: certified, but {percent(result.rate, 2)} of later hits are false"
    return "holds", f"certified on {found}, design effect {certificate.design_effect:.1f}"


def _exact_cache_status(result: CacheResult, certificate: ThresholdCertificate, alpha: float) -> GateStatus:
    if not certificate.false and not result.served.false.any():
        return "identical"
    if certificate.high <= alpha and result.rate <= alpha:
        return "holds"
    return "broken" if certificate.low > alpha else "inconclusive"


def cache_sentence(outcome: Outcome, results: Sequence[CacheResult], claims: Sequence[Claim], rule: Rule) -> str:
    """What a reader is told, in the words of caching."""
    if outcome.verdict == "inconclusive" and outcome.sentence.startswith("Cannot tell: too few"):
        return outcome.sentence
    by_name, of_claims = {r.arm.name: r for r in results}, {c.arm: c for c in claims}
    best = by_name[outcome.arm]
    prices = cost_words(of_claims[outcome.arm], of_claims["off"], rule)
    prices += " of made-up traffic" if outcome.verdict == "provisional" else ""
    start = "Provisionally use" if outcome.verdict == "provisional" else "Use"
    if best.arm.kind == "semantic":
        low, high = best.interval
        which = "similarity hits, promoted texts included," if best.arm.later else "similarity hits"
        return (
            f"{start} {outcome.arm}: shown at {percent(rule.confidence)} confidence that at most "
            f"{percent(rule.margin)} of its {which} are false; replayed on later traffic "
            f"{percent(best.rate, 1)} were [{percent(low, 1)}, {percent(high, 1)}]. {best.pairs.sentence()}{prices}."
        )
    refused = [c for c in claims if c.status in ("inconclusive", "broken")]
    why = "; ".join(f"{c.arm}: {c.note}" for c in refused)
    if best.arm.kind == "exact":
        rest = f"Not shown to be good enough: {why}" if why else "No similarity that is good enough saves more"
        return f"{start} exact repeats alone. {prices}. {rest}."
    if outcome.verdict == "inconclusive":
        return f"Cannot tell yet, keep the cache off meanwhile. {why}."
    if why:
        return f"Keep the cache off: nothing that saves is shown to be good enough. {why}."
    served = [r for r in results if r.hit_rate > 0]
    if not served:
        return "Keep the cache off: there was nothing to serve."
    most = max(served, key=lambda r: usd_without_cache(by_name) - r.cost_usd_per_1k)
    saved = rule.monthly_usd(usd_without_cache(by_name) - most.cost_usd_per_1k)
    return (
        f"Keep the cache off: {most.arm.name} would serve {percent(most.hit_rate, 1)} of requests and save "
        f"{monthly(saved)} at {counted(rule.requests_per_month, 'request')}, which does not count."
    )


def usd_without_cache(results: Mapping[str, CacheResult]) -> float:
    """What 1,000 requests cost without a cache."""
    return results["off"].cost_usd_per_1k
