"""Until when a decision stands, and the table of it: at which values of one figure the rule gives another answer.

Everything that the rule compares is linear in one figure at a time (costs in a price, limits in a margin), so the
roots of those comparisons cut the line into pieces inside which nothing changes. The rule itself is asked once in each
piece, and its ends are found by asking it again, down to the last bit: no formula stands beside the rule.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from workbench.evaluation.decision import LATENCY_TOLERANCE, SAME_QUALITY, Outcome, decide, restated_claims
from workbench.inference.prices import DECLARED, ROWS, TOKEN_CLASSES, PriceTable
from workbench.records import Claim, Decision, FlipPoint, Rule
from workbench.rendering.numbers import percent, price
from workbench.rendering.table import Column, Table
from workbench.rendering.text import verdict_label

TODAY = "times today's"
CALL, FALSE_HIT = "call", "false hit"  # amounts of a cache: calls still made, and wrong answers served
_TWICE = 1e-12  # roots of one piece that differ by less, relative to their size, are one


@dataclass(frozen=True, slots=True)
class FlipAxis:
    """A figure that may change: what it is now, where it may lie, and the rule and costs at another value of it."""

    figure: str
    unit: str
    now: float
    at: Callable[[float], tuple[Rule, Sequence[float]]]
    lowest: float = 0.0
    highest: float = math.inf
    beyond: str = ""  # why nothing is known above the highest


def decided_by_rule(decision: Decision, rule: Rule, costs: Sequence[float]) -> Outcome:
    """What the rule gives on the decision's own estimates with these costs (dollars per 1,000 requests, by claim)."""
    claims = restated_claims(decision.claims, rule, costs)
    order = {c.arm: place for place, c in enumerate(claims)}
    n_dev = decision.n_dev_clusters or None
    return decide(claims, rule, order=order, synthetic=decision.synthetic, n_dev_clusters=n_dev)


def flip_costs_at(decision: Decision, rates: Mapping[str, float]) -> list[float]:
    """Dollars per 1,000 requests of each claim at other prices of what its amounts count."""
    return [
        c.cost_usd_per_1k + sum(n * (rates[name] - decision.rates[name]) for name, n in c.amounts.items())
        for c in decision.claims
    ]


def flip_points(decision: Decision, further: Sequence[FlipAxis] = ()) -> tuple[FlipPoint, ...]:
    """Until which prices, margin, volume, latency limit, repeat rate and growth of the corpus the decision stands."""
    return tuple(_flips_along(decision, axis) for axis in (*_flip_axes(decision), *further))


def decided_at_prices(decision: Decision, prices: PriceTable) -> Outcome | None:
    """What is decided at the prices of another list; None where it is what was decided.

    Raises
    ------
    ConfigError, UnknownPrice
        If the list has no price for something that the decision counts.
    """
    fixed = (CALL, FALSE_HIT)
    rates = {name: usd if name in fixed else prices.rate(name) for name, usd in decision.rates.items()}
    found = decided_by_rule(decision, decision.rule, flip_costs_at(decision, rates))
    return None if _flip_said(found) == _stated_verdict(decision) else found


def flips_table(decision: Decision) -> Table:
    """Until when a decision stands, figure by figure."""
    rows = []
    for f in decision.flips or ():
        low, high = f.around
        now = _flip_end(f.now, "no limit")
        rows.append((f"{f.figure}, {f.unit}", now, _flip_end(low, "any"), f.below, _flip_end(high, "any"), f.above))
    told = "From the estimates of this run and its rule, one figure at a time; arms stay as they were fitted"
    told += "; beyond an end, the verdict and its arm"
    if any(f.figure == "latency limit" for f in decision.flips or ()):
        told += f"; p95 latency may exceed its limit by {percent(LATENCY_TOLERANCE)}"
    if fixed := [c.arm for c in decision.claims if not c.amounts and c.cost_usd_per_1k]:
        told += f"; not counted is what {', '.join(fixed)} uses, which keeps its cost"
    if decision.flips is None:
        told = "Not computed: the decision was accepted before there were flip points; run and accept it anew"
    columns = tuple(Column(n) for n in ("figure", "now", "stands from", "below it", "stands to", "above it"))
    return Table(columns, tuple(rows), f"Until when does this decision stand? {told}.")


def _flip_end(value: float | None, without: str) -> str:
    if value is None:
        return without
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _flip_said(outcome: Outcome) -> tuple[str, str]:
    return outcome.verdict, outcome.arm


def _stated_verdict(decision: Decision) -> tuple[str, str]:
    """Verdict and arm as the rule gives them; a notebook may only make a choice provisional."""
    return _flip_said(decided_by_rule(decision, decision.rule, [c.cost_usd_per_1k for c in decision.claims]))


def _flip_axes(decision: Decision) -> Iterator[FlipAxis]:
    rule, costs = decision.rule, [c.cost_usd_per_1k for c in decision.claims]

    def priced(names: Sequence[str], factor: float) -> tuple[Rule, Sequence[float]]:
        changed = {n: usd * (factor if n in names else 1.0) for n, usd in decision.rates.items()}
        return rule, flip_costs_at(decision, changed)

    for thing, names in _priced_things(decision).items():
        usd = ", ".join(_flip_price_words(name, decision.rates[name]) for name in names)
        yield FlipAxis(f"price of {thing}", f"{TODAY} {usd}", 1.0, lambda x, names=names: priced(names, x))  # type: ignore[misc]
    if rows := [name for name in decision.rates if name.endswith(ROWS)]:
        yield FlipAxis("rows of the corpus", TODAY, 1.0, lambda x: priced(rows, x))
    yield from _flip_repeat_rate(decision)
    highest, beyond = (1.0, "") if rule.direction == "higher" else (rule.margin, "not known: other thresholds")
    yield FlipAxis(rule.limit_name, rule.metric, rule.margin, lambda x: (replace(rule, margin=x), costs), 0.0, highest,
               beyond)  # fmt: skip
    volume = rule.requests_per_month
    yield FlipAxis("requests", "a month", volume, lambda x: (replace(rule, requests_per_month=x), costs))  # type: ignore[arg-type]
    if any(c.latency_p95_ms is not None for c in decision.claims):
        limit = math.inf if rule.latency_limit_ms is None else rule.latency_limit_ms
        yield FlipAxis("latency limit", "ms", limit, lambda x: (replace(rule, latency_limit_ms=x), costs))


def _priced_things(decision: Decision) -> dict[str, list[str]]:
    """What has a price, with the names of its amounts: a model with its classes of tokens, an operation with rows."""
    out: dict[str, list[str]] = {}
    for name in decision.rates:
        thing, _, part = name.removesuffix(DECLARED).rpartition(" ")
        found = thing if part in TOKEN_CLASSES or name.endswith(ROWS) else name.removesuffix(DECLARED)
        out.setdefault(found, []).append(name)
    return out


def _flip_price_words(name: str, usd: float) -> str:
    part = name.rpartition(" ")[2]
    if name.endswith(DECLARED):
        return "declared price"
    if part in TOKEN_CLASSES:
        return f"{price(usd, per=1_000_000)} {part}"
    return price(usd / 1000, "row") if name.endswith(ROWS) else price(usd)


def former_units(decision: Decision) -> dict[str, str]:
    """Units of the prices by figure, in the words of decisions that were accepted before prices had one way."""

    def words(name: str) -> str:
        part, usd = name.rpartition(" ")[2], decision.rates[name]
        if name.endswith(DECLARED):
            return "declared price"
        if part in TOKEN_CLASSES:
            return f"${usd * 1e6:.4g} per million {part}"
        return f"${usd:.4g} per {'1,000 rows' if name.endswith(ROWS) else 'one'}"

    told = {thing: ", ".join(map(words, names)) for thing, names in _priced_things(decision).items()}
    return {f"price of {thing}": f"{TODAY} {usd}" for thing, usd in told.items()}


def _flip_repeat_rate(decision: Decision) -> Iterator[FlipAxis]:
    """Repeat rate of caches: hits of every arm in proportion to the requests that repeat an earlier one.

    These are repeats word for word; where there are none, those that the cache with most hits serves.
    """
    if CALL not in decision.rates:
        return
    hits = {c.arm: 1 - c.amounts.get(CALL, 0.0) / 1000 for c in decision.claims}
    most = max(hits.values())
    exact = next((hits[c.arm] for c in decision.claims if c.parameters.get("kind") == "exact"), 0.0)
    now, unit = (exact, "of requests") if exact > 0 else (most, "of requests, as served")
    if now <= 0:
        return

    def at(rate: float) -> tuple[Rule, Sequence[float]]:
        scale, usd, costs = rate / now, decision.rates, list[float]()
        for c in decision.claims:
            saved = 1000 * hits[c.arm] * usd[CALL] - c.amounts.get(FALSE_HIT, 0.0) * usd[FALSE_HIT]
            costs.append(c.cost_usd_per_1k + (1 - scale) * saved)
        return decision.rule, costs

    yield FlipAxis("repeat rate", unit, now, at, 0.0, now / most, "every request is a hit")


def _flips_along(decision: Decision, axis: FlipAxis) -> FlipPoint:
    """Every interval of one figure in which the decision stands."""
    stated = _stated_verdict(decision)

    def outcome(value: float) -> tuple[str, str]:
        return _flip_said(decided_by_rule(decision, *axis.at(value)))

    cells = _flip_cells(decision, axis)
    said = [outcome(value) for value in cells]
    stands, edges = list[tuple[float | None, float | None]](), list[tuple[tuple[str, str], ...]]()
    start: float | None = None
    before = stated
    for i, value in enumerate(cells):
        if said[i] != stated:
            continue
        if i and said[i - 1] != stated:
            start, before = _last_before_flip(value, cells[i - 1], lambda x: outcome(x) == stated), said[i - 1]
        if i + 1 == len(cells):
            stands.append((start, None if math.isinf(axis.highest) or not axis.beyond else axis.highest))
            edges.append((before, stated))
        elif said[i + 1] != stated:
            stands.append((start, _last_before_flip(value, cells[i + 1], lambda x: outcome(x) == stated)))
            edges.append((before, said[i + 1]))
    now = None if math.isinf(axis.now) else float(axis.now)
    point = FlipPoint(axis.figure, axis.unit, now, tuple(stands))
    mine = next((e for s, e in zip(stands, edges, strict=True) if s == point.around), (stated, stated))
    below, above = ("" if said == stated else _flip_words(said, decision.rule) for said in mine)
    return replace(point, below=below, above=above or (axis.beyond if point.around[1] == axis.highest else ""))


def _flip_words(said: tuple[str, str], rule: Rule) -> str:
    return f"{verdict_label(said[0], rule.reference)}: {said[1]}"


def _last_before_flip(inside: float, outside: float, stands: Callable[[float], bool]) -> float:
    """The last number towards ``outside`` at which the decision stands, by halving: there is one change between."""
    while (middle := (inside + outside) / 2) not in (inside, outside):
        inside, outside = (middle, outside) if stands(middle) else (inside, middle)
    return inside


def _flip_cells(decision: Decision, axis: FlipAxis) -> list[float]:
    """One value inside each piece of the range in which no comparison of the rule changes, ascending."""
    base = 1.0 if math.isinf(axis.now) else axis.now or 1.0
    first, second = (_flip_comparisons(decision, *axis.at(x)) for x in (base, 2 * base))
    slope = (second - first) / base
    with np.errstate(divide="ignore", invalid="ignore"):
        roots = base - first / slope
    roots = np.unique(roots[np.isfinite(roots) & (roots > axis.lowest) & (roots < axis.highest)])
    if len(roots):
        roots = roots[np.append(True, np.diff(roots) > _TWICE * roots[1:])]
    top = axis.highest if math.isfinite(axis.highest) else 2 * float(max([*roots, base]))
    ends = [axis.lowest, *roots.tolist(), top]
    return [(a + b) / 2 for a, b in pairwise(ends)]


def _flip_comparisons(decision: Decision, rule: Rule, costs: Sequence[float]) -> np.ndarray:
    """Left sides of all that the rule compares with 0, as they stand at these costs and limits."""
    claims, usd = decision.claims, np.array(costs)
    more = usd[None, :] - usd[:, None]
    parts = [more, more * rule.requests_per_month / 1000 - rule.least_saving_usd]
    parts.append((1 - rule.least_saving_share) * usd[None, :] - usd[:, None])
    if rule.max_usd_per_1k is not None:
        parts.append(rule.max_usd_per_1k - usd)
    estimates = np.array([c.estimate for c in claims])
    parts.append(estimates[None, :] - estimates[:, None] - rule.margin * SAME_QUALITY)
    parts += [np.array([getattr(p, name) for c in claims for p in c.pairs]) + rule.margin for name in _BOUNDS]
    parts += [np.array([getattr(c, name) for c in claims]) - rule.margin for name in ("high", "estimate")]
    parts.append(rule.margin - np.array([p.unseen for c in claims for p in c.pairs]))
    if rule.latency_limit_ms is not None:
        slow = [c.latency_p95_ms for c in claims if c.latency_p95_ms is not None]
        parts.append(rule.latency_limit_ms * (1 + LATENCY_TOLERANCE) - np.array(slow))
    if rule.point_usd is not None:
        parts += _flip_worths(claims, rule, usd)
    return np.concatenate([np.ravel(part) for part in parts])


_BOUNDS = ("low", "high", "difference")


def _flip_worths(claims: Sequence[Claim], rule: Rule, usd: np.ndarray) -> Iterator[np.ndarray]:
    """What each arm is worth beyond its price against each other one, and how far these lie apart."""
    for choice, cost in zip(claims, usd, strict=True):
        pairs = [(c.against(choice.arm), own) for c, own in zip(claims, usd, strict=True)]
        worth = np.array(
            [100 * p.low * (rule.point_usd or 0) - rule.monthly_usd(float(own - cost)) for p, own in pairs if p]
        )
        yield worth
        yield worth[None, :] - worth[:, None]
