"""Whether a test split that is used often, and a chain of accepted arms, keep their promises: see `simulate_rule`.

A slide is a chain in which each new arm is half a margin worse than the one in use, and cheaper. Tries are made on one
split by somebody who sees the mean score of every arm so far and builds the next one from the best of them.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from tests.benchmarks.simulate_gate import ALPHA
from tests.benchmarks.simulate_rule import (
    POSITIVE,
    RESAMPLES,
    WIDE,
    Split,
    Trial,
    World,
    asked_for,
    judge,
    prices,
    seed_of,
)
from workbench.evaluation.compare import bootstrap_t, compare, pairwise, spent_confidence
from workbench.evaluation.decision import ArmFacts
from workbench.records import Rule

ACCEPTS, TRIES = 20, 50
SHOWN_AT = (1, 5, 20)
Next = Callable[[Split, list[np.ndarray], float], np.ndarray]

# Share of alpha that a use gets, by its number.
SCHEDULES: dict[str, Callable[[int], float]] = {
    "3/5, then half of the rest": lambda use: (1 - spent_confidence(1 - ALPHA, use)) / ALPHA,
    "6 / (pi k)^2": lambda use: 6 / (np.pi * use) ** 2,
    "1 / (k (k + 1))": lambda use: 1 / (use * (use + 1)),
    "uniform over 20": lambda use: 1 / 20 if use <= 20 else 1e-9,
    "halved each time": lambda use: 0.5 ** min(use, 30),
    "none": lambda use: 1.0,
}
# No bound at 95 % or more is nearer than this many standard errors.
NEAREST = 1.2


# --- a slide ----------------------------------------------------------------------------------------------------------


def slide(
    rng: np.random.Generator,
    *,
    m: int,
    margin: float,
    fresh: bool,
    step: float = 0.5,
    kind: str = "graded",
    earlier: bool = True,
) -> dict[str, float]:
    """Whether the arm in use lies more than a margin below the anchor after 20 arms, by both rules or by today's."""
    found = {}
    rules = {"by the rule": _accepts} | ({"by the earlier rule": _accepts_earlier} if earlier else {})
    for name, accepts in rules.items():
        split = Split(rng, m, kind=kind)
        anchor, in_use, effect, worst = split.arm(0.0), None, 0.0, 0.0
        for use in range(1, ACCEPTS + 1):
            if fresh:
                split = Split(rng, m, kind=kind)
                anchor, in_use = split.arm(0.0), split.arm(effect) if effect else None
            worse = effect - step * margin
            if -worse >= split.mean:
                break
            new = split.arm(worse)
            arms = [anchor, new] if in_use is None else [anchor, in_use, new]
            if accepts(split, arms, margin, 1 if fresh else use, use, seed_of(rng)):
                in_use, effect = new, worse
            worst = min(worst, effect)
        found[f"arm in use is more than a margin below the anchor, {name}"] = worst < -margin - 1e-9
        found[f"margins below the anchor in the end, {name}"] = -worst / margin
    return found


def _accepts(split: Split, arms: Sequence[np.ndarray], margin: float, use: int, step: int, seed: int) -> bool:
    """Whether the last arm, the cheapest, is chosen over the one in use."""
    costs = [100.0, 90.0 - step, 80.0 - step][: len(arms)]
    facts = [ArmFacts(f"a{i}", {}, cost, None, i) for i, cost in enumerate(costs)]
    in_use = facts[-2].name
    rule = Rule("score", "usd_per_1k_requests", in_use, margin, 1 - ALPHA, anchor="a0", use=use)
    _, said = judge(split.values(arms), facts, rule, seed=seed)
    return said.verdict in POSITIVE and said.arm == facts[-1].name


def _accepts_earlier(split: Split, arms: Sequence[np.ndarray], margin: float, use: int, step: int, seed: int) -> bool:
    """The same against the arm in use alone, and as if the split had never been used."""
    how = {"margin": margin, "confidence": 1 - ALPHA, "draws": RESAMPLES, "seed": seed}
    (found,) = compare(split.frame(arms[-2:]), ["a1"], reference="a0", **how)
    return found.status == "holds"


# --- many tries on one split ------------------------------------------------------------------------------------------


def anew(split: Split, before: list[np.ndarray], effect: float) -> np.ndarray:
    """An arm that owes nothing to those before."""
    return split.arm(effect)


def climb(split: Split, before: list[np.ndarray], effect: float, *, share: float = 0.2) -> np.ndarray:
    """The best arm so far, with a fifth of its questions answered anew."""
    new = split.arm(effect)
    best = before[np.stack(before).mean(1).argmax()] if before else new
    return np.where(split.rng.random(new.size) < share, new, best)


def cross(split: Split, before: list[np.ndarray], effect: float) -> np.ndarray:
    """Each question by one of the three best arms so far, and a tenth of them anew."""
    new = split.arm(effect)
    ranked = np.argsort(-np.stack(before).mean(1), kind="stable") if before else []
    best = [before[i] for i in ranked[:3]] or [new]
    mixed = np.stack(best)[split.rng.integers(len(best), size=new.size), np.arange(new.size)]
    return np.where(split.rng.random(new.size) < 0.1, new, mixed)


def route(split: Split, before: list[np.ndarray], effect: float, *, slices: int = 5) -> np.ndarray:
    """For each slice of the questions the arm that scored best on it: a route that is fitted on the test split."""
    if len(before) % 2 == 0 or len(before) < 4:
        return split.arm(effect)
    of_slice = split.clusters % slices
    arms = np.stack(before)
    best = [arms[:, of_slice == s].mean(1).argmax() for s in range(slices)]
    return arms[np.array(best)[of_slice], np.arange(of_slice.size)]


def _proposed(split: Split, in_use: np.ndarray, following: Next, effect: float) -> list[tuple[int, np.ndarray]]:
    """Uses and arms of all tries that any bound could let pass."""
    arms: list[np.ndarray] = []
    for _ in range(TRIES):
        arms.append(following(split, arms, effect))
    seen = bootstrap_t(np.stack(arms) - in_use, split.clusters, draws=2)
    near = seen.mean - effect > NEAREST * seen.se
    return [(use, arm) for use, (arm, is_near) in enumerate(zip(arms, near, strict=True), 1) if is_near]


def tries(
    rng: np.random.Generator, *, m: int, margin: float, effect: float, following: Next, kind: str
) -> dict[str, float]:
    """Whether any of 50 arms is falsely shown better than the one in use, or chosen though a margin worse."""
    split = Split(rng, m, kind=kind)
    in_use, seed = split.arm(0.0), seed_of(rng)
    facts = [ArmFacts("new", {}, 50.0, None, 0), ArmFacts("in use", {}, 100.0, None, 1)]
    better = worse = False
    for use, new in _proposed(split, in_use, following, effect):
        rule = Rule("score", "usd_per_1k_requests", "in use", margin, 1 - ALPHA, anchor="in use", use=use)
        claims, said = judge(split.values([new, in_use]), facts, rule, seed=seed)
        better |= claims[0].against("in use").better
        worse |= said.arm == "new" and said.verdict in POSITIVE
    return {"any try is chosen": worse} if effect else {"any try is shown better": better}


# --- which schedule ---------------------------------------------------------------------------------------------------


def by_schedule(rng: np.random.Generator, *, world: World, margin: float) -> dict[str, float]:
    """Whether an equal arm is shown near another at the first, fifth and twentieth use, by each schedule."""
    split, arms = world.split(rng, asked_for(world))
    rows, seed = np.stack(arms), seed_of(rng)
    out = {}
    for name, share in SCHEDULES.items():
        for use in SHOWN_AT:
            how = {"confidence": 1 - ALPHA * share(use), "draws": RESAMPLES, "seed": seed}
            status = pairwise(rows, rows, split.clusters, **how).status(0, 1, margin)
            out[f"power at use {use}, {name}"] = status == "holds"
    return out


def false_by_schedule(
    rng: np.random.Generator, *, m: int, margin: float, effect: float, following: Next, kind: str
) -> dict[str, float]:
    """Whether any of 50 arms is falsely shown better than the one in use, or near it, by each schedule."""
    split = Split(rng, m, kind=kind)
    in_use, seed = split.arm(0.0), seed_of(rng)
    out = dict.fromkeys(SCHEDULES, False)
    for use, new in _proposed(split, in_use, following, effect):
        rows = np.stack([new, in_use])
        for name, share in SCHEDULES.items():
            how = {"confidence": 1 - ALPHA * share(use), "draws": RESAMPLES, "seed": seed}
            low = pairwise(rows, rows, split.clusters, **how).low[0, 1]
            out[name] |= bool(low > (-margin if effect else 0.0))
    return {f"any of {TRIES} tries {'passes' if effect else 'is shown better'}, {k}": v for k, v in out.items()}


def trials(*, earlier: bool = True) -> list[Trial]:
    """Every promise of split and chain; without the ``earlier`` rule, of which nothing is promised, the same draws."""
    return [*_slides(earlier), *_tries(), *_schedules()]


def _slides(earlier: bool) -> list[Trial]:
    least = {"arm in use is more than a margin below the anchor, by the rule": ("at most", ALPHA)}
    out = []
    for where, fresh in (("fresh questions", True), ("one split", False)):
        event = partial(slide, m=60, margin=WIDE, fresh=fresh, earlier=earlier)
        out.append(Trial(f"{ACCEPTS} accepts, half a margin each, {where}, graded, 60 families", event, least))
    return out


def _tries() -> list[Trial]:
    out = []
    most = {"any try is shown better": ("at most", ALPHA), "any try is chosen": ("at most", ALPHA)}
    ways = (("graded", "made anew", anew), ("0/1", "a fifth of the best anew", climb),
            ("graded", "a fifth of the best anew", climb), ("0/1", "mixed from the best three", cross))  # fmt: skip
    for kind, way, following in ways:
        for effect in (0.0, -WIDE) if following is not cross else (-WIDE,):
            event = partial(tries, m=60, margin=WIDE, effect=effect, following=following, kind=kind)
            arms = "a margin worse" if effect else "equal"
            out.append(Trial(f"{arms}, {TRIES} tries on one split, {way}, {kind}, 60 families", event, most))
    event = partial(tries, m=60, margin=WIDE, effect=0.0, following=route, kind="graded")
    return [*out, Trial(f"equal, {TRIES} tries on one split, routes fitted on it, graded, 60 families", event, {})]


def _schedules() -> list[Trial]:
    out = []
    for more in (1.0, 2**0.5):  # as many families as the first use needs, and about twice as many
        world = World((0.0,) * 2, prices(2, counting=True), WIDE / more, "graded")
        event = partial(by_schedule, world=world, margin=WIDE)
        out.append(Trial(f"graded, 2 equal arms, {asked_for(world)} families", event, {}))
    event = partial(false_by_schedule, m=60, margin=WIDE, effect=-WIDE, following=climb, kind="graded")
    return [*out, Trial("a margin worse, a fifth of the best anew, graded, 60 families", event, {})]
