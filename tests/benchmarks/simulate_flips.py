# ruff: noqa: T201
"""Whether flip points foretell what the rule decides: ``python -m tests.benchmarks.simulate_flips [changes]``.

Decisions are made from drawn scores, prices and rules, written to JSON and read back. Then one figure is changed at
random, half of the time next to where the file says that the decision flips, and everything is computed anew from the
scores and the work: claims, bounds and decision. A change is foretold where the file says "stands" exactly if the
verdict and the arm come out the same. The last lines do so with the recorded answers of ``docs_qa``.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import polars as pl

from workbench.caching.cache_claims import CacheArm, CacheResult, make_cache_claim
from workbench.caching.cache_study import CacheStudy, CachingParameters
from workbench.caching.threshold_certificate import HitCounts, ThresholdCertificate
from workbench.config import load_settings
from workbench.evalset.evalset import load_evalset
from workbench.evalset.gates import PairLimit
from workbench.evaluation.decision import ArmFacts, decide, make_claims
from workbench.evaluation.flip_points import decided_at_prices, flip_points
from workbench.inference.prices import PriceTable, load_prices, project_prices
from workbench.records import Claim, Decision, Fingerprint, FlipPoint, Rule
from workbench.routing.notebook import RoutingParameters, _load_outcomes
from workbench.routing.policies import one_model
from workbench.routing.recorded_outcomes import load_prompts
from workbench.routing.routed_arms import RoutedArm, route_all_prompts

RATES = {"small input": 2e-7, "small output": 1e-6, "large input": 3e-6, "large output": 1.5e-5, "search": 1e-7,
         "search rows": 2e-8, "own as declared": 1.0}  # fmt: skip


@dataclass(frozen=True)
class Change:
    """One figure at another value: what the file says, and what comes out."""

    figure: str
    value: float
    foretold: bool
    same: bool


def drawn_rule(rng: np.random.Generator, arms: list[str]) -> Rule:
    """A rule with some of its limits set."""

    def maybe(value: float) -> float | None:
        return float(value) if rng.random() < 0.4 else None

    reference = str(rng.choice(arms)) if rng.random() < 0.6 else ""
    return Rule(
        "correctness", "usd_per_1k_requests", reference, float(rng.uniform(0.01, 0.15)), 0.9,
        maybe(rng.uniform(0.3, 0.6)), maybe(rng.uniform(200, 900)),
        anchor=str(rng.choice(arms)) if rng.random() < 0.3 else "",
        requests_per_month=int(10 ** rng.uniform(4, 6)), least_saving_usd=float(rng.choice([0, 10, 100])),
        point_usd=maybe(rng.uniform(5, 500)), max_usd_per_1k=maybe(rng.uniform(0.5, 8)), use=int(rng.integers(1, 4)),
    )  # fmt: skip


class DrawnArms:
    """Scores, work and times of a few arms, which can be decided on at any price and limit."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.names = [f"arm {i}" for i in range(int(rng.integers(2, 6)))]
        n, base = 120, rng.random(120)
        rows, self.amounts, self.p95 = [], [], []
        for name in self.names:
            ease, alike = rng.uniform(0.5, 0.9), rng.random(n) < rng.choice([0.5, 0.9])
            values = np.where(alike, base, rng.random(n)) < ease
            rows += [(name, f"i{i:03d}", 0, float(v), f"c{i // 2}") for i, v in enumerate(values)]
            used = {key: float(rng.integers(1, 900)) * 1000 for key in RATES if rng.random() < 0.5}
            used = {k: n / 1e6 if k.startswith("own") else n for k, n in used.items()}
            self.amounts.append(used)
            self.p95.append(float(rng.uniform(100, 900)) if rng.random() < 0.9 else None)
        schema = {"arm": pl.String, "item_id": pl.String, "repeat": pl.Int32, "value": pl.Float64, "cluster": pl.String}
        self.scores = pl.DataFrame(rows, schema=schema, orient="row")
        self.rule, self.rates = drawn_rule(rng, self.names), dict(RATES)

    def decision(self, rule: Rule, rates: dict[str, float]) -> Decision:
        """Decide from the scores, with nothing that was known before."""
        facts = [
            ArmFacts(name, {}, sum(n * rates[k] for k, n in used.items()), p95, place, amounts=used)
            for place, (name, used, p95) in enumerate(zip(self.names, self.amounts, self.p95, strict=True))
        ]
        claims = make_claims(self.scores, facts, rule)
        order = {f.name: f.order for f in facts}
        return written(claims, rule, decide(claims, rule, order=order, n_dev_clusters=40), rates, n_dev_clusters=40)

    def at(self, flip: FlipPoint, value: float) -> Decision:
        """The same with one figure changed."""
        rule, rates = self.rule, dict(self.rates)
        thing = flip.figure.removeprefix("price of ")
        if flip.figure == "rows of the corpus":
            rates["search rows"] *= value  # as many times the rows, at the same price
        elif thing != flip.figure:
            rates = {k: usd * (value if k.split()[0] == thing else 1.0) for k, usd in rates.items()}
        else:
            name = {"margin": "margin", "requests": "requests_per_month", "latency limit": "latency_limit_ms"}
            rule = replace(rule, **{name[flip.figure]: value})
        return self.decision(rule, rates)


class DrawnCaches:
    """Replays of caches with their certificates, which can be decided on at any price, alpha and repeat rate."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.hits = np.sort(rng.uniform(0.02, 0.9, 3))
        self.wrong = np.append(0.0, rng.uniform(0, 0.08, 2))
        self.high = self.wrong + rng.uniform(0, 0.03, 3)
        alpha = float(rng.uniform(0.03, 0.12))
        self.rule = Rule("false_hit_rate", "usd_per_1k_requests", "off", alpha, 0.95, direction="lower",
                         requests_per_month=int(10 ** rng.uniform(3, 6)))  # fmt: skip
        self.rates = {"call": float(10 ** rng.uniform(-4, -2)), "false hit": float(rng.choice([0, 0.002, 0.02]))}

    def decision(self, rule: Rule, rates: dict[str, float], scale: float = 1.0, embed: float = 1.0) -> Decision:
        """Decide from the replays."""
        prices = load_prices()
        operations = {**prices.operations}
        was = operations["embed_query"]
        operations["embed_query"] = replace(was, fixed_ms=was.fixed_ms * embed, usd=was.usd * embed)
        given = CachingParameters(call_usd=rates["call"], false_hit_usd=rates["false hit"])
        study = CacheStudy(given, None, (), PairLimit.of(0), replace(prices, operations=operations), 0.95)  # type: ignore[arg-type]
        results = [CacheResult(CacheArm("off"), None, counts(0, 0), 0.0, 0.0, study.cost(0, 0, CacheArm("off")))]
        arms = (CacheArm("exact"), CacheArm("semantic", 0.9), CacheArm("semantic", 0.8))
        for arm, hit, wrong, high in zip(arms, self.hits, self.wrong, self.high, strict=True):
            told = ThresholdCertificate(bool(high <= rule.margin), arm.threshold or 1, 1000, round(1000 * wrong), 60,
                                        wrong / 2, high, high, 1.0, (10, 20), "")  # fmt: skip
            served = counts(1000, round(1000 * wrong))
            cost = study.cost(hit * scale, hit * wrong * scale, arm)
            results.append(CacheResult(arm, told, served, hit * scale, hit * wrong * scale, cost))
        limit = PairLimit.of(0)
        claims = tuple(make_cache_claim(r, rule, must_differ_limit=limit, amounts=study.amounts(r)) for r in results)
        order = {c.arm: i for i, c in enumerate(claims)}
        rates = rates | {"embed_query": study.prices.rate("embed_query")}
        return written(claims, rule, decide(claims, rule, order=order), rates)

    def at(self, flip: FlipPoint, value: float) -> Decision:
        """The same with one figure changed."""
        if flip.figure == "repeat rate":
            return self.decision(self.rule, self.rates, scale=value / self.hits[0])
        if flip.figure == "alpha":
            return self.decision(replace(self.rule, margin=value), self.rates)
        if flip.figure == "requests":
            return self.decision(replace(self.rule, requests_per_month=value), self.rates)  # type: ignore[arg-type]
        thing = flip.figure.removeprefix("price of ")
        if thing == "embed_query":
            return self.decision(self.rule, self.rates, embed=value)
        return self.decision(self.rule, {k: usd * (value if k == thing else 1.0) for k, usd in self.rates.items()})


def counts(hits: int, false: int) -> HitCounts:
    """So many hits, spread over 50 clusters."""
    each = [np.full((50, 1), n / 50) for n in (hits, false)]
    return HitCounts(np.array([1.0]), *each, np.full(50, 60.0))


def written(claims: tuple[Claim, ...], rule: Rule, found: object, rates: dict[str, float], **more: int) -> Decision:
    """Decision as a file holds it, with its flip points."""
    said = (found.verdict, found.arm)  # type: ignore[attr-defined]
    decision = Decision("x", "?", "ci", rule, *said, {}, "", claims, 160, 80, None, rule.use, Fingerprint(),
                        rates=rates, **more)  # type: ignore[arg-type]  # fmt: skip
    return decision


def changed_value(rng: np.random.Generator, flip: FlipPoint) -> float:
    """Somewhere around now, or right beside an end of where the decision stands."""
    ends = [end for interval in flip.stands for end in interval if end]
    now = flip.now if flip.now is not None else float(rng.uniform(50, 2000))
    value = float(now * 10 ** rng.normal(0, 0.5))
    if ends and rng.random() < 0.5:
        value = float(rng.choice(ends)) * (1 + float(rng.choice([-1, 1])) * 10 ** float(rng.uniform(-9, -1)))
    top = flip.now if flip.figure == "alpha" else 0.999 if flip.figure in ("margin", "repeat rate") else None
    return value if top is None else min(value, top or value)


def changes(n: int, seed: int = 0) -> Iterator[Change]:
    """So many random changes, each of a decision of its own."""
    rng = np.random.default_rng(seed)
    for i in range(n):
        made = DrawnCaches(rng) if i % 3 == 2 else DrawnArms(rng)
        first = made.decision(made.rule, dict(made.rates))
        stored = Decision.from_json(replace(first, flips=flip_points(first)).to_json())
        flips = stored.flips or ()
        flips = tuple(f for f in flips if f.around != (None, None)) or flips if rng.random() < 0.8 else flips
        flip = flips[int(rng.integers(len(flips)))]
        value = changed_value(rng, flip)
        if flip.figure == "repeat rate":
            value = min(value, float(made.hits[0] / made.hits[-1]) * (1 - 1e-9))  # type: ignore[union-attr]
        again = made.at(flip, value)
        yield Change(flip.figure, value, flip.holds_at(value), (again.verdict, again.arm) == (first.verdict, first.arm))


def recorded_changes(n: int, seed: int = 0) -> Iterator[Change]:
    """So many random price lists of both models, on the recorded answers of ``docs_qa``, read and routed anew."""
    settings, rng = load_settings(), np.random.default_rng(seed)
    evalset = load_evalset("docs_qa", settings=settings)
    accepted = Decision.accepted(evalset.path, "routing")

    def decision(prices: PriceTable) -> Decision:
        outcomes = _load_outcomes(evalset, RoutingParameters(), prices)[0].part("test")
        one = [one_model(outcomes.models.index(a), outcomes.models, outcomes.cost_usd.mean(0)) for a in accepted.arms]
        scored = route_all_prompts([RoutedArm(router, i) for i, router in enumerate(one)], outcomes, "test")
        claims = make_claims(scored.of("correctness"), scored.facts, accepted.rule)
        found = decide(claims, accepted.rule, order={f.name: f.order for f in scored.facts}, n_dev_clusters=40)
        rates = {name: prices.rate(name) for c in claims for name in c.amounts}
        return written(claims, accepted.rule, found, rates, n_dev_clusters=40)

    prices = project_prices(settings.root)
    first = decision(prices)
    for _ in range(n):
        factors = {m: Fraction(10 ** float(rng.normal(2, 1.5))) for m in load_prompts(evalset).models}
        models = {m: {k: v * factors.get(m, 1) for k, v in row.items()} for m, row in prices.models.items()}
        other = replace(prices, models=models)
        again, foretold = decision(other), decided_at_prices(first, other)
        same = (again.verdict, again.arm) == (first.verdict, first.arm)
        right = (
            foretold is None if same else foretold and (foretold.verdict, foretold.arm) == (again.verdict, again.arm)
        )
        yield Change("price list", float(max(factors.values())), same if right else not same, same)


def main(n: int = 200) -> None:
    """Print how many changes were foretold, by figure."""
    found = [*changes(n), *recorded_changes(n // 40)]
    by_figure = Counter((c.figure.split(" of ")[0], c.foretold == c.same, c.same) for c in found)
    for (figure, right, same), times in sorted(by_figure.items()):
        print(f"{figure:20} {'stands' if same else 'flips':7} {'foretold' if right else 'NOT FORETOLD':13} {times}")
    print(f"{sum(c.foretold == c.same for c in found)} of {len(found)} foretold, {sum(not c.same for c in found)} flip")


if __name__ == "__main__":
    main(*(int(n) for n in sys.argv[1:]))
