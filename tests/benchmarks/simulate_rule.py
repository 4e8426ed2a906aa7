# ruff: noqa: T201
"""Whether the rule of decision keeps its promises: ``python -m tests.benchmarks.simulate_rule [draws] [processes]``.

Every draw makes the scores of several arms with a known truth, on question families of two or three questions that
share fate, and lets the real `screen`, `claims_of`, `decide` and `check_gate` speak. A line of the table is one
promise, as in `simulate_gate`. Beside it stands the earlier rule: the winner of dev is the reference, and the cheapest
arm that is shown to lose less than the margin against it is chosen.
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import Pool

import numpy as np
import polars as pl
from scipy.special import ndtri

from tests.benchmarks.simulate_gate import ALPHA, SIZES, Check, clusters_of, normal, quality, right
from workbench.evaluation.compare import compare, pairwise, spent_confidence
from workbench.evaluation.decision import ArmFacts, ArmValues, Outcome, claims_of, decide, make_claims, pairwise_of
from workbench.evaluation.finalists import screen_arms
from workbench.evaluation.gate import check_gate
from workbench.evaluation.power import TARGET, chance_of_each, clusters_needed
from workbench.records import Claim, Decision, Fingerprint, Rule

KINDS = {"0/1": (right, 0.8), "graded": (quality, 0.55)}  # and the mean of an arm that loses nothing
# Share of the questions that all arms answer alike.
ALIKE = {"independent": 0.0, "correlated": 0.7, "nearly the same": 0.97}
MARGIN, WIDE = 0.05, 0.1
RESAMPLES = 500  # of each decision: 2,000 draws of it average over what a resample more or less would change
DEV = 20  # families in dev
POSITIVE = ("chosen", "upgrade", "keep_reference", "provisional")
Event = Callable[[np.random.Generator], Mapping[str, float]]


class Split:
    """Questions in families, and what arms score on them."""

    def __init__(self, rng: np.random.Generator, m: int, *, kind: str = "graded", alike: float = 0.7) -> None:
        self.rng, self.m = rng, m
        self.clusters = clusters_of(rng, m)
        self._draw, self.mean = KINDS[kind]
        self._alike = rng.random(self.clusters.size) < alike
        self._shared = self._draw(rng, self.clusters, 0.0)

    def arm(self, effect: float) -> np.ndarray:
        """Scores of an arm with this effect, at most 0: it fails, with value 0, on questions that share fate."""
        values = np.where(self._alike, self._shared, self._draw(self.rng, self.clusters, 0.0))
        if effect == 0:
            return values
        return np.where(normal(self.rng, self.clusters, 0.0) < ndtri(-effect / self.mean), 0.0, values)

    def values(self, arms: Sequence[np.ndarray]) -> ArmValues:
        """The arms as the engine reads them."""
        rows = np.stack(arms).astype(float)
        return ArmValues(rows, rows, rows, self.clusters, np.ones(len(rows)))

    def frame(self, arms: Sequence[np.ndarray]) -> pl.DataFrame:
        """The arms as a frame of scores."""
        n, k = self.clusters.size, len(arms)
        return pl.DataFrame(
            {
                "arm": np.repeat([f"a{i}" for i in range(k)], n),
                "item_id": np.tile([f"q{i:05d}" for i in range(n)], k),
                "repeat": np.zeros(k * n, dtype=np.int32),
                "value": np.concatenate(arms).astype(float),
                "cluster": np.tile([f"c{c:05d}" for c in self.clusters], k),
            }
        )


@dataclass(frozen=True, slots=True)
class World:
    """Arms with their true effects and costs in dollars per 1,000 requests, simplest first."""

    effects: tuple[float, ...]
    costs: tuple[float, ...]
    margin: float = MARGIN
    kind: str = "graded"
    alike: float = 0.7

    @property
    def facts(self) -> list[ArmFacts]:
        return [ArmFacts(f"a{i}", {}, cost, None, i) for i, cost in enumerate(self.costs)]

    def rule(self, in_use: str = "", **more: object) -> Rule:
        return Rule("score", "usd_per_1k_requests", in_use, self.margin, 1 - ALPHA, anchor=in_use, **more)

    def split(self, rng: np.random.Generator, m: int) -> tuple[Split, list[np.ndarray]]:
        split = Split(rng, m, kind=self.kind, alike=self.alike)
        return split, [split.arm(e) for e in self.effects]

    def lost(self, arm: str, among: Sequence[str] | None = None) -> bool:
        """Whether the arm lies the margin or more below the best."""
        effect = {f"a{i}": e for i, e in enumerate(self.effects)}
        return effect[arm] <= max(effect[a] for a in among or effect) - self.margin + 1e-9


def seed_of(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))


def judge(
    values: ArmValues, facts: Sequence[ArmFacts], rule: Rule, *, seed: int, n_dev: int = DEV
) -> tuple[tuple[Claim, ...], Outcome]:
    """Claims and decision by the rule."""
    claims = claims_of(values, facts, rule, pairwise_of(values, rule, seed=seed, draws=RESAMPLES), resampled=True)
    return claims, decide(claims, rule, order={f.name: f.order for f in facts}, n_dev_clusters=n_dev)


def earlier_rule(dev: pl.DataFrame, test: pl.DataFrame, world: World, *, seed: int) -> tuple[str, bool]:
    """The arm that the earlier rule names, and whether it says so for sure: it said nothing of arms that cost more."""
    facts = {f.name: f for f in world.facts}
    mean = dict(dev.group_by("arm").agg(pl.col("value").mean()).iter_rows())
    price = {name: (f.cost_usd_per_1k, f.order) for name, f in facts.items()}
    reference = max(facts, key=lambda a: (round(mean[a], 9), -facts[a].order))
    near = [a for a in facts if price[a] < price[reference] and mean[a] > mean[reference] - 2 * world.margin]
    beaten = {a for a in near if any(price[b][0] <= price[a][0] and mean[b] > mean[a] for b in near)}
    finalists = sorted(near, key=lambda a: (a in beaten, -mean[a], facts[a].order))[:3]
    how = {"margin": world.margin, "confidence": 1 - ALPHA, "draws": RESAMPLES, "seed": seed}
    found = compare(test, finalists, reference=reference, **how)
    best = min([reference, *(d.arm for d in found if d.status in ("holds", "identical"))], key=price.__getitem__)
    is_open = any(d.status == "inconclusive" and d.mean > -world.margin for d in found)
    return best, best != reference or not is_open


# --- one decision -----------------------------------------------------------------------------------------------------


def below_the_best(rng: np.random.Generator, *, world: World, m: int, in_use: str = "") -> dict[str, float]:
    """Whether the arm that is named lies the margin or more below the best."""
    split, arms = world.split(rng, m)
    _, said = judge(split.values(arms), world.facts, world.rule(in_use), seed=seed_of(rng))
    return {"named arm lies the margin below": said.verdict in POSITIVE and world.lost(said.arm)}


def from_dev_on(rng: np.random.Generator, *, world: World, m: int) -> dict[str, float]:
    """The same with the arms picked on dev, on the same scores by both rules."""
    (few, on_dev), (split, arms) = world.split(rng, DEV), world.split(rng, m)
    dev, test, rule, seed = few.frame(on_dev), split.frame(arms), world.rule(), seed_of(rng)
    found = screen_arms(dev, world.facts, rule, test_clusters=m, seed=seed)
    at = [i for i, f in enumerate(world.facts) if f.name in found.names]
    _, said = judge(split.values([arms[i] for i in at]), [world.facts[i] for i in at], rule, seed=seed)
    old, sure = earlier_rule(dev, test, world, seed=seed)
    new = said.verdict in POSITIVE
    return {
        "named arm lies the margin below the best tested": new and world.lost(said.arm, found.names),
        "named arm lies the margin below the best of all": new and world.lost(said.arm),
        "the earlier rule's lies the margin below the best of all": sure and world.lost(old),
    }


def better_one(rng: np.random.Generator, *, world: World, m: int, in_use: str = "") -> dict[str, float]:
    """Whether the last arm, which is better by two margins at the same cost, is missed."""
    (few, on_dev), (split, arms) = world.split(rng, DEV), world.split(rng, m)
    best, seed = world.facts[-1].name, seed_of(rng)
    _, said = judge(split.values(arms), world.facts, world.rule(in_use), seed=seed)
    old, sure = earlier_rule(few.frame(on_dev), split.frame(arms), world, seed=seed)
    return {
        "another arm is advised": said.verdict in POSITIVE and said.arm != best,
        "it is not chosen": said.verdict not in POSITIVE or said.arm != best,
        "another arm is advised by the earlier rule": sure and old != best,
    }


def dearer_one(rng: np.random.Generator, *, world: World, m: int, in_use: str = "") -> dict[str, float]:
    """Whether an arm that costs more and is no better is called an upgrade, where any gain would be paid for."""
    split, arms = world.split(rng, m)
    _, said = judge(split.values(arms), world.facts, world.rule(in_use, point_usd=1e9), seed=seed_of(rng))
    told = any(note.startswith("Upgrade") for note in said.notes)
    return {"an equal arm is an upgrade": said.verdict == "upgrade" or told}


def no_change(rng: np.random.Generator, *, world: World, m: int, in_use: str = "") -> dict[str, float]:
    """Whether the accepted decision is broken by fresh questions, and by its own."""
    split, arms = world.split(rng, m)
    values, seed = split.values(arms), seed_of(rng)
    rule = world.rule(in_use)
    claims, said = judge(values, world.facts, rule, seed=seed)
    accepted = _decision(rule, claims, said)
    again = _decision(rule, *judge(values, world.facts, rule, seed=seed))
    fresh, others = world.split(rng, m)
    # The arm that was accepted is in use now; where nothing was, the dearest: all others are what one could have for
    # its money.
    arm = said.arm if said.verdict in POSITIVE else world.facts[-1].name
    in_force = _decision(rule, claims, Outcome("chosen", arm, "", None))
    later = _decision(rule, *judge(fresh.values(others), world.facts, world.rule(arm), seed=seed_of(rng)))
    return {
        "broken on fresh questions": _generalisation(in_force, later) == "broken",
        "broken when replayed": _generalisation(accepted, again) == "broken",
    }


def _decision(rule: Rule, claims: tuple[Claim, ...], said: Outcome) -> Decision:
    n, m = claims[0].n_items, claims[0].n_clusters
    evidence = (claims, n, m, said.items_needed, rule.use, Fingerprint())
    return Decision("simulation", "which?", "ci", rule, said.verdict, said.arm, {}, said.sentence, *evidence)


def _generalisation(accepted: Decision, now: Decision) -> str:
    gate = check_gate(accepted, now, accepted_scores=None, scores=pl.DataFrame(), invariants={})
    return next(c.status for c in gate.claims if c.kind == "generalisation")


# --- as many questions as are asked for -------------------------------------------------------------------------------


@cache
def asked_for(world: World) -> int:
    """Families that are asked for, were the spread known, so that one of equal arms is shown to be near all others."""
    n, others = 20_000, len(world.effects) - 1
    split = Split(np.random.default_rng(0), n, kind=world.kind, alike=world.alike)
    one = pairwise(*[np.stack([split.arm(0.0), split.arm(0.0)])] * 2, split.clusters, draws=20)
    return clusters_needed(
        float(one.se[0, 1] * n**0.5),
        world.margin,
        confidence=chance_of_each(spent_confidence(1 - ALPHA, 1), others),
        power=chance_of_each(TARGET, others),
        differing=float(one.differ[0, 1]) / n,
    )


def as_asked(rng: np.random.Generator, *, world: World) -> dict[str, float]:
    """Whether the cheapest of equal arms is chosen, by both rules."""
    m = asked_for(world)
    (few, on_dev), (split, arms) = world.split(rng, DEV), world.split(rng, m)
    seed = seed_of(rng)
    claims, said = judge(split.values(arms), world.facts, world.rule(), seed=seed)
    old, sure = earlier_rule(few.frame(on_dev), split.frame(arms), world, seed=seed)
    return {
        "the cheapest is chosen": said.arm == "a0" and said.verdict in POSITIVE,
        "one arm is shown near another that was named beforehand": claims[0].against("a1").status == "holds",
        "any is chosen": said.verdict in POSITIVE,
        "the cheapest is chosen by the earlier rule": sure and old == "a0",
    }


def as_screened(rng: np.random.Generator, *, world: World, m: int) -> dict[str, float]:
    """The chance that the screen tells beside the arms that it lets through, and whether it comes true."""
    (few, on_dev), (split, arms) = world.split(rng, DEV), world.split(rng, m)
    found = screen_arms(few.frame(on_dev), world.facts, world.rule(), test_clusters=m, seed=seed_of(rng))
    at = [i for i, f in enumerate(world.facts) if f.name in found.names]
    facts = [world.facts[i] for i in at]
    claims, _ = judge(split.values([arms[i] for i in at]), facts, world.rule(), seed=seed_of(rng))
    holds = claims[0].status == "holds"
    told = np.nan if found.power is None else found.power
    return {"told minus what came true": told - holds, "came true": holds, "arms that go on": len(at)}


def after_labelling(rng: np.random.Generator, *, world: World, m: int) -> dict[str, float]:
    """Whether as many questions as an open claim asks for settle it, at both ends of the range."""
    split, arms = world.split(rng, m)
    claims = make_claims(split.frame(arms), world.facts, world.rule(), seed=seed_of(rng))
    mine = next(c for c in claims if c.arm == "a0")
    if mine.items_needed is None:
        return dict.fromkeys(("with the fewest asked for", "with the most asked for"), np.nan)
    found = []
    for items in mine.items_needed:
        if items is None:
            found.append(np.nan)
            continue
        more, others = world.split(rng, m + round(items * m / mine.n_items))
        _, said = judge(more.values(others), world.facts, world.rule(), seed=seed_of(rng))
        found.append(said.arm == "a0" and said.verdict in POSITIVE)
    return {"with the fewest asked for": found[0], "with the most asked for": found[1]}


def looked_at_twice(rng: np.random.Generator, *, world: World, m: int, times: int) -> dict[str, float]:
    """Whether an arm at minus the margin is chosen at first, or with more questions beside the first."""
    split, arms = world.split(rng, times * m)
    values = split.values(arms)
    found = []
    for part in (values.take(np.arange(m)), values):
        _, said = judge(part, world.facts, world.rule(), seed=seed_of(rng))
        found.append(said.verdict in POSITIVE and world.lost(said.arm))
    return {"named arm lies the margin below, at either look": any(found)}


# --- the table --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Trial:
    """One event and what is promised of its parts: a side and a bound; parts without are only shown."""

    what: str
    event: Event
    promises: Mapping[str, tuple[str, float]]

    def lines(self, draws: int, *, errors: float = 2.0) -> list[tuple[bool, str]]:
        """Draw, and tell what became of each part; every trial has draws of its own."""
        seeds = np.random.SeedSequence([*self.what.encode()]).spawn(draws)
        rows = [self.event(np.random.default_rng(s)) for s in seeds]
        out = []
        for part in rows[0]:
            found = np.array([row[part] for row in rows], dtype=float)
            found = found[~np.isnan(found)]
            check = Check(f"{part}: {self.what}", self.event, *self.promises.get(part, ("shown", None)))
            out.append(check.line(float(found.mean()) if found.size else np.nan, max(found.size, 1), errors=errors))
        return out


def prices(k: int, *, counting: bool) -> tuple[float, ...]:
    """Costs of arms, each dearer than the one before by $10 a month and more, or all the same for a reader's purse."""
    return tuple((1.0 if counting else 1e-5) * (1 + i) for i in range(k))


def trials() -> list[Trial]:
    """Every promise of one decision."""
    return [*_levels(), *_better(), *_unchanged(), *_power()]


def _levels() -> list[Trial]:
    """Least favourable: the best is dearest, and all others lie at minus the margin; by itself, or one of several."""
    most = {"named arm lies the margin below": ("at most", ALPHA)}
    nearly = [(2, 1, True, m) for m in SIZES] + [(4, 1, True, 60)]
    plans = [(2, 1, True, 30), *((4, 1, True, m) for m in SIZES), (4, 2, True, 60), (4, 1, False, 60), (8, 1, True, 30)]
    out = []
    for kind in KINDS:
        for how, alike in ALIKE.items():
            for k, tops, counting, m in nearly if alike > 0.9 else plans:
                effects = (-MARGIN,) * (k - tops) + (0.0,) * tops
                world = World(effects, prices(k, counting=counting), MARGIN, kind, alike)
                cost = "costs count" if counting else "costs do not count"
                what = f"{kind}, {how}, {k} arms, {tops} at the top, {cost}, {m} families"
                out.append(Trial(what, partial(below_the_best, world=world, m=m), most))
        world = World((-MARGIN,) * 3 + (0.0,), prices(4, counting=True), MARGIN, kind)
        tested = {"named arm lies the margin below the best tested": ("at most", ALPHA)}
        event = partial(from_dev_on, world=world, m=60)
        out.append(Trial(f"from dev on: {kind}, correlated, 4 arms, 60 families", event, tested))
    twice = {"named arm lies the margin below, at either look": ("at most", ALPHA)}
    event = partial(looked_at_twice, world=World((-MARGIN, 0.0), prices(2, counting=True)), m=60, times=3)
    return [*out, Trial("graded, correlated, 2 arms, 60 families, then 180", event, twice)]


def _better() -> list[Trial]:
    out = []
    most = {"another arm is advised": ("at most", ALPHA)}
    for kind in KINDS:
        for how in ("independent", "correlated"):
            world = World((-2 * WIDE,) * 3 + (0.0,), prices(4, counting=False), WIDE, kind, ALIKE[how])
            for m in (30, asked_for(world)):
                asked = most if m == 30 else most | {"it is not chosen": ("at most", ALPHA)}
                what = f"better by two margins, {kind}, {how}, 4 arms, {m} families{'' if m == 30 else ' as asked'}"
                out.append(Trial(what, partial(better_one, world=world, m=m, in_use="a0"), asked))
        for k, in_use in ((2, "a0"), (8, "")):
            equal = World((0.0,) * k, prices(k, counting=True), WIDE, kind)
            what = f"{kind}, {k} arms, {'the cheapest' if in_use else 'none'} in use, 60 families"
            event = partial(dearer_one, world=equal, m=60, in_use=in_use)
            out.append(Trial(what, event, {"an equal arm is an upgrade": ("at most", ALPHA)}))
    return out


def _unchanged() -> list[Trial]:
    out = []
    promises = {"broken on fresh questions": ("at most", 0.01), "broken when replayed": ("at most", 0.0)}
    for kind in KINDS:
        for k, m, how in (
            (2, 30, "independent"),
            (4, 120, "correlated"),
            (8, 30, "correlated"),
            (4, 60, "nearly the same"),
        ):
            world = World((0.0,) * k, prices(k, counting=k != 4), MARGIN, kind, ALIKE[how])
            what = f"no change, {kind}, {how}, {k} arms, {m} families"
            out.append(Trial(what, partial(no_change, world=world, m=m), promises))
    world = World((0.0,) * 2, prices(2, counting=True), MARGIN / 5, "0/1", 0.0)
    what = "no change, 0/1, independent, 2 arms, 30 families, margin of 0.01, a tenth of their spread"
    return [*out, Trial(what, partial(no_change, world=world, m=30), {})]


def _power() -> list[Trial]:
    out = []
    # The spread alone is planned with: where 0/1 values differ in a few families, bounds are wider than it says.
    least = {"0/1": 0.7, "graded": 0.75}
    worlds = {(kind, k): World((0.0,) * k, prices(k, counting=True), WIDE, kind) for kind in KINDS for k in (2, 4, 8)}
    for (kind, k), world in worlds.items():
        what = f"{kind}, {k} equal arms, {asked_for(world)} families as asked"
        promises = {"the cheapest is chosen": ("at least", least[kind])}
        out.append(Trial(what, partial(as_asked, world=world), promises))
    for kind in KINDS:
        asked = {"with the most asked for": ("at least", TARGET)}
        what = f"cheapest of equals is chosen, {kind}, 2 arms, 30 families at first"
        out.append(Trial(what, partial(after_labelling, world=worlds[kind, 2], m=30), asked))
    what = f"graded, 8 equal arms, {DEV} families in dev, 60 in test"
    return [*out, Trial(what, partial(as_screened, world=worlds["graded", 8], m=60), {})]


def told(trial: Trial, draws: int) -> list[tuple[bool, str]]:
    return trial.lines(draws)


def main(draws: int = 2000, processes: int = 2) -> None:
    from tests.benchmarks.simulate_uses import trials as of_uses

    started, n, broken = time.perf_counter(), 0, 0
    todo = [*trials(), *of_uses()]
    print(f"{draws} draws each, {RESAMPLES} resamples, alpha {ALPHA}\n{'value':>7} {'':8} {'bound':>6} {'MC error':>8}")
    with Pool(processes) as pool:
        for lines in pool.imap(partial(told, draws=draws), todo):
            for kept, line in lines:
                n, broken = n + 1, broken + (not kept)
                print(line, flush=True)
    print(f"{n} lines, {broken} promises not kept, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
