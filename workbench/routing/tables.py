"""What the routing notebook shows, tables and figures of curves, and what its run leaves for the report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from workbench.evalset.outcomes import Outcomes
from workbench.evaluation.compare import MIN_CLUSTERS
from workbench.evaluation.repeats import repeat_columns
from workbench.rendering.numbers import counted
from workbench.rendering.table import Column, Interval, Table, Value
from workbench.reports.charts import lines
from workbench.reports.figure import Figure
from workbench.routing.curves import (
    CurveEstimate,
    ResampledCurves,
    RouterCurve,
    deferral,
    oracle_curve,
    resample_aiq,
    resample_deferral,
    router_curve,
    upper_hull,
)
from workbench.routing.predictors import Ints
from workbench.routing.routed_arms import RoutedArm

HULL, ORACLE = "hull of the single models", "oracle"
_CURVE_POINTS = 12


@dataclass(frozen=True, slots=True, eq=False)
class RouterStudy:
    """Curves of all policies over the prompts of one split, cross-fitted, with their resampled areas.

    ``deferrals`` hold APGR, CPT(50 %) and CPT(80 %) between the cheapest and the strongest model; empty where the
    cheapest is the strongest.
    """

    outcomes: Outcomes
    arms: tuple[RoutedArm, ...]
    curves: Mapping[str, RouterCurve]
    areas: Mapping[str, ResampledCurves]
    deferrals: Mapping[str, tuple[ResampledCurves, ...]]

    @property
    def names(self) -> tuple[str, ...]:
        """Policies, in their order."""
        return tuple(a.name for a in self.arms)

    def gain(self, policy: str) -> CurveEstimate:
        """Area that a policy has above the hull of the single models."""
        return self.areas[policy].minus(self.areas[HULL])

    @property
    def winners(self) -> tuple[str, ...]:
        """Policies that beat the hull beyond noise."""
        return tuple(n for n in self.names if self.gain(n).above_zero)


def study_routers(outcomes: Outcomes, arms: Sequence[RoutedArm], *, draws: int, seed: int) -> RouterStudy:
    """Resample every policy, the hull and the oracle over the same clusters.

    Raises
    ------
    SplitError
        If a prompt is not of dev: the winners here may go to the test.
    """
    outcomes.require_dev("comparing policies with the hull")
    quality = outcomes.quality
    held_out = {a.name: a.held_out for a in arms if a.held_out is not None}
    curves = _study_curves(outcomes, arms) | {ORACLE: oracle_curve(quality, outcomes.cost_usd)}
    areas = resample_aiq(curves, outcomes.cost_usd, outcomes.codes, draws=draws, seed=seed)
    weak, strong = cheapest_and_strongest(outcomes)
    deferrals: Mapping[str, tuple[ResampledCurves, ...]] = {}
    if quality[:, strong].mean() > quality[:, weak].mean():
        scores = {n: p[:, strong] - p[:, weak] for n, p in held_out.items()}
        deferrals = resample_deferral(
            scores, quality[:, weak], quality[:, strong], outcomes.codes, draws=draws, seed=seed
        )
    return RouterStudy(outcomes, tuple(arms), curves, areas, deferrals)


def _study_curves(outcomes: Outcomes, arms: Sequence[RoutedArm], rows: Ints | None = None) -> dict[str, RouterCurve]:
    """Curves of the single models and of every policy, over all prompts or some."""
    part = slice(None) if rows is None else rows
    quality, cost = outcomes.quality[part], outcomes.cost_usd[part]
    curves = {HULL: RouterCurve(quality, cost)}
    for arm in arms:
        if arm.held_out is not None:
            curves[arm.name] = router_curve(arm.router, arm.held_out[part], quality, cost)
    return curves


def hull_corner_models(outcomes: Outcomes) -> list[str]:
    """Models at the corners of the hull, cheapest first: those that a mixture of others does not reach."""
    points = np.column_stack([outcomes.cost_usd.mean(0), outcomes.quality.mean(0)])
    hull = upper_hull(points).tolist()  # as lists: `in` of an array asks for any equal number in it
    return [model for model, point in zip(outcomes.models, points.tolist(), strict=True) if point in hull]


def cheapest_and_strongest(outcomes: Outcomes) -> tuple[int, int]:
    """Cheapest and strongest model."""
    return 0, int(outcomes.quality.mean(0).argmax())


def routing_contents_table(outcomes: Outcomes) -> Table:
    """Every model on dev: quality by feature, cost, latency."""
    dev = outcomes.part("dev")
    labels = np.array(dev.requests.features)
    shown = [f for f in dev.features if f] if len(dev.features) <= 6 else []
    rows = []
    for i, model in enumerate(dev.models):
        by_feature = [float(dev.quality[labels == f, i].mean()) for f in shown]
        latency = dev.latency_ms[:, i]
        p95 = None if np.isnan(latency).any() else float(np.quantile(latency, 0.95))
        rows.append((model, float(dev.quality[:, i].mean()), *by_feature, 1000 * float(dev.cost_usd[:, i].mean()), p95))
    more, cells = repeat_columns(
        {} if dev.answers is None else {m: dev.answers[:, 0, :, i].T for i, m in enumerate(dev.models)}, dev.codes
    )
    rows = [(*row, *cells.get(str(row[0]), ())) for row in rows]
    columns = (
        Column("model"),
        *(Column(n, "number", digits=3) for n in ("correctness", *shown)),
        Column("USD per 1,000", "usd"),
        Column("p95", "ms"),
        *more,
    )
    sizes = ", ".join(f"{(outcomes.splits == s).sum():,} {s}" for s in ("dev", "test"))
    caption = (
        f"{counted(len(outcomes), 'prompt')} ({sizes}), {counted(len(outcomes.models), 'model')}, "
        "cheapest first, on dev"
    )
    return Table(columns, tuple(rows), caption)


def routing_opportunity_table(outcomes: Outcomes, *, draws: int, seed: int) -> Table:
    """Oracle against the hull of the single models: the most that any router could gain."""
    quality, cost = outcomes.quality, outcomes.cost_usd
    curves = {HULL: RouterCurve(quality, cost), ORACLE: oracle_curve(quality, cost)}
    areas = resample_aiq(curves, cost, outcomes.codes, draws=draws, seed=seed)
    gap, corners = areas[ORACLE].minus(areas[HULL]), hull_corner_models(outcomes)
    weak, strong = cheapest_and_strongest(outcomes)
    rows: list[tuple[str, Value, str]] = [
        ("cheapest model", float(quality[:, weak].mean()), outcomes.models[weak]),
        ("strongest model", float(quality[:, strong].mean()), outcomes.models[strong]),
        ("any model right", float(quality.max(1).mean()), "best answer of all, per prompt"),
        ("AIQ, hull of the single models", curve_interval(areas[HULL].estimate), " + ".join(corners)),
        ("AIQ, oracle", curve_interval(areas[ORACLE].estimate), "routing with the answers known"),
        ("what a perfect router could gain", curve_interval(gap), "oracle minus hull"),
    ]
    told = "Is there anything to route? "
    if weak == strong:
        told += f"{outcomes.models[weak]} is the cheapest and the strongest: only an oracle would ask another."
    else:
        told += "An oracle knows the answers; routers reach a small part of this gap."
    return Table((Column("what"), Column("quality or AIQ", "interval"), Column("which")), _as_intervals(rows), told)


def _as_intervals(rows: Sequence[tuple[str, Value, str]]) -> tuple[tuple[Value, ...], ...]:
    return tuple((a, b if isinstance(b, Interval) else Interval(float(b or 0), None, None), c) for a, b, c in rows)


def curve_interval(estimate: CurveEstimate) -> Interval:
    """Estimate as a cell."""
    return Interval(estimate.value, estimate.low, estimate.high)


def routers_study_table(found: RouterStudy) -> Table:
    """Policies against the hull, the length rule and the oracle; the caption names the winners."""
    rows: list[tuple[Value, ...]] = [
        (HULL, curve_interval(found.areas[HULL].estimate), None, None, None, None, None, "")
    ]
    for name in found.names:
        gain, area = found.gain(name), found.areas[name]
        defer = found.deferrals.get(name)
        apgr = curve_interval(defer[0].estimate) if defer else None
        length = found.deferrals.get("length")
        against = curve_interval(defer[0].minus(length[0])) if defer and length and name != "length" else None
        said = "beats it" if gain.above_zero else "loses to it" if gain.high < 0 else "within noise"
        cpt = [defer[i].value / 100 if defer else None for i in (1, 2)]
        rows.append((name, curve_interval(area.estimate), curve_interval(gain), apgr, against, *cpt, said))
    oracle = curve_interval(found.areas[ORACLE].estimate)
    rows.append((ORACLE, oracle, curve_interval(found.gain(ORACLE)), None, None, None, None, "the ceiling"))
    columns = (
        Column("policy"),
        Column("AIQ", "interval", digits=3),
        Column("against the hull", "interval", digits=3, signed=True),
        Column("APGR", "interval", digits=3),
        Column("APGR against length", "interval", digits=3, signed=True),
        Column("CPT(50 %)", "share", digits=1),
        Column("CPT(80 %)", "share", digits=1),
        Column("the hull"),
    )
    winners = ", ".join(found.winners) or "no policy"
    weak, strong = cheapest_and_strongest(found.outcomes)
    caption = f"Which policy beats the hull? Beyond noise, better than mixing single models: {winners}."
    if found.deferrals:
        models = found.outcomes.models
        caption += f" APGR and CPT: from {models[weak]} to {models[strong]}."
    return Table(columns, tuple(rows), caption)


def routers_within_table(found: RouterStudy, *, draws: int, seed: int) -> Table:
    """Gain of each policy over the hull inside each feature; a gain that vanishes here is a look-up of the task."""
    labels = np.array(found.outcomes.requests.features)
    gains: dict[str, dict[str, CurveEstimate]] = {}
    for feature in found.outcomes.features:
        inside = np.flatnonzero(labels == feature)
        codes = np.unique(found.outcomes.clusters[inside], return_inverse=True)[1]
        if codes.max() + 1 >= MIN_CLUSTERS:
            cost = found.outcomes.cost_usd[inside]
            areas = resample_aiq(_study_curves(found.outcomes, found.arms, inside), cost, codes, draws=draws, seed=seed)
            gains[feature or "all"] = {name: areas[name].minus(areas[HULL]) for name in found.names}
    columns = (Column("policy"), Column("all", "interval", digits=3, signed=True),
               *(Column(f, "interval", digits=3, signed=True) for f in gains))  # fmt: skip
    rows: list[tuple[Value, ...]] = [
        (n, curve_interval(found.gain(n)), *(curve_interval(by[n]) for by in gains.values())) for n in found.names
    ]
    return Table(columns, tuple(rows), f"Does the gain survive inside a feature? {_winner_survival(found, gains)}")


def _winner_survival(found: RouterStudy, gains: Mapping[str, Mapping[str, CurveEstimate]]) -> str:
    if len(gains) < 2:
        return "Only one feature has enough prompts: nothing can be said of gains inside features."
    inside = {n: [f for f, by in gains.items() if by[n].above_zero] for n in found.names}
    kept = [f"{n} ({', '.join(inside[n])})" for n in found.winners if inside[n]]
    lost = [n for n in found.winners if not inside[n]]
    told = [f"Gain that survives inside a feature: {', '.join(kept) or 'none'}."]
    if lost:
        told.append(f"Only between features, where a look-up table would do: {', '.join(lost)}.")
    return " ".join(told)


def curve_figure(found: RouterStudy, shown: Sequence[str]) -> Figure:
    """Quality against cost along each policy's hull, from the cheapest to the dearest model."""
    means = 1000 * found.outcomes.cost_usd.mean(0)
    low, high = float(means.min()), float(means.max())
    log = low > 0 and high / low > 20
    grid = np.geomspace(low, high, _CURVE_POINTS) if log else np.linspace(low, high, _CURVE_POINTS)
    series = {}
    for name in (HULL, *shown, ORACLE):
        hull = upper_hull(found.curves[name].points)
        quality = np.interp(grid, 1000 * hull[:, 0], hull[:, 1])
        series[name] = [(float(c), float(q)) for c, q in zip(grid, quality, strict=True)]
    figure = lines(series, "USD per 1,000 requests", "correctness", log_x=log, from_zero=False)
    caption = (
        "Quality against cost over each policy's threshold, cross-fitted on dev. A policy is worth its upkeep only "
        "where it lies above the hull of the single models, which mixing them at random reaches."
    )
    return replace(figure, caption=caption)


def deferral_figure(found: RouterStudy, shown: Sequence[str]) -> Figure | Table:
    """Quality as more requests go to the strongest model, those first that need it most by the policy's score."""
    weak, strong = cheapest_and_strongest(found.outcomes)
    quality, models = found.outcomes.quality, found.outcomes.models
    if weak == strong:
        return Table.of(("deferral",), [(f"none: {models[weak]} is the cheapest and the strongest",)])
    scores = {a.name: a.held_out[:, strong] - a.held_out[:, weak] for a in found.arms if a.held_out is not None}
    scores = {n: scores[n] for n in shown} | {ORACLE: quality[:, strong] - quality[:, weak]}
    series = {"random": [(0.0, float(quality[:, weak].mean())), (1.0, float(quality[:, strong].mean()))]}
    for name, score in scores.items():
        curve = deferral(score, quality[:, weak], quality[:, strong])
        at = np.linspace(0, len(score), 11).round().astype(int)
        series[name] = [(float(curve.share[i]), float(curve.quality[i])) for i in at]
    figure = lines(series, f"requests that {models[strong]} answers", "correctness", share_x=True, from_zero=False)
    caption = (
        f"Quality as {models[strong]} answers more and {models[weak]} fewer of the requests, first those that need it "
        "most by each policy's score; the straight line is a random choice."
    )
    return replace(figure, caption=caption)
