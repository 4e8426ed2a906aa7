# ruff: noqa: T201
"""Whether the deciding test keeps its promises: ``python -m tests.benchmarks.simulate_gate [draws] [processes]``.

Every draw makes fresh paired differences with a known truth, in clusters of two or three items that share fate,
and asks the real `bootstrap_t` and `classify`; or fresh scores of three arms, in clusters of up to nine items that
share most of theirs, and asks `make_claims`, as every notebook does. A line of the table is one promise: how often
something happened, how often it may or must, the Monte-Carlo error of that, and whether it is kept within two such
errors.
"""

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from multiprocessing import Pool

import numpy as np
import polars as pl
from scipy.special import ndtr, ndtri

from workbench.evaluation.compare import bootstrap_t, classify_difference
from workbench.evaluation.decision import ArmFacts, make_claims
from workbench.evaluation.power import clusters_needed
from workbench.records import Claim, Rule

ALPHA = 0.05
ICC = 0.4  # correlation of the items of one cluster
SHARED = 0.6  # the same, for the scores of arms
WIDTH = 0.6  # of their values, so that all lie in [0, 1]
SIZES = (30, 60, 120)
RESAMPLES = 1000
DISCORDANT = 0.3  # share of 0/1 pairs that differ, where a scenario names no other
Draw = Callable[[np.random.Generator, np.ndarray, float], np.ndarray]


def clusters_of(rng: np.random.Generator, m: int) -> np.ndarray:
    """Cluster codes of the items of ``m`` clusters of two or three."""
    return np.repeat(np.arange(m), rng.integers(2, 4, m))


def normal(rng: np.random.Generator, clusters: np.ndarray, effect: float) -> np.ndarray:
    """Differences with mean ``effect`` and sd 1."""
    shared = rng.standard_normal(clusters[-1] + 1)[clusters]
    return effect + np.sqrt(ICC) * shared + np.sqrt(1 - ICC) * rng.standard_normal(clusters.size)


def skewed(rng: np.random.Generator, clusters: np.ndarray, effect: float, *, sign: float) -> np.ndarray:
    """Exponential differences (skewness 2), sd 1: rare large gains (sign 1) or rare large losses (sign -1)."""
    shared = rng.gamma(ICC, size=clusters[-1] + 1)[clusters]
    return effect + sign * (shared + rng.gamma(1 - ICC, size=clusters.size) - 1)


def pairs(rng: np.random.Generator, clusters: np.ndarray, effect: float, *, discordant: float) -> np.ndarray:
    """Differences of paired 0/1 outcomes: the given share differs, with mean ``effect``."""
    z = normal(rng, clusters, 0.0)
    lost, won = ndtri([(discordant - effect) / 2, 1 - (discordant + effect) / 2])
    return (z > won).astype(float) - (z < lost)


def quality(rng: np.random.Generator, clusters: np.ndarray, effect: float) -> np.ndarray:
    """nDCG-like values with mean ``effect`` + 0.55: a quarter 0, 35 % 1, the rest between."""
    u = ndtr(normal(rng, clusters, 0.0))
    return effect + np.clip((u - 0.25) / 0.4, 0.0, 1.0)


def right(rng: np.random.Generator, clusters: np.ndarray, effect: float) -> np.ndarray:
    """0/1 outcomes of one arm, 80 % right."""
    return effect + (normal(rng, clusters, 0.0) < ndtri(0.8))


def heavy(rng: np.random.Generator, clusters: np.ndarray, effect: float) -> np.ndarray:
    """Differences between two runs of one skewed thing: symmetric, heavy tails, sd 1."""
    return effect + (skewed(rng, clusters, 0.0, sign=1.0) - skewed(rng, clusters, 0.0, sign=1.0)) / np.sqrt(2)


# Fresh noise is symmetric: the same system run twice is as likely to gain as to lose.
NOISE: dict[str, Draw] = {"normal": normal, "heavy tails": heavy, "0/1": partial(pairs, discordant=DISCORDANT)}
SKEWED: dict[str, Draw] = {
    "rare large gains": partial(skewed, sign=1.0),
    "rare large losses": partial(skewed, sign=-1.0),
}
SD = {"0/1": DISCORDANT**0.5}
# sd over margin; twice the margin cannot be more than the share of 0/1 pairs that differ
RATIOS = {"normal": (2, 4, 8), "heavy tails": (2, 4, 8), "0/1": (4, 8)}
PLAIN = {"nDCG-like values": (quality, 0.55), "0/1 outcomes, 80 % right": (right, 0.8)}


def gets(
    rng: np.random.Generator,
    status: str,
    *,
    draw: Draw,
    m: int,
    effect: float,
    margin: float,
    arms: int = 1,
    resamples: int = RESAMPLES,
) -> bool:
    """Whether any of the arms, which share half their variance, gets this status."""
    clusters = clusters_of(rng, m)
    values = np.stack([draw(rng, clusters, effect) for _ in range(arms)])
    if arms > 1:
        values = effect + (values - effect + (draw(rng, clusters, effect) - effect)) / np.sqrt(2)
    bounds = bootstrap_t(values, clusters, confidence=1 - ALPHA, draws=resamples, seed=int(rng.integers(2**31)))
    found = zip(values, bounds.low, bounds.high, strict=True)
    return any(classify_difference(d, clusters, low=lo, high=hi, margin=margin)[0] == status for d, lo, hi in found)


def covers(rng: np.random.Generator, *, draw: Draw, m: int, truth: float) -> bool:
    """Whether the two-sided 95 % interval holds the true mean."""
    clusters = clusters_of(rng, m)
    values = draw(rng, clusters, 0.0)
    bounds = bootstrap_t(values[None], clusters, confidence=0.975, seed=int(rng.integers(2**31)))
    return bool(bounds.low[0] <= truth <= bounds.high[0])


def claims_of(rng: np.random.Generator, m: int, *, arms: Mapping[str, float]) -> tuple[Claim, ...]:
    """Claims on fresh values in [0, 1] of these true means, in clusters of four to nine items that share fate."""
    clusters = np.repeat(np.arange(m), rng.integers(4, 10, m))
    frames = []
    for arm, mean in arms.items():
        shared = np.sqrt(SHARED) * rng.standard_normal(m)[clusters]
        own = np.sqrt(1 - SHARED) * rng.standard_normal(clusters.size)
        values = mean + WIDTH * (ndtr(shared + own) - 0.5)
        table = {"item_id": [f"i{i:05d}" for i in range(clusters.size)], "value": values, "cluster": clusters}
        frames.append(pl.DataFrame(table).with_columns(arm=pl.lit(arm), repeat=pl.lit(0)))
    rule = Rule("quality", "usd_per_1k_requests", next(iter(arms)), 0.1, 1 - ALPHA)
    facts = [ArmFacts(arm, {}, 1.0, None, i) for i, arm in enumerate(arms)]
    scores = pl.concat(frames).with_columns(pl.col("cluster").cast(pl.String))
    return make_claims(scores, facts, rule, seed=int(rng.integers(2**31)))


def claims_keep(rng: np.random.Generator, *, m: int, keep: Callable[[Claim, float, float], bool]) -> bool:
    """Whether something is so of the claims of all arms, given each one's true mean and that of the reference."""
    arms = {"reference": 0.6, "equal": 0.6, "worse": 0.5}
    return all(keep(claim, arms[claim.arm], arms["reference"]) for claim in claims_of(rng, m, arms=arms))


def own_interval(claim: Claim, truth: float, _: float) -> bool:
    """Whether one arm's own interval holds its true mean; the others' are not looked at."""
    return claim.arm != "equal" or claim.estimate_low <= truth <= claim.estimate_high


def lower_bounds(claim: Claim, truth: float, reference: float) -> bool:
    """Whether the lower bound of what an arm may lie below the best is under the truth; so for all arms at once."""
    return claim.low <= min(truth - reference, 0.0)


def upper_bounds(claim: Claim, truth: float, reference: float) -> bool:
    """Whether the upper bound of the difference is over the true one, of one arm; the others' are not looked at."""
    return claim.arm != "worse" or claim.high >= truth - reference


def few_differ(rng: np.random.Generator, status: str, *, m: int, differing: int) -> bool:
    """Whether outcomes that differ, all for the worse or all for the better, in few clusters get this status."""
    clusters = clusters_of(rng, m)
    touched = rng.choice(m, differing, replace=False)
    values = np.where(np.isin(clusters, touched), rng.choice([-1.0, 1.0]), 0.0)
    margin = rng.choice([0.001, 0.02, 0.5])
    bounds = bootstrap_t(values[None], clusters, draws=RESAMPLES, seed=int(rng.integers(2**31)))
    return classify_difference(values, clusters, low=bounds.low[0], high=bounds.high[0], margin=margin)[0] == status


@dataclass(frozen=True, slots=True)
class Check:
    """One promise: how often ``event`` may happen (at most) or must (at least); without a bound it is only shown."""

    what: str
    event: Callable[[np.random.Generator], bool]
    side: str
    bound: float | None

    def line(self, share: float, draws: int, *, errors: float = 2.0) -> tuple[bool, str]:
        """Whether the promise is kept, and the line that says so."""
        if self.bound is None:
            return True, f"{share:7.4f} {'shown':8} {'':6} {'':8}     {self.what}"
        error = float(np.sqrt(self.bound * (1 - self.bound) / draws))
        over = share - self.bound if self.side == "at most" else self.bound - share
        kept = over <= errors * error
        verdict = "ok " if kept else "NOT"
        return kept, f"{share:7.4f} {self.side} {self.bound:6.3f} {error:8.4f} {verdict} {self.what}"


def needed(draw: Draw, margin: float) -> int:
    """Clusters the power module asks for, given the cluster-robust spread of this kind of data."""
    rng = np.random.default_rng(0)
    clusters = clusters_of(rng, 50_000)
    se = bootstrap_t(draw(rng, clusters, 0.0)[None], clusters, draws=2).se[0]
    return clusters_needed(float(se * np.sqrt(50_000)), margin, confidence=1 - ALPHA)


def checks() -> list[Check]:
    """Every promise."""
    return [*_no_change(), *_at_the_margin(), *_coverage(), *_claims(), *_refusals(), *_finalists()]


def _no_change() -> list[Check]:
    out = []
    for name, draw in NOISE.items():
        for ratio in RATIOS[name]:
            out += _as_asked(name, draw, SD.get(name, 1.0) / ratio, f"sd/margin {ratio}", 0.8)
    for name, draw in SKEWED.items():  # the power module knows the spread alone
        out += _as_asked(name, draw, 0.25, "sd/margin 4", None)
    for name, draw in (NOISE | SKEWED).items():
        for m in SIZES:
            event = partial(gets, status="broken", draw=draw, m=m, effect=0.0, margin=SD.get(name, 1.0) / 4)
            out.append(Check(f"no change is broken: {name}, {m} clusters", event, "at most", ALPHA))
    return out


def _as_asked(name: str, draw: Draw, margin: float, ratio: str, power: float | None) -> list[Check]:
    """With as many clusters as the power module asks for."""
    m = needed(draw, margin)
    where = f"{name}, {ratio}, {m} clusters as asked"
    no_change = partial(gets, draw=draw, m=m, margin=margin, effect=0.0)
    lost = partial(gets, draw=draw, m=m, margin=margin, effect=-2 * margin)
    return [
        Check(f"no change is broken: {where}", partial(no_change, status="broken"), "at most", ALPHA),
        Check(f"no change holds: {where}", partial(no_change, status="holds"), "at least", power),
        Check(f"minus two margins is broken: {where}", partial(lost, status="broken"), "at least", power),
    ]


def _at_the_margin() -> list[Check]:
    out = []
    for m in SIZES:
        for name, draw in ({"normal": normal, "heavy tails": heavy} | SKEWED).items():
            event = partial(gets, status="holds", draw=draw, m=m, effect=-0.25, margin=0.25)
            out.append(Check(f"minus the margin holds: {name}, {m} clusters", event, "at most", ALPHA))
        for discordant, margin in ((0.1, 0.02), (0.1, 0.05), (0.3, 0.02), (0.3, 0.1), (0.5, 0.05)):
            draw = partial(pairs, discordant=discordant)
            event = partial(gets, status="holds", draw=draw, m=m, effect=-margin, margin=margin)
            where = f"0/1 ({discordant:.0%} differ, margin {margin}), {m} clusters"
            out.append(Check(f"minus the margin holds: {where}", event, "at most", 1.5 * ALPHA))
    for resamples in (1000, 4000):
        event = partial(gets, status="holds", draw=normal, m=60, effect=-0.25, margin=0.25, resamples=resamples)
        out.append(
            Check(f"minus the margin holds: normal, 60 clusters, {resamples} resamples", event, "at most", ALPHA)
        )
    return out


def _coverage() -> list[Check]:
    plain = [(name, draw, truth) for name, (draw, truth) in PLAIN.items()]
    differences = [(name, draw, 0.0) for name, draw in (NOISE | SKEWED).items()]
    return [
        Check(
            f"the interval covers: {name}, {m} clusters", partial(covers, draw=draw, m=m, truth=truth), "at least", 0.95
        )
        for name, draw, truth in [*differences, *plain]
        for m in SIZES
    ]


def _claims() -> list[Check]:
    promises = {
        "an arm's own interval covers": (own_interval, 0.95),
        "lower bounds of all differences cover": (lower_bounds, 1 - ALPHA),
        "upper bounds of all differences cover": (upper_bounds, 1 - ALPHA),
    }
    return [
        Check(f"claims: {what}, {m} clusters", partial(claims_keep, m=m, keep=keep), "at least", bound)
        for what, (keep, bound) in promises.items()
        for m in SIZES
    ]


def _refusals() -> list[Check]:
    out = []
    for m in SIZES:
        for n in (0, 1, 5, 9):
            status = "inconclusive" if n else "identical"
            event = partial(few_differ, status=status, m=m, differing=n)
            out.append(Check(f"{status}: {n} of {m} clusters differ", event, "at least", 1.0))
    event = partial(gets, status="inconclusive", draw=normal, m=29, effect=0.0, margin=2.0)
    return [*out, Check("inconclusive: 29 clusters", event, "at least", 1.0)]


def _finalists() -> list[Check]:
    out = []
    for name, draw in ({"normal": normal} | SKEWED).items():
        for m in SIZES:
            event = partial(gets, draw=draw, m=m, effect=-0.25, margin=0.25, arms=3)
            where = f"{name}, 3 finalists, {m} clusters"
            out.append(Check(f"minus the margin, any holds: {where}", partial(event, status="holds"), "at most", ALPHA))
            out.append(
                Check(f"minus the margin, any broken: {where}", partial(event, status="broken"), "at most", ALPHA)
            )
    return out


def share(check: Check, draws: int) -> float:
    """How often the event happened in so many draws; every check has draws of its own."""
    seeds = np.random.SeedSequence([*check.what.encode()]).spawn(draws)
    return float(np.mean([check.event(np.random.default_rng(s)) for s in seeds]))


def main(draws: int = 2000, processes: int = 2) -> None:
    started, broken = time.perf_counter(), 0
    todo = checks()
    print(f"{draws} draws each, {RESAMPLES} resamples, alpha {ALPHA}\n{'value':>7} {'':8} {'bound':>6} {'MC error':>8}")
    with Pool(processes) as pool:
        for check, value in zip(todo, pool.imap(partial(share, draws=draws), todo), strict=True):
            kept, line = check.line(value, draws)
            broken += not kept
            print(line, flush=True)
    print(f"{len(todo)} promises, {broken} not kept, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
