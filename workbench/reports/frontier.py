"""Quality against cost: which arms no other arm beats on both."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

from workbench.evalset.gates import ASSUMED_REQUESTS
from workbench.evaluation.run_summary import FrontierPoint
from workbench.rendering.numbers import counted, monthly, number
from workbench.rendering.table import Column, Interval, Table
from workbench.reports.figure import (
    INK,
    Figure,
    LegendItem,
    Look,
    arm_look,
    axis_label,
    build,
    draw_interval,
    number_points,
    set_scale,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMED = 20  # arms with a number, a colour and an interval; more cannot be told apart


def frontier(
    points: Sequence[FrontierPoint],
    metric: str,
    *,
    arms: Sequence[str] = (),
    requests_per_month: int = ASSUMED_REQUESTS,
    assumed: bool = False,
) -> Figure:
    """Quality with its interval against dollars a month, and the line of the best for the money.

    Points are numbered, the best first, and listed beside it; of many arms those are that stand on the line or in
    ``arms``, and the best of the rest. Hollow marks are tied with the best. Costs that span more than 20 times are on
    a logarithmic axis. ``arms`` fixes which arm has which colour and shape, so that it is the same
    in every figure of a report; ``assumed`` says that nobody has set the volume.
    """
    volume = f"{counted(requests_per_month, 'request')}{' (assumed)' if assumed else ''}"
    ranked = [
        replace(p, cost_usd_per_1k=p.cost_usd_per_1k * requests_per_month / 1000)
        for p in sorted(points, key=lambda p: (-p.quality, p.cost_usd_per_1k))
    ]
    first = sorted(ranked, key=lambda p: not (p.on_frontier or p.arm in arms))[:NAMED]
    named, rest = [p for p in ranked if p in first], [p for p in ranked if p not in first]
    caption = (
        f"{metric} with its interval against dollars a month at {volume}. The line joins the arms that "
        "no other beats on both; hollow marks are not shown to differ from the best."
    )
    if rest:
        caption += f" Small grey points are {counted(len(rest), 'further arm')}, which the numbers of this figure list."
    names = {p.arm for p in named}
    order = list(dict.fromkeys([*arms, *(p.arm for p in points if p.arm in names)]))
    looks = [arm_look(order.index(p.arm), hollow=p.tied) for p in named]
    return build(
        partial(_draw_frontier, named, rest, metric, looks),
        330,
        kind="frontier",
        alt=_alt(ranked, metric, volume),
        caption=caption,
        data=_data(named, rest, metric, volume),
        entries=[LegendItem(look, p.arm, _detail(p)) for p, look in zip(named, looks, strict=True)],
        numbered=True,
    )


def _data(named: Sequence[FrontierPoint], rest: Sequence[FrontierPoint], metric: str, volume: str) -> Table:
    columns = (
        Column("number", "count"), Column("arm"), Column("split"), Column(metric, "interval"),
        Column(f"a month at {volume}"), Column("p95 latency", "ms"), Column("on the frontier"),
        Column("tied with the best"),
    )  # fmt: skip
    rows = tuple(
        (i, p.arm, p.split, Interval(p.quality, p.low, p.high), _dollars(p), p.latency_p95_ms, p.on_frontier, p.tied)
        for i, p in [*enumerate(named, start=1), *((None, p) for p in rest)]
    )
    return Table(columns, rows, f"{metric} and cost of each arm")


def _alt(ranked: Sequence[FrontierPoint], metric: str, volume: str) -> str:
    alt = f"Scatter plot of {metric} against dollars a month at {volume}, {counted(len(ranked), 'arm')}."
    if not ranked:
        return alt
    best = sorted((p for p in ranked if p.on_frontier), key=lambda p: p.cost_usd_per_1k)
    cheap, dear = (end(ranked, key=lambda p: p.cost_usd_per_1k) for end in (min, max))
    listed = "; ".join(f"{p.arm} {number(p.quality, 3)} at {_dollars(p)}" for p in best)
    return (
        f"{alt} {metric} from {number(ranked[-1].quality, 3)} to {number(ranked[0].quality, 3)}, cost from "
        f"{_dollars(cheap)} to {_dollars(dear)}. On the frontier, cheapest first: {listed}."
    )


def _detail(point: FrontierPoint) -> str:
    latency = "" if point.latency_p95_ms is None else f"p95 {point.latency_p95_ms:,.0f} ms"
    split = "" if point.split == "test" else point.split
    parts = (number(point.quality, 3), _dollars(point), latency, "tied" if point.tied else "", split)
    return " · ".join(part for part in parts if part)


def _dollars(point: FrontierPoint) -> str:
    """Dollars a month of a point, whose cost is in them already."""
    return monthly(point.cost_usd_per_1k).removesuffix(" a month")


def _draw_frontier(
    points: Sequence[FrontierPoint], rest: Sequence[FrontierPoint], metric: str, looks: Sequence[Look], axes: "Axes"
) -> None:
    costs = [p.cost_usd_per_1k for p in (*points, *rest)]
    log = bool(costs) and min(costs) > 0 and max(costs) / min(costs) > 20
    set_scale(axes, "x", costs, log=log, zero=True, unit="$")
    set_scale(axes, "y", [v for p in points for v in (p.low, p.high, p.quality)] + [p.quality for p in rest])
    axes.set_title(axis_label(metric), loc="left")
    axes.set_xlabel(f"dollars a month{', logarithmic' if log else ''}")
    axes.grid(axis="y")
    best = sorted((p.cost_usd_per_1k, p.quality) for p in points if p.on_frontier)
    axes.plot([x for x, _ in best], [y for _, y in best], color=INK, alpha=0.4)
    further = [(p.cost_usd_per_1k, p.quality) for p in rest]
    axes.plot([x for x, _ in further], [y for _, y in further], ".", color=INK, alpha=0.4)
    for p, look in zip(points, looks, strict=True):
        draw_interval(axes, look, p.cost_usd_per_1k, p.quality, (p.low, p.high), up=True)
    bars = [((p.cost_usd_per_1k, p.low), (p.cost_usd_per_1k, p.high)) for p in points]
    number_points(axes, [(p.cost_usd_per_1k, p.quality) for p in points], [*bars, *pairwise(best)])
